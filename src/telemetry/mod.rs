//! What operators see: metrics, logs, the usage ledger and traces.

pub mod decisions;
pub mod ledger;
pub mod logging;
pub mod metrics;
mod prompt_cache;
mod rolling;
mod tally;
pub mod traces;

use std::{sync::Arc, time::Duration};

pub use decisions::Decisions;
pub use ledger::Ledger;
pub use metrics::Metrics;
pub use prompt_cache::PromptCache;
pub use tally::Tally;
pub use traces::{Tracer, TurnTrace};

/// A duration as it is written down, in whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where turns are told of.
pub struct Telemetry {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What each turn used.
    pub ledger: Ledger,
    /// Which turns upstreams' prompt caches should know.
    pub prompt_cache: PromptCache,
    /// What became of the last calls.
    pub decisions: Decisions,
    /// Traces turns, if the config wants it.
    pub tracer: Option<Tracer>,
}

impl Telemetry {
    /// Metrics alone.
    pub fn of(metrics: Arc<Metrics>) -> Self {
        let ledger = Ledger::off(metrics.ledger_errors.clone());
        Self {
            metrics,
            ledger,
            prompt_cache: PromptCache::default(),
            decisions: Decisions::default(),
            tracer: None,
        }
    }
}
