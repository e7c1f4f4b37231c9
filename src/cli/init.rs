//! `ocx init`: a provider for the config, asked for or by flags, and checked before it is saved.
//!
//! What is in the config stays. A key that its provider refuses is not saved; one that nobody can judge is,
//! and that is said.

use std::{
    io::{IsTerminal as _, Read as _},
    process::ExitCode,
    sync::Arc,
};

use dialoguer::{Confirm, FuzzySelect, Input, Password, console::Term, theme::SimpleTheme};
use serde_json::{Map, Value};
use url::Url;

use super::{
    EXIT_INTERRUPTED,
    args::{InitArgs, LoginArgs, ProviderFlags, Which},
    codex, finish,
    gateway::local::Local,
    logged_out, login, network,
    provider_check::{self, Verdict},
    say,
};
use crate::{
    config::{self, Home, KeySource, ProviderSpec, Readers, SecretText, process_env},
    credentials::Vault,
    registry::{self, AdapterKind, AuthMode, ProviderEntry},
};

/// `ocx provider add`.
pub(super) fn add(provider: String, about: ProviderFlags, home: &Home) -> ExitCode {
    let provider = Some(provider);
    let args = InitArgs { yes: true, provider, about, codex: false, port: None, no_browser: true };
    finish(run(&args, None, home).map(|next| {
        if let Next::LogIn(provider) = next {
            say(format_args!("Next: `ocx login {provider}` logs in to an account of it."));
        }
    }))
}

/// Runs the command.
pub(super) fn init(args: &InitArgs, home: &Home) -> ExitCode {
    let person = if args.yes { None } else { Person::here() };
    if !args.yes && person.is_none() && args.provider.is_none() {
        return finish(Err(
            "this is no terminal: say `--yes` and `--provider NAME`, and the rest by flags"
                .to_owned(),
        ));
    }
    match run(args, person.as_ref(), home) {
        Ok(Next::Done) => ExitCode::SUCCESS,
        Ok(Next::LogIn(provider)) => {
            let (no_browser, paste) = (args.no_browser, false);
            let code = login::login(&LoginArgs { provider, no_browser, paste }, home);
            if code == ExitCode::SUCCESS {
                say(WHAT_NEXT);
            }
            code
        }
        Err(message) => finish(Err(message)),
    }
}

const WHAT_NEXT: &str = "Next: `ocx start` starts the gateway, if it does not run; `ocx codex install` leads Codex to it.";

enum Next {
    Done,
    LogIn(String),
}

/// Whoever sits at the terminal.
struct Person(SimpleTheme);

impl Person {
    fn here() -> Option<Self> {
        let there = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if there {
            // A list hides the cursor, and would leave it so. Without a handler it is as before.
            let _ = ctrlc::set_handler(|| {
                show_cursor();
                std::process::exit(EXIT_INTERRUPTED);
            });
        }
        there.then_some(Self(SimpleTheme))
    }

    fn text(&self, question: &str) -> Result<String, String> {
        let asked = Input::with_theme(&self.0).with_prompt(question).interact_text();
        asked.map(|said: String| said.trim().to_owned()).map_err(told)
    }

    fn agrees(&self, question: &str) -> Result<bool, String> {
        Confirm::with_theme(&self.0).with_prompt(question).default(true).interact().map_err(told)
    }
}

fn show_cursor() {
    // A terminal that is gone shows none.
    let _ = Term::stderr().show_cursor();
}

fn told(error: dialoguer::Error) -> String {
    show_cursor();
    let dialoguer::Error::IO(why) = &error;
    if why.kind() == std::io::ErrorKind::Interrupted {
        // As the handler of the signal does, which runs beside us.
        std::process::exit(EXIT_INTERRUPTED);
    }
    format!("the terminal cannot be asked: {error}")
}

