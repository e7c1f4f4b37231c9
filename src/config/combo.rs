//! Combos: one name for several models.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProviderSpec, build::Findings};
use crate::{
    model::{ModelId, ProviderId},
    wire::pointer::escape,
};

/// Most targets of one combo.
const MAX_TARGETS: usize = 16;
/// The largest weight.
const MAX_WEIGHT: u32 = 1000;

/// A virtual model as `config.json` writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ComboFile {
    /// `failover` (default) tries the targets in their order; `round-robin` gives each new conversation
    /// to the next, by weight, and tries the others if that one fails.
    pub strategy: Strategy,
    /// `provider/model`, or that with a weight.
    pub targets: Vec<TargetFile>,
}

/// A target as `config.json` writes it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetFile {
    /// `provider/model`.
    Name(String),
    /// The same, with its share of new conversations.
    Weighted {
        /// `provider/model`.
        model: String,
        /// Its share, from 1; default 1.
        #[serde(default = "one")]
        weight: u32,
    },
}

fn one() -> u32 {
    1
}

/// Which target comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The first of the list.
    #[default]
    Failover,
    /// Each in turn.
    RoundRobin,
}

/// A virtual model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combo {
    /// Which target comes first.
    pub strategy: Strategy,
    /// At least one.
    pub targets: Vec<Target>,
}

/// One of a combo's models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose.
    pub provider: ProviderId,
    /// As the upstream names it.
    pub model: ModelId,
    /// Its share of new conversations.
    pub weight: u32,
}

/// Reads combos; each target is a provider's model, so that none leads in a circle.
pub(super) fn build(
    files: Option<&IndexMap<String, ComboFile>>,
    providers: &IndexMap<ProviderId, std::sync::Arc<ProviderSpec>>,
    findings: &mut Findings,
) -> IndexMap<String, Combo> {
    let mut combos = IndexMap::new();
    for (name, file) in files.into_iter().flatten() {
        let at = format!("/combos/{}", escape(name));
        if name.is_empty() || name.contains('/') {
            findings.problem(&at, "a combo's name has no `/`, which sets providers apart");
        }
        if file.targets.is_empty() || file.targets.len() > MAX_TARGETS {
            let message = format!("1 to {MAX_TARGETS} targets are expected");
            findings.problem(format!("{at}/targets"), message);
        }
        let mut targets = Vec::with_capacity(file.targets.len());
        for (n, target) in file.targets.iter().enumerate() {
            match read(target, providers) {
                Ok(target) => targets.push(target),
                Err(message) => findings.problem(format!("{at}/targets/{n}"), message),
            }
        }
        combos.insert(name.clone(), Combo { strategy: file.strategy, targets });
    }
    combos
}

fn read(
    file: &TargetFile,
    providers: &IndexMap<ProviderId, std::sync::Arc<ProviderSpec>>,
) -> Result<Target, String> {
    let (name, weight) = match file {
        TargetFile::Name(name) => (name, 1),
        TargetFile::Weighted { model, weight } => (model, *weight),
    };
    if weight == 0 || weight > MAX_WEIGHT {
        return Err(format!("the weight is 1 to {MAX_WEIGHT}"));
    }
    let (provider, model) =
        name.split_once('/').filter(|(_, model)| !model.is_empty()).ok_or_else(|| {
            format!("`{name}` is no `provider/model`; combos do not lead to other combos")
        })?;
    let (provider, _) = providers
        .get_key_value(provider)
        .ok_or_else(|| format!("no provider `{provider}` is configured"))?;
    Ok(Target { provider: provider.clone(), model: model.into(), weight })
}
