//! Starts, keeps and retires provider actors, and publishes what runs.
//!
//! A new config goes through two phases: every new or changed provider is started and must answer;
//! then one pointer is swapped. If any of them does not come up, nothing has changed.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use actix::prelude::*;
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::{
    Backoff, Guardian, ProviderHandle, Snapshot, SnapshotCell,
    provider::{MAILBOX, ProviderActor, Retirement, Seed},
};
use crate::{
    config::{Config, ProviderSpec},
    credentials::Vault,
    model::ProviderId,
    telemetry::Metrics,
    upstream::Network,
};

/// How long a provider has to come up.
const READY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the number of draining generations is counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// What the supervisor starts with.
pub struct Start {
    /// The first config.
    pub config: Arc<Config>,
    /// Where provider actors run: a thread of their own, so that neither a stuck worker nor a flood
    /// of calls delays them.
    pub arbiter: ArbiterHandle,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// When panicking providers run again.
    pub backoff: Backoff,
    /// Where logins are kept.
    pub vault: Vault,
    /// For what provider actors ask themselves.
    pub network: Network,
}

/// The actor. Its state is the published snapshot, which outlives it.
pub struct ProviderSupervisor {
    cell: SnapshotCell,
    arbiter: ArbiterHandle,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    vault: Vault,
    network: Network,
    former: Vec<Weak<Snapshot>>,
    /// Providers that left the config, with the last generation that had them: its streams may
    /// still count something.
    removed: Vec<(ProviderId, Weak<Snapshot>)>,
    /// Providers of a config that is being prepared.
    coming: HashSet<ProviderId>,
}

/// Makes a new config the one that runs.
#[derive(Message)]
#[rtype(result = "Result<Applied, ApplyError>")]
pub struct ApplyConfig(pub Arc<Config>);

/// Asks whether a provider is out of service because it failed: taking the same config again would
/// start it anew.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct AnyFailed;

impl Handler<AnyFailed> for ProviderSupervisor {
    type Result = bool;

    fn handle(&mut self, _: AnyFailed, _: &mut Self::Context) -> bool {
        self.cell.load().providers.values().any(|provider| !provider.is_alive())
    }
}

/// A config was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub generation: u64,
}

/// Why a config was not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It differs in what cannot change while we run.
    #[error("these fields take effect at the next start only: {}", .0.join(", "))]
    RestartRequired(Vec<&'static str>),
    /// Another config was taken meanwhile.
    #[error("another config was taken meanwhile; try again")]
    Overtaken,
    /// A provider did not come up.
    #[error("the provider `{0}` did not start in time")]
    PrepareFailed(ProviderId),
}

