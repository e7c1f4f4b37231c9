//! The config as it is used: defaults filled in, the registry merged, addresses checked.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use indexmap::IndexMap;
use sha2::{Digest as _, Sha256};

use super::{Combo, Env, KeySource, Reach, TelemetrySpec, WatchMode};
use crate::{
    model::{Price, ProviderId},
    registry::{AdapterKind, AuthMode, Login, Quirks},
};

/// The port we listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 10100;

/// Everything that runs is built from this.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen. Cannot change while we run.
    pub listen: Listen,
    /// Who may call.
    pub access: Access,
    /// Bounds and times.
    pub limits: Limits,
    /// The upstreams, in the order of the file, which routing follows.
    pub providers: IndexMap<ProviderId, Arc<ProviderSpec>>,
    /// The last resort of routing.
    pub default_provider: Option<ProviderId>,
    /// Virtual models, by name.
    pub combos: IndexMap<String, Combo>,
    /// What is tried again.
    pub retries: Retries,
    /// `provider/model` names that lists leave out.
    pub disabled_models: HashSet<String>,
    /// Models that Codex offers to its sub-agents, the first one first.
    pub subagent_models: Vec<String>,
    /// Whether the Responses API is served over WebSocket too.
    pub websockets: bool,
    /// A file of certificates to trust besides the usual ones. Cannot change while we run.
    pub ca_file: Option<PathBuf>,
    /// How changes of the file are noticed. Cannot change while we run.
    pub watch: WatchMode,
    /// What is told of turns. Cannot change while we run.
    pub telemetry: TelemetrySpec,
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Of one call, at one provider.
    pub max: u32,
    /// Whether a call is sent again that an upstream may have seen, and may bill twice.
    pub posts: bool,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub host: IpAddr,
    /// The port; 0 picks a free one.
    pub port: u16,
    /// Worker threads.
    pub workers: usize,
}

impl Default for Listen {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        Self { host: Ipv4Addr::LOCALHOST.into(), port: DEFAULT_PORT, workers }
    }
}

/// An address to listen on, as people write it: an IP address, brackets allowed, or `localhost`.
pub fn parse_host(text: &str) -> Option<IpAddr> {
    match text.trim() {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        text => text.trim_matches(['[', ']']).parse().ok(),
    }
}

/// The address under which this machine reaches who listens on `host`.
pub fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

/// Who may call.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Keys of callers, as digests.
    pub data_keys: Vec<DataKey>,
    /// Digest of the management token, if one is configured.
    pub admin_token: Option<DataKey>,
    /// Demand a data key on loopback too.
    pub require_key_on_loopback: bool,
    /// Extra names for us, lower case.
    pub allowed_hosts: Vec<String>,
    /// Web origins that may call the data plane, lower case.
    pub allowed_origins: Vec<String>,
}

/// A key that others present to us. Only its digest is kept: that is all a comparison needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// Of a key's text.
    pub fn new(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// The digest, which may itself key a proof of knowledge.
    pub fn digest(&self) -> &[u8] {
        &self.0
    }

    /// Whether `presented` is the key, in time that does not depend on the answer.
    pub fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        subtle::ConstantTimeEq::ct_eq(&self.0[..], &presented[..]).into()
    }
}

/// Bounds and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Times of an exchange.
    pub timeouts: Timeouts,
    /// Freshness of model lists.
    pub model_cache_ttl: Duration,
    /// Silence before a sign of life to the caller.
    pub keepalive_interval: Duration,
    /// How long a caller may take nothing of its stream.
    pub client_write: Duration,
    /// For running streams at the end of the program.
    pub shutdown: Duration,
    /// For running streams of a retired provider.
    pub drain: Duration,
    /// Largest body after decompression, in bytes.
    pub max_body: usize,
    /// Most text and arguments held for one answer, in bytes.
    pub max_retained: usize,
}

