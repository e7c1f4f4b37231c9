//! As written → as used. Knows what the types cannot say.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use indexmap::IndexMap;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use super::{
    Access, Config, ConfigFile, DataKey, Env, KeySource, Limits, Listen, ProviderFile,
    ProviderSpec, ProxyChoice, Reach, Retries, SecretText, Timeouts, combo,
    reach::is_local,
    secret::PARTLY_A_REFERENCE,
    spec::{DEFAULT_CONCURRENCY, parse_host},
    telemetry,
};
use crate::{
    model::ProviderId,
    registry::{self, AuthMode, Login, ProviderEntry},
    wire::pointer::escape,
};

/// What is wrong, and what is odd: pointers with messages.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<(String, String)>,
    pub warnings: Vec<(String, String)>,
}

impl Findings {
    pub fn problem(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.problems.push((pointer.into(), message.into()));
    }

    pub fn warning(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.warnings.push((pointer.into(), message.into()));
    }
}

const MAX_PROVIDERS: usize = 512;
const MAX_MODELS: usize = 10_000;
/// Retries of one call at one provider, unless the config says otherwise.
const DEFAULT_RETRIES: u32 = 2;
const MAX_RETRIES: u32 = 5;
/// The provider of a config that names none.
const DEFAULT_PROVIDER: &str = "openai";

pub(super) fn build(file: &ConfigFile, env: &Env<'_>, findings: &mut Findings) -> Config {
    let listen = listen(file, findings);
    let providers = providers(file, env, findings);
    let default_provider = default_provider(file, &providers, findings);
    let combos = combo::build(file.combos.as_ref(), &providers, findings);
    if file.max_retries.is_some_and(|max| max > MAX_RETRIES) {
        findings.problem("/maxRetries", format!("is at most {MAX_RETRIES}"));
    }
    let subagent_models = subagent_models(file, &providers, findings);
    let config = Config {
        access: access(file, &listen, env, findings),
        listen,
        limits: limits(file, findings),
        default_provider,
        providers,
        combos,
        retries: Retries {
            max: file.max_retries.unwrap_or(DEFAULT_RETRIES),
            posts: file.retry_posts.unwrap_or(true),
        },
        disabled_models: file.disabled_models.iter().flatten().cloned().collect(),
        subagent_models,
        websockets: file.websockets.unwrap_or(false),
        ca_file: file.ca_file.clone(),
        watch: file.watch.unwrap_or_default(),
        telemetry: telemetry::build(file.telemetry.as_ref(), env, findings),
    };
    let models: usize = config.providers.values().map(|provider| provider.models.len()).sum();
    if models > MAX_MODELS {
        findings.problem("/providers", format!("{models} models are listed; at most {MAX_MODELS}"));
    }
    config
}

/// Models that Codex offers to sub-agents: it looks at the first five.
/// Source: `spawn_agent` of Codex CLI 0.169.0.
const MAX_SUBAGENT_MODELS: usize = 5;

fn subagent_models(
    file: &ConfigFile,
    providers: &IndexMap<ProviderId, Arc<ProviderSpec>>,
    findings: &mut Findings,
) -> Vec<String> {
    let models = file.subagent_models.clone().unwrap_or_default();
    if models.len() > MAX_SUBAGENT_MODELS {
        findings.problem(
            "/subagentModels",
            format!("are at most {MAX_SUBAGENT_MODELS}: Codex looks at no more"),
        );
    }
    for (n, model) in models.iter().enumerate() {
        if model.is_empty() || models[..n].contains(model) {
            let pointer = format!("/subagentModels/{n}");
            findings.problem(&pointer, "is empty, or there twice".to_owned());
        }
        let known = |prefix: &str| {
            providers.contains_key(prefix)
                || providers.values().any(|provider| provider.models.contains(model))
        };
        if model.split_once('/').is_some_and(|(prefix, _)| !known(prefix)) {
            let message = format!("no provider has `{model}`, so Codex will not offer it");
            findings.warning(format!("/subagentModels/{n}"), message);
        }
    }
    models
}

