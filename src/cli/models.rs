//! `ocx models`.

use std::process::ExitCode;

use serde_json::Value;

use super::{args::ModelsArgs, finish, gateway::local::Local, say, style::plain};
use crate::config::Home;

/// Prints what a running gateway offers.
pub(super) fn list(args: &ModelsArgs, home: &Home) -> ExitCode {
    let asked = async { Local::find(&args.which, home).await?.get("/v1/models").await };
    finish(actix_web::rt::System::new().block_on(asked).and_then(|answer| print(&answer, args)))
}

fn print(answer: &Value, args: &ModelsArgs) -> Result<(), String> {
    let all = answer["data"].as_array().cloned().unwrap_or_default();
    let wanted = |row: &Value| {
        let of = row["id"].as_str().and_then(|id| id.split_once('/')).map(|(provider, _)| provider);
        args.provider.as_deref().is_none_or(|provider| of == Some(provider))
    };
    let models: Vec<&Value> = all.iter().filter(|row| wanted(row)).collect();
    if args.json {
        say(serde_json::to_string_pretty(&models).unwrap_or_default());
        return Ok(());
    }
    if models.is_empty() {
        return Err(match &args.provider {
            Some(provider) => format!(
                "the gateway offers no model of `{provider}`; `ocx provider list` says what it lacks"
            ),
            None => "the gateway offers no model; `ocx provider list` says what providers lack"
                .to_owned(),
        });
    }
    for model in models {
        say(plain(model["id"].as_str().unwrap_or_default()));
    }
    Ok(())
}
