//! Hot reload of `config.json`.
//!
//! Events are hints only: editors rename, Kubernetes swaps a symlink two levels up, network file
//! systems tell nothing. So whatever the hint, the watcher waits for quiet, reads the whole file,
//! and offers it to the supervisor if it differs from what runs. A file that cannot be read, is
//! empty or does not check changes nothing, ever.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::prelude::*;
use actix_rt::time::Instant;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use tokio::sync::oneshot;

use super::{Applied, ApplyConfig, ApplyError, ProviderSupervisor, provider_supervisor::AnyFailed};
use crate::{
    config::{ConfigProblems, Loaded, check_file, process_env},
    telemetry::Metrics,
};

/// How the file is watched.
#[derive(Clone, Copy, Debug)]
pub struct WatchSettings {
    /// Whether to ask the file system for hints at all.
    pub hints: bool,
    /// Quiet time after the last hint before the file is read.
    pub quiet: Duration,
    /// Longest wait under a stream of hints.
    pub quiet_max: Duration,
    /// Pause before a file that does not check is read once more: it may be half-written.
    pub second_look: Duration,
    /// Period of the check that needs no hint.
    pub poll: Duration,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            hints: true,
            quiet: Duration::from_millis(200),
            quiet_max: Duration::from_secs(1),
            second_look: Duration::from_millis(100),
            poll: Duration::from_secs(2),
        }
    }
}

/// What asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The file system told of a change.
    Watch,
    /// The regular look.
    Poll,
    /// SIGHUP.
    Signal,
    /// The management API, `ocx reload` included.
    Api,
}

impl Trigger {
    fn label(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Poll => "poll",
            Self::Signal => "signal",
            Self::Api => "api",
        }
    }
}

/// Reads the file now and answers when the outcome is known.
#[derive(Message)]
#[rtype(result = "ReloadOutcome")]
pub struct Reload(pub Trigger);

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// A new config runs.
    Applied(Applied),
    /// The file is what runs.
    Unchanged,
    /// The file is gone; what ran runs on.
    Missing,
    /// The file does not check; what ran runs on.
    Refused(ConfigProblems),
    /// The file changes what only a start can change; what ran runs on, whole.
    RestartRequired(Vec<&'static str>),
    /// A provider did not come up, or the supervisor is gone; what ran runs on.
    PrepareFailed(String),
}

impl ReloadOutcome {
    fn label(&self) -> &'static str {
        match self {
            Self::Applied(_) => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused(problems) if problems.is_syntax() => "parse_error",
            Self::Refused(_) | Self::Missing => "invalid",
            Self::RestartRequired(_) => "restart_required",
            Self::PrepareFailed(_) => "prepare_failed",
        }
    }
}

/// The actor.
pub struct ConfigWatcher {
    path: PathBuf,
    settings: WatchSettings,
    supervisor: Addr<ProviderSupervisor>,
    metrics: Arc<Metrics>,
    /// Digest of the file that runs.
    running: Option<[u8; 32]>,
    /// What was refused, so that the regular look does not repeat itself.
    refused: Option<Stamp>,
    seen: Option<Stamp>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    names: Arc<Mutex<HashSet<OsString>>>,
    pending: Option<(SpawnHandle, Instant)>,
    /// Who asked for the reload in progress.
    current: Option<Request>,
    /// Who asked while one was in progress: one more will serve them all.
    next: Option<Request>,
}

struct Request {
    trigger: Trigger,
    started: Instant,
    waiting: Vec<oneshot::Sender<ReloadOutcome>>,
}

/// What tells two states of a file apart without reading it.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// Something near the file changed.
#[derive(Message)]
#[rtype(result = "()")]
struct Hint;

