//! `config.json` as it is written: camelCase, every field optional, unknown fields kept.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ComboFile, KeySource, SecretText, TelemetryFile};
use crate::{
    model::Price,
    registry::{AdapterKind, AuthMode, Login, Quirks},
};

/// The settings of the gateway.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(title = "ocx config.json")]
pub struct ConfigFile {
    /// Where an editor finds the schema of this file.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Port to listen on; 0 picks a free one. Default 10100. Takes effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Address to listen on. Default `127.0.0.1`. Anything beyond loopback demands `apiKeys` and
    /// `adminToken`. Takes effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Worker threads. Default: one per core. Takes effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// The upstreams, by a name of your choice. A name that `ocx` knows needs only what differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<IndexMap<String, ProviderFile>>,
    /// The provider for models that no other rule places. Default: `openai` if there is one, else
    /// the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_provider: Option<String>,
    /// Virtual models: one name for several models of which one answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub combos: Option<IndexMap<String, ComboFile>>,
    /// How often a call is tried again at one provider, before the first byte of its answer. Default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Whether a call is tried again that the upstream answered with a server error, and may bill twice.
    /// Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_posts: Option<bool>,
    /// Models (`provider/model`) that lists leave out; they can still be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_models: Option<Vec<String>>,
    /// Models that Codex offers to its sub-agents, and first to people: `provider/model`, a combo or one
    /// of its own; at most five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subagent_models: Option<Vec<String>>,
    /// Keys that callers must present in `x-opencodex-api-key` or as a bearer token, beyond
    /// loopback. Literal or `${VAR}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<Vec<SecretText>>,
    /// Token of the management API. Literal or `${VAR}`. On loopback one is made if none is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<SecretText>,
    /// Demand `apiKeys` on loopback too. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_key_on_loopback: Option<bool>,
    /// Host names, beside the loopback ones, that requests may address us by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Web origins that may call `/v1/*` from a browser. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_origins: Option<Vec<String>>,
    /// How long a provider's model list is fresh, in milliseconds. Default 300000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_cache_ttl_ms: Option<u64>,
    /// Name look-up, TCP and TLS together, in milliseconds. Default 10000. Takes effect at the
    /// next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// From the request to the head of a streamed answer, in milliseconds. Default 120000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_timeout_ms: Option<u64>,
    /// From the request to the head of an answer that is no stream, in milliseconds. Default
    /// 600000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_timeout_ms: Option<u64>,
    /// Silence of an upstream, not even a comment, that ends a stream, in seconds. Default 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout_sec: Option<u64>,
    /// How long an upstream may send nothing but signs of life, in seconds. Default 900.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_timeout_sec: Option<u64>,
    /// Silence towards the caller after which it gets a sign of life, in milliseconds. Default
    /// 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_interval_ms: Option<u64>,
    /// How long a caller may take nothing of its stream before the upstream is let go, in
    /// milliseconds. Default 60000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_write_timeout_ms: Option<u64>,
    /// How long running streams may go on after SIGTERM, in milliseconds. Default 30000. Takes
    /// effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_timeout_ms: Option<u64>,
    /// How long streams of a removed or changed provider may go on, in seconds. Default 900.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout_sec: Option<u64>,
    /// Largest request body, after decompression, in bytes. Default 268435456.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    /// Serve the Responses API over WebSocket too. Default false: upgrades are answered with 426, and
    /// Codex goes on over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websockets: Option<bool>,
    /// A PEM file of certificates to trust besides those of the machine, as companies have them. Takes
    /// effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// `auto` (default) watches the config file and looks at it every two seconds besides; `poll`
    /// only looks. Takes effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<WatchMode>,
    /// The usage ledger, and traces. Takes effect at the next start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<TelemetryFile>,
    /// What we do not know, kept for whoever does.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How changes of the config file are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WatchMode {
    /// By events of the file system, and by looking.
    #[default]
    Auto,
    /// By looking only.
    Poll,
}

