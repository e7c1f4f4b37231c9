//! The command line.

use std::{io::Write as _, net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    config::{Config, Home, ProviderSpec, parse_host},
    credentials::Vault,
    registry::{AdapterKind, AuthMode},
    telemetry::{ledger::By, logging::LogFormat},
    upstream::Network,
};

mod codex;
mod config;
mod init;
mod local;
mod login;
mod models;
mod provider;
mod provider_check;
mod reload;
mod serve;
mod usage;

pub use serve::{Program, Running};

/// Exit code of a config that does not check (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// A gateway between coding agents and any LLM provider.
#[derive(Debug, Parser)]
#[command(name = "ocx", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the gateway and run until SIGINT or SIGTERM; SIGHUP reloads the config.
    Serve(Serve),
    /// Add a provider to the config, step by step or by flags; its key is checked before it is saved.
    Init(InitArgs),
    /// Log in to an account of a provider (xai, anthropic, kimi), by browser, paste or device code.
    Login(LoginArgs),
    /// Forget an account's login.
    Logout(LogoutArgs),
    /// Look at the accounts that are logged in, or choose among them.
    Accounts {
        #[command(subcommand)]
        command: Option<AccountsCommand>,
    },
    /// Look at the providers that ocx knows and that the config has.
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// Lead Codex to ocx, or look how it is set up.
    #[command(subcommand)]
    Codex(CodexCommand),
    /// Print the models that a running gateway offers.
    Models(ModelsArgs),
    /// Tell a Codex that is set up of the models of now.
    Sync(CodexInstall),
    /// Bring Codex's own files back, byte for byte.
    Restore,
    /// Look at config files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Sum what turns used: tokens, and cost where the config has prices.
    Usage(UsageArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
    /// Make a running gateway read its config now, and say what came of it.
    Reload(ReloadArgs),
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Config file [default: config.json in $OPENCODEX_HOME or ~/.opencodex; none is needed].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, instead of the config's `hostname`.
    #[arg(long, value_name = "ADDR", value_parser = host)]
    host: Option<IpAddr>,
    /// Port to listen on, instead of the config's; 0 picks a free one.
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Ask nothing: what no flag says is left at its default.
    #[arg(long)]
    yes: bool,
    /// The provider: a name of `ocx provider list`, or one of your own with `--base-url`.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Its address, where ocx does not know it.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Its protocol, where ocx does not know it [default: openai-chat].
    #[arg(long, value_name = "NAME", value_parser = adapter)]
    adapter: Option<AdapterKind>,
    /// The variable that holds its key.
    #[arg(long, value_name = "VAR", value_parser = variable, conflicts_with_all = ["key_stdin", "no_key"])]
    key_env: Option<String>,
    /// Read its key from standard input.
    #[arg(long, conflicts_with = "no_key")]
    key_stdin: bool,
    /// It wants no key.
    #[arg(long)]
    no_key: bool,
    /// Its model when a caller names it without a provider.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Lead Codex to the running gateway too.
    #[arg(long)]
    codex: bool,
    /// Port of the gateway, if it was started with `--port`.
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// For accounts: print the address and open no browser.
    #[arg(long)]
    no_browser: bool,
}

#[derive(Debug, clap::Args)]
struct LoginArgs {
    /// The provider.
    provider: String,
    /// Print the address and open no browser; it may still come back to this machine.
    #[arg(long)]
    no_browser: bool,
    /// Listen for nothing: paste what the browser ends at. For machines without one.
    #[arg(long)]
    paste: bool,
}

#[derive(Debug, clap::Args)]
struct LogoutArgs {
    /// The provider.
    provider: String,
    /// One account, by id or address [default: all].
    #[arg(long)]
    account: Option<String>,
}

#[derive(Debug, Subcommand)]
enum AccountsCommand {
    /// Print every account and how long its token is good.
    List,
    /// Use this account of a provider.
    Use {
        /// The provider.
        provider: String,
        /// The account, by id or address.
        account: String,
    },
    /// Renew the token of the account in use now.
    Refresh {
        /// The provider.
        provider: String,
    },
}

