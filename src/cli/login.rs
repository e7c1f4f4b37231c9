//! `ocx login`, `ocx logout` and `ocx accounts`.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    args::{AccountsCommand, LoginArgs, LogoutArgs},
    finish, network, say,
};
use crate::{
    config::{self, Home, Loaded, ProviderSpec, process_env},
    credentials::{Account, Repair, Vault, now_ms},
    http::{Callback, bind_callback},
    oauth::{Authorization, Code, Grant, Refusal, Server, Why, login_reach, refresh},
    registry::{self, AuthMode, Login},
    upstream::{Network, Upstream},
};

/// How long a person has to log in.
const PATIENCE: Duration = Duration::from_secs(300);
/// Lines of input that wait to be read.
const LINES: usize = 4;

/// `ocx login`.
pub(super) fn login(args: &LoginArgs, home: &Home) -> ExitCode {
    finish(actix_web::rt::System::new().block_on(log_in(args, home)))
}

async fn log_in(args: &LoginArgs, home: &Home) -> Result<(), String> {
    let (provider, vault) = (args.provider.as_str(), Vault::new(home.path()));
    let (spec, network) = configured(provider, home)?;
    let login = login_of(provider, spec.as_deref())?;
    explain(provider, &vault);
    let mut server = server(login, spec.as_deref(), &network);
    server.discover().await.map_err(|error| error.to_string())?;
    let grant = if server.uses_device() {
        by_device(&server).await?
    } else {
        let flow = actix_web::rt::time::timeout(PATIENCE, by_browser(&server, args));
        let late = |_| format!("nobody logged in within {} seconds", PATIENCE.as_secs());
        flow.await.map_err(late)??
    };
    if !grant.renews() {
        say("The server gave no refresh token: this login ends with its access token.");
    }
    let origin = match &spec {
        Some(spec) => spec.origin(),
        None => registry::find(provider).and_then(|entry| origin(&entry.base_url)),
    };
    let account = grant.into_account(provider, origin, server.issuer(), now_ms());
    let kept = vault.change(Repair::Yes, |store| store.log_in(&account));
    kept.map_err(|error| error.to_string())?;
    say(format_args!("Logged in to {provider} as {}.", name(&account)));
    let added = config::add_provider(&home.config(), provider)
        .map_err(|error| format!("{error}; add `\"{provider}\": {{}}` to its providers"))?;
    if added {
        say(format_args!("Added `{provider}` to {}.", home.config().display()));
    }
    if spec.is_some_and(|spec| spec.auth != AuthMode::OAuth) {
        say(format_args!(
            "The config gives `{provider}` an apiKey or another authMode, which is used instead: take it \
             out, or set `\"authMode\": \"oauth\"`."
        ));
    }
    say("A running gateway uses the login from now on.");
    Ok(())
}

/// The provider as the config has it.
fn configured(provider: &str, home: &Home) -> Result<(Option<Arc<ProviderSpec>>, Network), String> {
    let loaded = config::check_file(&home.config(), &process_env);
    let loaded = loaded.map_err(|problems| problems.to_string())?;
    let config = loaded.unwrap_or_else(|| Loaded::defaults(&process_env)).config;
    Ok((config.providers.get(provider).cloned(), network(&config)?))
}

fn server(login: Login, spec: Option<&ProviderSpec>, network: &Network) -> Server {
    let reach = spec.map(|spec| spec.reach.clone()).unwrap_or_default();
    let reach = login_reach(&login, &reach);
    Server::new(login, Upstream::new(network).via(&reach))
}

fn login_of(provider: &str, spec: Option<&ProviderSpec>) -> Result<Login, String> {
    if let Some(login) = spec.and_then(|spec| spec.login.clone()) {
        return Ok(login);
    }
    let entry = registry::find(provider);
    if let Some(login) = entry.and_then(|entry| entry.login.clone()) {
        return Ok(login);
    }
    if let Some(page) = entry.and_then(|entry| entry.key_page.as_ref()) {
        return Err(format!(
            "`{provider}` has keys and no login: get one at {page} and put it into `apiKey`"
        ));
    }
    let known: Vec<&str> =
        registry::entries().filter(|(_, entry)| entry.login.is_some()).map(|(id, _)| id).collect();
    Err(format!("`{provider}` has no login; these have: {}", known.join(", ")))
}

