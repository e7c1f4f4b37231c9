//! What a provider actor can be asked: its manual.

use std::time::Duration;

use actix::prelude::*;

use super::{Lease, LeaseOutcome, keys::Pick};
use crate::credentials::{CallerAuth, TokenId};

/// Asks for leave to run one exchange now. Answered with a [`Lease`] or a typed refusal.
#[derive(Debug, Message)]
#[rtype(result = "Result<Lease, DispatchError>")]
pub(super) struct Dispatch {
    /// The caller's own login.
    pub caller: CallerAuth,
    /// Lend also while the upstream is left alone: there is no other.
    pub forced: bool,
}

/// Tells how an exchange went, where the provider must know.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Settle(pub Pick, pub LeaseOutcome);

/// Asks for another token than this, which the upstream refused.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), DispatchError>")]
pub(super) struct Renew(pub TokenId);

/// Ends what must not be cut off: the process is about to end. Answered when that is done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Finish;

/// Asks for the model list; waits for a fetch if there is none yet.
#[derive(Debug, Message)]
#[rtype(result = "std::sync::Arc<[crate::adapters::ModelInfo]>")]
pub(super) struct ListModels;

/// Asks how the provider is. Also the proof that it runs.
#[derive(Debug, Message)]
#[rtype(result = "ProviderStatus")]
pub(in crate::actors) struct Describe;

/// The provider left the config, or was replaced. Calls that took their snapshot before may still
/// use it; it stops when the last of them is over, or at the end of the drain time.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(in crate::actors) struct Retire;

/// Panics, to prove that nobody else notices.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Drill;

/// How a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderStatus {
    /// What it needs before it can answer, in words.
    pub lacks: Option<String>,
    /// How long it lends nothing.
    pub cooling_for: Option<Duration>,
    /// Exchanges it could lend now.
    pub free_slots: usize,
    /// Whether it takes callers' own logins.
    pub forwards: bool,
}

/// Why a provider would not lend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// Its address has a placeholder.
    #[error("the base URL of `{provider}` still holds a placeholder: {base_url}")]
    Placeholder {
        /// The provider.
        provider: String,
        /// Its address.
        base_url: String,
    },
    /// It has no key.
    #[error("the provider `{provider}` has no key: {hint}")]
    NoKey {
        /// The provider.
        provider: String,
        /// What to do.
        hint: String,
    },
    /// It takes callers' logins and this caller has none.
    #[error(
        "the provider `{0}` needs the caller's own ChatGPT login; run `codex login`, and then \
         `ocx sync` (by hand: `requires_openai_auth = true` for ocx in Codex's config.toml)"
    )]
    NotLoggedIn(String),
    /// No account is logged in, or its login ended.
    #[error("the provider `{provider}` needs `ocx login {provider}`: {reason}")]
    LoggedOut {
        /// The provider.
        provider: String,
        /// What became of the login.
        reason: String,
    },
    /// The account's token ended and a new one is not to be had now.
    #[error("the provider `{provider}` has no valid token: {reason}; it is tried again in {} seconds", left.as_secs() + 1)]
    LoginStalled {
        /// The provider.
        provider: String,
        /// What happened.
        reason: String,
        /// Until the next attempt.
        left: Duration,
    },
    /// All slots are taken.
    #[error("every slot of the provider `{0}` is in use")]
    Saturated(String),
    /// The upstream asked for a pause.
    #[error("the provider `{provider}` rests for {} more seconds: it asked for a pause, or refused every key", left.as_secs() + 1)]
    CoolingDown {
        /// The provider.
        provider: String,
        /// What is left of it.
        left: Duration,
    },
    /// The upstream failed so often that it is left alone.
    #[error("the provider `{provider}` failed too often and is left alone for {} more seconds", left.as_secs() + 1)]
    CircuitOpen {
        /// The provider.
        provider: String,
        /// For how long.
        left: Duration,
    },
    /// It restarted while we waited.
    #[error("the provider `{0}` restarted while the call waited for it")]
    Restarted(String),
    /// It panicked too often; a change of its config starts it again.
    #[error("the provider `{0}` failed and is out of service until its config changes")]
    Failed(String),
}
