//! `ocx provider …`.

use std::process::ExitCode;

use serde::Serialize;

use super::{finish, say};
use crate::{
    config::{self, Config, Home, Loaded, ProviderSpec, Readers, process_env},
    credentials::Vault,
    registry::{self, AuthMode, ProviderEntry},
};

/// One provider of the catalogue or the config.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    id: &'a str,
    label: &'a str,
    adapter: &'static str,
    base_url: &'a str,
    auth_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    env_var: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_page: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_model: Option<&'a str>,
    models: &'a [String],
    #[serde(skip_serializing_if = "indexmap::IndexMap::is_empty")]
    other_base_urls: indexmap::IndexMap<&'a str, &'a str>,
    configured: bool,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

/// `ocx provider list`.
pub(super) fn list(json: bool, home: &Home) -> ExitCode {
    let loaded = match config::check_file(&home.config(), &process_env) {
        Ok(loaded) => loaded.unwrap_or_else(|| Loaded::defaults(&process_env)),
        Err(problems) => {
            // The catalogue can be read all the same.
            eprintln!("{problems}");
            Loaded::defaults(&process_env)
        }
    };
    let logins = Logins(Vault::new(home.path()));
    let rows = rows(&loaded.config, &logins);
    if json {
        say(serde_json::to_string_pretty(&rows).unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    for row in &rows {
        let mark = if row.configured { '*' } else { ' ' };
        let page = row.key_page.map(|page| format!("  {page}")).unwrap_or_default();
        say(format_args!(
            "{mark} {:<24} {:<8} {:<60} {}{page}",
            row.id, row.auth_mode, row.base_url, row.state
        ));
    }
    say("* is in the config. `--json` tells more.");
    ExitCode::SUCCESS
}

/// `ocx provider remove`.
pub(super) fn remove(provider: &str, home: &Home) -> ExitCode {
    finish(take_out(provider, home))
}

fn take_out(provider: &str, home: &Home) -> Result<(), String> {
    let path = home.config();
    config::edit(&path, Readers::AsBefore, |text| {
        let before = config::check(text.as_bytes(), &path, &process_env).map(drop);
        let text = config::without_provider(text, provider).map_err(|error| error.to_string())?;
        let text =
            text.ok_or_else(|| format!("no provider `{provider}` is in {}", path.display()))?;
        let after = config::check(text.as_bytes(), &path, &process_env);
        after.map_err(|problems| match before {
            // Combos and `defaultProvider` may name it.
            Ok(()) => format!(
                "without `{provider}` the config would not check, so nothing was changed:\n{problems}"
            ),
            Err(_) => format!("nothing was changed; mend this first:\n{problems}"),
        })?;
        Ok(Some(text))
    })?;
    say(format_args!("Took `{provider}` out of {}.", path.display()));
    let opened = Vault::new(home.path()).open();
    if opened.is_ok_and(|opened| !opened.store.accounts(provider).list.is_empty()) {
        say(format_args!("Its login is kept; `ocx logout {provider}` forgets it."));
    }
    Ok(())
}

/// What is known of accounts on this machine.
struct Logins(Vault);

impl Logins {
    fn state(&self, provider: &str) -> String {
        let accounts = match self.0.open() {
            Ok(opened) => opened.store.accounts(provider),
            Err(error) => return error.to_string(),
        };
        match (accounts.usable(), accounts.list.first()) {
            (Some(account), _) => {
                format!("logged in as {}", account.email.as_deref().unwrap_or(&account.id))
            }
            (None, Some(account)) => {
                let why = account.needs_login.as_deref().unwrap_or("the login ended");
                format!("needs: `ocx login {provider}` again ({why})")
            }
            (None, None) => format!("needs: `ocx login {provider}`"),
        }
    }
}

fn rows<'a>(config: &'a Config, logins: &Logins) -> Vec<Row<'a>> {
    let known = registry::entries().map(|(id, entry)| match config.providers.get(id) {
        Some(spec) => configured(spec, Some(entry), logins),
        None => unused(id, entry),
    });
    let own = config.providers.values().filter(|spec| registry::find(spec.id.as_str()).is_none());
    known.chain(own.map(|spec| configured(spec, None, logins))).collect()
}

fn configured<'a>(
    spec: &'a ProviderSpec,
    entry: Option<&'a ProviderEntry>,
    logins: &Logins,
) -> Row<'a> {
    let state = match spec.lacks(&process_env) {
        Some(lacks) => format!("needs: {lacks}"),
        None if spec.auth == AuthMode::OAuth => logins.state(spec.id.as_str()),
        None => "ready".to_owned(),
    };
    Row {
        id: spec.id.as_str(),
        label: entry.map_or(spec.id.as_str(), |entry| &entry.label),
        adapter: spec.adapter.name(),
        base_url: &spec.base_url,
        auth_mode: spec.auth.name(),
        env_var: entry.and_then(|entry| entry.env_var.as_deref()),
        key_page: entry.and_then(|entry| entry.key_page.as_deref()),
        default_model: spec.default_model.as_deref(),
        models: &spec.models,
        other_base_urls: entry.map(others).unwrap_or_default(),
        configured: true,
        state,
        source: entry.map(|entry| entry.source.as_str()),
    }
}

fn unused<'a>(id: &'a str, entry: &'a ProviderEntry) -> Row<'a> {
    let variable = entry.env_var.as_deref().filter(|name| process_env(name).is_some());
    let state = match variable {
        Some(name) => format!("not in the config; {name} is set"),
        None => "not in the config".to_owned(),
    };
    Row {
        id,
        label: &entry.label,
        adapter: entry.adapter.name(),
        base_url: &entry.base_url,
        auth_mode: entry.auth.name(),
        env_var: entry.env_var.as_deref(),
        key_page: entry.key_page.as_deref(),
        default_model: entry.default_model.as_deref(),
        models: &entry.models,
        other_base_urls: others(entry),
        configured: false,
        state,
        source: Some(&entry.source),
    }
}

fn others(entry: &ProviderEntry) -> indexmap::IndexMap<&str, &str> {
    entry.base_urls.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect()
}
