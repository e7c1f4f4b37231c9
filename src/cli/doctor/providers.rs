//! Each provider: whether it has what it needs, is reached, and takes what it is sent.

use futures_util::future::join_all;
use serde_json::Value;

use super::Finding;
use crate::{
    cli::{
        logged_out,
        provider_check::{self, Asked, Question, Verdict},
    },
    config::{Config, Home, ProviderSpec, process_env},
    credentials::Vault,
    registry::{self, AuthMode},
    upstream::{Network, Upstream, UpstreamError},
};

/// A clock that is off by more seconds makes tokens end at wrong times.
const MAX_SKEW: i64 = 60;

/// Asks all that are in service, at once.
pub(super) fn examine(
    config: &Config,
    running: Option<&Value>,
    home: &Home,
    network: &Network,
) -> Vec<Finding> {
    let vault = Vault::new(home.path());
    let (mut findings, mut asked) = (Vec::new(), Vec::new());
    for spec in config.providers.values().filter(|spec| !spec.disabled) {
        match lacks(spec, is_ready(running, spec.id.as_str()), &vault) {
            Some(finding) => findings.push(finding),
            None => asked.push(spec),
        }
    }
    let upstream = Upstream::new(network);
    let system = actix_web::rt::System::new();
    let answers =
        asked.iter().map(|spec| provider_check::ask_all(spec, Question::Reach, home, &upstream));
    let answers = system.block_on(join_all(answers));
    let mut ahead = Vec::new();
    for (spec, answers) in asked.into_iter().zip(answers) {
        for (key, answer) in answers {
            ahead.extend(answer.ahead);
            findings.push(judged(spec, &key, answer));
        }
    }
    findings.extend(clock(&ahead));
    findings
}

/// Judges our clock by those of servers, by how many seconds they are ahead. One that agrees is enough:
/// others may be wrong, or kept their answer.
fn clock(ahead: &[i64]) -> Option<Finding> {
    let apart = *ahead.iter().min_by_key(|seconds| seconds.abs())?;
    if apart.abs() <= MAX_SKEW {
        return Some(Finding::good("clock", "agrees with those of the providers"));
    }
    Some(Finding::bad(
        "clock",
        format_args!(
            "the clock of this machine is {} s {}",
            apart.abs(),
            if apart > 0 { "late" } else { "early" }
        ),
        "set it (`timedatectl set-ntp true`): tokens are renewed by it",
    ))
}

/// Whether a gateway that runs has all that it needs of a provider.
fn is_ready(running: Option<&Value>, id: &str) -> bool {
    let providers = running.and_then(|status| status["providers"].as_array());
    let own = providers.into_iter().flatten().find(|provider| provider["id"] == id);
    own.is_some_and(|provider| provider["state"] == "ready")
}

fn lacks(spec: &ProviderSpec, ready: bool, vault: &Vault) -> Option<Finding> {
    let id = spec.id.as_str();
    if spec.auth == AuthMode::Forward {
        return Some(Finding::good(id, "takes the ChatGPT login of its callers"));
    }
    if let Some(login) = logged_out(spec, vault) {
        return Some(Finding::bad(id, "nobody is logged in to an account of it", login));
    }
    let what = spec.lacks(&process_env)?;
    if ready {
        let what = format!("not asked: here {what}, but the gateway that runs has it");
        return Some(Finding::doubt(id, what, "run this where the gateway has its variables from"));
    }
    let page = registry::find(id).and_then(|entry| entry.key_page.as_deref());
    let todo = match page {
        Some(page) => {
            format!("get a key at {page}, and give it as the config or the variable says")
        }
        None => "give it in the config".to_owned(),
    };
    Some(Finding::bad(id, what, todo))
}

fn judged(spec: &ProviderSpec, key: &str, answer: Asked) -> Finding {
    let id = spec.id.as_str();
    if answer.is_page {
        return Finding::bad(
            id,
            format_args!("{} answers with a web page", spec.base_url),
            "check its `baseUrl`: mostly it ends in /v1",
        );
    }
    match (answer.verdict, answer.error) {
        (Verdict::Valid, _) => Finding::good(id, format_args!("reached, and takes {key}")),
        (verdict @ Verdict::Invalid(_), _) => Finding::bad(
            id,
            format_args!("{key}: {verdict}"),
            match spec.auth {
                AuthMode::OAuth => format!("`ocx login {id}`"),
                _ => "get a new key, and put it where the old one is".to_owned(),
            },
        ),
        (_, Some(error)) => Finding::bad(id, &error, what_to_do(&error)),
        (verdict @ Verdict::Unknown(_), None) => {
            let reached = if answer.answered { "reached" } else { "not asked" };
            Finding::doubt(
                id,
                format_args!("{reached}; whether it takes {key} is {verdict}"),
                format!("`ocx verify {id}` asks its model"),
            )
        }
    }
}

fn what_to_do(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::Tls(_) => {
            "put the certificate of its authority (PEM) into `caFile`, if you trust it"
        }
        UpstreamError::Denied(_) => "set `allowPrivateNetwork` if it is meant to be there",
        UpstreamError::Redirected(_) | UpstreamError::NoHttp(_) => "check its `baseUrl`",
        _ => "check its `baseUrl`, the network, and the proxy (`HTTPS_PROXY`, `proxy`)",
    }
}
