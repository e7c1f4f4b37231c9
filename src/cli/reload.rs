//! `ocx reload`: asks a running gateway to read its config now.

use std::process::ExitCode;

use serde::Deserialize as _;
use serde_json::Value;

use super::{args::Which, gateway::local::Local, say};
use crate::config::{ConfigProblem, Home};

pub(super) fn run(which: &Which, home: &Home) -> ExitCode {
    let reload = async { Local::find(which, home).await?.manage("/api/config/reload").await };
    match actix_web::rt::System::new().block_on(reload) {
        Ok(answer) => report(&answer),
        Err(message) => {
            eprintln!("ocx reload: {message}");
            ExitCode::FAILURE
        }
    }
}

fn report(answer: &Value) -> ExitCode {
    let result = answer["result"].as_str().unwrap_or("unknown");
    say(format_args!("{result}: generation {} runs", answer["generation"]));
    for problem in answer["problems"].as_array().into_iter().flatten() {
        match ConfigProblem::deserialize(problem) {
            Ok(problem) => eprintln!("{problem}"),
            Err(_) => eprintln!("{problem}"),
        }
    }
    for field in answer["restart_required"].as_array().into_iter().flatten() {
        eprintln!("{} takes effect at the next start only", field.as_str().unwrap_or_default());
    }
    if let Some(reason) = answer["reason"].as_str() {
        eprintln!("{reason}");
    }
    if matches!(result, "applied" | "unchanged") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
