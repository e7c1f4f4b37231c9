//! `ocx start`, `stop`, `restart` and `open`: the gateway in the background.

use std::{
    fs::{self, DirBuilder},
    io,
    net::TcpStream,
    os::unix::fs::DirBuilderExt as _,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser as _;
#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use super::{
    args::{Cli, OpenArgs, RestartArgs, Serve, StartArgs, StopArgs, Which},
    codex, finish,
    instance::{self, Instance},
    local::{Local, Place, written_port},
    login, say, serve,
};
use crate::{codex::Codex, config::Home};

/// How long a gateway may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What one that ends has beside the time of its streams: refreshes of tokens, and the last lines.
const LAST_WORK: Duration = Duration::from_secs(50);
/// And one that was told to end at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long a listener may take to answer a knock.
const KNOCK: Duration = Duration::from_millis(300);
/// After so long a second signal is one.
const SECOND_WISH: Duration = Duration::from_millis(600);
/// How often we look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `ocx start`.
pub(super) fn start(args: &StartArgs, home: &Home) -> ExitCode {
    let config = args.config.clone().unwrap_or_else(|| home.config());
    let place = Place::of(&Which { config: Some(config), port: args.port }, home);
    if let Some(runs) = place.instance.as_ref().filter(|one| one.stopping) {
        return finish(Err(stopping(runs)));
    }
    if let Some(runs) = &place.instance {
        return finish(Err(format!(
            "a gateway runs already at {} (process {}); `ocx restart`, or `--port N` for another",
            runs.base(),
            runs.pid
        )));
    }
    match launch(&args.again(), home) {
        Ok(Launched::Answers(one)) => {
            finish(tell_codex(leads_codex(&one, home), args.codex, &one, home))
        }
        Ok(Launched::Ended(code)) => code,
        Err(message) => finish(Err(message)),
    }
}

fn stopping(one: &Instance) -> String {
    let (base, pid) = (one.base(), one.pid);
    format!("the gateway at {base} (process {pid}) is stopping: start again when it has ended")
}

/// Whether Codex asks this gateway.
fn leads_codex(one: &Instance, home: &Home) -> bool {
    let status = Codex::find(home.path()).status().ok().filter(|status| status.installed);
    status.and_then(|status| status.base_url).is_some_and(|url| one.is_at(&url))
}

/// Leads Codex to a gateway that just began, if that is wanted, or tells a Codex that is led to it of the
/// models of now.
fn tell_codex(led: bool, wanted: bool, one: &Instance, home: &Home) -> Result<(), String> {
    if wanted {
        return codex::lead(Some(one.port()), home);
    }
    if led && let Err(message) = codex::lead(Some(one.port()), home) {
        // The gateway runs all the same.
        eprintln!("ocx: Codex was not told of its models: {message}");
    }
    Ok(())
}

enum Launched {
    Answers(Instance),
    /// Its exit code is told on.
    Ended(ExitCode),
}

/// Starts a gateway in the background, and waits until it answers or ends.
///
/// # Errors
///
/// When it cannot be started, or does neither.
fn launch(args: &[String], home: &Home) -> Result<Launched, String> {
    let logs = home.logs();
    let told = |error: io::Error| format!("{}: {error}", logs.display());
    home.create().map_err(told)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&logs).map_err(told)?;
    let port = port_of(args, home)?;
    let log = logs.join(format!("{port}.log"));
    // What is said before there is a log, and by a program that falls over. One a try: two may be made
    // at once.
    let console = tempfile::NamedTempFile::new_in(&logs).map_err(told)?;
    let out = console.reopen().map_err(told)?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut serve = Command::new(program);
    serve.args(["serve", "--detached", "--log-file"]).arg(&log).args(args);
    let err = out.try_clone().map_err(told)?;
    let child = serve.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    let child = child.map_err(|error| format!("the gateway cannot be started: {error}"))?;
    let ours = interrupted_ends(&child);
    let read = || fs::read_to_string(console.path()).unwrap_or_default();
    let launched = answers(child, home).map_err(|message| format!("{}{message}", read()))?;
    ours.store(false, Ordering::Release);
    match &launched {
        Launched::Ended(_) => eprint!("{}", read()),
        Launched::Answers(_) => {
            say(format_args!("{}\n  log        {} (`ocx logs`)", read().trim_end(), log.display()));
        }
    }
    if let Launched::Answers(_) = launched {
        console.persist(logs.join(format!("{port}.console"))).map_err(|error| told(error.error))?;
    }
    Ok(launched)
}

