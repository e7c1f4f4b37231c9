//! Leave to run one exchange.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::WeakRecipient;
use tokio::sync::OwnedSemaphorePermit;

use super::{Retirement, keys::Pick, messages::Settle};
use crate::{
    config::ProviderSpec,
    credentials::{Credential, TokenId},
    telemetry::decisions::With,
};

/// A credential, a slot and the provider as it was. Fixed for the life of the exchange: a restart or
/// a reload of the provider changes nothing about it. Dropping it frees the slot.
#[derive(Debug)]
pub struct Lease {
    /// The provider.
    pub spec: Arc<ProviderSpec>,
    /// What to authenticate with.
    pub credential: Credential,
    /// How many keys the provider has.
    of: usize,
    to: Settling,
    settled: Cell<bool>,
    retirement: Arc<Retirement>,
    _slot: OwnedSemaphorePermit,
}

/// Where it is told how an exchange went.
#[derive(Debug)]
pub(super) struct Settling {
    pub pick: Pick,
    pub successes: Arc<AtomicU64>,
    pub actor: WeakRecipient<Settle>,
}

/// How an exchange went, where it matters to those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// The upstream wants no more requests for a while.
    RateLimited {
        /// For how long.
        pause: Duration,
    },
    /// The upstream refused the credential.
    Refused,
    /// The upstream took the credential, and answered.
    Accepted,
    /// The upstream was not reached, or failed.
    Failed,
    /// It ended before it said anything.
    Abandoned,
}

impl Lease {
    pub(super) fn new(
        spec: Arc<ProviderSpec>,
        credential: Credential,
        of: usize,
        to: Settling,
        retirement: Arc<Retirement>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let settled = Cell::new(false);
        Self { spec, credential, of, to, settled, retirement, _slot: slot }
    }

    /// Tells the provider how the exchange went. Lost if it is gone, which is fine.
    pub fn settle(&self, outcome: LeaseOutcome) {
        self.settled.set(true);
        if let Some(provider) = self.to.actor.upgrade() {
            provider.do_send(Settle(self.to.pick, outcome));
        }
    }

    /// The upstream answered. A message only where that is news.
    pub fn succeeded(&self) {
        self.to.successes.fetch_add(1, Ordering::Relaxed);
        if self.is_watched() {
            self.settle(LeaseOutcome::Accepted);
        }
    }

    /// Whether the credential was refused, or the upstream failed, before.
    fn is_watched(&self) -> bool {
        self.to.pick.trial || self.to.pick.probe
    }

    /// How many keys the provider has.
    pub fn keys(&self) -> usize {
        self.of
    }

    /// What it authenticates with, for people.
    pub fn with(&self) -> With {
        match &self.credential {
            Credential::None => With::Nothing,
            Credential::Key(_) => With::Key(self.to.pick.index + 1, self.of),
            Credential::Forwarded(_) => With::Caller,
            Credential::Account { name, .. } => With::Account(Arc::clone(name)),
        }
    }

    /// Whether another key may do what this one may not.
    pub fn has_others(&self) -> bool {
        self.of > 1
    }

    /// The account's token, if an account is what was lent.
    pub fn token(&self) -> Option<TokenId> {
        match self.credential {
            Credential::Account { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Whether the provider left the config so long ago that this exchange must end.
    pub fn must_end(&self) -> bool {
        self.retirement.is_over()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_watched() && !self.settled.get() {
            self.settle(LeaseOutcome::Abandoned);
        }
    }
}
