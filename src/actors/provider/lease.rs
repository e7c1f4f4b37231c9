//! Leave to run one exchange.

use std::{sync::Arc, time::Duration};

use actix::WeakRecipient;
use tokio::sync::OwnedSemaphorePermit;

use super::{Retirement, messages::Settle};
use crate::{config::ProviderSpec, credentials::Credential};

/// A credential, a slot and the provider as it was. Fixed for the life of the exchange: a restart or
/// a reload of the provider changes nothing about it. Dropping it frees the slot.
#[derive(Debug)]
pub struct Lease {
    /// The provider.
    pub spec: Arc<ProviderSpec>,
    /// What to authenticate with.
    pub credential: Credential,
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
}

impl Lease {
    /// Tells the provider how the exchange went. Lost if it is gone, which is fine.
    pub fn settle(&self, outcome: LeaseOutcome) {
        if let Some(provider) = self.settle.upgrade() {
            provider.do_send(Settle(outcome));
        }
    }

    /// Whether the provider left the config so long ago that this exchange must end.
    pub fn must_end(&self) -> bool {
        self.retirement.is_over()
    }
}