fn run(args: &InitArgs, person: Option<&Person>, home: &Home) -> Result<Next, String> {
    let name = match (&args.provider, person) {
        (Some(name), _) => name.clone(),
        (None, Some(person)) => pick(person)?,
        (None, None) => {
            return Err("`--provider NAME` is missing; `ocx provider list` has them".to_owned());
        }
    };
    let (path, name) = (home.config(), name.as_str());
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let with = |text: &str, fields: &str| {
        config::with_provider(text, name, fields).map_err(|error| told(&error))
    };
    let text = config::current(&path).map_err(|error| told(&error))?;
    config::check(text.as_bytes(), &path, &process_env)
        .map_err(|problems| format!("nothing was changed; mend this first:\n{problems}"))?;
    if with(&text, "{}")?.is_none() {
        if args.about.describes() {
            return Err(format!(
                "`{name}` is in {} already, so nothing was done: change it there",
                path.display()
            ));
        }
        say(format_args!("`{name}` is in {} already, and stays as it is.", path.display()));
        if is_logged_out(name, home) {
            return Ok(Next::LogIn(name.to_owned()));
        }
        return offer_codex(args, person, home);
    }
    let fields = Wanted::of(name, &args.about, person)?.fields;
    let key = fields.get("apiKey").and_then(Value::as_str).map(SecretText::from);
    let is_literal = key.is_some_and(|key| matches!(key.source(), KeySource::Literal(_)));
    let fields = Value::Object(fields).to_string();
    let changed = |text: &str| {
        let text = with(text, &fields)?.ok_or("the provider came in between")?;
        let loaded = config::check(text.as_bytes(), &path, &process_env);
        Ok::<_, String>((text, loaded.map_err(|problems| problems.to_string())?))
    };
    let (_, loaded) = changed(&text)?;
    let spec = loaded.config.providers.get(name).ok_or("the provider is not in the config")?;
    if spec.auth != AuthMode::OAuth {
        judge(spec, home, &network(&loaded.config)?)?;
    }
    // The provider took its time, and so may have a person: what is there now is changed.
    let readers = if is_literal { Readers::Owner } else { Readers::AsBefore };
    config::edit(&path, readers, |text| changed(text).map(|(text, _)| Some(text)))?;
    say(format_args!("Saved `{name}` in {}.", path.display()));
    if spec.auth == AuthMode::OAuth {
        return Ok(Next::LogIn(name.to_owned()));
    }
    offer_codex(args, person, home)
}

/// Whether a provider of the config is one for accounts, and nobody is logged in.
fn is_logged_out(name: &str, home: &Home) -> bool {
    let loaded = config::check_file(&home.config(), &process_env).ok().flatten();
    let spec = loaded.and_then(|loaded| loaded.config.providers.get(name).cloned());
    spec.is_some_and(|spec| logged_out(&spec, &Vault::new(home.path())).is_some())
}

/// Asks the provider whether it takes the key.
fn judge(
    spec: &Arc<ProviderSpec>,
    home: &Home,
    network: &crate::upstream::Network,
) -> Result<(), String> {
    for (key, verdict) in provider_check::verdicts(spec, home, network) {
        say(format_args!("{}: {key}: {verdict}", spec.id));
        if matches!(verdict, Verdict::Invalid(_)) && spec.keys.is_empty() {
            return Err(
                "it wants a key, so nothing was saved: `--key-env VAR` or `--key-stdin`".to_owned()
            );
        }
        if matches!(verdict, Verdict::Invalid(_)) {
            return Err("the provider refuses the key, so nothing was saved".to_owned());
        }
    }
    Ok(())
}

fn offer_codex(args: &InitArgs, person: Option<&Person>, home: &Home) -> Result<Next, String> {
    let which = Which { config: None, port: args.port };
    let runs = actix_web::rt::System::new().block_on(async {
        let local = Local::find(&which, home).await.ok()?;
        // A person who goes on at once should find the new provider there.
        local.manage("/api/config/reload").await.ok()
    });
    let wants = match (runs.is_some(), person) {
        (false, _) if args.codex => return Err(format!("the gateway does not run. {WHAT_NEXT}")),
        (false, _) => false,
        (true, Some(person)) if !args.codex => person.agrees("Lead Codex to ocx now?")?,
        (true, _) => args.codex,
    };
    if wants {
        codex::lead(args.port, home)?;
    } else {
        say(WHAT_NEXT);
    }
    Ok(Next::Done)
}

/// A provider to be.
struct Wanted {
    name: String,
    fields: Map<String, Value>,
}

