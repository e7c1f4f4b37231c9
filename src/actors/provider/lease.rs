//! Leave to run one exchange.

use std::{sync::Arc, time::Duration};

use actix::WeakRecipient;
use tokio::sync::OwnedSemaphorePermit;

use super::{Retirement, keys::Pick, messages::Settle};
use crate::{config::ProviderSpec, credentials::Credential};

/// A credential, a slot and the provider as it was. Fixed for the life of the exchange: a restart or
/// a reload of the provider changes nothing about it. Dropping it frees the slot.
#[derive(Debug)]
pub struct Lease {
    /// The provider.
    pub spec: Arc<ProviderSpec>,
    /// What to authenticate with.
    pub credential: Credential,
    pub(super) pick: Pick,
    /// How many keys the provider has.
    pub(super) of: usize,
    pub(super) settle: WeakRecipient<Settle>,
    pub(super) retirement: Arc<Retirement>,
    pub(super) _slot: OwnedSemaphorePermit,
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
}

impl Lease {
    /// Tells the provider how the exchange went. Lost if it is gone, which is fine.
    pub fn settle(&self, outcome: LeaseOutcome) {
        if let Some(provider) = self.settle.upgrade() {
            provider.do_send(Settle(self.pick, outcome));
        }
    }

    /// How many keys the provider has.
    pub fn keys(&self) -> usize {
        self.of
    }

    /// Whether another key may do what this one may not.
    pub fn has_others(&self) -> bool {
        self.of > 1
    }

    /// The generation of the account's tokens, if an account is what was lent.
    pub fn generation(&self) -> Option<u64> {
        match self.credential {
            Credential::Account { generation, .. } => Some(generation),
            _ => None,
        }
    }

    /// Whether the credential was refused, or the upstream failed, before: success is news then.
    pub fn is_on_probation(&self) -> bool {
        self.pick.on_probation
    }

    /// Whether the provider left the config so long ago that this exchange must end.
    pub fn must_end(&self) -> bool {
        self.retirement.is_over()
    }
}