impl ConfigWatcher {
    /// Watches `path`; `running` is the digest of the file that runs, if a file does.
    pub fn new(
        path: PathBuf,
        settings: WatchSettings,
        running: Option<[u8; 32]>,
        supervisor: Addr<ProviderSupervisor>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            path,
            settings,
            supervisor,
            metrics,
            running,
            refused: None,
            seen: None,
            watcher: None,
            watched: BTreeSet::new(),
            names: Arc::default(),
            pending: None,
            current: None,
            next: None,
        }
    }

    /// Watches every directory whose entries decide what the path leads to. A watch on the file
    /// itself would be deaf after the first editor that replaces it.
    fn rewatch(&mut self) {
        let (wanted, names) = chain(&self.path);
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for gone in self.watched.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        let count = wanted.len();
        // A directory that was replaced keeps its name but loses its watch: ask anew every time.
        self.watched = wanted
            .into_iter()
            .filter(|dir| watcher.watch(dir, RecursiveMode::NonRecursive).is_ok())
            .collect();
        let healthy = count > 0 && self.watched.len() == count;
        self.metrics.watch_healthy.set(i64::from(healthy));
    }

    fn start_watching(&mut self, ctx: &mut Context<Self>) {
        if !self.settings.hints {
            return self.metrics.watch_healthy.set(0);
        }
        let (addr, names) = (ctx.address().downgrade(), Arc::clone(&self.names));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let (true, Some(addr)) = (matters(&event, &names), addr.upgrade()) {
                addr.do_send(Hint);
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "the config is polled, not watched");
            self.metrics.watch_healthy.set(0);
        }
        self.watcher = watcher.ok();
        self.rewatch();
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = stamp(&self.path);
        if now != self.seen && now != self.refused {
            self.begin(Trigger::Poll, None, ctx);
        }
        if self.watcher.is_none() {
            self.start_watching(ctx);
        }
    }

    /// Starts a reload, or joins the one that follows the one in progress.
    fn begin(
        &mut self,
        trigger: Trigger,
        waiting: Option<oneshot::Sender<ReloadOutcome>>,
        ctx: &mut Context<Self>,
    ) {
        if self.current.is_some() {
            let next = self.next.get_or_insert_with(|| Request::new(trigger));
            next.waiting.extend(waiting);
            return;
        }
        let mut request = Request::new(trigger);
        request.waiting.extend(waiting);
        self.current = Some(request);
        self.read(true, ctx);
    }

    fn read(&mut self, may_look_again: bool, ctx: &mut Context<Self>) {
        self.rewatch();
        self.seen = stamp(&self.path);
        let checked = check_file(&self.path, &process_env);
        if may_look_again && !matches!(checked, Ok(Some(_))) {
            ctx.run_later(self.settings.second_look, |this, ctx| this.read(false, ctx));
            return;
        }
        match checked {
            Ok(Some(loaded)) if loaded.digest == self.running => self.same(loaded, ctx),
            Ok(Some(loaded)) => self.offer(loaded, ctx),
            // Running on defaults, without a file, is no divergence.
            Ok(None) if self.running.is_none() => self.end(ReloadOutcome::Unchanged, ctx),
            Ok(None) => self.end(ReloadOutcome::Missing, ctx),
            Err(problems) => self.end(ReloadOutcome::Refused(problems), ctx),
        }
    }

    /// The file is what runs. Who asks for a reload all the same may want a provider back that
    /// panicked too often.
    fn same(&mut self, loaded: Loaded, ctx: &mut Context<Self>) {
        let asked = self
            .current
            .as_ref()
            .is_some_and(|request| matches!(request.trigger, Trigger::Api | Trigger::Signal));
        if !asked {
            return self.end(ReloadOutcome::Unchanged, ctx);
        }
        let failed = self.supervisor.send(AnyFailed).into_actor(self);
        ctx.spawn(failed.map(|failed, this, ctx| match failed {
            Ok(true) => this.offer(loaded, ctx),
            _ => this.end(ReloadOutcome::Unchanged, ctx),
        }));
    }

    fn offer(&mut self, loaded: Loaded, ctx: &mut Context<Self>) {
        let digest = loaded.digest;
        for warning in &loaded.warnings {
            tracing::warn!(%warning, "config");
        }
        let apply = self.supervisor.send(ApplyConfig(Arc::new(loaded.config)));
        let apply = apply.into_actor(self).map(move |answer, this, ctx| {
            let outcome = match answer {
                Ok(Ok(applied)) => {
                    this.running = digest;
                    ReloadOutcome::Applied(applied)
                }
                Ok(Err(ApplyError::RestartRequired(fields))) => {
                    ReloadOutcome::RestartRequired(fields)
                }
                Ok(Err(error)) => ReloadOutcome::PrepareFailed(error.to_string()),
                Err(error) => ReloadOutcome::PrepareFailed(error.to_string()),
            };
            this.end(outcome, ctx);
        });
        ctx.spawn(apply);
    }

    fn end(&mut self, outcome: ReloadOutcome, ctx: &mut Context<Self>) {
        let Some(request) = self.current.take() else {
            return;
        };
        self.report(&request, &outcome);
        let settled = matches!(outcome, ReloadOutcome::Applied(_) | ReloadOutcome::Unchanged);
        self.refused = if settled { None } else { self.seen };
        for waiting in request.waiting {
            // Who hung up does not want to know.
            let _ = waiting.send(outcome.clone());
        }
        if let Some(next) = self.next.take() {
            self.current = Some(next);
            self.read(true, ctx);
        }
    }

    fn report(&self, request: &Request, outcome: &ReloadOutcome) {
        let trigger = request.trigger.label();
        let metrics = &self.metrics;
        metrics.reloads.with_label_values(&[trigger, outcome.label()]).inc();
        metrics.reload_duration.observe(request.started.elapsed().as_secs_f64());
        match outcome {
            ReloadOutcome::Applied(Applied { generation }) => {
                tracing::info!(trigger, generation, "config applied");
                return;
            }
            ReloadOutcome::Unchanged => {
                if metrics.diverged.get() == 1 {
                    tracing::info!(trigger, "the config file is again what runs");
                }
                metrics.diverged.set(0);
                metrics.reload_successful.set(1);
                tracing::debug!(trigger, "config unchanged");
                return;
            }
            ReloadOutcome::Missing => {
                tracing::error!(trigger, path = %self.path.display(), "the config file is gone; the last good one runs on");
            }
            ReloadOutcome::Refused(problems) => {
                tracing::error!(trigger, %problems, "config refused; the last good one runs on");
            }
            ReloadOutcome::RestartRequired(fields) => {
                tracing::warn!(
                    trigger,
                    ?fields,
                    "these fields take effect at the next start, and with them all else in the file"
                );
                // The file is a good one: nobody has to mend it.
                metrics.reload_successful.set(1);
                return metrics.diverged.set(1);
            }
            ReloadOutcome::PrepareFailed(reason) => {
                tracing::error!(trigger, reason, "config refused; the last good one runs on");
            }
        }
        metrics.reload_successful.set(0);
        metrics.diverged.set(1);
    }
}