fn listen(file: &ConfigFile, findings: &mut Findings) -> Listen {
    let default = Listen::default();
    let host = match file.hostname.as_deref() {
        None => default.host,
        Some(text) => parse_host(text).unwrap_or_else(|| {
            let message = format!("`{text}` is no IP address; write one, or `localhost`");
            findings.problem("/hostname", message);
            default.host
        }),
    };
    let workers = match file.workers {
        Some(count @ 1..=256) => count,
        None => default.workers,
        Some(count) => {
            findings.problem("/workers", format!("{count} is not between 1 and 256"));
            default.workers
        }
    };
    Listen { host, port: file.port.unwrap_or(default.port), workers }
}

fn access(file: &ConfigFile, listen: &Listen, env: &Env<'_>, findings: &mut Findings) -> Access {
    let mut secrets = Vec::new();
    for (n, key) in file.api_keys.iter().flatten().enumerate() {
        secrets.extend(admission(key, &format!("/apiKeys/{n}"), env, findings));
    }
    secrets.extend(from_env("OPENCODEX_API_AUTH_TOKEN", env));
    let admin = file
        .admin_token
        .as_ref()
        .and_then(|token| admission(token, "/adminToken", env, findings))
        .or_else(|| from_env("OPENCODEX_ADMIN_AUTH_TOKEN", env));
    if admin.as_ref().is_some_and(|admin| secrets.contains(admin)) {
        findings.problem("/adminToken", "the admin token must differ from every API key");
    }
    let access = Access {
        data_keys: secrets.iter().map(|secret| DataKey::new(secret)).collect(),
        admin_token: admin.as_deref().map(DataKey::new),
        require_key_on_loopback: file.require_key_on_loopback.unwrap_or(false),
        allowed_hosts: lower(file.allowed_hosts.as_ref()),
        allowed_origins: lower(file.allowed_origins.as_ref()),
    };
    for (n, origin) in access.allowed_origins.iter().enumerate() {
        let sound = Url::parse(origin).is_ok_and(|url| {
            url.origin().is_tuple() && url.origin().ascii_serialization() == *origin
        });
        if !sound {
            let message = format!("`{origin}` is no web origin, such as `https://tools.example`");
            findings.problem(format!("/allowedOrigins/{n}"), message);
        }
    }
    if let Some(reason) = access.forbids(listen.host) {
        findings.problem("/hostname", reason);
    }
    if access.require_key_on_loopback && access.data_keys.is_empty() {
        findings.problem("/requireKeyOnLoopback", "there is no key in `apiKeys` to demand");
    }
    access
}

impl Access {
    /// Why we may not listen on `host`, if so: beyond loopback, strangers can reach us.
    pub fn forbids(&self, host: IpAddr) -> Option<String> {
        if host.is_loopback() || (!self.data_keys.is_empty() && self.admin_token.is_some()) {
            return None;
        }
        Some(format!(
            "listening on {host}, beyond loopback, takes at least one key in `apiKeys` and an \
             `adminToken` (or OPENCODEX_API_AUTH_TOKEN and OPENCODEX_ADMIN_AUTH_TOKEN)"
        ))
    }
}

/// A key that others present to us. An empty one would match whoever presents nothing.
fn admission(
    text: &SecretText,
    pointer: &str,
    env: &Env<'_>,
    findings: &mut Findings,
) -> Option<String> {
    let source = text.source();
    let secret = source.resolve(env).map(|secret| secret.expose_secret().to_owned());
    if secret.is_none() {
        let message = match source.unset(env) {
            Some(name) => format!("the variable {name} is not set"),
            None => "an empty key would admit everybody".to_owned(),
        };
        findings.problem(pointer, message);
    }
    secret
}

