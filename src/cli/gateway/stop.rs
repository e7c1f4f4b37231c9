//! `ocx stop`: the end of a gateway, wherever it was started.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use super::{
    instance::{self, Instance},
    is_taken, none_on,
};
use crate::{
    cli::{args::StopArgs, finish, say},
    codex::Codex,
    config::Home,
};

/// What one that ends has beside the time of its streams: refreshes of tokens, and the last lines.
const LAST_WORK: Duration = Duration::from_secs(50);
/// And one that was told to end at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// After so long a second signal is one.
const SECOND_WISH: Duration = Duration::from_millis(600);
/// How often we look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `ocx stop`.
pub(in crate::cli) fn stop(args: &StopArgs, home: &Home) -> ExitCode {
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
        (true, Some(_)) => return finish(Err(none_on(args.port, &running))),
        (true, None) => say("No gateway of this home runs."),
        (false, _) => {}
    }
    let left = if args.keep_codex { Ok(()) } else { leave_codex(&ended, home) };
    finish(if failed.is_empty() { left } else { Err(failed.join("\n")) })
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
    addresses.into_iter().flatten().any(|at| is_taken(&at))
}

/// Ends a gateway and waits for that.
pub(super) fn end(one: &Instance, now: bool, home: &Home) -> Result<(), String> {
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
