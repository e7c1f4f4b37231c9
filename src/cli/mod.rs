//! The command line.

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::{CommandFactory as _, Parser as _};

use crate::{
    config::{Config, Home, ProviderSpec},
    credentials::Vault,
    registry::AuthMode,
    upstream::Network,
};

mod args;
mod codex;
mod config;
mod doctor;
mod explain;
mod gateway;
mod init;
mod login;
mod models;
mod provider;
mod provider_check;
mod reload;
mod style;
mod usage;
mod verify;

use args::{Cli, Command, ConfigCommand, ProviderCommand};

pub use gateway::serve::{Program, Running};

/// Exit code of a config that does not check (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// Exit code of who was interrupted, as shells have it: 128 and the number of SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

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
    // Without colours, if it is no terminal.
    let written = anstream::stdout().write_all(format!("{line}\n").as_bytes());
    let failed = written.err().filter(|error| error.kind() != ErrorKind::BrokenPipe);
    if let Some(error) = failed
        // What is done stays done; the exit code tells.
        && !UNWRITTEN.swap(true, Ordering::Relaxed)
    {
        eprintln!("ocx: the output cannot be written: {error}");
    }
}

/// The exit code of a command, whose failure is told.
fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Upstreams have their say in it.
            let lines: Vec<_> = message.lines().map(style::plain).collect();
            eprintln!("ocx: {}", lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// Whether something was not told because the output could not be written.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// Runs the program.
pub fn run() -> ExitCode {
    let code = run_command();
    let untold = code == ExitCode::SUCCESS && UNWRITTEN.load(Ordering::Relaxed);
    if untold { ExitCode::FAILURE } else { code }
}

fn run_command() -> ExitCode {
    let home = Home::find();
    match Cli::parse().command {
        Command::Serve(args) => gateway::serve::run(&args, &home),
        Command::Start(args) => gateway::start::start(&args, &home),
        Command::Stop(args) => gateway::stop::stop(&args, &home),
        Command::Restart(args) => gateway::restart::restart(&args, &home),
        Command::Open(args) => gateway::start::open(&args, &home),
        Command::Status(args) => gateway::status::status(&args, &home),
        Command::Logs(args) => gateway::logs::logs(&args, &home),
        Command::Doctor(args) => doctor::doctor(&args, &home),
        Command::Explain(args) => explain::explain(&args, &home),
        Command::Verify(args) => verify::verify(&args, &home),
        Command::Init(args) => init::init(&args, &home),
        Command::Login(args) => login::login(&args, &home),
        Command::Logout(args) => login::logout(&args, &home),
        Command::Accounts { command } => login::accounts(command.as_ref(), &home),
        Command::Provider(ProviderCommand::List { json }) => provider::list(json, &home),
        Command::Provider(ProviderCommand::Add { provider, about }) => {
            init::add(provider, about, &home)
        }
        Command::Provider(ProviderCommand::Remove { provider }) => {
            provider::remove(&provider, &home)
        }
        Command::Provider(ProviderCommand::Test { provider, json }) => {
            provider_check::check(provider.as_deref(), json, &home)
        }
        Command::Config(ConfigCommand::Check { file, json }) => {
            config::check(file.as_deref(), json, &home)
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
