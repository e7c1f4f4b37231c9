//! Which providers exist: facts about their endpoints as data, so that a new one needs no code.

use std::sync::LazyLock;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod login;
mod quirks;

pub use login::{Login, TokenFormat};

pub use quirks::{
    EmptyAssistantContent, GoogleMode, KeyTransport, MaxTokensField, ModelDiscovery, Quirks,
    ReasoningWireFormat, RowRule, TOOL_NAME_ESCAPE, lists,
};

/// The protocol an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// OpenAI Chat Completions, and everything compatible with it.
    #[serde(rename = "openai-chat")]
    OpenAiChat,
    /// OpenAI Responses, relayed.
    #[serde(rename = "openai-responses")]
    OpenAiResponses,
    /// Anthropic Messages.
    Anthropic,
    /// Gemini's generateContent.
    Google,
    /// OpenAI Responses as Azure serves it.
    #[serde(rename = "azure-openai", alias = "azure")]
    AzureOpenAi,
}

impl AdapterKind {
    /// Every adapter there is.
    pub const ALL: [Self; 5] =
        [Self::OpenAiChat, Self::OpenAiResponses, Self::Anthropic, Self::Google, Self::AzureOpenAi];

    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai-chat",
            Self::OpenAiResponses => "openai-responses",
            Self::Anthropic => "anthropic",
            Self::Google => "google",
            Self::AzureOpenAi => "azure-openai",
        }
    }
}

/// Whose credential an upstream gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    /// The key of the config.
    #[default]
    Key,
    /// The caller's own ChatGPT login, relayed.
    Forward,
    /// An account that `ocx login` logged in to. An `apiKey` beside it is used instead.
    #[serde(rename = "oauth")]
    OAuth,
    /// No key needed (local servers); one is sent if there is one.
    Local,
}

impl AuthMode {
    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Forward => "forward",
            Self::OAuth => "oauth",
            Self::Local => "local",
        }
    }
}

/// What we know about one provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderEntry {
    /// Shown to people.
    pub label: String,
    /// Its protocol.
    pub adapter: AdapterKind,
    /// Its address, with the version segment its protocol wants.
    pub base_url: String,
    /// Whose credential it takes.
    #[serde(default)]
    pub auth: AuthMode,
    /// The variable its users usually keep the key in.
    #[serde(default)]
    pub env_var: Option<String>,
    /// Where its users get a key.
    #[serde(default)]
    pub key_page: Option<String>,
    /// The model to use when none is named.
    #[serde(default)]
    pub default_model: Option<String>,
    /// Models known without asking.
    #[serde(default)]
    pub models: Vec<String>,
    /// Whether it can be asked for its models.
    #[serde(default = "yes")]
    pub live_models: bool,
    /// Its model list is open to everybody, so that it says nothing about a key.
    #[serde(default)]
    pub list_proves_nothing: bool,
    /// Its other addresses, by region or plan.
    #[serde(default)]
    pub base_urls: IndexMap<String, String>,
    /// Its oddities.
    #[serde(default)]
    pub quirks: Quirks,
    /// How accounts log in.
    #[serde(default)]
    pub login: Option<Login>,
    /// Where these facts come from.
    pub source: String,
}

/// `base` with every field that is set in `over` taken from there.
fn overlay<T: Clone + Serialize + serde::de::DeserializeOwned>(base: &T, over: &T) -> T {
    // Both sides skip what is unset, so a merge of the two documents is the overlay of all fields,
    // including those that will be added later.
    let mut merged = serde_json::to_value(base).unwrap_or_default();
    if let (Some(into), Ok(serde_json::Value::Object(from))) =
        (merged.as_object_mut(), serde_json::to_value(over))
    {
        into.extend(from);
    }
    serde_json::from_value(merged).unwrap_or_else(|_| over.clone())
}

fn yes() -> bool {
    true
}

static ENTRIES: LazyLock<IndexMap<String, ProviderEntry>> = LazyLock::new(|| {
    // The file is compiled in and a test parses it, so this cannot fail on a user's machine.
    toml::from_str(include_str!("providers.toml")).expect("providers.toml is checked by a test")
});

/// The entry with this id.
pub fn find(id: &str) -> Option<&'static ProviderEntry> {
    ENTRIES.get(id)
}

/// All entries, in the order of the file.
pub fn entries() -> impl Iterator<Item = (&'static str, &'static ProviderEntry)> {
    ENTRIES.iter().map(|(id, entry)| (id.as_str(), entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_sound() {
        let ids: Vec<&str> = entries().map(|(id, _)| id).collect();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        assert_eq!(ids, sorted, "providers.toml is sorted by id");
        for (id, entry) in entries() {
            assert!(
                id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{id} is kebab-case"
            );
            let url = url::Url::parse(&entry.base_url).unwrap_or_else(|e| panic!("{id}: {e}"));
            let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost"));
            assert!(url.scheme() == "https" || local, "{id}: {url}");
            assert_eq!(entry.auth == AuthMode::Local, local, "{id}");
            let keyed = matches!(entry.auth, AuthMode::Key | AuthMode::OAuth);
            assert!(!keyed || entry.env_var.is_some(), "{id} names the variable of its key");
            assert!(entry.auth != AuthMode::Key || entry.key_page.is_some(), "{id} has a key page");
            assert_eq!(entry.auth == AuthMode::OAuth, entry.login.is_some(), "{id}");
            for (field, address) in entry.login.iter().flat_map(Login::endpoints) {
                assert!(address.starts_with("https://"), "{id}: {field} {address}");
            }
            for address in entry.base_urls.values() {
                assert!(address.starts_with("https://"), "{id}: {address}");
            }
            assert!(!entry.source.is_empty(), "{id} names its source");
            if let (Some(default), false) = (&entry.default_model, entry.models.is_empty()) {
                assert!(entry.models.contains(default), "{id}: {default}");
            }
        }
    }
}