fn from_env(name: &str, env: &Env<'_>) -> Option<String> {
    env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn lower(list: Option<&Vec<String>>) -> Vec<String> {
    list.into_iter().flatten().map(|text| text.trim().to_ascii_lowercase()).collect()
}

fn limits(file: &ConfigFile, findings: &mut Findings) -> Limits {
    let default = Limits::default();
    let mut positive =
        |value: Option<u64>, field: &str, unit: fn(u64) -> Duration, default| match value {
            None => default,
            Some(0) => {
                findings.problem(format!("/{field}"), "must be more than 0");
                default
            }
            Some(count) => unit(count),
        };
    let (ms, sec) = (Duration::from_millis, Duration::from_secs);
    let times = default.timeouts;
    let timeouts = Timeouts {
        connect: positive(file.connect_timeout_ms, "connectTimeoutMs", ms, times.connect),
        head: positive(file.head_timeout_ms, "headTimeoutMs", ms, times.head),
        whole: positive(file.whole_timeout_ms, "wholeTimeoutMs", ms, times.whole),
        stall: positive(file.stall_timeout_sec, "stallTimeoutSec", sec, times.stall),
        progress: positive(file.progress_timeout_sec, "progressTimeoutSec", sec, times.progress),
    };
    let keepalive = default.keepalive_interval;
    Limits {
        timeouts,
        model_cache_ttl: file.model_cache_ttl_ms.map_or(default.model_cache_ttl, ms),
        keepalive_interval: positive(
            file.keepalive_interval_ms,
            "keepaliveIntervalMs",
            ms,
            keepalive,
        ),
        client_write: positive(
            file.client_write_timeout_ms,
            "clientWriteTimeoutMs",
            ms,
            default.client_write,
        ),
        shutdown: file.shutdown_timeout_ms.map_or(default.shutdown, ms),
        drain: file.drain_timeout_sec.map_or(default.drain, sec),
        max_body: match file.max_body_bytes.map(usize::try_from) {
            Some(Ok(bytes)) if bytes >= 1024 => bytes,
            None => default.max_body,
            Some(_) => {
                findings.problem("/maxBodyBytes", "must be at least 1024");
                default.max_body
            }
        },
        max_retained: default.max_retained,
    }
}

fn default_provider(
    file: &ConfigFile,
    providers: &IndexMap<ProviderId, Arc<ProviderSpec>>,
    findings: &mut Findings,
) -> Option<ProviderId> {
    match file.default_provider.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            let found = providers.get_key_value(name).map(|(id, _)| id.clone());
            // A provider that has problems of its own is not missing.
            let written = file.providers.iter().flatten().any(|(id, _)| id == name);
            if found.is_none() && !written {
                let message = format!("`{name}` is not among the providers");
                findings.problem("/defaultProvider", message);
            }
            found
        }
        None => providers
            .get_key_value(DEFAULT_PROVIDER)
            .or_else(|| providers.first())
            .map(|(id, _)| id.clone()),
    }
}

fn providers(
    file: &ConfigFile,
    env: &Env<'_>,
    findings: &mut Findings,
) -> IndexMap<ProviderId, Arc<ProviderSpec>> {
    let implied = IndexMap::from([(DEFAULT_PROVIDER.to_owned(), ProviderFile::default())]);
    let written = file.providers.as_ref().unwrap_or(&implied);
    if written.len() > MAX_PROVIDERS {
        let message = format!("{} providers; at most {MAX_PROVIDERS}", written.len());
        findings.problem("/providers", message);
    }
    written
        .iter()
        .filter_map(|(id, provider)| {
            let pointer = format!("/providers/{}", escape(id));
            // The actor keeps its model list for so long, so that is part of what it is.
            let fingerprint = fingerprint(id, provider, file.model_cache_ttl_ms);
            let spec = provider_spec(id, provider, fingerprint, &pointer, env, findings)?;
            Some((spec.id.clone(), Arc::new(spec)))
        })
        .collect()
}