/// Whoever interrupts the start wants no gateway, as long as the result says so.
fn interrupted_ends(child: &Child) -> Arc<AtomicBool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let starting = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&starting);
    // Only one handler can be set; a second start in one command does not happen.
    let _ = ctrlc::set_handler(move || {
        if let Some(pid) = pid.filter(|_| still.load(Ordering::Acquire)) {
            let _ = kill_process(pid, Signal::TERM);
        }
        std::process::exit(super::EXIT_INTERRUPTED);
    });
    starting
}

/// The port that a gateway with these flags will have, for the name of its log.
fn port_of(args: &[String], home: &Home) -> Result<u16, String> {
    let Serve { config, port, .. } = parsed(args)?;
    Ok(port.unwrap_or_else(|| written_port(&config.unwrap_or_else(|| home.config()))))
}

/// Flags of `ocx serve`.
fn parsed(args: &[String]) -> Result<Serve, String> {
    let given = ["ocx", "serve"].into_iter().chain(args.iter().map(String::as_str));
    match Cli::try_parse_from(given).map(|cli| cli.command) {
        Ok(super::args::Command::Serve(serve)) => Ok(serve),
        _ => Err(format!("it was started with flags that this version does not know: {args:?}")),
    }
}

/// Waits until a gateway that was just started proves who it is, or ends.
fn answers(mut child: Child, home: &Home) -> Result<Launched, String> {
    let started = Instant::now();
    let system = actix_web::rt::System::new();
    while started.elapsed() < START_TIMEOUT {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(Launched::Ended(ExitCode::from(code)));
        }
        let one = instance::running(home).into_iter().find(|one| one.pid == child.id());
        if let Some(one) = one {
            let which = Which { config: None, port: Some(one.port()) };
            if system.block_on(Local::find(&which, home)).is_ok() {
                return Ok(Launched::Answers(one));
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    // It would hold the port against the next one.
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("the gateway did not answer within {} s", START_TIMEOUT.as_secs()))
}

/// `ocx stop`.
pub(super) fn stop(args: &StopArgs, home: &Home) -> ExitCode {
    let running = instance::running(home);
    let chosen = running.iter().filter(|one| args.port.is_none_or(|port| one.port() == port));
    let (mut ended, mut failed) = (Vec::new(), Vec::new());
    for one in chosen {
        match end(one, args.now, home) {
            Ok(()) => {
                let (base, pid) = (one.base(), one.pid);
                say(format_args!("The gateway at {base} (process {pid}) has ended."));
                ended.push(one);
            }
            // The others are to end all the same.
            Err(message) => failed.push(message),
        }
    }
    match (ended.is_empty() && failed.is_empty(), args.port) {
        (true, Some(port)) => return finish(Err(none_on(port, &running))),
        (true, None) => say("No gateway of this home runs."),
        (false, _) => {}
    }
    let left = if args.keep_codex { Ok(()) } else { leave_codex(&ended, home) };
    finish(if failed.is_empty() { left } else { Err(failed.join("\n")) })
}

fn none_on(port: u16, running: &[Instance]) -> String {
    let ports: Vec<_> = running.iter().map(|one| one.port().to_string()).collect();
    match ports.is_empty() {
        true => "no gateway of this home runs; `ocx start` starts one".to_owned(),
        false => format!("none of this home runs on port {port}, but on {}", ports.join(", ")),
    }
}

/// Brings Codex's own files back, if it was led to a gateway that ended, or to one of this home that
/// does not run.
fn leave_codex(ended: &[&Instance], home: &Home) -> Result<(), String> {
    let codex = Codex::find(home.path());
    let status = codex.status().map_err(|error| error.to_string())?;
    let led = status.base_url.as_deref().unwrap_or_default();
    let served = instance::running(home).iter().any(|one| one.is_at(led));
    // Another home may have led it elsewhere since.
    let ours = ended.iter().any(|one| one.is_at(led)) || (status.recorded && !listens(led));
    if !ours || (status.installed && served) {
        return Ok(());
    }
    if codex.restore().map_err(|error| error.to_string())? {
        say("Codex is as it was before; `ocx start --codex` leads it here again.");
    }
    Ok(())
}

/// Whether anybody listens at an address on this machine.
fn listens(base_url: &str) -> bool {
    let addresses = url::Url::parse(base_url).ok().and_then(|url| url.socket_addrs(|| None).ok());
    addresses.into_iter().flatten().any(|at| TcpStream::connect_timeout(&at, KNOCK).is_ok())
}

/// Ends a gateway and waits for that.
fn end(one: &Instance, now: bool, home: &Home) -> Result<(), String> {
    let streams = Duration::from_millis(one.shutdown_ms);
    let patience = if now { AT_ONCE } else { streams.saturating_add(LAST_WORK) };
    // A second signal would end it at once: who only waits for one that is ending sends none.
    if instance::now(one, home).is_some_and(|one| !one.stopping) {
        signal(one, Signal::TERM, home)?;
    }
    if now {
        // It must have taken the first as such.
        wait_till(AT_ONCE, || instance::now(one, home).is_none_or(|one| one.stopping));
        std::thread::sleep(SECOND_WISH);
        signal(one, Signal::TERM, home)?;
    }
    let is_gone = || instance::now(one, home).is_none();
    if wait_till(patience, is_gone) {
        return Ok(());
    }
    eprintln!("ocx: process {} does not end; it is killed", one.pid);
    signal(one, Signal::KILL, home)?;
    match wait_till(AT_ONCE, is_gone) {
        true => Ok(()),
        false => Err(format!("process {} cannot be ended", one.pid)),
    }
}

/// Signals a gateway, if the process is still that: its lock says so.
fn signal(one: &Instance, signal: Signal, home: &Home) -> Result<(), String> {
    let told = |error| format!("process {} cannot be told to end: {error}", one.pid);
    let pid = i32::try_from(one.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{} is no process", one.pid))?;
    // Held first and looked at then: whoever gets its number later is not meant.
    #[cfg(target_os = "linux")]
    let held = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(held) => Some(held),
        Err(Errno::SRCH) => return Ok(()),
        // Old kernels and some containers cannot.
        Err(_) => None,
    };
    if instance::now(one, home).is_none() {
        return Ok(());
    }
    #[cfg(target_os = "linux")]
    let sent =
        held.map_or_else(|| kill_process(pid, signal), |held| pidfd_send_signal(held, signal));
    #[cfg(not(target_os = "linux"))]
    let sent = kill_process(pid, signal);
    match sent {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(told(error)),
    }
}

/// Looks again and again; false if it is in vain.
fn wait_till(patience: Duration, there: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if there() {
            return true;
        }
        if started.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// `ocx restart`.
pub(super) fn restart(args: &RestartArgs, home: &Home) -> ExitCode {
    let running = instance::running(home);
    let chosen = running.iter().filter(|one| args.port.is_none_or(|port| one.port() == port));
    let chosen: Vec<_> = chosen.collect();
    let one = match chosen.as_slice() {
        [] => return finish(Err(none_on(args.port.unwrap_or_default(), &running))),
        [one] => one,
        [..] => {
            return finish(Err("several gateways run: say which with `--port N`".to_owned()));
        }
    };
    if !one.detached {
        return finish(Err(format!(
            "process {} was not started by `ocx start`; restart it where it was started",
            one.pid
        )));
    }
    // What would not start again goes on running.
    let checked = parsed(&one.args).and_then(|serve| serve::may_start(&serve, home));
    if let Err(message) = checked {
        eprintln!("{message}\nocx: not restarted; what runs goes on");
        return ExitCode::from(super::EXIT_CONFIG);
    }
    let leads_codex = leads_codex(one, home);
    if let Err(message) = end(one, args.now, home) {
        return finish(Err(message));
    }
    match launch(&one.args, home) {
        // Its port may be another now.
        Ok(Launched::Answers(one)) => finish(tell_codex(leads_codex, false, &one, home)),
        Ok(Launched::Ended(code)) => code,
        Err(message) => finish(Err(message)),
    }
}

/// `ocx open`.
pub(super) fn open(args: &OpenArgs, home: &Home) -> ExitCode {
    let which = Which { config: None, port: args.port };
    if let Some(one) = Place::of(&which, home).instance.filter(|one| one.stopping) {
        return finish(Err(stopping(&one)));
    }
    let find = || actix_web::rt::System::new().block_on(Local::find(&which, home));
    if Place::of(&which, home).instance.is_none() && find().is_err() {
        let port = args.port;
        let log_format = Default::default();
        let begin = StartArgs { config: None, host: None, port, log_format, codex: false };
        let code = start(&begin, home);
        if code != ExitCode::SUCCESS {
            return code;
        }
    }
    finish(find().map(|local| {
        say(format_args!("{}/", local.base));
        login::open_browser(&format!("{}/", local.base));
    }))
}