/// Says what will happen before it does.
fn explain(provider: &str, vault: &Vault) {
    let entry = registry::find(provider);
    let label = entry.map_or(provider, |entry| entry.label.as_str());
    say(format_args!(
        "This logs ocx in to an account of {label}. Its tokens are kept in {}, readable by you alone, and \
         renewed by a running gateway. ocx says who it is, and does not pass for another program.",
        vault.path().display()
    ));
    say(
        "Vendors may restrict what other programs than their own do with such a login: see their terms.",
    );
    if let Some(page) = entry.and_then(|entry| entry.key_page.as_ref()) {
        say(format_args!("An API key ({page}, as `apiKey`) has no such question."));
    }
}

fn origin(address: &str) -> Option<String> {
    url::Url::parse(address).ok().map(|url| url.origin().ascii_serialization())
}

async fn by_device(server: &Server) -> Result<Grant, String> {
    let device = server.begin_device().await.map_err(|error| error.to_string())?;
    say(format_args!("\nOpen {}\nand confirm the code {}", device.page(), device.user_code()));
    server.await_device(&device).await.map_err(|error| error.to_string())
}

async fn by_browser(server: &Server, args: &LoginArgs) -> Result<Grant, String> {
    let wanted = server.redirect().map_err(|error| error.to_string())?;
    let bound = if args.paste { None } else { bind(&wanted, server.takes_any_port()) };
    let redirect = bound.as_ref().map_or(wanted, |callback| callback.redirect.clone());
    let login = server.authorize(redirect).map_err(|error| error.to_string())?;
    let login = Arc::new(login);
    say(format_args!("\nOpen {}\n", login.url));
    if bound.is_some() && !args.no_browser {
        open_browser(login.url.as_str());
    }
    say(
        "If the browser cannot come back here, paste the address it ends at, or the code it shows:",
    );
    let code = code(bound, Arc::clone(&login)).await?;
    server.redeem(&login, &code).await.map_err(|error| error.to_string())
}

fn bind(redirect: &url::Url, any_port: bool) -> Option<Callback> {
    match bind_callback(redirect, any_port) {
        Ok(callback) => Some(callback),
        Err(error) => {
            say(format_args!("{redirect} cannot be listened on ({error}), so paste what you get."));
            None
        }
    }
}

/// The code, from the browser or from what is pasted, whichever comes first.
async fn code(callback: Option<Callback>, login: Arc<Authorization>) -> Result<Code, String> {
    let pasted = pasted(Arc::clone(&login));
    let Some(callback) = callback else {
        return pasted.await;
    };
    tokio::select! {
        code = callback.answer(login) => code.map_err(|refusal| refusal.to_string()),
        code = pasted => code,
    }
}

async fn pasted(login: Arc<Authorization>) -> Result<Code, String> {
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        match login.paste(&line) {
            Ok(code) => return Ok(code),
            Err(refusal @ Refusal::Denied(_)) => return Err(refusal.to_string()),
            Err(refusal) => say(format_args!("{refusal}; once more:")),
        }
    }
    // No input: the browser may still come back.
    drop(login);
    std::future::pending().await
}

/// Lines of the standard input, read aside: a read cannot be given up.
fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Opens the person's browser, if there is one; the address is printed in any case. It is an argument,
/// never part of a shell's line.
pub(super) fn open_browser(url: &str) {
    if !io::stdout().is_terminal() {
        return;
    }
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let quiet = Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // No browser here is no failure.
    drop(quiet);
}

