//! `ocx config …`.

use std::{path::Path, process::ExitCode};

use crate::config::{self, process_env};

/// `ocx config check`.
pub(super) fn check(path: &Path) -> ExitCode {
    match config::check_file(path, &process_env) {
        Ok(Some(loaded)) => {
            for warning in &loaded.warnings {
                eprintln!("{}: {warning}", path.display());
            }
            for provider in loaded.config.providers.values() {
                let lacks = provider.lacks(&process_env);
                let state = lacks.map_or("ready".to_owned(), |lacks| format!("needs: {lacks}"));
                println!("provider {}: {state}", provider.id);
            }
            println!("{}: ok", path.display());
            ExitCode::SUCCESS
        }
        Ok(None) => {
            println!("{}: there is no such file; ocx would run on its defaults", path.display());
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
    println!("{:#}", config::schema());
    ExitCode::SUCCESS
}
