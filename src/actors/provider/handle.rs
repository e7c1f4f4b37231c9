//! What the program holds instead of an actor's address.

use std::sync::Arc;

use actix::{Addr, MailboxError};

use super::{
    Describe, DispatchError, Lease, MAILBOX, ProviderActor, ProviderStatus, Retire, Retirement,
    RetryBudget,
    letter::Letter,
    messages::{Dispatch, Drill, Finish, ListModels, Renew},
};
use crate::{
    adapters::ModelInfo,
    config::ProviderSpec,
    credentials::{CallerAuth, TokenId},
    registry::AuthMode,
    telemetry::{
        Metrics,
        metrics::{Held, IntCounter, IntGauge},
    },
};

/// A provider, for everybody else.
pub struct ProviderHandle {
    spec: Arc<ProviderSpec>,
    retries: Arc<RetryBudget>,
    mailbox: Arc<Mailbox>,
    retirement: Arc<Retirement>,
    // Not cloned per request: every clone would widen the mailbox by one (actix#329).
    addr: Addr<ProviderActor>,
}

/// What waits for the actor, and how much may.
struct Mailbox {
    waiting: IntGauge,
    rejected: IntCounter,
}

impl ProviderHandle {
    pub(in crate::actors) fn new(
        spec: Arc<ProviderSpec>,
        addr: Addr<ProviderActor>,
        retirement: Arc<Retirement>,
        metrics: &Metrics,
    ) -> Self {
        let actor = [spec.id.as_str()];
        let capacity = i64::try_from(MAILBOX).unwrap_or(i64::MAX);
        metrics.greet_provider(spec.id.as_str(), spec.auth == AuthMode::OAuth);
        metrics.mailbox_capacity.with_label_values(&actor).set(capacity);
        let mailbox = Arc::new(Mailbox {
            waiting: metrics.mailbox_depth.with_label_values(&actor),
            rejected: metrics.mailbox_rejected.with_label_values(&actor),
        });
        Self { spec, retries: Arc::default(), mailbox, retirement, addr }
    }

    /// For the next snapshot.
    pub(in crate::actors) fn again(&self) -> Self {
        Self {
            spec: Arc::clone(&self.spec),
            retries: Arc::clone(&self.retries),
            mailbox: Arc::clone(&self.mailbox),
            retirement: Arc::clone(&self.retirement),
            addr: self.addr.clone(),
        }
    }

    /// The provider as it is configured.
    pub fn spec(&self) -> &Arc<ProviderSpec> {
        &self.spec
    }

    /// How much of its traffic may be retries.
    pub fn retries(&self) -> &RetryBudget {
        &self.retries
    }

    /// Whether the actor is there at all.
    pub fn is_alive(&self) -> bool {
        self.addr.connected()
    }

    /// Whether two handles lead to the same actor.
    pub fn is_same(&self, other: &Self) -> bool {
        self.addr == other.addr
    }

    /// Asks for leave to run one exchange; `forced` also while the upstream is left alone because it
    /// failed, for who has no other.
    ///
    /// # Errors
    ///
    /// When the provider will not lend now, and why.
    pub async fn dispatch(&self, caller: CallerAuth, forced: bool) -> Result<Lease, DispatchError> {
        let dispatch = Dispatch { caller, forced };
        let waiting = &self.mailbox.waiting;
        // actix would let any number of senders wait outside of a full mailbox.
        if usize::try_from(waiting.get()).is_ok_and(|waiting| waiting >= MAILBOX) {
            self.mailbox.rejected.inc();
            return Err(DispatchError::Saturated(self.spec.id.to_string()));
        }
        match self.addr.send(Letter::new(dispatch, Held::up(waiting.clone()))).await {
            Ok(answer) => answer,
            Err(_) if self.is_alive() => Err(DispatchError::Restarted(self.spec.id.to_string())),
            Err(_) => Err(DispatchError::Failed(self.spec.id.to_string())),
        }
    }

    /// Waits for another token than `refused`, which the upstream did not take.
    ///
    /// # Errors
    ///
    /// When there are none.
    pub async fn renew(&self, refused: TokenId) -> Result<(), DispatchError> {
        let waiting = Held::up(self.mailbox.waiting.clone());
        match self.addr.send(Letter::new(Renew(refused), waiting)).await {
            Ok(answer) => answer,
            Err(_) => Err(DispatchError::Restarted(self.spec.id.to_string())),
        }
    }

    /// Waits until what must not be cut off is done: the process is about to end.
    pub async fn finish(&self) {
        // A provider that is gone has nothing left to do.
        let _ = self.addr.send(Finish).await;
    }

    /// The models it offers; those of the config if it cannot say.
    pub async fn models(&self) -> Arc<[ModelInfo]> {
        match self.addr.send(ListModels).await {
            Ok(models) => models,
            Err(_) => super::models::configured(&self.spec),
        }
    }

    /// How it is.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub async fn describe(&self) -> Result<ProviderStatus, MailboxError> {
        self.addr.send(Describe).await
    }

    pub(in crate::actors) fn retire(&self, drain: std::time::Duration) {
        // At once: the actor may be stuck, and must not tell the metrics of itself when it is not any more.
        self.retirement.begin(drain);
        self.addr.do_send(Retire);
    }

    /// Makes the actor panic: a drill for tests of supervision. Nothing in the program calls it.
    #[doc(hidden)]
    pub async fn drill(&self) -> bool {
        self.addr.send(Drill).await.is_err()
    }
}
