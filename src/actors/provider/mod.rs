//! One actor per provider: the one owner of its credential, slots, cooldown and model list.
//!
//! It lends; the worker that holds the caller's socket does the work. Account tokens are renewed
//! ahead of their end by a timer of the actor ([`login`]); keys take turns ([`keys`]); the model list
//! is fetched once for all who wait ([`models`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use actix::prelude::*;
use actix_rt::time::Instant;
use tokio::sync::Semaphore;

use crate::{
    config::{ProviderSpec, process_env},
    credentials::{Credential, Vault},
    registry::AuthMode,
    telemetry::{
        Metrics,
        metrics::{Histogram, timestamp},
        millis,
    },
    upstream::Network,
};

mod budget;
mod circuit;
mod dispatch;
mod handle;
mod keys;
mod lease;
mod letter;
mod login;
mod messages;
mod models;

use keys::Availability;

pub use budget::RetryBudget;
pub use handle::ProviderHandle;
pub use lease::{Lease, LeaseOutcome};
pub(super) use messages::{Describe, Retire};
pub use messages::{DispatchError, ProviderStatus};

/// Messages waiting for one provider; beyond that, senders queue outside of it.
pub(super) const MAILBOX: usize = 1024;

/// What outlives a panic of the actor.
pub(super) struct Seed {
    pub spec: Arc<ProviderSpec>,
    /// Permits of running exchanges; leases hold them, so a restart cannot lend one twice.
    pub slots: Arc<Semaphore>,
    pub retirement: Arc<Retirement>,
    pub metrics: Arc<Metrics>,
    pub model_ttl: Duration,
    /// For what the actor asks itself: model lists and tokens.
    pub network: Network,
    /// Where logins are kept.
    pub vault: Vault,
}

/// Tells running streams that their provider is gone from the config.
#[derive(Debug, Default)]
pub(super) struct Retirement {
    retired: AtomicBool,
    /// Milliseconds since `EPOCH` at which streams must end.
    deadline: AtomicU64,
}

fn since_epoch() -> u64 {
    static EPOCH: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let epoch = EPOCH.get_or_init(std::time::Instant::now);
    millis(epoch.elapsed())
}

impl Retirement {
    fn begin(&self, drain: Duration) {
        let drain = millis(drain);
        self.deadline.store(since_epoch().saturating_add(drain), Ordering::Relaxed);
        self.retired.store(true, Ordering::Release);
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether streams must end now.
    fn is_over(&self) -> bool {
        self.is_retired() && since_epoch() >= self.deadline.load(Ordering::Relaxed)
    }
}

/// The actor. Everything but the seed is derived from it and rebuilt after a panic.
pub(super) struct ProviderActor {
    seed: Arc<Seed>,
    keys: keys::KeyRing,
    login: login::LoginState,
    models: models::ModelList,
    /// Its keys; nothing where a variable is not set. Variables do not change while we run.
    own: Arc<[Credential]>,
    message_time: Histogram,
    /// Tells the metrics when a rest is over.
    publishing: Option<SpawnHandle>,
}

impl ProviderActor {
    pub fn new(seed: Arc<Seed>) -> Self {
        let keys = keys::KeyRing::new(seed.spec.keys.len(), seed.spec.circuit);
        let (login, models) = (login::LoginState::default(), models::ModelList::default());
        let own = seed.spec.keys.iter().map(|key| key.resolve(&process_env));
        let own = own.map(|key| key.map_or(Credential::None, Credential::Key)).collect();
        let message_time = seed.metrics.message_time.with_label_values(&["provider"]);
        Self { seed, keys, login, models, own, message_time, publishing: None }
    }

    fn publish_state(&self) {
        // A retired provider's series are gone, or belong to its successor.
        if self.seed.retirement.is_retired() {
            return;
        }
        let spec = &self.seed.spec;
        let availability = self.availability();
        let lacks = || spec.auth != AuthMode::Forward && self.lacks().is_some();
        let (state, left) = match availability {
            _ if spec.disabled => ("disabled", None),
            Availability::Cooling(left) => ("cooling", Some(left)),
            _ if lacks() => ("needs_login", None),
            Availability::HalfOpen => ("half_open", None),
            Availability::Ready => ("ready", None),
        };
        let (metrics, id) = (&self.seed.metrics, spec.id.as_str());
        metrics.set_provider_state(id, state);
        let until = left.map_or(0.0, |left| timestamp(SystemTime::now() + left));
        metrics.cooldown_until.with_label_values(&[id]).set(until);
        self.login.publish(metrics, id);
    }

    fn cooling_left(&self) -> Option<Duration> {
        match self.availability() {
            Availability::Cooling(left) => Some(left),
            Availability::Ready | Availability::HalfOpen => None,
        }
    }

    fn availability(&self) -> Availability {
        let keys = &self.own;
        let none = keys.iter().all(|key| matches!(key, Credential::None));
        // A provider without keys has one place for all of its calls.
        let has = |index: usize| {
            none || keys.get(index).is_some_and(|key| !matches!(key, Credential::None))
        };
        self.keys.availability(Instant::now(), has)
    }

    /// What it needs before it can answer, in words.
    fn lacks(&self) -> Option<String> {
        let spec = &self.seed.spec;
        spec.lacks(&process_env).or_else(|| self.login.lacks(spec.id.as_str()))
    }
}

impl Actor for ProviderActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        if self.seed.retirement.is_retired() {
            // Before it began.
            return;
        }
        let (metrics, id) = (&self.seed.metrics, self.seed.spec.id.as_str());
        metrics.actor_up.with_label_values(&[id]).set(1);
        self.publish_state();
        self.recall();
        if self.seed.spec.auth == AuthMode::OAuth {
            self.load(ctx);
        }
    }
}

impl Supervised for ProviderActor {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.seed));
    }
}

impl Handler<Describe> for ProviderActor {
    type Result = MessageResult<Describe>;

    fn handle(&mut self, _: Describe, _: &mut Self::Context) -> Self::Result {
        MessageResult(ProviderStatus {
            lacks: self.lacks(),
            cooling_for: self.cooling_left(),
            free_slots: self.seed.slots.available_permits(),
            forwards: self.seed.spec.auth == AuthMode::Forward,
        })
    }
}

impl Handler<Retire> for ProviderActor {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        // Its own timers and futures would keep it alive after the last address is gone.
        self.models.abandon(ctx);
        self.login.abandon(ctx);
        if let Some(publishing) = self.publishing.take() {
            ctx.cancel_future(publishing);
        }
    }
}

#[cfg(test)]
mod tests;
