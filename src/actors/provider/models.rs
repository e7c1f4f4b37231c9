//! The cached model list: fresh for a time, fetched once for all who wait, and old rather than
//! empty when the upstream cannot say. It is kept in `models/<provider>.json`, so that a restart
//! forgets nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix::prelude::*;
use actix_rt::time::Instant;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{ProviderActor, messages::ListModels};
use crate::{
    adapters::{ModelInfo, Target, adapter},
    config::{ProviderSpec, process_env},
    credentials::Credential,
    registry::AuthMode,
    upstream::{Network, Upstream},
};

/// How long a list may take.
const TIMEOUT: Duration = Duration::from_secs(8);
/// How large it may be, in bytes.
const MAX_LIST: usize = 8 << 20;
/// After a failure the upstream is left alone for so long.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Who asks gets an old list, if there is one, rather than wait longer for a new one.
const STALE_AFTER: Duration = Duration::from_secs(2);

type List = Arc<[ModelInfo]>;

/// A list as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Whose it is: another address has other models.
    base_url: String,
    models: Vec<ModelInfo>,
}

/// The list and who waits for it.
#[derive(Default)]
pub(super) struct ModelList {
    known: Option<List>,
    fresh_until: Option<Instant>,
    waiting: Vec<oneshot::Sender<List>>,
    fetching: Option<SpawnHandle>,
}

impl ModelList {
    /// Ends a fetch in progress; those who wait get what the config says.
    pub fn abandon(&mut self, ctx: &mut Context<ProviderActor>) {
        if let Some(fetch) = self.fetching.take() {
            ctx.cancel_future(fetch);
        }
        self.waiting.clear();
    }
}

impl Handler<ListModels> for ProviderActor {
    type Result = Response<List>;

    fn handle(&mut self, _: ListModels, ctx: &mut Context<Self>) -> Self::Result {
        let fresh = self.models.fresh_until.is_some_and(|until| Instant::now() < until);
        if let (true, Some(known)) = (fresh, &self.models.known) {
            return Response::reply(Arc::clone(known));
        }
        let Some(credential) = self.models_credential() else {
            let known = self.models.known.clone();
            return Response::reply(known.unwrap_or_else(|| configured(&self.seed.spec)));
        };
        let (sender, receiver) = oneshot::channel();
        self.models.waiting.push(sender);
        if self.models.fetching.is_none() {
            let spec = Arc::clone(&self.seed.spec);
            let network = self.seed.network.clone();
            let fetch = fetch(spec, credential, network).into_actor(self).map(Self::fetched);
            self.models.fetching = Some(ctx.spawn(fetch));
        }
        let (spec, old) = (Arc::clone(&self.seed.spec), self.models.known.clone());
        Response::fut(async move {
            let Some(old) = old else {
                return receiver.await.unwrap_or_else(|_| configured(&spec));
            };
            match actix_rt::time::timeout(STALE_AFTER, receiver).await {
                Ok(Ok(new)) => new,
                _ => old,
            }
        })
    }
}

impl ProviderActor {
    /// What to ask for the list with; nothing if there is no asking.
    fn models_credential(&self) -> Option<Credential> {
        let spec = &self.seed.spec;
        if !spec.live_models || spec.disabled || spec.lacks(&process_env).is_some() {
            return None;
        }
        match spec.auth {
            AuthMode::Forward => None,
            AuthMode::OAuth => self.login.credential(),
            AuthMode::Key | AuthMode::Local => {
                let keys = &self.own;
                let has = |index: usize| {
                    keys.get(index).is_some_and(|key| !matches!(key, Credential::None))
                };
                let index = self.keys.any(Instant::now(), has);
                Some(index.map_or(Credential::None, |index| keys[index].clone()))
            }
        }
    }

    fn kept_at(&self) -> PathBuf {
        // A provider's name is a legal file name: the config sees to it.
        self.seed.vault.home().join("models").join(format!("{}.json", self.seed.spec.id))
    }

    /// What the provider had before we were started.
    pub(super) fn recall(&mut self) {
        let kept = kept(&self.kept_at(), &self.seed.spec);
        let spec = &self.seed.spec;
        // Of a list that is not asked for it does not matter how old it is.
        let asks = spec.live_models && !spec.disabled;
        if let Some((list, at)) = &kept {
            self.publish(list, Some(*at).filter(|_| asks));
        } else {
            self.publish(&configured(&self.seed.spec), None);
        }
        self.models.known = kept.map(|(list, _)| list);
    }

