//! Known deviations, each a named field. `config.json` and `providers.toml` write them alike; what
//! the user writes wins.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AdapterKind;
use crate::model::Effort;

/// How a provider, or some of its models, differs from its protocol.
///
/// Lists of models match an id that is equal to an entry, or whose part before `:` is (`gpt-oss`
/// covers `gpt-oss:120b`). Maps try the exact id, then the part before `:`, then ignore case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Quirks {
    /// Models that take no effort parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_reasoning_models: Option<Vec<String>>,
    /// Models that cannot see images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_vision_models: Option<Vec<String>>,
    /// Efforts that every model of the provider accepts; empty means that none is ever sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_efforts: Option<Vec<String>>,
    /// The same, by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_reasoning_efforts: Option<BTreeMap<String, Vec<String>>>,
    /// What an effort is called on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort_map: Option<BTreeMap<String, String>>,
    /// The same, by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_reasoning_effort_map: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// The effort to suggest for a model, where it is not the middle one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_default_reasoning_efforts: Option<BTreeMap<String, String>>,
    /// Models that take any effort as it is: none is mapped to a neighbour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_reasoning_effort_models: Option<Vec<String>>,
    /// Models that speak another protocol than the rest of their provider (GitHub Copilot).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_adapters: Option<BTreeMap<String, AdapterKind>>,
    /// How the model list differs from `GET {base}/models`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_discovery: Option<ModelDiscovery>,
    /// `vertex`: a `google` provider with Vertex AI's addresses (express mode, with an API key).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub google_mode: Option<GoogleMode>,
    /// Models that refuse `temperature`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_temperature_models: Option<Vec<String>>,
    /// Models that refuse `top_p`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_top_p_models: Option<Vec<String>>,
    /// Models that refuse presence and frequency penalties.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_penalty_models: Option<Vec<String>>,
    /// Models that refuse a forced tool choice; it becomes `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_tool_choice_only_models: Option<Vec<String>>,
    /// How the key of an `anthropic` provider is sent: `x-api-key` (the default) or `bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_transport: Option<KeyTransport>,
    /// The upstream has tools of its own whose names collide with callers' (Umans); ours are sent
    /// with the prefix `ocx_`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escape_builtin_tool_names: Option<bool>,
    /// `false`: no `cache_control` is sent to an `anthropic` provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_markers: Option<bool>,
    /// Text blocks that go before the system prompt of an `anthropic` provider. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_preamble: Option<Vec<String>>,
    /// Models that must get their reasoning back as `reasoning_content` (DeepSeek, Kimi).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve_reasoning_content_models: Option<Vec<String>>,
    /// The upstream compacts conversations itself: `/responses/compact` and `compaction_trigger`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native_compaction: Option<bool>,
    /// Models whose thinking is switched with `thinking: {"type": …}` (Z.AI, MiniMax, Ark).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_toggle_models: Option<Vec<String>>,
    /// Models whose thinking is limited with `thinking_budget` (Qwen).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_budget_models: Option<Vec<String>>,
    /// Models that put reasoning into a field of its own only if `reasoning_split` asks (MiniMax).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_split_models: Option<Vec<String>>,
    /// `gateway-object`: effort is sent as `reasoning: {"enabled": true, "effort": …}` (Cline).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_wire_format: Option<ReasoningWireFormat>,
    /// Whether `parallel_tool_calls` is sent: `true` sends the caller's wish, `false` pins `false`,
    /// absent sends nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Whether `prompt_cache_key` is passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_cache_key: Option<bool>,
    /// Whether `service_tier` is passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supports_service_tier: Option<bool>,
    /// Path after the base URL for a Responses call, where it is not `/v1/responses`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses_path: Option<String>,
    /// Output limit sent when the caller states none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_max_output_tokens: Option<u64>,
    /// The same, by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_max_output_tokens: Option<BTreeMap<String, u64>>,
    /// Name of the output limit: `max_tokens` (the default) or `max_completion_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens_field: Option<MaxTokensField>,
    /// The upstream refuses `stream_options`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_stream_options: Option<bool>,
    /// The upstream knows the role `developer` (api.openai.com).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub developer_role: Option<bool>,
    /// Models that refuse `response_format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_response_format_models: Option<Vec<String>>,
    /// A suffix such as `[1m]` belongs to routing, not to the upstream's model id (Z.AI).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_suffix_bracket_strip: Option<bool>,
    /// The upstream ends streams without `finish_reason` and `[DONE]`; text counts as complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openai_chat_eof_tolerance: Option<bool>,
    /// Content of an assistant message that only calls tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_assistant_content: Option<EmptyAssistantContent>,
    /// Context window in tokens, of every model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// The same, by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_context_windows: Option<BTreeMap<String, u64>>,
    /// What a model takes, `["text", "image"]` for instance, by model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_input_modalities: Option<BTreeMap<String, Vec<String>>>,
}

