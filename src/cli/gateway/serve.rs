//! `ocx serve`.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Addr, Arbiter};
use actix_rt::time::sleep;
use futures_util::{FutureExt as _, future::join_all};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::instance::{self, Instance};
use crate::{
    actors::{
        Backoff, ConfigWatcher, Guardian, ProviderSupervisor, Reload, SnapshotCell, Start, Trigger,
        WatchSettings,
    },
    cli::{
        EXIT_CONFIG,
        args::{Serve, Serving},
        logged_out, network, say,
    },
    config::{self, Config, DataKey, Home, Loaded, WatchMode, process_env},
    credentials::{CapsuleKey, Vault},
    http::{self, Lifecycle, Listening, Shared},
    telemetry::{Decisions, Ledger, Metrics, Telemetry, Tracer, logging, millis},
};

/// What refreshes of tokens have at the end: two calls to a server, and the disk.
const LAST_REFRESHES: Duration = Duration::from_secs(40);
/// What the last lines of the usage ledger have at the end.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Signals that come so soon after the first are no second.
const SAME_WISH: Duration = Duration::from_millis(300);
/// How often we look whether those of providers that are gone have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What streams that are told to end have for their terminal event, before actix cuts them.
const LAST_WORDS: Duration = Duration::from_secs(3);

