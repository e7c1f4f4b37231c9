//! `ocx start` and `ocx open`: the gateway in the background.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{CommandFactory as _, error::ErrorKind};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    instance::{self, Instance},
    leads_codex,
    local::{Local, Place, written_port},
    stopping,
};
use crate::{
    cli::{
        EXIT_INTERRUPTED,
        args::{Cli, OpenArgs, Serving, StartArgs, Which},
        codex, finish, login, say,
    },
    config::Home,
};

/// How long a gateway may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often we look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `ocx start`.
pub(in crate::cli) fn start(args: &StartArgs, home: &Home) -> ExitCode {
    let StartArgs { serving, codex } = args;
    if serving.port == Some(0) {
        let message = "others have to find it: `--port` is one of 1 to 65535";
        Cli::command().error(ErrorKind::ValueValidation, message).exit();
    }
    let config = serving.config.clone().unwrap_or_else(|| home.config());
    let place = Place::of(&Which { config: Some(config), port: serving.port }, home);
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
    match launch(serving, home) {
        Ok(Launched::Answers(one)) => {
            finish(tell_codex(leads_codex(&one, home), *codex, &one, home))
        }
        Ok(Launched::Ended(code)) => code,
        Err(message) => finish(Err(message)),
    }
}

/// Leads Codex to a gateway that just began, if that is wanted, or tells a Codex that is led to it of the
/// models of now.
pub(super) fn tell_codex(
    led: bool,
    wanted: bool,
    one: &Instance,
    home: &Home,
) -> Result<(), String> {
    if wanted {
        return codex::lead(Some(one.port()), home);
    }
    if led && let Err(message) = codex::lead(Some(one.port()), home) {
        // The gateway runs all the same.
        eprintln!("ocx: Codex was not told of its models: {message}");
    }
    Ok(())
}

pub(super) enum Launched {
    Answers(Instance),
    /// Its exit code is told on.
    Ended(ExitCode),
}

/// Starts a gateway in the background, and waits until it answers or ends.
///
/// # Errors
///
/// When it cannot be started, or does neither.
pub(super) fn launch(serving: &Serving, home: &Home) -> Result<Launched, String> {
    let logs = home.logs();
    let told = |error: io::Error| format!("{}: {error}", logs.display());
    home.create().map_err(told)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&logs).map_err(told)?;
    let port = port_of(serving, home);
    let log = logs.join(format!("{port}.log"));
    // What is said before there is a log, and by a program that falls over. One a try: two may be made
    // at once.
    let console = tempfile::NamedTempFile::new_in(&logs).map_err(told)?;
    let out = console.reopen().map_err(told)?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut serve = Command::new(program);
    serve.args(["serve", "--detached", "--log-file"]).arg(&log).args(serving.flags());
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
        std::process::exit(EXIT_INTERRUPTED);
    });
    starting
}

/// The port that such a gateway will have, for the name of its log.
fn port_of(Serving { config, port, .. }: &Serving, home: &Home) -> u16 {
    let written = || written_port(config.as_ref().unwrap_or(&home.config()));
    port.unwrap_or_else(written)
}

/// Waits until a gateway that was just started proves who it is, or ends.
fn answers(mut child: Child, home: &Home) -> Result<Launched, String> {
    let started = Instant::now();
    let system = actix_web::rt::System::new();
    while started.elapsed() < START_TIMEOUT {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            // One that ended well did not come up either.
            let code = code.filter(|code| *code != 0).unwrap_or(1);
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

/// `ocx open`.
pub(in crate::cli) fn open(args: &OpenArgs, home: &Home) -> ExitCode {
    let which = Which { config: None, port: args.port };
    if let Some(one) = Place::of(&which, home).instance.filter(|one| one.stopping) {
        return finish(Err(stopping(&one)));
    }
    let find = || actix_web::rt::System::new().block_on(Local::find(&which, home));
    if Place::of(&which, home).instance.is_none() && find().is_err() {
        let serving = Serving { port: args.port, ..Serving::default() };
        let code = start(&StartArgs { serving, codex: false }, home);
        if code != ExitCode::SUCCESS {
            return code;
        }
    }
    finish(find().map(|local| {
        say(format_args!("{}/", local.base));
        login::open_browser(&format!("{}/", local.base));
    }))
}