/// Goes before tool names where [`Quirks::escape_builtin_tool_names`] says so.
pub const TOOL_NAME_ESCAPE: &str = "ocx_";

/// The header of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyTransport {
    /// `x-api-key: …`.
    XApiKey,
    /// `authorization: Bearer …`.
    Bearer,
}

/// How a model list differs from the usual.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ModelDiscovery {
    /// Relative to the base URL; `models` by default. It cannot leave the base's origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Query parameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Taken off the beginning of every id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip_id_prefix: Option<String>,
    /// What a row must say to be listed; all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<RowRule>,
}

/// A condition on one field of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RowRule {
    /// JSON pointer of the field.
    pub path: String,
    /// It must be one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub equals: Vec<serde_json::Value>,
    /// It must hold one of these: a list as an element, a text as a part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<String>,
}

/// A variant of Google's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GoogleMode {
    /// Vertex AI.
    Vertex,
}

/// Where the effort goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReasoningWireFormat {
    /// `reasoning: {"enabled": true, "effort": …}`.
    GatewayObject,
}

/// The field that limits the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// What nearly everybody reads.
    #[default]
    MaxTokens,
    /// What OpenAI's reasoning models read.
    MaxCompletionTokens,
}

/// Content of an assistant message that only calls tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EmptyAssistantContent {
    /// `""`, which every known server takes.
    #[default]
    EmptyString,
    /// `null`, as OpenAI writes it.
    Null,
    /// A list with one empty text part (Volcengine Ark).
    TextPart,
}

impl Quirks {
    /// These quirks with every field that is set in `over` taken from there.
    pub fn overlaid(&self, over: &Self) -> Self {
        super::overlay(self, over)
    }

    /// The model id as the upstream wants it.
    pub fn wire_model<'m>(&self, model: &'m str) -> &'m str {
        if self.model_suffix_bracket_strip == Some(true)
            && let Some(at) = model.find('[')
            && model.ends_with(']')
        {
            return &model[..at];
        }
        model
    }

    /// The output limit to send when the caller states none.
    pub fn max_output_tokens(&self, model: &str) -> Option<u64> {
        by_model(self.model_max_output_tokens.as_ref(), model)
            .copied()
            .or(self.default_max_output_tokens)
    }

    /// The context window, if known, in tokens.
    pub fn context_window(&self, model: &str) -> Option<u64> {
        by_model(self.model_context_windows.as_ref(), model).copied().or(self.context_window)
    }

    /// The effort to suggest, if one is known.
    pub fn default_effort(&self, model: &str) -> Option<&str> {
        by_model(self.model_default_reasoning_efforts.as_ref(), model).map(String::as_str)
    }

    /// Whether the model must get its reasoning back as it was.
    pub fn keeps_reasoning(&self, model: &str) -> bool {
        lists(self.preserve_reasoning_content_models.as_ref(), model)
    }

    /// Whether the model can see images; yes, unless something says otherwise.
    pub fn sees_images(&self, model: &str) -> bool {
        self.known_sight(model).unwrap_or(true)
    }

    /// Whether the model can see images, if anything says so.
    pub fn known_sight(&self, model: &str) -> Option<bool> {
        if let Some(modalities) = by_model(self.model_input_modalities.as_ref(), model) {
            return Some(modalities.iter().any(|modality| modality == "image"));
        }
        lists(self.no_vision_models.as_ref(), model).then_some(false)
    }

    /// The efforts a model accepts: nothing known, or a list that may be empty.
    pub fn efforts(&self, model: &str) -> Option<&[String]> {
        if lists(self.no_reasoning_models.as_ref(), model) {
            return Some(&[]);
        }
        by_model(self.model_reasoning_efforts.as_ref(), model)
            .or(self.reasoning_efforts.as_ref())
            .map(Vec::as_slice)
    }

    /// The effort to send, as the wire writes it, or nothing.
    ///
    /// A rename of the requested label wins; then labels few providers know are mapped to ones they
    /// do; then the nearest supported effort is taken, rather a lower than a higher one.
    pub fn wire_effort(&self, model: &str, requested: Effort) -> Option<String> {
        if lists(self.no_reasoning_models.as_ref(), model) {
            return None;
        }
        let renames = by_model(self.model_reasoning_effort_map.as_ref(), model)
            .or(self.reasoning_effort_map.as_ref());
        let rename = |label: &str| renames.and_then(|map| map.get(label)).cloned();
        if let Some(wire) = rename(requested.label()) {
            return Some(wire);
        }
        if lists(self.direct_reasoning_effort_models.as_ref(), model) {
            return (requested != Effort::None).then(|| requested.label().to_owned());
        }
        let effort = match requested {
            Effort::None => return None,
            Effort::Minimal => Effort::Low,
            Effort::Max => Effort::XHigh,
            other => other,
        };
        let label = match self.efforts(model) {
            Some(supported) => nearest(supported, effort)?,
            None => effort.label().to_owned(),
        };
        Some(rename(&label).unwrap_or(label))
    }
}