/// One upstream. Quirks are written among its fields.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProviderFile {
    /// The protocol it speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterKind>,
    /// Its address, such as `https://api.example.com/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// `key` (default), `oauth` (an account that `ocx login` logged in to), `forward` (the caller's own
    /// ChatGPT login) or `local` (no key needed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<AuthMode>,
    /// The key: literal, `${VAR}` or `$VAR`; `$$` begins a literal that starts with `$`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretText>,
    /// Several keys, written alike, that take turns: one that is refused or over its limit rests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<Vec<SecretText>>,
    /// How accounts log in, where it differs from what `ocx` knows: for organisations with an OAuth
    /// client of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// The model of this provider when a caller names it without a provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_model: Option<String>,
    /// Models known without asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Extra headers; values may be `${VAR}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<IndexMap<String, SecretText>>,
    /// What its models cost, by name, in US dollars per million tokens; `*` stands for all others. For
    /// `ocx usage` and `ocx_cost_usd_total`; without a price nothing is said of cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prices: Option<IndexMap<String, Price>>,
    /// Whether to ask the upstream for its models. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_models: Option<bool>,
    /// Takes the provider out of service without deleting it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Refuse a call, with 400, whose translation would lose something. Default false: what is lost
    /// is counted and named in the header `x-ocx-losses`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// Exchanges at once. Default 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrency: Option<usize>,
    /// With `authMode: "forward"`: the one origin that gets callers' logins. Default
    /// `https://chatgpt.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_origin: Option<String>,
    /// Reach it through a proxy: `http://`, `socks5://` or `socks5h://`, `${VAR}` allowed; `direct` for
    /// none. Default: what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<SecretText>,
    /// Whether it is left alone for a while after it failed several times in a row. Default true, but for
    /// servers in a private network, which are back the moment they are started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit: Option<bool>,
    /// Its name may resolve to an address of a private network or of this machine. Default: only if
    /// `baseUrl` names such an address itself, or `authMode` is `local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_private_network: Option<bool>,
    /// Allow `http://` to a host that is not local; the key is then readable on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_insecure_http: Option<bool>,
    /// Known deviations of its protocol.
    #[serde(flatten)]
    pub quirks: Quirks,
    /// What we do not know, kept for whoever does.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ConfigFile {
    /// Whether a secret stands in it as it is, and not as the name of a variable.
    pub fn holds_secrets(&self) -> bool {
        let literal = |secret: &SecretText| matches!(secret.source(), KeySource::Literal(_));
        let in_headers = |headers: &IndexMap<String, SecretText>| {
            headers.iter().any(|(name, value)| is_secret(name) && literal(value))
        };
        let in_provider = |provider: &ProviderFile| {
            provider.api_key.iter().chain(provider.api_keys.iter().flatten()).any(literal)
                || provider.headers.as_ref().is_some_and(in_headers)
                || provider.proxy.as_ref().is_some_and(has_password)
        };
        let collector = self.telemetry.as_ref().and_then(|telemetry| telemetry.otlp.as_ref());
        self.admin_token.iter().chain(self.api_keys.iter().flatten()).any(literal)
            || self.providers.iter().flatten().any(|(_, provider)| in_provider(provider))
            || collector.and_then(|otlp| otlp.headers.as_ref()).is_some_and(in_headers)
    }
}

/// Whether a header of this name holds a secret, as far as one can tell.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "key", "token", "secret", "cookie"].iter().any(|part| name.contains(part))
}

fn has_password(proxy: &SecretText) -> bool {
    match proxy.source() {
        KeySource::Literal(address) => address.expose_secret().contains('@'),
        KeySource::Env(_) | KeySource::None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_names_of_variables_and_from_ordinary_settings() {
        let holds = |text: &str| serde_json::from_str::<ConfigFile>(text).unwrap().holds_secrets();
        for secret in [
            r#"{"adminToken": "t"}"#,
            r#"{"apiKeys": ["${A}", "k"]}"#,
            r#"{"providers": {"p": {"apiKey": "k"}}}"#,
            r#"{"providers": {"p": {"apiKeys": ["k"]}}}"#,
            r#"{"providers": {"p": {"headers": {"Authorization": "Bearer k"}}}}"#,
            r#"{"providers": {"p": {"proxy": "http://user:pass@proxy:3128"}}}"#,
            r#"{"telemetry": {"otlp": {"headers": {"x-api-key": "k"}}}}"#,
        ] {
            assert!(holds(secret), "{secret}");
        }
        let none = r#"{"apiKeys": ["${A}"], "providers": {"p": {"apiKey": "$B", "proxy": "http://proxy:3128",
            "headers": {"x-title": "ours", "x-api-key": "${C}"}}}}"#;
        assert!(!holds(none));
    }
}
