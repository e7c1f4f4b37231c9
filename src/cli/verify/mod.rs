//! `ocx verify`: what a model can do, found by asking it, through the gateway that would ask it anyway.

use std::{path::Path, process::ExitCode};

use serde::Serialize;
use serde_json::Value;

use super::{
    args::VerifyArgs,
    finish,
    gateway::local::{Local, Place},
    say,
    style::Mark,
};
use crate::{
    config::{self, Home, Loaded, ProviderSpec, Readers, process_env},
    registry::{self, Quirks},
};

mod answer;
mod probes;

/// The list of models that cannot see.
const NO_VISION: &str = "noVisionModels";

/// What was found of one ability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Capability {
    name: &'static str,
    state: Mark,
    detail: String,
    /// The list of the provider's config where the model belongs, since it lacks this.
    #[serde(skip_serializing_if = "Option::is_none")]
    quirk: Option<&'static str>,
}

/// All of them, for people and programs.
#[derive(Debug, Serialize)]
struct Card<'a> {
    model: &'a str,
    gateway: &'a str,
    capabilities: &'a [Capability],
    /// What belongs into the provider's config.
    config: serde_json::Map<String, Value>,
}

/// Runs the command: exit 1 if the model does not answer at all.
pub(super) fn verify(args: &VerifyArgs, home: &Home) -> ExitCode {
    finish(run(args, home))
}

fn run(args: &VerifyArgs, home: &Home) -> Result<(), String> {
    let place = Place::of(&args.which, home);
    let path = place.config.clone();
    let loaded = config::check_file(&path, &process_env).map_err(|error| error.to_string())?;
    let loaded = loaded.unwrap_or_else(|| Loaded::defaults(&process_env));
    let (provider, model) = match args.model.split_once('/') {
        Some((provider, model)) => (provider, Some(model)),
        None => (args.model.as_str(), None),
    };
    let spec = loaded.config.providers.get(provider).ok_or_else(|| {
        format!("no provider `{provider}` is in {}; write PROVIDER/MODEL", path.display())
    })?;
    let system = actix_web::rt::System::new();
    let (local, model) = system.block_on(async {
        let local = Local::at(place, home).await?;
        let model = match model {
            Some(model) => model.to_owned(),
            None => default_model(spec, &local).await?,
        };
        Ok::<_, String>((local, model))
    })?;
    let name = format!("{provider}/{model}");
    if !args.json {
        say(format_args!("{name}, through {}", local.base));
    }
    let tell = |capability: &Capability| {
        if !args.json {
            let Capability { name, state, detail, .. } = capability;
            say(format_args!("  {state} {name:<16} {detail}"));
        }
    };
    let capabilities = system.block_on(probes::all(&local, &name, tell))?;
    let lists = lists(&capabilities, spec, &model)?;
    if args.json {
        let (gateway, config) = (local.base.as_str(), lists.clone());
        let card = Card { model: &name, gateway, capabilities: &capabilities, config };
        say(serde_json::to_string_pretty(&card).unwrap_or_default());
    }
    match (lists.is_empty(), args.write) {
        (true, _) => {}
        (false, true) => {
            write(&path, provider, &model, &capabilities)?;
            if !args.json {
                let names: Vec<_> = lists.keys().map(String::as_str).collect();
                let names = names.join(", ");
                say(format_args!("Wrote the model into {names} of {}.", path.display()));
            }
        }
        (false, false) if !args.json => {
            let names: Vec<_> = lists.keys().map(String::as_str).collect();
            let names = names.join(", ");
            say(format_args!(
                "The model belongs into {names} of `{provider}`; `--write` puts it there."
            ));
        }
        (false, false) => {}
    }
    Ok(())
}

/// The model of a provider that was named alone.
async fn default_model(spec: &ProviderSpec, local: &Local) -> Result<String, String> {
    if let Some(model) = &spec.default_model {
        return Ok(model.clone());
    }
    let id = spec.id.as_str();
    let offered = local.get("/v1/models").await?;
    let rows = offered["data"].as_array().into_iter().flatten();
    let ids = rows.filter_map(|row| row["id"].as_str());
    let of: Vec<_> = ids.filter_map(|name| name.strip_prefix(id)?.strip_prefix('/')).collect();
    match of.as_slice() {
        [one] => Ok((*one).to_owned()),
        _ => Err(format!(
            "say which model, as `ocx verify {id}/MODEL`; `ocx models {id}` lists {}",
            of.len()
        )),
    }
}

/// The lists of the provider's config as they should be: with the model where it lacks something. What
/// the registry says is in them, since what a config says stands alone.
fn lists(
    capabilities: &[Capability],
    spec: &ProviderSpec,
    model: &str,
) -> Result<serde_json::Map<String, Value>, String> {
    let known = serde_json::to_value::<&Quirks>(&spec.quirks).map_err(|error| error.to_string())?;
    let lacking = capabilities.iter().filter_map(|capability| capability.quirk);
    let lists = lacking.filter_map(|quirk| {
        let mut models = known[quirk].as_array().cloned().unwrap_or_default();
        let names = models.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let listed = registry::lists(Some(&names), model);
        models.push(model.into());
        (!listed).then_some((quirk.to_owned(), models.into()))
    });
    Ok(lists.collect())
}

/// Writes the lists of the config as it is by now, all at once.
fn write(
    path: &Path,
    provider: &str,
    model: &str,
    capabilities: &[Capability],
) -> Result<(), String> {
    config::edit(path, Readers::AsBefore, |text| {
        let spec = |text: &str| {
            let loaded = config::check(text.as_bytes(), path, &process_env);
            let loaded = loaded.map_err(|problems| problems.to_string())?;
            let spec = loaded.config.providers.get(provider).cloned();
            spec.ok_or_else(|| format!("`{provider}` is not in {} any more", path.display()))
        };
        let mut changed = text.to_owned();
        for (field, models) in lists(capabilities, &*spec(text)?, model)? {
            let with = config::with_provider_field(&changed, provider, &field, &models.to_string());
            let with = with.map_err(|error| error.to_string())?;
            changed = with.ok_or_else(|| format!("write `{provider}` into the config first"))?;
        }
        let written = spec(&changed)?;
        let blind = capabilities.iter().any(|one| one.quirk == Some(NO_VISION));
        if blind && written.quirks.known_sight(model) != Some(false) {
            eprintln!(
                "ocx: `modelInputModalities`, of the config or as ocx knows it, says that `{model}` sees \
                 images, and goes before `noVisionModels`: set it for this model to [\"text\"]"
            );
        }
        Ok(Some(changed))
    })?;
    Ok(())
}
