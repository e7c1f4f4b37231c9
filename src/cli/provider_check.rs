//! `ocx provider test`: whether a provider takes the keys that the config has for it.
//!
//! The third answer is an honest one: a server that cannot be reached, or whose model list is open to
//! everybody, says nothing about a key.

use std::{fmt, process::ExitCode, time::Duration};

use super::{network, say, style::Mark};
use crate::{
    adapters::{Adapter, Target, WireRequest, adapter},
    callers::Protocol,
    config::{self, Home, Loaded, ProviderSpec, process_env},
    credentials::{Credential, Vault, now_ms},
    registry::{self, AdapterKind, AuthMode},
    upstream::{Network, Upstream, UpstreamError},
};

/// How long a provider may take to answer.
const TIMEOUT: Duration = Duration::from_secs(8);

const OPEN: &str = "its model list is open to everybody";

/// What a provider says of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Valid,
    Invalid(u16),
    Unknown(String),
}

impl Verdict {
    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid(_) => "invalid",
            Self::Unknown(_) => "unknown",
        }
    }

    fn mark(&self) -> Mark {
        match self {
            Self::Valid => Mark::Good,
            Self::Invalid(_) => Mark::Bad,
            Self::Unknown(_) => Mark::Doubt,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::Invalid(status) => write!(f, "invalid: it answers {status}"),
            Self::Unknown(reason) => write!(f, "unknown: {reason}"),
        }
    }
}

/// Runs the command.
pub(super) fn check(provider: Option<&str>, json: bool, home: &Home) -> ExitCode {
    let loaded = match config::check_file(&home.config(), &process_env) {
        Ok(loaded) => loaded.unwrap_or_else(|| Loaded::defaults(&process_env)),
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::FAILURE;
        }
    };
    let wanted = |spec: &&std::sync::Arc<ProviderSpec>| {
        provider.map_or(!spec.disabled, |wanted| spec.id.as_str() == wanted)
    };
    let chosen: Vec<_> = loaded.config.providers.values().filter(wanted).collect();
    if let (Some(provider), true) = (provider, chosen.is_empty()) {
        eprintln!("ocx: no provider `{provider}` is in the config");
        return ExitCode::FAILURE;
    }
    let network = match network(&loaded.config) {
        Ok(network) => network,
        Err(message) => {
            eprintln!("ocx: {message}");
            return ExitCode::FAILURE;
        }
    };
    let (mut any_invalid, mut rows) = (false, Vec::new());
    for spec in chosen {
        for (name, verdict) in verdicts(spec, home, &network) {
            any_invalid |= matches!(verdict, Verdict::Invalid(_));
            if json {
                rows.push(serde_json::json!({"provider": spec.id.as_str(), "credential": name,
                    "verdict": verdict.word(), "detail": verdict.to_string()}));
            } else {
                let mark = verdict.mark();
                say(format_args!("{mark} {:<24} {name:<12} {verdict}", spec.id.as_str()));
            }
        }
    }
    if json {
        say(serde_json::to_string_pretty(&rows).unwrap_or_default());
    }
    if any_invalid { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What a provider says of each of its keys.
pub(super) fn verdicts(
    spec: &ProviderSpec,
    home: &Home,
    network: &Network,
) -> Vec<(String, Verdict)> {
    let asked = async { ask_all(spec, Question::Keys, home, &Upstream::new(network)).await };
    let answers = actix_web::rt::System::new().block_on(asked);
    answers.into_iter().map(|(name, answer)| (name, answer.verdict)).collect()
}

/// A provider's answer to one of its credentials.
#[derive(Debug)]
pub(super) struct Asked {
    pub verdict: Verdict,
    /// Whether it answered at all.
    pub answered: bool,
    /// Why it did not, if it was asked.
    pub error: Option<UpstreamError>,
    /// By how many seconds its server's clock is ahead of ours.
    pub ahead: Option<i64>,
    /// It was a web page.
    pub is_page: bool,
}

impl Asked {
    fn unknown(reason: impl Into<String>) -> Self {
        let verdict = Verdict::Unknown(reason.into());
        Self { verdict, answered: false, error: None, ahead: None, is_page: false }
    }
}

/// What is to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether the keys are taken: who answers anybody is not asked.
    Keys,
    /// Whether it is reached at all, too.
    Reach,
}

/// Asks a provider with each of its credentials.
pub(super) async fn ask_all(
    spec: &ProviderSpec,
    question: Question,
    home: &Home,
    upstream: &Upstream,
) -> Vec<(String, Asked)> {
    let upstream = upstream.via(&spec.reach);
    let mut answers = Vec::new();
    for (name, credential) in credentials(spec, home) {
        let answer = match credential {
            Ok(credential) => ask(spec, question, &credential, &upstream).await,
            Err(reason) => Asked::unknown(reason),
        };
        answers.push((name, answer));
    }
    answers
}