impl Wanted {
    fn of(name: &str, about: &ProviderFlags, person: Option<&Person>) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(format!(
                "`{name}` is no name: letters, digits, dots, dashes and underscores, 64 at most"
            ));
        }
        let mut wanted = Self { name: name.to_owned(), fields: Map::new() };
        match registry::find(&wanted.name).filter(|_| about.base_url.is_none()) {
            Some(entry) => wanted.known(entry, about, person)?,
            None => wanted.custom(about, person)?,
        }
        if let Some(model) = &about.model {
            wanted.set("defaultModel", model.as_str());
        }
        Ok(wanted)
    }

    fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.fields.insert(field.to_owned(), value.into());
    }

    fn known(
        &mut self,
        entry: &ProviderEntry,
        about: &ProviderFlags,
        person: Option<&Person>,
    ) -> Result<(), String> {
        if entry.auth == AuthMode::Key {
            let page = entry.key_page.as_deref();
            self.key(about, person, entry.env_var.as_deref(), page)?;
        }
        Ok(())
    }

    fn custom(&mut self, about: &ProviderFlags, person: Option<&Person>) -> Result<(), String> {
        let base_url = match (&about.base_url, person) {
            (Some(url), _) => url.clone(),
            (None, Some(person)) => {
                person.text("Its address (such as http://localhost:8000/v1)")?
            }
            (None, None) => {
                return Err(format!(
                    "ocx does not know `{}`: give its address with `--base-url`",
                    self.name
                ));
            }
        };
        let is_address = Url::parse(&base_url)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !is_address {
            return Err(format!("`{base_url}` is no address: it begins with http:// or https://"));
        }
        self.set("adapter", about.adapter.unwrap_or(AdapterKind::OpenAiChat).name());
        self.set("baseUrl", base_url);
        let keyless = match person {
            _ if about.key_env.is_some() || about.key_stdin => false,
            Some(person) if !about.no_key => !person.agrees("Does it want a key?")?,
            _ => true,
        };
        if keyless {
            self.set("authMode", "local");
            return Ok(());
        }
        self.key(about, person, None, None)
    }

    /// The key, best as the name of a variable: then it is in no file of ours.
    fn key(
        &mut self,
        about: &ProviderFlags,
        person: Option<&Person>,
        variable: Option<&str>,
        page: Option<&str>,
    ) -> Result<(), String> {
        if let Some(variable) = &about.key_env {
            self.set("apiKey", format!("${{{variable}}}"));
            return Ok(());
        }
        if about.key_stdin {
            if std::io::stdin().is_terminal() {
                // Typed, it must not be shown.
                let key = Password::with_theme(&SimpleTheme).with_prompt("The key").interact();
                return self.literal(key.map_err(told)?.trim());
            }
            let mut key = String::new();
            std::io::stdin().read_to_string(&mut key).map_err(|error| error.to_string())?;
            return self.literal(key.trim());
        }
        // Without a word in the config, the variable that its users have is looked at.
        let is_set = variable.filter(|variable| process_env(variable).is_some());
        let Some(person) = person else { return Ok(()) };
        if let Some(variable) = is_set
            && person.agrees(&format!("Use the key in the variable {variable}?"))?
        {
            self.set("apiKey", format!("${{{variable}}}"));
            return Ok(());
        }
        if let Some(page) = page {
            say(format_args!("You get a key at {page}"));
            login::open_browser(page);
        }
        let hint = variable
            .map(|variable| format!("; empty: it will be in {variable}"))
            .unwrap_or_default();
        let question = format!("The key (it is not shown{hint})");
        let key = Password::with_theme(&person.0)
            .with_prompt(question)
            .allow_empty_password(variable.is_some())
            .interact()
            .map_err(told)?;
        match (key.trim(), variable) {
            ("", Some(variable)) => {
                self.set("apiKey", format!("${{{variable}}}"));
                Ok(())
            }
            // Written as in the config, be it a variable.
            (key, _) if matches!(SecretText::from(key).source(), KeySource::Env(_)) => {
                self.set("apiKey", key);
                Ok(())
            }
            (key, _) => self.literal(key),
        }
    }

    /// A key as it is, whatever it begins with.
    fn literal(&mut self, key: &str) -> Result<(), String> {
        if key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a key is one word of visible characters; this is none".to_owned());
        }
        let escaped = match key.strip_prefix('$') {
            Some(rest) => format!("$${rest}"),
            None => key.to_owned(),
        };
        self.set("apiKey", escaped);
        Ok(())
    }
}

/// Lets the person choose among what the registry knows, or name another.
fn pick(person: &Person) -> Result<String, String> {
    let mut names: Vec<&str> = registry::entries().map(|(id, _)| id).collect();
    let mut labels: Vec<String> =
        registry::entries().map(|(id, entry)| format!("{id} ({})", entry.label)).collect();
    names.push("");
    labels.push("another server".to_owned());
    let chosen = FuzzySelect::with_theme(&person.0)
        .with_prompt("Which provider (type to search)")
        .items(&labels)
        .default(0)
        .interact()
        .map_err(told)?;
    match names.get(chosen) {
        Some(name) if !name.is_empty() => Ok((*name).to_owned()),
        _ => person.text("A name for it"),
    }
}
