//! `ocx config …`.

use std::{path::Path, process::ExitCode};

use super::{logged_out, say};
use crate::{
    config::{self, Home, process_env},
    credentials::Vault,
};

/// `ocx config check`.
pub(super) fn check(path: &Path, named: bool, home: &Home) -> ExitCode {
    match config::check_file(path, &process_env) {
        Ok(Some(loaded)) => {
            for warning in &loaded.warnings {
                eprintln!("{}: {warning}", path.display());
            }
            let vault = Vault::new(home.path());
            for provider in loaded.config.providers.values() {
                let lacks = provider.lacks(&process_env).or_else(|| logged_out(provider, &vault));
                let state = lacks.map_or("ready".to_owned(), |lacks| format!("needs: {lacks}"));
                say(format_args!("provider {}: {state}", provider.id));
            }
            say(format_args!("{}: ok", path.display()));
            ExitCode::SUCCESS
        }
        Ok(None) => {
            let defaults = if named { "" } else { "; ocx runs on its defaults without it" };
            eprintln!("{}: there is no such file{defaults}", path.display());
            ExitCode::FAILURE
        }
        Err(problems) => {
            eprintln!("{problems}");
            ExitCode::FAILURE
        }
    }
}

/// `ocx config schema`.
pub(super) fn schema() -> ExitCode {
    say(format_args!("{:#}", config::schema()));
    ExitCode::SUCCESS
}
