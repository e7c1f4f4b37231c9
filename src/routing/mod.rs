//! Model name → provider and upstream model. Pure.

use std::sync::Arc;

mod combo;

pub use combo::{Affinity, Conversation, Placed};

use crate::{
    config::{Config, ProviderSpec},
    model::{ModelId, Prompt, ProviderId},
    registry::AuthMode,
};

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The provider.
    pub provider: ProviderId,
    /// The model, as the upstream names it.
    pub model: ModelId,
}

/// What decides where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The name is a combo's, whose first target was chosen so.
    Combo(Placed),
    /// The name begins with the provider's.
    Explicit,
    /// Codex calls it for its own purposes.
    CodexInternal,
    /// It is the provider's default model.
    DefaultModel,
    /// The provider's config or registry entry lists it.
    Listed,
    /// The name shows its vendor.
    Vendor,
    /// No other rule fits.
    DefaultProvider,
}

impl Rule {
    /// In words, after "it goes there because".
    pub fn words(self) -> &'static str {
        match self {
            Self::Combo(Placed::Stays) => "the name is a combo's, and the conversation stays there",
            Self::Combo(Placed::First) => "the name is a combo's, and this is its first target",
            Self::Combo(Placed::Found) => {
                "the name is a combo's, and this is where a conversation goes that nobody remembers"
            }
            Self::Combo(Placed::Next) => {
                "the name is a combo's, and the target before it is disabled"
            }
            Self::Combo(Placed::Turn) => "the name is a combo's, and it is this target's turn",
            Self::Explicit => "the name begins with the provider's",
            Self::CodexInternal => "Codex asks it for its own purposes, and only OpenAI has it",
            Self::DefaultModel => "it is the provider's `defaultModel`",
            Self::Listed => "the provider's `models` list it",
            Self::Vendor => "the name shows its vendor",
            Self::DefaultProvider => "nothing else places it, so it goes to `defaultProvider`",
        }
    }
}

/// The routes of a call, and why the first of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are tried; never empty.
    pub routes: Vec<Route>,
    /// Why the first is.
    pub rule: Rule,
}

/// Why a call goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No rule fits.
    #[error("no provider is configured for the model `{0}`; name one as `provider/model`")]
    Unknown(String),
    /// The name seems to begin with a provider that is not there.
    #[error("no provider is called `{0}`, and nothing else serves `{0}/…`; configured: {1}")]
    NoProvider(String, String),
    /// The name ends after the provider.
    #[error("`{0}/` names a provider but no model")]
    NoModel(ProviderId),
    /// All providers of a combo are switched off.
    #[error("every provider of the combo `{0}` is disabled in the config")]
    NoTarget(String),
    /// The provider is switched off.
    #[error("the provider `{0}` is disabled in the config")]
    Disabled(ProviderId),
}

/// Vendors by the start of a model's name, with the provider name that serves them.
const PATTERNS: [(&str, &str); 8] = [
    ("claude-", "anthropic"),
    ("gpt-", "openai"),
    ("o1-", "openai"),
    ("o3-", "openai"),
    ("o4-", "openai"),
    ("llama-", "groq"),
    ("mixtral-", "groq"),
    ("gemma-", "groq"),
];

/// Models that Codex calls for its own purposes; only OpenAI has them.
const CODEX_INTERNAL: [&str; 1] = ["codex-auto-review"];

/// The routes of a call. More than one only for a combo.
///
/// # Errors
///
/// As [`route`].
pub fn plan(
    name: &str,
    prompt: &Prompt,
    config: &Config,
    affinity: &Affinity,
) -> Result<Plan, RouteError> {
    let Some(combo) = config.combos.get(name) else {
        let (route, rule) = find(name, config)?;
        return Ok(Plan { routes: vec![route], rule });
    };
    let serves = |route: &Route| {
        config.providers.get(&route.provider).is_some_and(|provider| !provider.disabled)
    };
    let (mut routes, placed) = affinity.order(name, combo, prompt);
    let placed = if routes.first().is_some_and(serves) { placed } else { Placed::Next };
    routes.retain(serves);
    if routes.is_empty() {
        return Err(RouteError::NoTarget(name.to_owned()));
    }
    Ok(Plan { routes, rule: Rule::Combo(placed) })
}

/// Finds the route of a model name: a combo's first, an explicit `provider/`, else a default model, a listed model,
/// a vendor's naming pattern, and at last the default provider.
///
/// # Errors
///
/// When nothing fits, or what fits is disabled or incomplete.
pub fn route(name: &str, config: &Config) -> Result<Route, RouteError> {
    find(name, config).map(|(route, _)| route)
}

