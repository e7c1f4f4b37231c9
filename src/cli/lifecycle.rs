//! `ocx start`, `stop`, `restart` and `open`: the gateway in the background.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    args::{OpenArgs, RestartArgs, StartArgs, StopArgs, Which},
    codex, finish,
    instance::{self, Instance},
    local::{Local, Place},
    login, say,
};
use crate::{
    codex::Codex,
    config::{self, Home, process_env},
};

/// How long a gateway may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What one that ends has beside the time of its streams: refreshes of tokens, and the last lines.
const LAST_WORK: Duration = Duration::from_secs(50);
/// And one that was told to end at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How often we look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `ocx start`.
pub(super) fn start(args: &StartArgs, home: &Home) -> ExitCode {
    let config = args.config.clone().unwrap_or_else(|| home.config());
    let which = Which { config: Some(config.clone()), port: args.port };
    let place = Place::of(&which, home);
    if let Some(runs) = &place.instance {
        return finish(Err(format!(
            "a gateway runs already at {} (process {}); `ocx restart`, or `--port N` for another",
            runs.base(),
            runs.pid
        )));
    }
    let port = place.address.port();
    let begun = Begun { port, config: args.config.clone(), extra: args.again() };
    match begun.launch(home) {
        Ok(Launched::Answers) => {}
        Ok(Launched::Ended(code)) => return code,
        Err(message) => return finish(Err(message)),
    }
    finish(tell_codex(args.codex, port, home))
}

/// Leads Codex to a gateway that just began, or tells a Codex that is led to it of the models of now.
fn tell_codex(wanted: bool, port: u16, home: &Home) -> Result<(), String> {
    let codex = Codex::find(home.path());
    let ours = codex.status().ok().filter(|status| status.installed);
    let ours = ours.and_then(|status| status.base_url).is_some_and(|url| leads_to(&url, port));
    match (wanted, ours) {
        (true, _) => codex::lead(Some(port), home),
        // The gateway runs all the same.
        (false, true) => {
            if let Err(message) = codex::lead(Some(port), home) {
                eprintln!("ocx: Codex was not told of its models: {message}");
            }
            Ok(())
        }
        (false, false) => Ok(()),
    }
}

fn leads_to(base_url: &str, port: u16) -> bool {
    url::Url::parse(base_url).is_ok_and(|url| url.port_or_known_default() == Some(port))
}

/// A gateway that is to run in the background.
struct Begun {
    port: u16,
    config: Option<PathBuf>,
    extra: Vec<String>,
}

enum Launched {
    Answers,
    /// Its exit code is told on.
    Ended(ExitCode),
}

impl Begun {
    /// Starts it, and waits until it answers or ends.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or does neither.
    fn launch(&self, home: &Home) -> Result<Launched, String> {
        let logs = home.logs();
        let told = |error: io::Error| format!("{}: {error}", logs.display());
        home.create().map_err(told)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&logs).map_err(told)?;
        let log = logs.join(format!("{}.log", self.port));
        // What is said before there is a log, and by a program that falls over.
        let console = logs.join(format!("{}.console", self.port));
        let mut options = OpenOptions::new();
        let out = options.create(true).truncate(true).write(true).mode(0o600).open(&console);
        let out = out.map_err(told)?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut serve = Command::new(program);
        serve.args(["serve", "--detached", "--port", &self.port.to_string(), "--log-file"]);
        serve.arg(&log).args(&self.extra);
        if let Some(config) = &self.config {
            serve.arg("--config").arg(config);
        }
        let err = out.try_clone().map_err(told)?;
        let child = serve.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.map_err(|error| format!("the gateway cannot be started: {error}"))?;
        let read = || fs::read_to_string(&console).unwrap_or_default();
        match self.answers(child, home)? {
            Launched::Ended(code) => {
                eprint!("{}", read());
                Ok(Launched::Ended(code))
            }
            Launched::Answers => {
                say(format_args!(
                    "{}\n  log        {} (`ocx logs`)",
                    read().trim_end(),
                    log.display()
                ));
                Ok(Launched::Answers)
            }
        }
    }

    fn answers(&self, mut child: Child, home: &Home) -> Result<Launched, String> {
        let which = Which { config: self.config.clone(), port: Some(self.port) };
        let started = Instant::now();
        let system = actix_web::rt::System::new();
        while started.elapsed() < START_TIMEOUT {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
                return Ok(Launched::Ended(ExitCode::from(code)));
            }
            let place = Place::of(&which, home);
            let is_it = place.instance.as_ref().is_some_and(|one| one.pid == child.id());
            if is_it && system.block_on(Local::at(place, home)).is_ok() {
                return Ok(Launched::Answers);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // It would hold the port against the next one.
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("the gateway did not answer within {} s", START_TIMEOUT.as_secs()))
    }
}