fn provider_spec(
    id: &str,
    file: &ProviderFile,
    fingerprint: [u8; 32],
    pointer: &str,
    env: &Env<'_>,
    findings: &mut Findings,
) -> Option<ProviderSpec> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 64 || !id.chars().all(legal) {
        findings.problem(
            pointer,
            "a provider's name is 1 to 64 letters, digits, dots, dashes or underscores",
        );
    }
    let entry = registry::find(id);
    let adapter = file.adapter.or(entry.map(|entry| entry.adapter));
    let unreadable = |field: &str| {
        let at = format!("{pointer}/{field}");
        findings.problems.iter().any(|(pointer, _)| *pointer == at)
    };
    if adapter.is_none() && !unreadable("adapter") {
        let names: Vec<_> = registry::AdapterKind::ALL.iter().map(|kind| kind.name()).collect();
        let near = registry::entries()
            .map(|(known, _)| known)
            .find(|known| strsim::damerau_levenshtein(known, id) <= 2)
            .map_or(String::new(), |known| format!("; or did you mean the provider `{known}`?"));
        let message = format!("`adapter` is missing; one of {}{near}", names.join(", "));
        findings.problem(pointer, message);
    }
    let auth = auth_mode(file, entry);
    let base_url = base_url(file, entry, pointer, findings);
    if let (AuthMode::Forward, Some(base_url)) = (auth, &base_url) {
        check_forward(file, base_url, pointer, findings);
    }
    let (headers, unset_headers) = headers(file, auth, pointer, env, findings);
    if file.max_concurrency == Some(0) {
        findings.problem(format!("{pointer}/maxConcurrency"), "must be more than 0");
    }
    for (model, price) in file.prices.iter().flatten() {
        if !price.is_sound() {
            findings
                .problem(format!("{pointer}/prices/{}", escape(model)), "a price is at least 0");
        }
    }
    check_discovery(file, base_url.as_deref(), pointer, findings);
    let quirks = match entry {
        Some(entry) => entry.quirks.overlaid(&file.quirks),
        None => file.quirks.clone(),
    };
    let models = file.models.clone().or(entry.map(|entry| entry.models.clone()));
    let reach = reach(file, auth, pointer, env, findings);
    let reach = base_url.as_deref().map_or(reach.clone(), |base_url| reach.to(base_url));
    let spec = ProviderSpec {
        id: id.into(),
        circuit: file.circuit.unwrap_or(!reach.private),
        reach,
        adapter: adapter?,
        base_url: base_url?,
        auth,
        keys: keys(file, entry, auth),
        login: login(file, entry, auth, pointer, findings),
        default_model: file
            .default_model
            .clone()
            .or_else(|| entry.and_then(|entry| entry.default_model.clone())),
        models: models.unwrap_or_default(),
        headers,
        unset_headers,
        prices: file.prices.clone().unwrap_or_default(),
        live_models: file.live_models.unwrap_or(entry.is_none_or(|entry| entry.live_models)),
        disabled: file.disabled.unwrap_or(false),
        strict: file.strict.unwrap_or(false),
        max_concurrency: file.max_concurrency.unwrap_or(DEFAULT_CONCURRENCY).max(1),
        quirks,
        fingerprint,
    };
    Some(spec)
}

/// A model list of its own must not take the key elsewhere.
fn check_discovery(
    file: &ProviderFile,
    base_url: Option<&str>,
    pointer: &str,
    findings: &mut Findings,
) {
    let path = file.quirks.model_discovery.as_ref().and_then(|discovery| discovery.path.as_ref());
    let base = base_url.and_then(|base| Url::parse(&format!("{base}/")).ok());
    let (Some(path), Some(base)) = (path, base) else { return };
    if !base.join(path).is_ok_and(|joined| joined.origin() == base.origin()) {
        let at = format!("{pointer}/modelDiscovery/path");
        findings.problem(at, "must be a path on the host of `baseUrl`");
    }
}

/// A key that is written is meant to be used, also where others log in.
fn auth_mode(file: &ProviderFile, entry: Option<&ProviderEntry>) -> AuthMode {
    file.auth_mode.unwrap_or_else(|| match entry.map(|entry| entry.auth) {
        Some(AuthMode::OAuth) if file.api_key.is_some() || file.api_keys.is_some() => AuthMode::Key,
        known => known.unwrap_or_default(),
    })
}

/// Digest of what is written. Unknown fields do nothing, so they do not count.
fn fingerprint(id: &str, file: &ProviderFile, model_ttl: Option<u64>) -> [u8; 32] {
    let mut known = file.clone();
    known.extra.clear();
    let text = serde_json::to_string(&(id, known, model_ttl)).unwrap_or_default();
    Sha256::digest(text.as_bytes()).into()
}