/// `ocx logout`.
pub(super) fn logout(args: &LogoutArgs, home: &Home) -> ExitCode {
    let vault = Vault::new(home.path());
    let (provider, account) = (&args.provider, args.account.as_deref());
    let gone = vault.log_out(provider, account);
    if gone.is_ok() {
        for copy in vault.broken_copies() {
            say(format_args!(
                "{} is a copy of a damaged auth.json and may hold tokens; delete it if nobody needs it.",
                copy.display()
            ));
        }
    }
    finish(match gone {
        Ok(0) => Err(format!("no such account of `{provider}` is logged in")),
        Ok(count) => {
            say(format_args!(
                "Forgot {count} account(s) of {provider}. The vendor may still list the login: end it there."
            ));
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    })
}

/// `ocx accounts …`.
pub(super) fn accounts(command: Option<&AccountsCommand>, home: &Home) -> ExitCode {
    let vault = Vault::new(home.path());
    finish(match command {
        None => list(&vault, false),
        Some(AccountsCommand::List { json }) => list(&vault, *json),
        Some(AccountsCommand::Use { provider, account }) => activate(&vault, provider, account),
        Some(AccountsCommand::Refresh { provider }) => {
            actix_web::rt::System::new().block_on(renew(&vault, provider, home))
        }
    })
}

fn list(vault: &Vault, json: bool) -> Result<(), String> {
    let opened = vault.open().map_err(|error| error.to_string())?;
    if let Some(damage) = opened.damage {
        eprintln!("{}: {damage}; `ocx login` repairs it", vault.path().display());
    }
    let mut rows = Vec::new();
    for provider in opened.store.providers() {
        let accounts = opened.store.accounts(provider);
        let used = accounts.usable().map(|account| account.id.clone());
        rows.extend(accounts.list.iter().map(|account| Row {
            provider,
            account: name(account).to_owned(),
            used: Some(&account.id) == used.as_ref(),
            state: state(account),
            expires_ms: account.tokens.expires,
        }));
    }
    if json {
        say(serde_json::to_string_pretty(&rows).unwrap_or_default());
        return Ok(());
    }
    for row in &rows {
        let mark = if row.used { '*' } else { ' ' };
        say(format_args!("{mark} {:<12} {:<32} {}", row.provider, row.account, row.state));
    }
    say(match rows.is_empty() {
        true => "Nobody is logged in; `ocx login <provider>` does that.",
        false => "* is used.",
    });
    Ok(())
}

/// An account; nothing of its tokens but when they end.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    provider: &'a str,
    account: String,
    used: bool,
    state: String,
    /// Milliseconds since 1970.
    expires_ms: u64,
}

fn name(account: &Account) -> &str {
    account.email.as_deref().unwrap_or(&account.id)
}

fn state(account: &Account) -> String {
    let now = now_ms();
    match (&account.needs_login, account.tokens.expires) {
        (Some(reason), _) => format!("log in again: {reason}"),
        (None, expires) if expires > now => {
            format!("token good for {} more minutes", (expires - now) / 60_000)
        }
        (None, _) if account.tokens.refresh.is_some() => "token to be renewed".to_owned(),
        (None, _) => "log in again: the token ended".to_owned(),
    }
}

fn activate(vault: &Vault, provider: &str, account: &str) -> Result<(), String> {
    let found = vault.change(Repair::No, |store| store.activate(provider, account));
    match found.map_err(|error| error.to_string())? {
        true => {
            say(format_args!("{provider} uses {account} now."));
            Ok(())
        }
        false => Err(format!("no account `{account}` of `{provider}` is logged in")),
    }
}

/// Renews the tokens of the account in use.
async fn renew(vault: &Vault, provider: &str, home: &Home) -> Result<(), String> {
    let (spec, network) = configured(provider, home)?;
    let login = login_of(provider, spec.as_deref())?;
    let opened = vault.open().map_err(|error| error.to_string())?;
    let accounts = opened.store.accounts(provider);
    let account = accounts.usable().ok_or_else(|| format!("`ocx login {provider}` first"))?;
    let mut server = server(login, spec.as_deref(), &network);
    let renewed = refresh(vault, &mut server, account, Why::Rejected).await;
    let renewed = renewed.map_err(|error| error.to_string())?;
    if !renewed.saved && !vault.save(provider) {
        return Err("the new tokens cannot be saved, and are lost when this ends".to_owned());
    }
    say(format_args!("{provider} {}: {}", name(&renewed.account), state(&renewed.account)));
    Ok(())
}
