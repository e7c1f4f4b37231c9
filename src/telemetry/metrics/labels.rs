//! The values of labels: closed sets, and the one bounded set of model names.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use prometheus::IntGauge;

/// A gauge that is one up as long as this is held. Its series may be dropped meanwhile.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    /// One more.
    pub fn up(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How a call ended, as operators count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Answered.
    Ok,
    /// Answered up to a limit.
    Incomplete,
    /// The caller left.
    ClientCancelled,
    /// The caller's mistake.
    ClientError,
    /// Too many requests.
    RateLimited,
    /// The account is used up.
    Quota,
    /// The credential was refused or is missing.
    Auth,
    /// The prompt is too long.
    ContextLength,
    /// The upstream failed.
    UpstreamError,
    /// The upstream was too slow.
    UpstreamTimeout,
    /// The upstream fell silent.
    Stalled,
    /// Our fault.
    Internal,
}

impl CallOutcome {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Incomplete => "incomplete",
            Self::ClientCancelled => "client_cancelled",
            Self::ClientError => "client_error",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::Auth => "auth",
            Self::ContextLength => "context_length",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Stalled => "stalled",
            Self::Internal => "internal",
        }
    }
}

impl CallOutcome {
    /// The coarser label that calls are counted by per model: whose doing it was.
    pub fn class(self) -> &'static str {
        match self {
            Self::Ok | Self::Incomplete => "ok",
            Self::ClientCancelled | Self::ClientError | Self::ContextLength => "client",
            Self::RateLimited | Self::Quota => "limited",
            Self::Auth
            | Self::UpstreamError
            | Self::UpstreamTimeout
            | Self::Stalled
            | Self::Internal => "upstream",
        }
    }
}

/// Model names that are labels, per provider at most.
pub const MAX_MODELS_OF_PROVIDER: usize = 64;
/// And in all.
pub const MAX_MODELS: usize = 256;
/// Names of a provider that may become labels; what a longer list has beyond is not told apart.
const MAX_KNOWN: usize = 10_000;
/// Stands for every other model.
pub const NO_MODEL: &str = "other";

/// The model names that are labels. A name comes from a caller, so it is a label only if the
/// provider's config or list has it, and only while there is room: a counter that is not there
/// cannot be forged into thousands.
#[derive(Debug, Default)]
pub struct ModelLabels(RwLock<HashMap<String, ModelsOfProvider>>);

#[derive(Debug, Default)]
struct ModelsOfProvider {
    known: HashSet<String>,
    labels: HashSet<Arc<str>>,
}

impl ModelLabels {
    /// A provider has these models, besides those that were offered before.
    pub fn offer<'a>(&self, provider: &str, models: impl Iterator<Item = &'a str>) {
        let mut providers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = &mut providers.entry(provider.to_owned()).or_default().known;
        for model in models {
            if known.len() >= MAX_KNOWN {
                return;
            }
            known.insert(model.to_owned());
        }
    }

    /// The label of a model: its name, or `other`.
    pub fn label(&self, provider: &str, model: &str) -> Arc<str> {
        let providers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match providers.get(provider) {
            Some(models) => match models.labels.get(model) {
                Some(label) => return Arc::clone(label),
                None if !models.known.contains(model) => return NO_MODEL.into(),
                None => drop(providers),
            },
            None => return NO_MODEL.into(),
        }
        let mut providers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let in_all: usize = providers.values().map(|models| models.labels.len()).sum();
        match providers.get_mut(provider) {
            Some(models) if in_all < MAX_MODELS && models.labels.len() < MAX_MODELS_OF_PROVIDER => {
                let label: Arc<str> = model.into();
                models.labels.insert(Arc::clone(&label));
                label
            }
            _ => NO_MODEL.into(),
        }
    }

    /// The provider is gone, and its series with it.
    pub fn forget(&self, provider: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(provider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_models_are_labels_and_only_so_many() {
        let labels = ModelLabels::default();
        assert_eq!(&*labels.label("p", "m0"), NO_MODEL, "nothing is known of it yet");
        let names: Vec<String> = (0..5000).map(|n| format!("m{n}")).collect();
        for provider in ["p", "q", "r", "s", "t", "u"] {
            labels.offer(provider, names.iter().map(String::as_str));
        }
        let told = |provider: &str| {
            let told = names.iter().filter(|name| &*labels.label(provider, name) == name.as_str());
            told.count()
        };
        assert_eq!(&*labels.label("p", "forged"), NO_MODEL);
        assert_eq!(told("p"), MAX_MODELS_OF_PROVIDER);
        assert_eq!(told("p"), MAX_MODELS_OF_PROVIDER, "those that are labels stay so");
        let all: usize = ["p", "q", "r", "s", "t", "u"].into_iter().map(told).sum();
        assert_eq!(all, MAX_MODELS);
        labels.forget("p");
        assert_eq!(told("p"), 0);
        assert_eq!(told("t"), MAX_MODELS_OF_PROVIDER, "there is room again");
    }
}