/// The highest supported effort that is not above `wanted`, else the lowest.
fn nearest(supported: &[String], wanted: Effort) -> Option<String> {
    let mut known: Vec<(Effort, &String)> =
        supported.iter().filter_map(|label| Some((Effort::parse(label)?, label))).collect();
    known.sort_by_key(|(effort, _)| *effort);
    known
        .iter()
        .rev()
        .find(|(effort, _)| *effort <= wanted)
        .or(known.first())
        .map(|(_, label)| (*label).clone())
}

fn family(model: &str) -> &str {
    model.split(':').next().unwrap_or(model)
}

/// Whether a list of models covers this one.
pub fn lists(models: Option<&Vec<String>>, model: &str) -> bool {
    models.is_some_and(|models| models.iter().any(|entry| entry == model || entry == family(model)))
}

fn by_model<'m, V>(map: Option<&'m BTreeMap<String, V>>, model: &str) -> Option<&'m V> {
    let map = map?;
    map.get(model).or_else(|| map.get(family(model))).or_else(|| {
        map.iter().find(|(name, _)| name.eq_ignore_ascii_case(model)).map(|(_, value)| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn lists_cover_tags_and_own_keys_only() {
        let quirks = Quirks { no_vision_models: strings(&["gpt-oss", "a:b"]), ..Quirks::default() };
        assert!(!quirks.sees_images("gpt-oss:120b"));
        assert!(!quirks.sees_images("a:b"));
        assert!(quirks.sees_images("a:c"));
        assert!(quirks.sees_images("constructor"));
    }

    #[test]
    fn efforts_are_renamed_clamped_or_left_out() {
        let supported =
            Quirks { reasoning_efforts: strings(&["low", "high"]), ..Quirks::default() };
        for (wanted, sent) in [
            (Effort::None, None),
            (Effort::Minimal, Some("low")),
            (Effort::Medium, Some("low")),
            (Effort::High, Some("high")),
            (Effort::Max, Some("high")),
        ] {
            assert_eq!(supported.wire_effort("m", wanted).as_deref(), sent, "{wanted:?}");
        }
        let only_high = Quirks { reasoning_efforts: strings(&["high"]), ..Quirks::default() };
        assert_eq!(only_high.wire_effort("m", Effort::Low).as_deref(), Some("high"));
        let never = Quirks { reasoning_efforts: strings(&[]), ..Quirks::default() };
        assert_eq!(never.wire_effort("m", Effort::High), None);
        let mapped = Quirks {
            reasoning_effort_map: Some([("xhigh".into(), "max".into())].into()),
            ..Quirks::default()
        };
        assert_eq!(mapped.wire_effort("m", Effort::Max).as_deref(), Some("max"));
        let blunt = Quirks { no_reasoning_models: strings(&["m"]), ..Quirks::default() };
        assert_eq!(blunt.wire_effort("m:8b", Effort::High), None);
    }

    #[test]
    fn some_models_take_every_effort_as_it_is() {
        let direct = Quirks {
            reasoning_efforts: strings(&["low"]),
            direct_reasoning_effort_models: strings(&["m"]),
            ..Quirks::default()
        };
        assert_eq!(direct.wire_effort("m", Effort::Max).as_deref(), Some("max"));
        assert_eq!(direct.wire_effort("m", Effort::None), None);
        assert_eq!(direct.wire_effort("n", Effort::Max).as_deref(), Some("low"));
    }

    #[test]
    fn what_the_user_writes_wins() {
        let registry = Quirks {
            context_window: Some(1000),
            no_stream_options: Some(true),
            ..Quirks::default()
        };
        let user = Quirks { context_window: Some(5), ..Quirks::default() };
        let merged = registry.overlaid(&user);
        assert_eq!((merged.context_window, merged.no_stream_options), (Some(5), Some(true)));
    }

    #[test]
    fn a_bracket_suffix_is_stripped_only_where_flagged() {
        let flagged = Quirks { model_suffix_bracket_strip: Some(true), ..Quirks::default() };
        assert_eq!(flagged.wire_model("glm-5.2[1m]"), "glm-5.2");
        assert_eq!(Quirks::default().wire_model("glm-5.2[1m]"), "glm-5.2[1m]");
    }
}