impl Request {
    fn new(trigger: Trigger) -> Self {
        Self { trigger, started: Instant::now(), waiting: Vec::new() }
    }
}

/// The directories and names on the way to a file, symlinks followed.
fn chain(path: &Path) -> (BTreeSet<PathBuf>, HashSet<OsString>) {
    /// Longer chains are loops.
    const MAX_LINKS: usize = 16;
    // Kubernetes swaps this link; the file's own name never shows.
    let mut names = HashSet::from([OsString::from("..data")]);
    let mut dirs = BTreeSet::new();
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        names.extend(path.file_name().map(ToOwned::to_owned));
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
            .to_owned();
        dirs.extend(parent.canonicalize());
        match fs::read_link(&path) {
            Ok(target) => path = parent.join(target),
            Err(_) => break,
        }
    }
    dirs.extend(path.canonicalize().ok().as_deref().and_then(Path::parent).map(Path::to_owned));
    (dirs, names)
}

fn matters(event: &notify::Result<notify::Event>, names: &Mutex<HashSet<OsString>>) -> bool {
    let Ok(event) = event else { return true };
    // Our own reading makes such events.
    if matches!(event.kind, EventKind::Access(AccessKind::Read | AccessKind::Open(_))) {
        return false;
    }
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    event.paths.is_empty()
        || event.paths.iter().filter_map(|path| path.file_name()).any(|name| names.contains(name))
}

impl Actor for ConfigWatcher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.metrics.actor_up.with_label_values(&["config_watcher"]).set(1);
        self.start_watching(ctx);
        self.seen = stamp(&self.path);
        ctx.run_interval(self.settings.poll, Self::look);
        // The file may have changed between its first reading and the watch.
        self.begin(Trigger::Poll, None, ctx);
    }
}

impl Supervised for ConfigWatcher {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.watcher = None;
        self.watched.clear();
        self.pending = None;
        self.current = None;
        self.next = None;
        self.refused = None;
        // Perhaps a config was taken whose answer we missed: offer the file again.
        self.running = None;
    }
}

impl Handler<Hint> for ConfigWatcher {
    type Result = ();

    fn handle(&mut self, _: Hint, ctx: &mut Self::Context) {
        let first = match self.pending.take() {
            Some((timer, first)) => {
                ctx.cancel_future(timer);
                first
            }
            None => Instant::now(),
        };
        let left = self.settings.quiet_max.saturating_sub(first.elapsed());
        let timer = ctx.run_later(self.settings.quiet.min(left), |this, ctx| {
            this.pending = None;
            this.begin(Trigger::Watch, None, ctx);
        });
        self.pending = Some((timer, first));
    }
}

impl Handler<Reload> for ConfigWatcher {
    type Result = ResponseFuture<ReloadOutcome>;

    fn handle(&mut self, Reload(trigger): Reload, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = oneshot::channel();
        self.begin(trigger, Some(sender), ctx);
        Box::pin(async move {
            receiver.await.unwrap_or_else(|_| {
                ReloadOutcome::PrepareFailed("the watcher restarted meanwhile".to_owned())
            })
        })
    }
}

#[cfg(test)]
mod tests;