impl ProviderSupervisor {
    /// Starts the providers of the first config and waits for them.
    ///
    /// # Errors
    ///
    /// When one of them does not come up.
    pub async fn first_snapshot(start: &Start) -> Result<SnapshotCell, ApplyError> {
        let prepared = prepare(&start.config, &HashMap::new(), &Means::of(start)).await?;
        let snapshot =
            Snapshot { generation: 1, config: Arc::clone(&start.config), providers: prepared };
        start.metrics.reload_taken(1);
        Ok(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// The supervisor of a published snapshot.
    pub fn new(start: &Start, cell: SnapshotCell) -> Self {
        Self {
            cell,
            arbiter: start.arbiter.clone(),
            metrics: Arc::clone(&start.metrics),
            backoff: start.backoff,
            vault: start.vault.clone(),
            network: start.network.clone(),
            former: Vec::new(),
            removed: Vec::new(),
            coming: HashSet::new(),
        }
    }

    fn commit(
        &mut self,
        config: Arc<Config>,
        providers: HashMap<ProviderId, ProviderHandle>,
    ) -> Applied {
        let old = self.cell.load_full();
        let generation = old.generation + 1;
        let drain = config.limits.drain;
        self.cell.store(Arc::new(Snapshot { generation, config, providers }));
        let new = self.cell.load();
        for (id, handle) in &old.providers {
            match new.providers.get(id) {
                Some(kept) if kept.is_same(handle) => {}
                Some(_) => handle.retire(drain),
                None => {
                    handle.retire(drain);
                    self.metrics.forget_provider(id.as_str());
                    self.removed.push((id.clone(), Arc::downgrade(&old)));
                }
            }
        }
        self.former.push(Arc::downgrade(&old));
        self.metrics.reload_taken(generation);
        Applied { generation }
    }

    fn count_former(&mut self) {
        self.former.retain(|snapshot| snapshot.strong_count() > 0);
        let (current, metrics) = (self.cell.load(), &self.metrics);
        self.removed.retain(|(id, last)| {
            if self.coming.contains(id) {
                return true;
            }
            let drained = last.strong_count() == 0;
            if drained && current.provider(id).is_none() {
                metrics.forget_provider(id.as_str());
            }
            !drained
        });
        self.metrics.draining.set(self.former.len().try_into().unwrap_or(i64::MAX));
    }
}

impl Actor for ProviderSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.metrics.actor_up.with_label_values(&["provider_supervisor"]).set(1);
        ctx.run_interval(COUNT_INTERVAL, |this, _| this.count_former());
    }
}

impl Supervised for ProviderSupervisor {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.former = Vec::new();
        self.removed = Vec::new();
        self.coming = HashSet::new();
    }
}

impl Handler<ApplyConfig> for ProviderSupervisor {
    type Result = ResponseActFuture<Self, Result<Applied, ApplyError>>;

    fn handle(&mut self, ApplyConfig(config): ApplyConfig, _: &mut Self::Context) -> Self::Result {
        let running = self.cell.load_full();
        let fixed = fixed_fields(&running.config, &config);
        if !fixed.is_empty() {
            return Box::pin(actix::fut::ready(Err(ApplyError::RestartRequired(fixed))));
        }
        // Who comes back has series again, which must not go with those of its former self.
        self.coming = config.providers.keys().cloned().collect();
        let means = Means {
            arbiter: self.arbiter.clone(),
            metrics: Arc::clone(&self.metrics),
            backoff: self.backoff,
            vault: self.vault.clone(),
            network: self.network.clone(),
        };
        let (wanted, basis) = (Arc::clone(&config), Arc::clone(&running));
        let prepared = async move { prepare(&wanted, &running.providers, &means).await };
        let applied = prepared.into_actor(self).map(move |prepared, this, _| {
            // What was kept was kept from `basis`; on another one it may be retired by now.
            let applied = prepared.and_then(|prepared| {
                if Arc::ptr_eq(&basis, &this.cell.load()) {
                    return Ok(prepared);
                }
                retire_new(&prepared, &basis.providers);
                Err(ApplyError::Overtaken)
            });
            this.coming.clear();
            match applied {
                Ok(prepared) => {
                    this.removed.retain(|(id, _)| !config.providers.contains_key(id));
                    Ok(this.commit(config, prepared))
                }
                Err(error) => {
                    let current = this.cell.load();
                    let never = config.providers.keys().filter(|id| current.provider(id).is_none());
                    never.for_each(|id| this.metrics.forget_provider(id.as_str()));
                    Err(error)
                }
            }
        });
        Box::pin(applied)
    }
}