/// As [`route`], with the rule that finds it.
///
/// # Errors
///
/// As [`route`].
pub fn find(name: &str, config: &Config) -> Result<(Route, Rule), RouteError> {
    if let Some(combo) = config.combos.get(name) {
        let first = combo.targets.first().ok_or_else(|| RouteError::Unknown(name.to_owned()))?;
        let route = Route { provider: first.provider.clone(), model: first.model.clone() };
        return Ok((route, Rule::Combo(Placed::First)));
    }
    if let Some(explicit) = explicit(name, config) {
        return explicit.map(|route| (route, Rule::Explicit));
    }
    let serving = || config.providers.values().filter(|provider| !provider.disabled);
    let is_default =
        |provider: &&Arc<ProviderSpec>| provider.default_model.as_deref() == Some(name);
    let by = |rule: Rule| move |provider| (provider, rule);
    let found = internal(name, config)
        .map(by(Rule::CodexInternal))
        .or_else(|| serving().find(is_default).map(by(Rule::DefaultModel)))
        .or_else(|| serving().find(|provider| lists(provider, name)).map(by(Rule::Listed)))
        .or_else(|| by_pattern(name, config).map(by(Rule::Vendor)))
        .or_else(|| {
            let default = config.default_provider.as_ref()?;
            let provider = config.providers.get(default).filter(|provider| !provider.disabled);
            provider.map(by(Rule::DefaultProvider))
        });
    match found {
        // ChatGPT's models have no slash in their names: this one was meant for somebody else.
        Some((provider, _)) if provider.auth == AuthMode::Forward && name.contains('/') => {
            let prefix = name.split('/').next().unwrap_or_default().to_owned();
            let known: Vec<_> = config.providers.keys().map(ProviderId::as_str).collect();
            Err(RouteError::NoProvider(prefix, known.join(", ")))
        }
        Some((provider, rule)) => {
            Ok((Route { provider: provider.id.clone(), model: name.into() }, rule))
        }
        None => Err(RouteError::Unknown(name.to_owned())),
    }
}

fn explicit(name: &str, config: &Config) -> Option<Result<Route, RouteError>> {
    let (prefix, rest) = name.split_once('/')?;
    let provider = config.providers.get(prefix)?;
    if provider.disabled {
        return Some(Err(RouteError::Disabled(provider.id.clone())));
    }
    if rest.is_empty() {
        return Some(Err(RouteError::NoModel(provider.id.clone())));
    }
    // A provider may be named like the vendor segment of its own models.
    let model = if lists(provider, name) { name } else { rest };
    Some(Ok(Route { provider: provider.id.clone(), model: model.into() }))
}

fn internal<'c>(name: &str, config: &'c Config) -> Option<&'c Arc<ProviderSpec>> {
    if !CODEX_INTERNAL.contains(&name) {
        return None;
    }
    config
        .providers
        .values()
        .find(|provider| provider.auth == AuthMode::Forward && !provider.disabled)
}

fn lists(provider: &ProviderSpec, name: &str) -> bool {
    provider.models.iter().any(|model| model == name)
}

fn by_pattern<'c>(name: &str, config: &'c Config) -> Option<&'c Arc<ProviderSpec>> {
    let (_, vendor) = PATTERNS.iter().find(|(start, _)| name.starts_with(start))?;
    let serving = || config.providers.values().filter(|provider| !provider.disabled);
    serving()
        .find(|provider| provider.id.as_str() == *vendor)
        .or_else(|| serving().find(|provider| provider.id.as_str().starts_with(vendor)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config;

    fn config() -> Config {
        let chat = |fields: serde_json::Value| {
            let mut provider = json!({"adapter": "openai-chat", "baseUrl": "http://localhost:1"});
            provider.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            provider
        };
        let text = json!({"defaultProvider": "last", "providers": {
            "openai-key": chat(json!({"models": ["shared"]})),
            "openai": {},
            "fireworks": chat(json!({})),
            "off": chat(json!({"disabled": true, "models": ["only-off"], "defaultModel": "off-default"})),
            "vendor": chat(json!({"models": ["vendor/auto", "shared"], "defaultModel": "v-default"})),
            "last": chat(json!({})),
        }});
        config::check(text.to_string().as_bytes(), Path::new("c"), &|_| None).unwrap().config
    }

    #[test]
    fn precedence() {
        let config = config();
        for (name, provider, model) in [
            ("fireworks/accounts/fireworks/models/x", "fireworks", "accounts/fireworks/models/x"),
            ("vendor/auto", "vendor", "vendor/auto"),
            ("vendor/other", "vendor", "other"),
            ("meta-llama/Llama-3", "last", "meta-llama/Llama-3"),
            ("v-default", "vendor", "v-default"),
            ("shared", "openai-key", "shared"),
            ("gpt-5.5", "openai", "gpt-5.5"),
            ("claude-x", "last", "claude-x"),
            ("codex-auto-review", "openai", "codex-auto-review"),
            ("only-off", "last", "only-off"),
            ("/x", "last", "/x"),
            ("__proto__", "last", "__proto__"),
        ] {
            let route = route(name, &config).unwrap();
            assert_eq!(
                (route.provider.as_str(), route.model.as_str()),
                (provider, model),
                "{name}"
            );
        }
        assert_eq!(route("off/x", &config), Err(RouteError::Disabled("off".into())));
        assert_eq!(route("vendor/", &config), Err(RouteError::NoModel("vendor".into())));
        let mut native = config.clone();
        native.default_provider = Some("openai".into());
        let error = route("mine/m", &native).unwrap_err().to_string();
        assert!(error.contains("no provider is called `mine`") && error.contains("fireworks"));
        let mut none = config.clone();
        none.default_provider = None;
        assert_eq!(route("zzz", &none), Err(RouteError::Unknown("zzz".into())));
    }

    proptest! {
        #[test]
        fn p17_routing_is_total_and_repeatable(name in "[a-z/:.\\[\\]-]{0,20}") {
            let config = config();
            prop_assert_eq!(route(&name, &config), route(&name, &config));
        }
    }
}