/// The keys as written; a known provider without any looks in its usual variable.
fn keys(file: &ProviderFile, entry: Option<&ProviderEntry>, auth: AuthMode) -> Vec<KeySource> {
    if matches!(auth, AuthMode::Forward | AuthMode::OAuth) {
        return Vec::new();
    }
    let written = file.api_key.iter().chain(file.api_keys.iter().flatten());
    let keys: Vec<KeySource> = written.map(SecretText::source).collect();
    let keys: Vec<KeySource> =
        keys.into_iter().filter(|key| !matches!(key, KeySource::None)).collect();
    let wrote_any = file.api_key.is_some() || file.api_keys.is_some();
    match entry.and_then(|entry| entry.env_var.clone()) {
        Some(name) if !wrote_any => vec![KeySource::Env(name)],
        _ => keys,
    }
}

/// The way to the provider's hosts.
fn reach(
    file: &ProviderFile,
    auth: AuthMode,
    pointer: &str,
    env: &Env<'_>,
    findings: &mut Findings,
) -> Reach {
    let private = auth == AuthMode::Local || file.allow_private_network == Some(true);
    let Some(text) = &file.proxy else {
        return Reach { proxy: ProxyChoice::default(), private };
    };
    let at = format!("{pointer}/proxy");
    let source = text.source();
    if let Some(name) = source.unset(env) {
        findings.problem(at.clone(), format!("the variable {name} is not set"));
    }
    let written = source.resolve(env).map(|text| text.expose_secret().to_owned());
    let proxy = match written.as_deref().map(ProxyChoice::parse) {
        Some(Ok(proxy)) => proxy,
        Some(Err(reason)) => {
            findings.problem(at, reason);
            ProxyChoice::Direct
        }
        None => ProxyChoice::Direct,
    };
    Reach { proxy, private }
}

/// How accounts log in; what the user writes wins over what the registry knows.
fn login(
    file: &ProviderFile,
    entry: Option<&ProviderEntry>,
    auth: AuthMode,
    pointer: &str,
    findings: &mut Findings,
) -> Option<Login> {
    let known = entry.and_then(|entry| entry.login.as_ref());
    let login = match (known, &file.login) {
        (Some(known), Some(own)) => known.overlaid(own),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) if auth != AuthMode::OAuth => return None,
        (None, None) => {
            let message = "`oauth` needs `login`, with `clientId`, `tokenUrl` and so on";
            findings.problem(format!("{pointer}/authMode"), message);
            return None;
        }
    };
    let at = |field: &str| format!("{pointer}/login/{field}");
    for (field, address) in login.endpoints() {
        // A code, or a refresh token, goes there.
        let safe = Url::parse(address).is_ok_and(|url| {
            url.scheme() == "https"
                || (url.scheme() == "http"
                    && (is_local(&url) || file.allow_insecure_http == Some(true)))
        });
        if !safe {
            findings.problem(at(field), "must begin with https:// (or http:// for a local server)");
        }
    }
    let comes_back = login.redirect_uri.as_deref().map(Url::parse);
    let is_loopback = |url: &Url| match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match &comes_back {
        Some(Ok(url)) if url.scheme() == "http" && is_loopback(url) => {}
        Some(_) => findings.problem(at("redirectUri"), "must be http:// on localhost or 127.0.0.1"),
        None if login.device_url.is_none() => {
            findings.problem(at("redirectUri"), "is missing, and so is `deviceUrl`");
        }
        None => {}
    }
    for (field, missing) in [
        ("clientId", login.client_id.is_none()),
        ("tokenUrl", login.token_url.is_none() && login.discovery_url.is_none()),
    ] {
        if missing {
            findings.problem(at(field), "is missing");
        }
    }
    Some(login)
}