/// Everything that the provider may be asked with, by a name for people.
fn credentials(spec: &ProviderSpec, home: &Home) -> Vec<(String, Result<Credential, String>)> {
    match spec.auth {
        AuthMode::Forward => {
            vec![("login".into(), Err("callers bring their own ChatGPT login".to_owned()))]
        }
        AuthMode::OAuth => {
            let provider = spec.id.as_str();
            let opened = Vault::new(home.path()).open();
            let account = opened.map(|opened| opened.store.accounts(provider).usable().cloned());
            vec![(
                "account".into(),
                match account {
                    Ok(Some(account)) if account.tokens.is_alive(now_ms()) => {
                        Ok(Credential::of_account(&account))
                    }
                    // Asked with it, the provider would refuse a login that is good.
                    Ok(Some(_)) => {
                        Err("its token has ended; a running gateway renews it".to_owned())
                    }
                    Ok(None) => Err(format!("nobody is logged in; `ocx login {provider}`")),
                    Err(error) => Err(error.to_string()),
                },
            )]
        }
        AuthMode::Key | AuthMode::Local if spec.keys.is_empty() => {
            vec![("no key".into(), Ok(Credential::None))]
        }
        AuthMode::Key | AuthMode::Local => {
            let keys = spec.keys.iter().enumerate();
            keys.map(|(n, key)| {
                let resolved = key.resolve(&process_env).map(Credential::Key);
                let unset = || match key.unset(&process_env) {
                    Some(name) => format!("the variable {name} is not set"),
                    None => "it is empty".to_owned(),
                };
                (format!("key {}", n + 1), resolved.ok_or_else(unset))
            })
            .collect()
        }
    }
}

async fn ask(
    spec: &ProviderSpec,
    question: Question,
    credential: &Credential,
    upstream: &Upstream,
) -> Asked {
    if let Some(lacks) = spec.lacks(&process_env) {
        return Asked::unknown(lacks);
    }
    let is_open = registry::find(spec.id.as_str()).is_some_and(|entry| entry.list_proves_nothing);
    if is_open && question == Question::Keys {
        return Asked::unknown(OPEN);
    }
    let target = Target {
        model: spec
            .default_model
            .as_deref()
            .or(spec.models.first().map(String::as_str))
            .unwrap_or(""),
        base_url: &spec.base_url,
        quirks: &spec.quirks,
        headers: &spec.headers,
        credential,
        sealer: None,
    };
    let adapter = adapter(spec.adapter);
    let listed = match adapter.list_models(&target) {
        Some(request) => send(spec, request, upstream).await,
        None => Asked::unknown("it has no model list"),
    };
    if is_open && listed.verdict == Verdict::Valid {
        let verdict = Verdict::Unknown(OPEN.to_owned());
        return Asked { verdict, ..listed };
    }
    match listed.verdict {
        // Many that speak Anthropic's protocol list nothing.
        Verdict::Unknown(_)
            if spec.adapter == AdapterKind::Anthropic && !target.model.is_empty() =>
        {
            match smallest_call(adapter, &target) {
                Some(request) => send(spec, request, upstream).await,
                None => listed,
            }
        }
        _ => listed,
    }
}

/// A call of one token.
fn smallest_call(adapter: &dyn Adapter, target: &Target<'_>) -> Option<WireRequest> {
    let body = serde_json::json!({"model": target.model, "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hi"}]});
    let call = Protocol::Messages.parse(body.to_string().into()).ok()?;
    adapter.encode(&call.prompt, target).ok().map(|encoded| encoded.request)
}

async fn send(spec: &ProviderSpec, request: WireRequest, upstream: &Upstream) -> Asked {
    match upstream.open(request, TIMEOUT).await {
        Ok(answer) => Asked {
            ahead: answer.date().and_then(ahead),
            is_page: answer.head.is_success() && answer.head.content_type == "text/html",
            verdict: verdict(spec.adapter, Ok(answer.head.status)),
            answered: true,
            error: None,
        },
        Err(error) => Asked {
            verdict: verdict(spec.adapter, Err(error.to_string())),
            answered: false,
            error: Some(error),
            ahead: None,
            is_page: false,
        },
    }
}

/// What a `Date` of HTTP is ahead of now.
fn ahead(date: &str) -> Option<i64> {
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(theirs.as_second() - jiff::Timestamp::now().as_second())
}

fn verdict(kind: AdapterKind, status: Result<u16, String>) -> Verdict {
    match status {
        Ok(200..=299) => Verdict::Valid,
        Ok(status @ (401 | 403)) => Verdict::Invalid(status),
        // Google says that an argument, the key, is not valid.
        Ok(400) if kind == AdapterKind::Google => Verdict::Invalid(400),
        Ok(status) => Verdict::Unknown(format!("it answers {status}")),
        Err(reason) => Verdict::Unknown(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_answer_is_one() {
        let of = |kind, status| verdict(kind, Ok(status));
        assert_eq!(of(AdapterKind::OpenAiChat, 200), Verdict::Valid);
        assert_eq!(of(AdapterKind::OpenAiChat, 401), Verdict::Invalid(401));
        assert_eq!(of(AdapterKind::Google, 400), Verdict::Invalid(400));
        for status in [400, 404, 429, 500] {
            assert!(matches!(of(AdapterKind::OpenAiChat, status), Verdict::Unknown(_)), "{status}");
        }
        let unreachable = verdict(AdapterKind::Anthropic, Err("no route".into()));
        assert_eq!(unreachable.to_string(), "unknown: no route");
    }
}
