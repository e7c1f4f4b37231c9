//! `ocx restart`.

use std::process::ExitCode;

use super::{
    instance, leads_codex, serve,
    start::{Launched, launch, parsed, tell_codex},
    stop::{end, none_on},
};
use crate::{
    cli::{EXIT_CONFIG, args::RestartArgs, finish},
    config::Home,
};

/// `ocx restart`.
pub(in crate::cli) fn restart(args: &RestartArgs, home: &Home) -> ExitCode {
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
        return ExitCode::from(EXIT_CONFIG);
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