/// Times of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Name look-up, TCP and TLS.
    pub connect: Duration,
    /// To the head of a stream.
    pub head: Duration,
    /// To the head of a whole answer.
    pub whole: Duration,
    /// Between bytes.
    pub stall: Duration,
    /// Between events.
    pub progress: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeouts: Timeouts {
                connect: Duration::from_secs(10),
                head: Duration::from_secs(120),
                whole: Duration::from_secs(600),
                stall: Duration::from_secs(300),
                progress: Duration::from_secs(900),
            },
            model_cache_ttl: Duration::from_secs(300),
            keepalive_interval: Duration::from_secs(10),
            client_write: Duration::from_secs(60),
            shutdown: Duration::from_secs(30),
            drain: Duration::from_secs(900),
            max_body: 256 << 20,
            max_retained: 32 << 20,
        }
    }
}

/// One upstream, resolved. What a provider actor is built from, and what a lease lends.
#[derive(Clone, Debug)]
pub struct ProviderSpec {
    /// Its name in the config.
    pub id: ProviderId,
    /// Its protocol.
    pub adapter: AdapterKind,
    /// Its address, without a trailing slash.
    pub base_url: String,
    /// Whose credential it takes.
    pub auth: AuthMode,
    /// Where its keys are; they take turns.
    pub keys: Vec<KeySource>,
    /// The way to its host.
    pub reach: Reach,
    /// Whether it is left alone for a while after it failed several times in a row.
    pub circuit: bool,
    /// How its accounts log in.
    pub login: Option<Login>,
    /// Its model when a caller names none of its providers.
    pub default_model: Option<String>,
    /// Models known without asking.
    pub models: Vec<String>,
    /// What its models cost, by name; `*` stands for all others.
    pub prices: IndexMap<String, Price>,
    /// Extra headers.
    pub headers: Vec<(String, String)>,
    /// Variables that headers name but nobody set.
    pub unset_headers: Vec<String>,
    /// Whether to ask for its models.
    pub live_models: bool,
    /// Out of service.
    pub disabled: bool,
    /// Refuse rather than lose something in translation.
    pub strict: bool,
    /// Exchanges at once.
    pub max_concurrency: usize,
    /// Its oddities.
    pub quirks: Quirks,
    /// Digest of all of the above: equal digests need no restart.
    pub fingerprint: [u8; 32],
}

/// Exchanges at once, unless the config says otherwise.
pub(super) const DEFAULT_CONCURRENCY: usize = 4096;

impl ProviderSpec {
    /// Scheme, host and port of its address: where its credentials may go.
    pub fn origin(&self) -> Option<String> {
        let url = url::Url::parse(&self.base_url).ok()?;
        Some(url.origin().ascii_serialization())
    }

    /// What a model costs, if the config says.
    pub fn price(&self, model: &str) -> Option<Price> {
        self.prices.get(model).or_else(|| self.prices.get("*")).copied()
    }

    /// The protocol that a model speaks.
    pub fn adapter_for(&self, model: &str) -> AdapterKind {
        let own = self.quirks.model_adapters.as_ref().and_then(|adapters| adapters.get(model));
        own.copied().unwrap_or(self.adapter)
    }

    /// Whether a configured header authenticates, so that no key is needed.
    pub fn authorizes_by_header(&self) -> bool {
        self.headers.iter().any(|(name, _)| {
            matches!(name.as_str(), "authorization" | "x-api-key" | "api-key" | "x-goog-api-key")
        })
    }

    /// What keeps this provider from answering, in words; nothing if it is ready.
    pub fn lacks(&self, env: &Env<'_>) -> Option<String> {
        if self.disabled {
            return Some("disabled in the config".to_owned());
        }
        if self.base_url.contains(['{', '}']) {
            return Some(format!("the placeholder in {} is not filled in", self.base_url));
        }
        let keyless = self.auth == AuthMode::Key
            && !self.authorizes_by_header()
            && self.keys.iter().all(|key| key.resolve(env).is_none());
        if let Some(name) = self.keys.iter().find_map(|key| key.unset(env)).filter(|_| keyless) {
            return Some(format!("the variable {name} is not set"));
        }
        if let Some(name) = self.unset_headers.first() {
            return Some(format!("the variable {name}, which a header names, is not set"));
        }
        match self.auth {
            AuthMode::Key if keyless => Some("no apiKey is configured".to_owned()),
            AuthMode::Forward => Some("a caller that is logged in to ChatGPT".to_owned()),
            _ => None,
        }
    }
}
