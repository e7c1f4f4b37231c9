//! Actors hold what has a clock or guards a resource; bytes never flow through them.
//!
//! ```text
//!              config.json changes
//!   notify ──► ConfigWatcher ── ApplyConfig ──► ProviderSupervisor ──► Snapshot (ArcSwap)
//!                                                │ starts, retires        │ read by every call
//!                                                ▼                        ▼
//!                                          ProviderActor × N ◄─ Dispatch ─ http workers
//! ```
//!
//! # Facts of actix 0.13.5 we rely on (`tests/actix_facts.rs` pins them)
//!
//! * `Supervisor` does not survive a panic: the unwinding ends actor and mailbox. Hence the
//!   [`Guardian`].
//! * `send` never waits for room in a mailbox, so a mailbox limits nothing: slots do.
//! * A handler runs to its end before any timer or other message: handlers take microseconds.
//! * An actor ends when no address is left *and* none of its timers or futures: `Retire` ends those.

mod config_watcher;
mod guardian;
mod provider;
mod provider_supervisor;
mod snapshot;

pub use config_watcher::{ConfigWatcher, Reload, ReloadOutcome, Trigger, WatchSettings};
pub use guardian::{Backoff, Crash, Guardian};
pub use provider::{
    DispatchError, Lease, LeaseOutcome, ProviderHandle, ProviderStatus, RetryBudget,
};
pub use provider_supervisor::{Applied, ApplyConfig, ApplyError, ProviderSupervisor, Start};
pub use snapshot::{Snapshot, SnapshotCell};