pub(in crate::cli) fn run(args: &Serve, home: &Home) -> ExitCode {
    if args.detached {
        // Fails for who leads its group already, who then has no terminal to lose.
        let _ = rustix::process::setsid();
    }
    let _written = match logging::init(args.serving.log_format, args.log_file.as_deref()) {
        Ok(guard) => guard,
        Err(error) => {
            let file = args.log_file.as_deref().unwrap_or(Path::new("stderr"));
            eprintln!("ocx: the log cannot go to {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    };
    let serving = &args.serving;
    let path = serving.config.clone().unwrap_or_else(|| home.config());
    let loaded = match may_start(serving, home) {
        Ok(loaded) => loaded,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "config");
    }
    let host = serving.host.unwrap_or(loaded.config.listen.host);
    let port = serving.port.unwrap_or(loaded.config.listen.port);
    let listener = match TcpListener::bind((host, port)) {
        Ok(listener) => listener,
        Err(error) => {
            let address = SocketAddr::new(host, port);
            eprintln!("ocx: cannot listen on {address}: {error}");
            if error.kind() == std::io::ErrorKind::AddrInUse {
                eprintln!("ocx: perhaps it runs already; `--port N` picks another port");
            }
            return ExitCode::FAILURE;
        }
    };
    // Two descriptors a stream: the default of 1024 would end at 500 of them.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let admin = match admin_token(home) {
        Ok(admin) => admin,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    let capsules = capsule_key(home);
    let hints = loaded.config.watch == WatchMode::Auto;
    let watch = WatchSettings { hints, ..WatchSettings::default() };
    let vault = Vault::new(home.path());
    let usage = home.usage();
    let program = Program { path, loaded, listener, admin, capsules, vault, usage, watch };
    actix_web::rt::System::new().block_on(run_program(program, args, home))
}

/// The config, if a gateway may be started with it.
///
/// # Errors
///
/// When it may not, in words.
pub(in crate::cli) fn may_start(serving: &Serving, home: &Home) -> Result<Loaded, String> {
    let path = serving.config.clone().unwrap_or_else(|| home.config());
    let loaded = load(&path, serving.config.is_some())?;
    let host = serving.host.unwrap_or(loaded.config.listen.host);
    match loaded.config.access.forbids(host) {
        Some(reason) => Err(format!("ocx: {reason}")),
        None => network(&loaded.config).map(|_| loaded).map_err(|reason| format!("ocx: {reason}")),
    }
}

fn load(path: &Path, must_exist: bool) -> Result<Loaded, String> {
    match config::check_file(path, &process_env) {
        Ok(Some(loaded)) => Ok(loaded),
        Ok(None) if must_exist => Err(format!("ocx: {}: there is no such file", path.display())),
        Ok(None) => Ok(Loaded::defaults(&process_env)),
        Err(problems) => {
            Err(format!("{problems}\nocx: not started; `ocx config check` says when it is right"))
        }
    }
}

/// The digest of the token that a management call must bring while the config names none.
fn admin_token(home: &Home) -> Result<DataKey, String> {
    let new = || {
        let random: [u8; 32] = rand::random();
        hex::encode(random)
    };
    home.secret_or_new(&home.admin_token(), new).map(|token| DataKey::new(&token)).map_err(
        |error| {
            format!(
                "ocx: the admin token cannot be kept in {}: {error}",
                home.admin_token().display()
            )
        },
    )
}

/// The key that seals what upstreams want back. It must outlive us, or conversations lose their
/// reasoning with every restart; but that alone is no reason not to start.
fn capsule_key(home: &Home) -> CapsuleKey {
    let new: [u8; 32] = rand::random();
    let kept = home.secret_or_new(&home.capsule_key(), || hex::encode(new));
    let reason = match kept.as_deref().map(CapsuleKey::from_hex) {
        Ok(Some(key)) => return key,
        Ok(None) => "it is not 64 hexadecimal digits; delete it to get a new one".to_owned(),
        Err(error) => error.to_string(),
    };
    let path = home.capsule_key();
    tracing::warn!(
        path = %path.display(),
        reason,
        "the capsule key cannot be kept: a restart will cost conversations their reasoning"
    );
    CapsuleKey::new(new)
}

async fn run_program(program: Program, args: &Serve, home: &Home) -> ExitCode {
    let (watched, path) = (program.loaded.digest.is_some(), program.path.clone());
    let vault = program.vault.clone();
    match program.start().await {
        Ok(running) => {
            let address = running.shared.address;
            let mut own = introduction(address, running.shutdown, &path, args);
            let mut held = instance::hold(&own, home);
            match &held {
                // Who started it could neither find nor stop it.
                Err(error) if args.detached => {
                    eprintln!("ocx: {}: {error}", home.run().display());
                    return ExitCode::FAILURE;
                }
                Err(error) => {
                    tracing::warn!(%error, "other commands will not find this gateway by themselves");
                }
                Ok(_) => {}
            }
            let config = Arc::clone(&running.shared.cell.load().config);
            announce(address, &config, Some(path.as_path()).filter(|_| watched), &vault);
            tracing::info!(
                version = env!("CARGO_PKG_VERSION"),
                %address,
                config = %path.display(),
                "started"
            );
            let draining = || {
                own.stopping = true;
                if let Ok(held) = &mut held {
                    // Who cannot read it waits for a gateway that seems to run.
                    let _ = held.tell(&own);
                }
            };
            running.until_stopped(draining).await
        }
        Err(message) => {
            eprintln!("ocx: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What other commands are told of this gateway.
fn introduction(address: SocketAddr, shutdown: Duration, config: &Path, args: &Serve) -> Instance {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Instance {
        pid: std::process::id(),
        address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        detached: args.detached,
        config: whole(config),
        log: args.log_file.as_deref().map(whole),
        args: args.serving.flags(),
        shutdown_ms: millis(shutdown),
        stopping: false,
    }
}

/// Everything the gateway is made of, before it runs.
pub struct Program {
    /// The config file, which need not exist.
    pub path: PathBuf,
    /// The config to begin with.
    pub loaded: Loaded,
    /// Where to accept.
    pub listener: TcpListener,
    /// Digest of the management token, unless the config names one.
    pub admin: DataKey,
    /// Seals what upstreams want back.
    pub capsules: CapsuleKey,
    /// Where logins are kept.
    pub vault: Vault,
    /// Where usage is kept, if the config wants it.
    pub usage: PathBuf,
    /// How the file is watched.
    pub watch: WatchSettings,
}

/// The gateway, accepting.
pub struct Running {
    /// What its parts share.
    pub shared: Arc<Shared>,
    listening: Listening,
    watcher: Addr<ConfigWatcher>,
    vault: Vault,
    shutdown: Duration,
}

impl Program {
    /// Starts the actors and the listener. Must be called on a thread with an actix `System`.
    ///
    /// # Errors
    ///
    /// When a provider does not come up or the listener cannot be used.
    pub async fn start(self) -> Result<Running, String> {
        let config = Arc::new(self.loaded.config);
        let metrics = Metrics::new();
        let metrics = Arc::new(match config.telemetry.otel_names {
            true => metrics.with_otel_names(),
            false => metrics,
        });
        let network = network(&config)?;
        let vault = self.vault.clone();
        let start = Start {
            config: Arc::clone(&config),
            network: network.clone(),
            arbiter: Arbiter::new().handle(),
            metrics: Arc::clone(&metrics),
            backoff: Backoff::default(),
            vault: self.vault,
        };
        let cell =
            ProviderSupervisor::first_snapshot(&start).await.map_err(|error| error.to_string())?;
        let telemetry = Arc::new(telemetry(&config, self.usage, &metrics)?);
        let digest = self.loaded.digest;
        let watcher = supervise(start, &cell, self.path, self.watch, digest, &metrics);
        let shared = Arc::new(Shared {
            cell,
            telemetry,
            lifecycle: Arc::new(Lifecycle::default()),
            admin: self.admin,
            capsules: self.capsules,
            network,
            affinity: Arc::default(),
            watcher: Some(watcher.clone()),
            started: Instant::now(),
            address: self.listener.local_addr().map_err(|error| error.to_string())?,
        });
        let (workers, shutdown) = (config.listen.workers, config.limits.shutdown);
        let cut = shutdown + LAST_WORDS;
        let listening = http::serve(self.listener, Arc::clone(&shared), workers, cut)
            .map_err(|error| error.to_string())?;
        Ok(Running { shared, listening, watcher, vault, shutdown })
    }
}

/// What turns are told to, as the config has it.
///
/// # Errors
///
/// When traces cannot be sent at all, in words.
fn telemetry(config: &Config, usage: PathBuf, metrics: &Arc<Metrics>) -> Result<Telemetry, String> {
    let spec = &config.telemetry;
    let errors = metrics.ledger_errors.clone();
    let ledger = match spec.ledger_bytes {
        Some(max_bytes) => Ledger::open(usage, max_bytes, errors),
        None => Ledger::off(errors),
    };
    let tracer = spec.otlp.as_ref();
    let tracer =
        tracer.map(|collector| Tracer::start(collector, metrics.trace_errors.clone())).transpose();
    let tracer = tracer.map_err(|error| format!("telemetry.otlp: {error}"))?;
    let decisions = Decisions::of(config.listen.workers);
    Ok(Telemetry { ledger, tracer, decisions, ..Telemetry::of(Arc::clone(metrics)) })
}

/// Starts the actors of this thread, each behind a guardian.
fn supervise(
    start: Start,
    cell: &SnapshotCell,
    path: PathBuf,
    watch: WatchSettings,
    digest: Option<[u8; 32]>,
    metrics: &Arc<Metrics>,
) -> Addr<ConfigWatcher> {
    let count = |actor: &'static str| {
        let metrics = Arc::clone(metrics);
        move |crash: &crate::actors::Crash| {
            metrics.actor_restarts.with_label_values(&[actor, "panic"]).inc();
            metrics.actor_up.with_label_values(&[actor]).set(i64::from(crash.restart_in.is_some()));
            tracing::error!(actor, streak = crash.streak, "actor panicked");
        }
    };
    let cell = Arc::clone(cell);
    let supervisor = Guardian::start(
        move |_| ProviderSupervisor::new(&start, cell),
        Backoff::default(),
        count("provider_supervisor"),
    );
    let counters = Arc::clone(metrics);
    Guardian::start(
        move |_| ConfigWatcher::new(path, watch, digest, supervisor, counters),
        Backoff::default(),
        count("config_watcher"),
    )
}

/// Tells a person where everything is and what is missing, a line each.
fn announce(address: SocketAddr, running: &Config, source: Option<&Path>, vault: &Vault) {
    // What a browser on this machine can open.
    let here = SocketAddr::new(config::reachable(address.ip()), address.port());
    let base = format!("http://{here}");
    // One text, so that who reads the first line can read all of them.
    let mut lines = vec![
        format!("ocx {} listens on http://{address}", env!("CARGO_PKG_VERSION")),
        format!("  dashboard  {base}/"),
        format!("  metrics    {base}/metrics"),
        match source {
            Some(path) => format!("  config     {} (watched)", path.display()),
            None => "  config     built-in defaults (no file)".to_owned(),
        },
    ];
    lines.extend(
        running.telemetry.otlp.as_ref().map(|otlp| format!("  traces     {}", otlp.traces)),
    );
    lines.extend(running.providers.values().map(|provider| {
        let state = match provider.lacks(&process_env).or_else(|| logged_out(provider, vault)) {
            Some(lacks) => format!("needs {lacks}"),
            None => "ready".to_owned(),
        };
        format!("  provider   {}: {state}", provider.id)
    }));
    if running.providers.is_empty() {
        lines.push("  provider   none: every call will be refused".to_owned());
    }
    say(lines.join("\n"));
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "keys and prompts cross the network in the clear; put TLS in front");
    }
}

impl Running {
    /// Runs until a signal ends it; `draining` is called when that begins. Whatever way it ends, what
    /// turns used is written down.
    pub async fn until_stopped(self, draining: impl FnOnce()) -> ExitCode {
        let telemetry = Arc::clone(&self.shared.telemetry);
        let ended = self.stopped(draining).await;
        if !telemetry.ledger.flush(LAST_LINES) {
            tracing::warn!("not all usage of the last turns could be written down");
        }
        ended
    }

    async fn stopped(self, draining: impl FnOnce()) -> ExitCode {
        let Self { shared, listening: Listening { server, handle, .. }, watcher, vault, shutdown } =
            self;
        let lifecycle = &shared.lifecycle;
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::hangup()),
        ) else {
            eprintln!("ocx: signals cannot be received");
            return ExitCode::FAILURE;
        };
        let mut server = std::pin::pin!(server);
        loop {
            tokio::select! {
                ended = &mut server => {
                    return if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
                }
                Some(()) = hang_up.recv() => watcher.do_send(Reload(Trigger::Signal)),
                () = either(&mut terminate, &mut interrupt) => break,
            }
        }
        tracing::info!(?shutdown, "shutting down; a second signal ends at once");
        lifecycle.drain();
        draining();
        // Two that stop it at once want the same.
        sleep(SAME_WISH).await;
        let _ = either(&mut terminate, &mut interrupt).now_or_never();
        let stop = handle.stop(true);
        let end_streams = async {
            sleep(shutdown).await;
            lifecycle.end_streams();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop => {}
            _ = &mut server => {}
            () = end_streams => {}
            () = either(&mut terminate, &mut interrupt) => return ExitCode::FAILURE,
        }
        let last = async {
            finish_refreshes(&shared, &vault).await;
            finish_traces(&shared.telemetry).await;
        };
        tokio::select! {
            () = last => ExitCode::SUCCESS,
            () = either(&mut terminate, &mut interrupt) => ExitCode::FAILURE,
        }
    }

    /// Runs until it is dropped, for those who have signals of their own.
    pub async fn run(self) {
        // An error here is a listener that broke: whoever waits sees it end.
        let _ = self.listening.server.await;
    }
}

/// Waits for refreshes that are on their way: a token that comes after our end is lost.
async fn finish_refreshes(shared: &Shared, vault: &Vault) {
    vault.close();
    let snapshot = shared.cell.load_full();
    let finished = async {
        join_all(snapshot.providers.values().map(|provider| provider.finish())).await;
        while vault.flights() > 0 {
            sleep(LOOK_EVERY).await;
        }
    };
    if actix_rt::time::timeout(LAST_REFRESHES, finished).await.is_err() {
        tracing::warn!("a refresh of tokens did not end in time");
    }
    // Also of providers that are gone from the config.
    let last = vault.clone();
    let saved = tokio::task::spawn_blocking(move || last.save_all()).await;
    if !saved.is_ok_and(|saved| saved) {
        tracing::error!("new tokens are lost: log in again");
    }
}

/// Sends the last traces, from a thread that nobody waits for if another signal comes.
async fn finish_traces(telemetry: &Arc<Telemetry>) {
    if telemetry.tracer.is_none() {
        return;
    }
    let (own, (told, sent)) = (Arc::clone(telemetry), oneshot::channel());
    std::thread::spawn(move || {
        own.tracer.as_ref().map(Tracer::finish);
        told.send(())
    });
    // Its end is an answer, too.
    let _ = sent.await;
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}