/// `ocx stop`.
pub(super) fn stop(args: &StopArgs, home: &Home) -> ExitCode {
    let running = instance::running(home);
    let chosen = running.iter().filter(|one| args.port.is_none_or(|port| one.port() == port));
    let mut ended = Vec::new();
    for one in chosen {
        if let Err(message) = end(one, args.now, home) {
            return finish(Err(message));
        }
        say(format_args!("The gateway at {} (process {}) has ended.", one.base(), one.pid));
        ended.push(one.port());
    }
    if ended.is_empty() {
        say("No gateway of this home runs.");
    }
    finish(if args.keep_codex { Ok(()) } else { leave_codex(home) })
}

/// Codex would ask a gateway that is gone.
fn leave_codex(home: &Home) -> Result<(), String> {
    let codex = Codex::find(home.path());
    let status = codex.status().map_err(|error| error.to_string())?;
    let led = status.base_url.as_deref().unwrap_or_default();
    let served = instance::running(home).iter().any(|one| leads_to(led, one.port()));
    if !status.restorable || (status.installed && served) {
        return Ok(());
    }
    if codex.restore().map_err(|error| error.to_string())? {
        say("Codex is as it was before; `ocx start --codex` leads it here again.");
    }
    Ok(())
}

/// Ends a gateway and waits for that.
fn end(one: &Instance, now: bool, home: &Home) -> Result<(), String> {
    let patience = if now { AT_ONCE } else { streams_have(one) + LAST_WORK };
    signal(one, Signal::TERM, home)?;
    if now {
        // The second signal ends it at once. It must have seen the first.
        std::thread::sleep(Duration::from_millis(200));
        signal(one, Signal::TERM, home)?;
    }
    if is_gone(one, patience, home) {
        return Ok(());
    }
    eprintln!("ocx: process {} does not end; it is killed", one.pid);
    signal(one, Signal::KILL, home)?;
    match is_gone(one, AT_ONCE, home) {
        true => Ok(()),
        false => Err(format!("process {} cannot be ended", one.pid)),
    }
}

/// What running streams have, as the config says now.
fn streams_have(one: &Instance) -> Duration {
    let loaded = config::check_file(&one.config, &process_env).ok().flatten();
    let limits = loaded.map(|loaded| loaded.config.limits).unwrap_or_default();
    limits.shutdown
}

fn signal(one: &Instance, signal: Signal, home: &Home) -> Result<(), String> {
    // Its lock says that the process is still the gateway.
    if !instance::still_runs(one, home) {
        return Ok(());
    }
    let pid = i32::try_from(one.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{} is no process", one.pid))?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(format!("process {} cannot be told to end: {error}", one.pid)),
    }
}

fn is_gone(one: &Instance, patience: Duration, home: &Home) -> bool {
    let started = Instant::now();
    while started.elapsed() < patience {
        if !instance::still_runs(one, home) {
            return true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    false
}

/// `ocx restart`.
pub(super) fn restart(args: &RestartArgs, home: &Home) -> ExitCode {
    let mut running = instance::running(home);
    running.retain(|one| args.port.is_none_or(|port| one.port() == port));
    let one = match running.as_slice() {
        [] => {
            return finish(Err("no such gateway runs; `ocx start` starts one".to_owned()));
        }
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
    if let Err(problems) = config::check_file(&one.config, &process_env) {
        eprintln!("{problems}\nocx: not restarted; what runs goes on");
        return ExitCode::from(super::EXIT_CONFIG);
    }
    if let Err(message) = end(one, args.now, home) {
        return finish(Err(message));
    }
    let own = one.config == home.config();
    let config = (!own).then(|| one.config.clone());
    let begun = Begun { port: one.port(), config, extra: one.args.clone() };
    match begun.launch(home) {
        Ok(Launched::Answers) => finish(tell_codex(false, one.port(), home)),
        Ok(Launched::Ended(code)) => code,
        Err(message) => finish(Err(message)),
    }
}

/// `ocx open`.
pub(super) fn open(args: &OpenArgs, home: &Home) -> ExitCode {
    let which = Which { config: None, port: args.port };
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