    /// Tells the metrics which models there are, and how old that news is.
    fn publish(&self, list: &List, fetched: Option<SystemTime>) {
        // A retired provider's series are gone, or belong to its successor.
        if self.seed.retirement.is_retired() {
            return;
        }
        let (metrics, provider) = (&self.seed.metrics, self.seed.spec.id.as_str());
        let priced = self.seed.spec.prices.keys().filter(|name| *name != "*");
        let names = list.iter().map(|model| &model.id).chain(priced);
        metrics.models.offer(provider, names.map(String::as_str));
        let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
        metrics.model_list_length.with_label_values(&[provider]).set(length);
        if let Some(at) = fetched {
            metrics.model_list_fetched(provider, at);
        }
    }

    /// Keeps a list for the next start, aside; that it cannot be kept costs nothing but that.
    fn keep(&self, models: &[ModelInfo]) {
        let kept = Kept { base_url: self.seed.spec.base_url.clone(), models: models.to_vec() };
        let path = self.kept_at();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = write(&path, &kept) {
                tracing::debug!(path = %path.display(), %error, "a model list cannot be kept");
            }
        }));
    }

    fn fetched(result: Result<Vec<ModelInfo>, String>, this: &mut Self, _: &mut Context<Self>) {
        this.models.fetching = None;
        let spec = &this.seed.spec;
        let result = result.and_then(|live| match &this.models.known {
            // A provider does not lose all its models at once.
            Some(old) if live.is_empty() && !old.is_empty() => Err("the list is empty".to_owned()),
            _ => Ok(live),
        });
        let label = if result.is_ok() { "ok" } else { "error" };
        this.seed.metrics.model_fetches.with_label_values(&[spec.id.as_str(), label]).inc();
        let (list, fresh_for) = match result {
            Ok(live) => {
                this.keep(&live);
                let list = merge(live, spec);
                this.publish(&list, Some(SystemTime::now()));
                (list, this.seed.model_ttl)
            }
            Err(reason) => {
                tracing::warn!(provider = %spec.id, reason, "the model list could not be fetched");
                let old = this.models.known.take();
                (old.unwrap_or_else(|| configured(spec)), RETRY_AFTER)
            }
        };
        this.models.fresh_until = Some(Instant::now() + fresh_for);
        for waiting in this.models.waiting.drain(..) {
            // Who hung up needs no list.
            let _ = waiting.send(Arc::clone(&list));
        }
        this.models.known = Some(list);
    }
}

/// A list that was kept, and since when; nothing if it is of another address.
fn kept(path: &Path, spec: &ProviderSpec) -> Option<(List, SystemTime)> {
    let meta = fs::metadata(path).ok().filter(|meta| meta.len() <= MAX_LIST as u64)?;
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let at = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    (kept.base_url == spec.base_url).then(|| (merge(kept.models, spec), at))
}

fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(&mut file, kept)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

async fn fetch(
    spec: Arc<ProviderSpec>,
    credential: Credential,
    network: Network,
) -> Result<Vec<ModelInfo>, String> {
    let target = Target {
        model: "",
        base_url: &spec.base_url,
        quirks: &spec.quirks,
        headers: &spec.headers,
        credential: &credential,
        sealer: None,
    };
    let adapter = adapter(spec.adapter);
    let request = adapter.list_models(&target).ok_or("this protocol has no model list")?;
    let exchange = async {
        let mut response = Upstream::new(&network)
            .via(&spec.reach)
            .open(request, TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        if !response.head.is_success() {
            return Err(format!("status {}", response.head.status));
        }
        response.body.read_all(MAX_LIST).await.map_err(|error| error.to_string())
    };
    let body = actix_rt::time::timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| "it took too long".to_owned())??;
    adapter.parse_models(&body, &spec.quirks).map_err(|error| error.to_string())
}

/// The models of the config.
pub(super) fn configured(spec: &ProviderSpec) -> List {
    merge(Vec::new(), spec)
}

/// The live list, then what the config adds to it; windows as the config limits them.
fn merge(mut models: Vec<ModelInfo>, spec: &ProviderSpec) -> List {
    for id in spec.models.iter().chain(&spec.default_model) {
        if models.iter().all(|model| model.id != *id) {
            models.push(ModelInfo { id: id.clone(), ..ModelInfo::default() });
        }
    }
    for model in &mut models {
        let configured = spec.quirks.context_window(&model.id);
        model.context_window = match (model.context_window, configured) {
            (Some(live), Some(configured)) => Some(live.min(configured)),
            (live, configured) => live.or(configured),
        };
    }
    models.sort_by(|a, b| a.id.cmp(&b.id));
    models.into()
}
