//! What the command line takes. The text of each item is its help.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::{
    config::parse_host,
    registry::AdapterKind,
    telemetry::{ledger::By, logging::LogFormat},
};

/// A gateway between coding agents and any LLM provider.
#[derive(Debug, Parser)]
#[command(name = "ocx", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the gateway in the foreground until SIGINT or SIGTERM; SIGHUP reloads the config.
    Serve(Serve),
    /// Run the gateway in the background, and come back when it answers.
    Start(StartArgs),
    /// Let running streams end, stop the gateway, and bring Codex's own files back.
    Stop(StopArgs),
    /// Stop the gateway and start it as before; a Codex that is led to it stays so.
    Restart(RestartArgs),
    /// Print what runs: process, health, config and providers; exit 0 if it answers, 3 if nothing runs.
    Status(StatusArgs),
    /// Print the log of a gateway that `ocx start` started.
    Logs(LogsArgs),
    /// Open the dashboard in a browser; starts the gateway if it does not run.
    Open(OpenArgs),
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
    /// Look at the providers that ocx knows, and change those of the config.
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// Lead Codex to ocx, or look how it is set up.
    #[command(subcommand)]
    Codex(CodexCommand),
    /// Print the models that a running gateway offers.
    Models(ModelsArgs),
    /// Look for what keeps ocx from working, and say what to do about it.
    Doctor(DoctorArgs),
    /// Say what became of a call: why this provider, what was tried again or dropped, and how long it took.
    Explain(ExplainArgs),
    /// Try what a model can do, through a running gateway; asks it some twelve small questions.
    Verify(VerifyArgs),
    /// Tell a Codex that is set up of the models of now.
    Sync(Which),
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
    Reload(Which),
}

/// How a gateway is served, in the foreground or not.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Serving {
    /// Config file [default: config.json in $OPENCODEX_HOME or ~/.opencodex; none is needed].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on, instead of the config's `hostname`.
    #[arg(long, value_name = "ADDR", value_parser = host)]
    pub host: Option<IpAddr>,
    /// Port to listen on, instead of the config's; `serve` takes 0 for a free one.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl Serving {
    /// The flags that say the same; paths are whole.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--log-format".to_owned(), self.log_format.name().to_owned()];
        if let Some(host) = self.host {
            flags.extend(["--host".to_owned(), host.to_string()]);
        }
        if let Some(port) = self.port {
            flags.extend(["--port".to_owned(), port.to_string()]);
        }
        if let Some(config) = &self.config {
            let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
            flags.extend(["--config".to_owned(), config.display().to_string()]);
        }
        flags
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub serving: Serving,
    /// Write the log there instead of to stderr: at most 16 MB, and three files of before.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Leave the terminal, as `ocx start` wants it.
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Which running gateway a command means.
#[derive(Debug, Default, Clone, clap::Args)]
pub(super) struct Which {
    /// Config file that tells where the gateway listens [default: that of the gateway that runs].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Port of the gateway, where several run.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    pub serving: Serving,
    /// Lead Codex to it, too.
    #[arg(long)]
    pub codex: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct StopArgs {
    /// Only the one on this port [default: every gateway of this home].
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Do not wait for running streams.
    #[arg(long)]
    pub now: bool,
    /// Leave Codex set up.
    #[arg(long)]
    pub keep_codex: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RestartArgs {
    /// The one on this port, where several run.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Do not wait for running streams.
    #[arg(long)]
    pub now: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Of the gateway on this port [default: of the one that runs, else the log that was written last].
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// How many lines, from the end.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub lines: usize,
    /// Go on with what is written from now on.
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct OpenArgs {
    /// The one on this port, where several run.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub which: Which,
    /// Ask no provider.
    #[arg(long)]
    pub offline: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The response's id, or the `x-request-id` of its answer [default: a line for each of the last calls].
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub id: Option<String>,
    #[command(flatten)]
    pub which: Which,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// PROVIDER/MODEL, or PROVIDER for its default model.
    pub model: String,
    /// Write what the model lacks into the config, so that it is not asked for that any more.
    #[arg(long)]
    pub write: bool,
    #[command(flatten)]
    pub which: Which,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// Ask nothing: what no flag says is left at its default.
    #[arg(long)]
    pub yes: bool,
    /// The provider: a name of `ocx provider list`, or one of your own with `--base-url`.
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    #[command(flatten)]
    pub about: ProviderFlags,
    /// Lead Codex to the running gateway too.
    #[arg(long)]
    pub codex: bool,
    /// Port of the gateway, where several run.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// For accounts: print the address and open no browser.
    #[arg(long)]
    pub no_browser: bool,
}

/// How a provider is that is added.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ProviderFlags {
    /// Its address, where ocx does not know it.
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Its protocol, where ocx does not know it [default: openai-chat].
    #[arg(long, value_name = "NAME", value_parser = adapter)]
    pub adapter: Option<AdapterKind>,
    /// The variable that holds its key.
    #[arg(long, value_name = "VAR", value_parser = variable, conflicts_with_all = ["key_stdin", "no_key"])]
    pub key_env: Option<String>,
    /// Read its key from standard input.
    #[arg(long, conflicts_with = "no_key")]
    pub key_stdin: bool,
    /// It wants no key.
    #[arg(long)]
    pub no_key: bool,
    /// Its model when a caller names it without a provider.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct LoginArgs {
    /// The provider.
    pub provider: String,
    /// Print the address and open no browser; it may still come back to this machine.
    #[arg(long)]
    pub no_browser: bool,
    /// Listen for nothing: paste what the browser ends at. For machines without one.
    #[arg(long)]
    pub paste: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogoutArgs {
    /// The provider.
    pub provider: String,
    /// One account, by id or address [default: all].
    #[arg(long)]
    pub account: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum AccountsCommand {
    /// Print every account and how long its token is good.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
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
pub(super) enum ProviderCommand {
    /// Print every provider: address, how it authenticates, where a key comes from, and its state.
    List {
        /// As JSON, with every fact.
        #[arg(long)]
        json: bool,
    },
    /// Add a provider to the config by flags alone, as `ocx init --yes` does; its key is checked first.
    Add {
        /// A name of `ocx provider list`, or one of your own with `--base-url`.
        provider: String,
        #[command(flatten)]
        about: ProviderFlags,
    },
    /// Take a provider out of the config; everything else in it stays as it is.
    Remove {
        /// The provider.
        provider: String,
    },
    /// Ask each provider of the config, or one, whether it takes its keys: valid, invalid or unknown.
    #[command(visible_alias = "check")]
    Test {
        /// The provider [default: all that are not disabled].
        provider: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CodexCommand {
    /// Put ocx and its models into Codex's config; what was there is kept, for `ocx restore`.
    Install(Which),
    /// As `ocx restore`.
    Uninstall,
    /// Print whether Codex uses ocx.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a config exactly as `serve` and reload do; exit 0 if it may run, 1 if not.
    Check {
        /// The file [default: as for `serve`].
        file: Option<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of config.json, for editors.
    Schema,
}

#[derive(Debug, clap::Args)]
pub(super) struct ModelsArgs {
    /// Only those of this provider.
    pub provider: Option<String>,
    #[command(flatten)]
    pub which: Which,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UsageArgs {
    /// What turns are summed by.
    #[arg(long, value_enum, default_value = "provider")]
    pub by: By,
    /// Only turns from this day on, in this machine's time zone.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    pub since: Option<jiff::civil::Date>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

impl ProviderFlags {
    /// Whether anything is said of how the provider is.
    pub fn describes(&self) -> bool {
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