#[derive(Debug, Subcommand)]
enum ProviderCommand {
    /// Print every provider: address, how it authenticates, where a key comes from, and its state.
    List {
        /// As JSON, with every fact.
        #[arg(long)]
        json: bool,
    },
    /// Ask each provider of the config, or one, whether it takes its keys: valid, invalid or unknown.
    Check {
        /// The provider [default: all].
        provider: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum CodexCommand {
    /// Put ocx and its models into Codex's config; what was there is kept, for `ocx restore`.
    Install(CodexInstall),
    /// As `ocx restore`.
    Uninstall,
    /// Print whether Codex uses ocx.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct CodexInstall {
    /// Config file that tells where the gateway listens [default: as for `serve`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the gateway, if it was started with `--port`.
    #[arg(long, value_name = "N")]
    port: Option<u16>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a config exactly as `serve` and reload do; exit 0 if it may run, 1 if not.
    Check {
        /// The file [default: as for `serve`].
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of config.json, for editors.
    Schema,
}

#[derive(Debug, clap::Args)]
struct ReloadArgs {
    /// Config file that tells where the gateway listens [default: as for `serve`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the gateway, if it was started with `--port`.
    #[arg(long, value_name = "N")]
    port: Option<u16>,
}

#[derive(Debug, clap::Args)]
struct ModelsArgs {
    /// Only those of this provider.
    provider: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Config file that tells where the gateway listens [default: as for `serve`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the gateway, if it was started with `--port`.
    #[arg(long, value_name = "N")]
    port: Option<u16>,
}

#[derive(Debug, clap::Args)]
struct UsageArgs {
    /// What turns are summed by.
    #[arg(long, value_enum, default_value = "provider")]
    by: By,
    /// Only turns from this day on, in this machine's time zone.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    since: Option<jiff::civil::Date>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl InitArgs {
    /// Whether anything is said of how the provider is.
    fn describes(&self) -> bool {
        self.base_url.is_some()
            || self.adapter.is_some()
            || self.key_env.is_some()
            || self.model.is_some()
            || self.key_stdin
            || self.no_key
    }
}

fn variable(text: &str) -> Result<String, String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let legal = text.chars().all(word) && text.starts_with(|c: char| !c.is_ascii_digit());
    // Not repeated: it may be the key itself.
    legal
        .then(|| text.to_owned())
        .ok_or_else(|| "write the name of a variable, not the key".to_owned())
}

fn adapter(text: &str) -> Result<AdapterKind, String> {
    let all = AdapterKind::ALL;
    all.into_iter()
        .find(|kind| kind.name() == text)
        .ok_or_else(|| format!("one of {}", all.map(AdapterKind::name).join(", ")))
}

fn day(text: &str) -> Result<jiff::civil::Date, String> {
    text.parse().map_err(|_| "write a day, such as 2026-11-26".to_owned())
}

fn host(text: &str) -> Result<IpAddr, String> {
    parse_host(text).ok_or_else(|| "write an IP address, or localhost".to_owned())
}

/// Settings of connections, as the config has them.
fn network(config: &Config) -> Result<Network, String> {
    let connect = config.limits.timeouts.connect;
    Network::trusting(connect, config.ca_file.as_deref())
        .map_err(|error| format!("caFile: {error}"))
}

/// What an account provider lacks, if it is one.
fn logged_out(provider: &ProviderSpec, vault: &Vault) -> Option<String> {
    if provider.auth != AuthMode::OAuth {
        return None;
    }
    let id = provider.id.as_str();
    let usable = vault.open().is_ok_and(|opened| opened.store.accounts(id).usable().is_some());
    (!usable).then(|| format!("`ocx login {id}`"))
}

/// Prints a line. A reader that has gone (`ocx … | head -1`) is no reason to fall over. Several lines
/// are one write: who reads the first can read all of them.
fn say(line: impl std::fmt::Display) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// The exit code of a command, whose failure is told.
fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ocx: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the program.
pub fn run() -> ExitCode {
    let home = Home::find();
    match Cli::parse().command {
        Command::Serve(args) => serve::run(&args, &home),
        Command::Init(args) => init::init(&args, &home),
        Command::Login(args) => login::login(&args, &home),
        Command::Logout(args) => login::logout(&args, &home),
        Command::Accounts { command } => login::accounts(command.as_ref(), &home),
        Command::Provider(ProviderCommand::List { json }) => provider::list(json, &home),
        Command::Provider(ProviderCommand::Check { provider }) => {
            provider_check::check(provider.as_deref(), &home)
        }
        Command::Config(ConfigCommand::Check { file: Some(file) }) => {
            config::check(&file, true, &home)
        }
        Command::Config(ConfigCommand::Check { file: None }) => {
            config::check(&home.config(), false, &home)
        }
        Command::Config(ConfigCommand::Schema) => config::schema(),
        Command::Codex(command) => codex::run(&command, &home),
        Command::Models(args) => models::list(&args, &home),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ocx", &mut script);
            say(String::from_utf8_lossy(&script).trim_end());
            ExitCode::SUCCESS
        }
        Command::Man => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
            say(String::from_utf8_lossy(&page).trim_end());
            finish(rendered.map_err(|error| error.to_string()))
        }
        Command::Sync(args) => codex::sync(&args, &home),
        Command::Restore => codex::restore(&home),
        Command::Usage(args) => usage::usage(&args, &home),
        Command::Reload(args) => reload::run(&args, &home),
    }
}
