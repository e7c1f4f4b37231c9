//! `ocx restart`.

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
};

use clap::Parser as _;

use super::{
    instance, leads_codex, none_on, serve,
    start::{Launched, launch, tell_codex},
    stop::end,
};
use crate::{
    cli::{
        EXIT_CONFIG,
        args::{Cli, Command, RestartArgs, Serving},
        finish,
    },
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
    let checked = parsed(&one.args).and_then(|serving| {
        let Listen { host, port, .. } = serve::may_start(&serving, home)?.config.listen;
        let address = SocketAddr::new(serving.host.unwrap_or(host), serving.port.unwrap_or(port));
        Ok((serving, address))
    });
    let (serving, address) = match checked {
        Ok(checked) => checked,
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
    match launch(&serving, home) {
        // Its port may be another now.
        Ok(Launched::Answers(one)) => finish(tell_codex(leads_codex, false, &one, home)),
        Ok(Launched::Ended(code)) => code,
        Err(message) => finish(Err(message)),
    }
}

/// What a gateway was started with.
fn parsed(args: &[String]) -> Result<Serving, String> {
    let given = ["ocx", "serve"].into_iter().chain(args.iter().map(String::as_str));
    match Cli::try_parse_from(given).map(|cli| cli.command) {
        Ok(Command::Serve(serve)) => Ok(serve.serving),
        _ => Err(format!("it was started with flags that this version does not know: {args:?}")),
    }
}
