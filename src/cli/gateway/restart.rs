//! `ocx restart`.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use super::{
    instance, leads_codex, none_on, serve,
    start::{Launched, launch, parsed, tell_codex},
    stop::end,
};
use crate::{
    cli::{EXIT_CONFIG, args::RestartArgs, finish},
    config::{Home, Listen},
};

/// `ocx restart`.
pub(in crate::cli) fn restart(args: &RestartArgs, home: &Home) -> ExitCode {
    let running = instance::running(home);
    let chosen = running.iter().filter(|one| args.port.is_none_or(|port| one.port() == port));
    let chosen: Vec<_> = chosen.collect();
    let one = match chosen.as_slice() {
        [] => return finish(Err(none_on(args.port, &running))),
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
    let checked = parsed(&one.args).and_then(|serve| {
        let loaded = serve::may_start(&serve, home)?;
        let Listen { host, port, .. } = loaded.config.listen;
        Ok(SocketAddr::new(serve.host.unwrap_or(host), serve.port.unwrap_or(port)))
    });
    let address = match checked {
        Ok(address) => address,
        Err(message) => {
            eprintln!("{message}\nocx: not restarted; what runs goes on");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if address.port() != one.port()
        && let Err(error) = TcpListener::bind(address)
    {
        return finish(Err(format!(
            "{address} cannot be had: {error}; not restarted, what runs goes on"
        )));
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
