//! What runs, as one immutable value: a call takes it once and never sees half of two configs.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use super::ProviderHandle;
use crate::{config::Config, model::ProviderId};

/// One generation of the config with the actors that serve it.
pub struct Snapshot {
    /// Counts the configs that ran since the start; the first is 1.
    pub generation: u64,
    /// The config.
    pub config: Arc<Config>,
    /// Its providers.
    pub providers: HashMap<ProviderId, ProviderHandle>,
}

/// Where the current snapshot is found.
pub type SnapshotCell = Arc<ArcSwap<Snapshot>>;

impl Snapshot {
    /// The handle of a provider.
    pub fn provider(&self, id: &ProviderId) -> Option<&ProviderHandle> {
        self.providers.get(id)
    }
}
