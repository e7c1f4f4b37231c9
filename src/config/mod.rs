//! `config.json`: as written ([`ConfigFile`]) and as used ([`Config`]). One function goes between
//! and reports every problem at once; `serve`, reload and `ocx config check` all call it.

mod build;
mod combo;
mod file;
mod load;
mod locate;
mod paths;
mod reach;
mod save;
mod secret;
mod spec;
mod telemetry;

pub use combo::{Combo, ComboFile, Strategy, Target, TargetFile};
pub use file::{ConfigFile, ProviderFile, WatchMode};
pub use load::{ConfigProblem, ConfigProblems, Loaded, MAX_FILE, check, check_file, schema};
pub use paths::Home;
pub use reach::{ProxyChoice, Reach, is_loopback};
pub use save::{
    Readers, add_provider, current, edit, with_provider, with_provider_field, without_provider,
};
pub use secret::{Env, KeySource, SecretText, process_env};
pub use spec::{
    Access, Config, DEFAULT_PORT, DataKey, Limits, Listen, ProviderSpec, Retries, Timeouts,
    parse_host, reachable,
};
pub use telemetry::{LedgerFile, OtlpFile, TelemetryFile, TelemetrySpec};