/// Fields of a config that a running process cannot follow.
fn fixed_fields(running: &Config, wanted: &Config) -> Vec<&'static str> {
    let (from, to) = (&running.listen, &wanted.listen);
    let differs = [
        ("hostname", from.host != to.host),
        ("port", from.port != to.port),
        ("workers", from.workers != to.workers),
        ("watch", running.watch != wanted.watch),
        ("caFile", running.ca_file != wanted.ca_file),
        ("connectTimeoutMs", running.limits.timeouts.connect != wanted.limits.timeouts.connect),
        ("shutdownTimeoutMs", running.limits.shutdown != wanted.limits.shutdown),
        ("telemetry", running.telemetry.fingerprint != wanted.telemetry.fingerprint),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// What every provider is started with.
struct Means {
    arbiter: ArbiterHandle,
    metrics: Arc<Metrics>,
    backoff: Backoff,
    vault: Vault,
    network: Network,
}

impl Means {
    fn of(start: &Start) -> Self {
        Self {
            arbiter: start.arbiter.clone(),
            metrics: Arc::clone(&start.metrics),
            backoff: start.backoff,
            vault: start.vault.clone(),
            network: start.network.clone(),
        }
    }
}

/// Ends what was started for nothing: timers would keep some of it alive, and let it renew tokens.
fn retire_new(
    started: &HashMap<ProviderId, ProviderHandle>,
    running: &HashMap<ProviderId, ProviderHandle>,
) {
    for (id, handle) in started {
        if running.get(id).is_none_or(|old| !old.is_same(handle)) {
            handle.retire(Duration::ZERO);
        }
    }
}

/// Phase one: keeps what is unchanged and starts the rest.
async fn prepare(
    config: &Config,
    running: &HashMap<ProviderId, ProviderHandle>,
    means: &Means,
) -> Result<HashMap<ProviderId, ProviderHandle>, ApplyError> {
    let mut providers = HashMap::with_capacity(config.providers.len());
    let mut started = Vec::new();
    for (id, spec) in &config.providers {
        let old = running.get(id);
        let unchanged =
            old.filter(|old| old.spec().fingerprint == spec.fingerprint && old.is_alive());
        if let Some(unchanged) = unchanged {
            providers.insert(id.clone(), unchanged.again());
            continue;
        }
        let handle = start(spec, config, means);
        started.push(id.clone());
        providers.insert(id.clone(), handle);
    }
    let checks = started.iter().map(|id| async {
        let answer = actix_rt::time::timeout(READY_TIMEOUT, providers[id].describe()).await;
        match answer {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ApplyError::PrepareFailed(id.clone())),
        }
    });
    let ready: Result<Vec<()>, ApplyError> = join_all(checks).await.into_iter().collect();
    match ready {
        Ok(_) => Ok(providers),
        Err(error) => {
            retire_new(&providers, running);
            Err(error)
        }
    }
}

fn start(spec: &Arc<ProviderSpec>, config: &Config, means: &Means) -> ProviderHandle {
    let Means { arbiter, metrics, backoff, vault, network } = means;
    let seed = Seed {
        spec: Arc::clone(spec),
        slots: Arc::new(Semaphore::new(spec.max_concurrency)),
        retirement: Arc::new(Retirement::default()),
        metrics: Arc::clone(metrics),
        model_ttl: config.limits.model_cache_ttl,
        network: network.clone(),
        vault: vault.clone(),
    };
    let (seed, id, counted) = (Arc::new(seed), spec.id.clone(), Arc::clone(metrics));
    let (retirement, own) = (Arc::clone(&seed.retirement), Arc::clone(&seed.retirement));
    let addr = Guardian::start_in_arbiter(
        arbiter,
        MAILBOX,
        move |_| ProviderActor::new(seed),
        *backoff,
        move |crash| {
            if retirement.is_retired() {
                return;
            }
            counted.actor_restarts.with_label_values(&[id.as_str(), "panic"]).inc();
            match crash.restart_in {
                Some(rest) => {
                    tracing::error!(provider = %id, streak = crash.streak, ?rest, "provider actor restarts");
                }
                None => {
                    counted.actor_up.with_label_values(&[id.as_str()]).set(0);
                    counted.set_provider_state(id.as_str(), "failed");
                    tracing::error!(provider = %id, "provider actor failed too often and is out of service");
                }
            }
        },
    );
    ProviderHandle::new(Arc::clone(spec), addr, own, metrics)
}
