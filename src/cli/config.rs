//! `ocx config …`.

use std::{path::Path, process::ExitCode};

use serde_json::{Value, json};

use super::{logged_out, say};
use crate::{
    config::{self, Home, Loaded, process_env},
    credentials::Vault,
};

/// `ocx config check`.
pub(super) fn check(named: Option<&Path>, json: bool, home: &Home) -> ExitCode {
    let default = home.config();
    let path = named.unwrap_or(&default);
    let (report, code) = match config::check_file(path, &process_env) {
        Ok(Some(loaded)) => {
            let states = states(&loaded, home);
            if !json {
                print(path, &loaded, &states);
            }
            let states: Vec<Value> =
                states.iter().map(|(id, state)| json!({"id": id, "state": state})).collect();
            let warnings = &loaded.warnings;
            let report =
                json!({"ok": true, "problems": [], "warnings": warnings, "providers": states});
            (report, ExitCode::SUCCESS)
        }
        Ok(None) => {
            let defaults =
                if named.is_some() { "" } else { "; ocx runs on its defaults without it" };
            let message = format!("{}: there is no such file{defaults}", path.display());
            if !json {
                eprintln!("{message}");
            }
            (json!({"ok": false, "problems": [{"message": message}]}), ExitCode::FAILURE)
        }
        Err(problems) => {
            if !json {
                eprintln!("{problems}");
            }
            (json!({"ok": false, "problems": problems.problems}), ExitCode::FAILURE)
        }
    };
    if json {
        say(format_args!("{report:#}"));
    }
    code
}

/// Each provider, and what it lacks.
fn states<'l>(loaded: &'l Loaded, home: &Home) -> Vec<(&'l str, String)> {
    let vault = Vault::new(home.path());
    let providers = loaded.config.providers.values().map(|provider| {
        let lacks = provider.lacks(&process_env).or_else(|| logged_out(provider, &vault));
        let state = lacks.map_or("ready".to_owned(), |lacks| format!("needs: {lacks}"));
        (provider.id.as_str(), state)
    });
    providers.collect()
}

fn print(path: &Path, loaded: &Loaded, states: &[(&str, String)]) {
    for warning in &loaded.warnings {
        eprintln!("{}: {warning}", path.display());
    }
    for (id, state) in states {
        say(format_args!("provider {id}: {state}"));
    }
    say(format_args!("{}: ok", path.display()));
}

/// `ocx config schema`.
pub(super) fn schema() -> ExitCode {
    say(format_args!("{:#}", config::schema()));
    ExitCode::SUCCESS
}
