//! `ocx doctor`: looks for what keeps ocx from working, and says what to do about it. It changes nothing.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    args::DoctorArgs,
    gateway::local::Place,
    say,
    style::{Mark, plain},
};
use crate::{
    config::{self, Home, Loaded, process_env},
    credentials::Vault,
};

mod codex;
mod files;
mod gateway;
mod providers;

/// What was found in one place.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Where: `config`, `files`, `gateway`, `codex`, `clock`, `machine`, or a provider's name.
    area: String,
    state: Mark,
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<String>,
}

impl Finding {
    fn new(state: Mark, area: &str, what: impl fmt::Display) -> Self {
        // Upstreams have their say in it.
        let what: Vec<_> = what.to_string().lines().map(|line| plain(line).into_owned()).collect();
        Self { area: area.to_owned(), state, what: what.join("\n"), todo: None }
    }

    fn good(area: &str, what: impl fmt::Display) -> Self {
        Self::new(Mark::Good, area, what)
    }

    fn doubt(area: &str, what: impl fmt::Display, todo: impl Into<String>) -> Self {
        Self { todo: Some(todo.into()), ..Self::new(Mark::Doubt, area, what) }
    }

    fn bad(area: &str, what: impl fmt::Display, todo: impl Into<String>) -> Self {
        Self { todo: Some(todo.into()), ..Self::new(Mark::Bad, area, what) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.what.lines();
        write!(f, "{} {:<12} {}", self.state, self.area, lines.next().unwrap_or_default())?;
        for line in lines {
            write!(f, "\n               {line}")?;
        }
        match &self.todo {
            Some(todo) => write!(f, "\n               → {todo}"),
            None => Ok(()),
        }
    }
}

/// Runs the command: exit 1 if anything is bad.
pub(super) fn doctor(args: &DoctorArgs, home: &Home) -> ExitCode {
    let findings = examine(args, home);
    let bad = findings.iter().filter(|finding| finding.state == Mark::Bad).count();
    if args.json {
        say(serde_json::to_string_pretty(&findings).unwrap_or_default());
    } else {
        findings.iter().for_each(say);
        let doubts = findings.iter().filter(|finding| finding.state == Mark::Doubt).count();
        say(match (bad, doubts) {
            (0, 0) => "Nothing is wrong.".to_owned(),
            (0, doubts) => format!("Nothing is wrong; {doubts} to look at."),
            (bad, _) => format!("{bad} to mend."),
        });
    }
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn examine(args: &DoctorArgs, home: &Home) -> Vec<Finding> {
    let place = Place::of(&args.which, home);
    let checked = config::check_file(&place.config, &process_env);
    let mut findings = files::config(&place.config, &checked);
    let vault = Vault::new(home.path());
    let loaded = checked.map(|loaded| loaded.unwrap_or_else(|| Loaded::defaults(&process_env)));
    let loaded = loaded.ok();
    let written = loaded.as_ref().map(|loaded| &loaded.file);
    findings.extend(files::private(&place.config, written, &vault, home));
    findings.extend(files::usable(&vault, home));
    let (of_gateway, running) = gateway::examine(&place, home);
    findings.extend(of_gateway);
    findings.extend(codex::examine(running.is_some().then_some(&place), home));
    // Of a file that does not check nobody knows what it says of providers.
    let Some(Loaded { config, .. }) = loaded else { return findings };
    let network = super::network(&config);
    if let Err(message) = &network {
        findings.push(Finding::bad(
            "config",
            message,
            "give the PEM file of your certificate authority",
        ));
    }
    if let (Ok(network), false) = (network, args.offline) {
        waits(config.providers.len());
        findings.extend(providers::examine(&config, running.as_ref(), home, &network));
    }
    findings
}

/// Tells a person at a terminal that this takes a moment.
fn waits(count: usize) {
    let mut told = std::io::stderr();
    if told.is_terminal() {
        let _ = writeln!(told, "asking {count} providers …");
    }
}
