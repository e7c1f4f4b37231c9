//! `ocx status`: what runs, and how it is.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::{
    instance::{self, Instance},
    is_taken,
    local::{Local, Place},
};
use crate::{
    cli::{
        args::{StatusArgs, Which},
        say,
        style::Mark,
    },
    codex::Codex,
    config::Home,
};

/// Exit code of a status when nothing runs (as the Linux Standard Base has it for services).
const EXIT_STOPPED: u8 = 3;

/// What is printed as JSON.
#[derive(Serialize)]
struct Report {
    gateways: Vec<Row>,
    /// Why none could be started, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
    codex: Option<crate::codex::Status>,
}

#[derive(Serialize)]
struct Row {
    /// What it says of itself in a file; nothing of one that was found by its port.
    #[serde(flatten)]
    instance: Option<Instance>,
    base: String,
    /// What it answers, or why it does not.
    #[serde(flatten)]
    state: State,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    Answers(Value),
    Problem(String),
}

/// Runs the command.
pub(in crate::cli) fn status(args: &StatusArgs, home: &Home) -> ExitCode {
    let gateways = gateways(home);
    let codex = Codex::find(home.path()).status().ok();
    let code = match gateways.as_slice() {
        [] => ExitCode::from(EXIT_STOPPED),
        rows if rows.iter().all(|row| matches!(row.state, State::Answers(_))) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    };
    let address = Place::of(&Which::default(), home).address;
    let taken = gateways.is_empty() && is_taken(&address);
    let obstacle = taken.then(|| format!("another program has {address}"));
    let report = Report { gateways, obstacle, codex };
    if args.json {
        say(serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        print(&report);
    }
    code
}

fn gateways(home: &Home) -> Vec<Row> {
    let system = actix_web::rt::System::new();
    let running = instance::running(home);
    if running.is_empty() {
        // One that could not write down that it runs.
        let place = Place::of(&Which::default(), home);
        let base = format!("http://{}", place.address);
        let state = system.block_on(ask(place, home));
        let row =
            state.ok().map(|state| Row { instance: None, base, state: State::Answers(state) });
        return row.into_iter().collect();
    }
    let rows = running.into_iter().map(|one| {
        let which = Which { config: None, port: Some(one.port()) };
        let state = match system.block_on(ask(Place::of(&which, home), home)) {
            Ok(state) => State::Answers(state),
            Err(_) if one.stopping => State::Problem(format!(
                "is stopping: its streams have {} s to end",
                one.shutdown_ms / 1000
            )),
            Err(message) => State::Problem(message),
        };
        Row { base: one.base(), instance: Some(one), state }
    });
    rows.collect()
}

async fn ask(place: Place, home: &Home) -> Result<Value, String> {
    Local::at(place, home).await?.look("/api/status").await
}

fn print(report: &Report) {
    if report.gateways.is_empty() {
        say(match &report.obstacle {
            Some(obstacle) => format!("No gateway of this home runs, and {obstacle}."),
            None => "No gateway of this home runs; `ocx start` starts one.".to_owned(),
        });
    }
    for row in &report.gateways {
        print_gateway(row);
    }
    match &report.codex {
        Some(codex) if codex.installed => {
            let base = codex.base_url.as_deref().unwrap_or("?");
            say(format_args!("Codex uses ocx at {base}, with {} models.", codex.models));
        }
        _ => say("Codex does not use ocx; `ocx codex install` leads it here."),
    }
}

fn print_gateway(row: &Row) {
    let process = row.instance.as_ref().map_or_else(String::new, |one| {
        let how = if one.detached { "`ocx start`" } else { "`ocx serve`" };
        format!(", process {} of {how}", one.pid)
    });
    let state = match &row.state {
        State::Answers(state) => state,
        State::Problem(problem) => {
            say(format_args!("{} {}{process}: {problem}", Mark::Bad, row.base));
            return;
        }
    };
    let (version, uptime) = (state["version"].as_str().unwrap_or("?"), &state["uptime"]);
    let mark = if state["draining"] == true { Mark::Doubt } else { Mark::Good };
    let draining = if state["draining"] == true { ", ending" } else { "" };
    say(format_args!("{mark} ocx {version} at {}{process}, up for {uptime} s{draining}", row.base));
    if let Some(one) = &row.instance {
        say(format_args!(
            "  config     {}, generation {}",
            one.config.display(),
            state["generation"]
        ));
        if let Some(log) = &one.log {
            say(format_args!("  log        {}", log.display()));
        }
    }
    if state["diverged"] == true {
        say(format_args!(
            "  {} the file was changed, and what it says now does not run; `ocx reload` says why",
            Mark::Bad
        ));
    }
    for provider in state["providers"].as_array().into_iter().flatten() {
        let text = |field: &str| provider[field].as_str().unwrap_or_default();
        let mark = if text("state").starts_with("ready") { Mark::Good } else { Mark::Doubt };
        say(format_args!("  {mark} {:<20} {}", text("id"), text("state")));
    }
}