fn base_url(
    file: &ProviderFile,
    entry: Option<&ProviderEntry>,
    pointer: &str,
    findings: &mut Findings,
) -> Option<String> {
    let at = format!("{pointer}/baseUrl");
    let text = file.base_url.as_deref().or(entry.map(|entry| entry.base_url.as_str()));
    let Some(text) = text.map(|text| text.trim().trim_end_matches('/')) else {
        findings.problem(pointer, "`baseUrl` is missing, such as `https://api.example.com/v1`");
        return None;
    };
    if text.contains(['{', '}']) {
        findings
            .warning(at, "the placeholder in braces must be filled in before this provider works (variables work in `apiKey` and `headers` only)");
        return Some(text.to_owned());
    }
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(_) => {
            findings.problem(at, "must begin with https:// (or http:// for a local server)");
            return None;
        }
        Err(error) => {
            findings.problem(at, format!("is no address: {error}"));
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        findings.problem(at, "must not hold a user name or password; put the key into `apiKey`");
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        findings.problem(at, "must not hold a query or fragment");
        return None;
    }
    if url.scheme() == "http" && !is_local(&url) && file.allow_insecure_http != Some(true) {
        findings.problem(
            at,
            "http:// to a host that is not local would send the key in the clear; use https://, or \
             set `allowInsecureHttp`",
        );
        return None;
    }
    Some(text.to_owned())
}

/// The only origin that gets callers' ChatGPT logins unless the config names another.
const CHATGPT_ORIGIN: &str = "https://chatgpt.com";
const CHATGPT_PATH: &str = "/backend-api/codex";

fn check_forward(file: &ProviderFile, base_url: &str, pointer: &str, findings: &mut Findings) {
    let Ok(url) = Url::parse(base_url) else {
        return;
    };
    let origin = url.origin().ascii_serialization();
    let trusted = file.forward_origin.as_deref().unwrap_or(CHATGPT_ORIGIN);
    if origin != trusted {
        let message = format!(
            "callers' logins go to {trusted} only; to send them to {origin}, set `forwardOrigin` \
             to it"
        );
        findings.problem(format!("{pointer}/baseUrl"), message);
    } else if origin == CHATGPT_ORIGIN && url.path() != CHATGPT_PATH {
        let message = format!("on {CHATGPT_ORIGIN} the path is {CHATGPT_PATH}");
        findings.problem(format!("{pointer}/baseUrl"), message);
    }
    if file.api_key.is_some() {
        findings.warning(format!("{pointer}/apiKey"), "not used with authMode `forward`");
    }
}

/// Headers that the transport or a caller's identity depends on.
const FORBIDDEN_HEADERS: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "te",
    "connection",
    "upgrade",
    "cookie",
    "expect",
    "trailer",
];

type Headers = (Vec<(String, String)>, Vec<String>);

fn headers(
    file: &ProviderFile,
    auth: AuthMode,
    pointer: &str,
    env: &Env<'_>,
    findings: &mut Findings,
) -> Headers {
    let (mut headers, mut unset, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (name, text) in file.headers.iter().flatten() {
        let at = format!("{pointer}/headers/{}", escape(name));
        let lower = name.to_ascii_lowercase();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let forbidden = FORBIDDEN_HEADERS.contains(&lower.as_str())
            || lower.starts_with("proxy-")
            || lower.starts_with("x-forwarded-")
            || (lower == "authorization"
                && (matches!(auth, AuthMode::Forward | AuthMode::OAuth)
                    || file.api_key.is_some()
                    || file.api_keys.is_some()));
        if name.is_empty() || !name.chars().all(token) {
            findings.problem(at, "is no legal header name");
            continue;
        }
        if forbidden {
            findings.problem(at, "this header cannot be set here");
            continue;
        }
        if !seen.insert(lower.clone()) {
            findings.problem(at, "is written twice, in different cases");
            continue;
        }
        if text.holds_a_reference() {
            findings.problem(at, PARTLY_A_REFERENCE);
            continue;
        }
        let source = text.source();
        if let Some(name) = source.unset(env) {
            unset.push(name.to_owned());
            continue;
        }
        let value = source.resolve(env).map(|value| value.expose_secret().to_owned());
        let value = value.unwrap_or_default();
        if !value.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t') {
            findings.problem(at, "its value holds characters that a header cannot");
            continue;
        }
        headers.push((lower, value));
    }
    (headers, unset)
}
