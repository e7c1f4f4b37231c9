//! `ocx codex …`, `ocx sync` and `ocx restore`: leading Codex here, and away again.

use std::{
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    args::{CodexCommand, Which},
    finish,
    gateway::local::{KEY_VARIABLE, Local},
    say,
    style::plain,
};
use crate::{
    codex::{Codex, Gateway, setup},
    config::{ConfigFile, Home, parse_host},
};

/// Whose catalogue we ask for: the version that our form of it was measured with.
const CODEX_VERSION: &str = "0.169.0";
/// How long Codex may take to print the models that it knows by itself.
const CODEX_TIMEOUT: Duration = Duration::from_secs(20);
/// How often we look whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs one of them.
pub(super) fn run(command: &CodexCommand, home: &Home) -> ExitCode {
    match command {
        CodexCommand::Install(which) => finish(install(which, home)),
        CodexCommand::Uninstall => restore(home),
        CodexCommand::Status { json } => finish(status(*json, home)),
    }
}

/// `ocx sync`: the models of now, for a Codex that is set up.
pub(super) fn sync(which: &Which, home: &Home) -> ExitCode {
    let codex = Codex::find(home.path());
    let is_set_up =
        codex.status().map(|status| status.installed).map_err(|error| error.to_string());
    finish(is_set_up.and_then(|is_set_up| match is_set_up {
        true => install(which, home),
        false => Err("Codex is not set up for ocx; `ocx codex install` does that".to_owned()),
    }))
}

/// `ocx restore`.
pub(super) fn restore(home: &Home) -> ExitCode {
    let restored = Codex::find(home.path()).restore().map_err(|error| error.to_string());
    finish(restored.map(|changed| {
        say(match changed {
            true => "Codex is as it was before.",
            false => "There is nothing to undo: Codex does not use ocx.",
        });
    }))
}

/// As `ocx codex install`, for those who come from elsewhere.
pub(super) fn lead(port: Option<u16>, home: &Home) -> Result<(), String> {
    install(&Which { config: None, port }, home)
}

fn install(which: &Which, home: &Home) -> Result<(), String> {
    let codex = Codex::find(home.path());
    let gateway = actix_web::rt::System::new().block_on(async {
        let local = Local::find(which, home).await?;
        let asked = format!("/v1/models?client_version={CODEX_VERSION}");
        Ok::<_, String>((local.get(&asked).await?, local.base, local.file))
    });
    let (catalogue, base, file) =
        gateway.map_err(|message| format!("{message}\nNothing was changed."))?;
    let file = file.unwrap_or_default();
    let known = codex.known_models();
    let gateway = Gateway {
        base_url: format!("{base}/v1"),
        models: catalogue["models"].as_array().cloned().unwrap_or_default(),
        native: if known.is_empty() { bundled() } else { known },
        subagent_models: file.subagent_models.clone().unwrap_or_default(),
        websockets: file.websockets.unwrap_or(false),
        key_variable: demands_key(&file).then_some(KEY_VARIABLE),
    };
    let offered = |name: &str| {
        gateway.models.iter().chain(&gateway.native).any(|row| row["slug"].as_str() == Some(name))
    };
    for name in gateway.subagent_models.iter().filter(|name| !offered(name)) {
        eprintln!("ocx: `subagentModels` names `{name}`, which is no model of now");
    }
    let installed = codex.install(&gateway).map_err(|error| error.to_string())?;
    say(format_args!(
        "Codex uses ocx at {base} now: {} models of providers, {} of its own.",
        installed.routed, installed.native
    ));
    say(format_args!("  config     {}", installed.config.display()));
    say(format_args!("  models     {}", installed.catalog.display()));
    let featured = gateway.subagent_models.iter().map(String::as_str).find(|name| offered(name));
    let first = || gateway.models.first().and_then(|row| row["slug"].as_str());
    if let Some(model) = featured.or_else(first) {
        say(format_args!("  try        codex -m {}", plain(model)));
    }
    if let Some(variable) = gateway.key_variable {
        say(format_args!("  key        Codex takes it from the variable {variable}"));
    }
    say("`ocx restore` brings your own files back.");
    Ok(())
}

/// Whether the gateway answers nobody without a key.
fn demands_key(file: &ConfigFile) -> bool {
    let beyond = file.hostname.as_deref().and_then(parse_host).is_some_and(|ip| !ip.is_loopback());
    beyond || file.require_key_on_loopback.unwrap_or(false)
}

/// The models that Codex knows by itself, from Codex, if it is on the PATH.
fn bundled() -> Vec<Value> {
    let mut codex = Command::new("codex");
    codex.args(["debug", "models", "--bundled"]).stdin(Stdio::null()).stderr(Stdio::null());
    let Ok(out) = tempfile::tempfile() else { return Vec::new() };
    let Ok(own) = out.try_clone() else { return Vec::new() };
    let Ok(mut child) = codex.stdout(own).spawn() else { return Vec::new() };
    let started = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if started.elapsed() > CODEX_TIMEOUT {
            let _ = child.kill();
            let _ = child.wait();
            return Vec::new();
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let mut printed = Vec::new();
    let mut out = out;
    let read = std::io::Seek::rewind(&mut out)
        .and_then(|()| std::io::Read::read_to_end(&mut out, &mut printed));
    read.map(|_| setup::native(&printed)).unwrap_or_default()
}

fn status(json: bool, home: &Home) -> Result<(), String> {
    let status = Codex::find(home.path()).status().map_err(|error| error.to_string())?;
    if json {
        say(serde_json::to_string_pretty(&status).unwrap_or_default());
        return Ok(());
    }
    say(format_args!("Codex in {}", status.codex_home.display()));
    say(match (status.installed, &status.base_url) {
        (true, Some(base_url)) => {
            format!("  uses ocx at {base_url}, with {} models", status.models)
        }
        _ => "  does not use ocx; `ocx codex install` changes that".to_owned(),
    });
    if status.restorable {
        say("  `ocx restore` brings your own files back");
    }
    Ok(())
}
