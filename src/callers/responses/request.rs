//! The body of `POST /v1/responses`, read as leniently as clients write it.
//! Source: Codex CLI 0.169.0 on the wire; platform.openai.com/docs/api-reference/responses.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Number, value::RawValue};

use super::super::{parts::ContentPart, tools::ToolDeclaration};
use crate::wire::json::{Obj, Str, TextOrList};

/// A Responses request. Fields that no translation needs are left to the raw body.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    pub model: Str<'a>,
    #[serde(borrow)]
    pub input: TextOrList<'a, Obj<Item<'a>>>,
    #[serde(borrow)]
    pub instructions: Str<'a>,
    #[serde(borrow)]
    pub tools: TextOrList<'a, Obj<ToolDeclaration<'a>>>,
    #[serde(borrow)]
    pub tool_choice: Option<&'a RawValue>,
    pub parallel_tool_calls: Option<bool>,
    pub max_output_tokens: Option<u64>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub presence_penalty: Option<Number>,
    pub frequency_penalty: Option<Number>,
    #[serde(borrow)]
    pub stop: TextOrList<'a, Str<'a>>,
    pub stream: Option<bool>,
    #[serde(borrow)]
    pub reasoning: Obj<ReasoningField<'a>>,
    #[serde(borrow)]
    pub text: Obj<TextField<'a>>,
    #[serde(borrow)]
    pub previous_response_id: Str<'a>,
    #[serde(borrow)]
    pub prompt_cache_key: Str<'a>,
    #[serde(borrow)]
    pub service_tier: Str<'a>,
    // What no translation carries; each that is there counts as lost.
    pub conversation: Option<IgnoredAny>,
    pub prompt: Option<IgnoredAny>,
    pub max_tool_calls: Option<IgnoredAny>,
    pub top_logprobs: Option<IgnoredAny>,
    pub context_management: Option<IgnoredAny>,
    #[serde(borrow)]
    pub background: Option<&'a RawValue>,
    #[serde(borrow)]
    pub truncation: Str<'a>,
}

impl Body<'_> {
    /// How many fields no translation carries.
    pub fn uncarried(&self) -> usize {
        let text = self.text.0.as_ref();
        [
            &self.conversation,
            &self.prompt,
            &self.max_tool_calls,
            &self.top_logprobs,
            &self.context_management,
            text.map_or(&None, |text| &text.verbosity),
        ]
        .into_iter()
        .filter(|field| field.is_some())
        .count()
            + usize::from(self.background.is_some_and(|background| background.get() == "true"))
            + usize::from(self.truncation.get() == Some("auto"))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReasoningField<'a> {
    #[serde(borrow)]
    pub effort: Str<'a>,
    #[serde(borrow)]
    pub summary: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TextField<'a> {
    #[serde(borrow)]
    pub format: Obj<Format<'a>>,
    pub verbosity: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Format<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Str<'a>,
    #[serde(borrow)]
    pub name: Str<'a>,
    #[serde(borrow)]
    pub description: Str<'a>,
    #[serde(borrow)]
    pub schema: Option<&'a RawValue>,
    pub strict: Option<bool>,
}

/// Any input item: the fields of all types, each read leniently.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Item<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Str<'a>,
    #[serde(borrow)]
    pub id: Str<'a>,
    #[serde(borrow)]
    pub role: Str<'a>,
    #[serde(borrow)]
    pub content: TextOrList<'a, Obj<ContentPart<'a>>>,
    #[serde(borrow)]
    pub summary: TextOrList<'a, Obj<ContentPart<'a>>>,
    #[serde(borrow)]
    pub encrypted_content: Str<'a>,
    #[serde(borrow)]
    pub call_id: Str<'a>,
    #[serde(borrow)]
    pub name: Str<'a>,
    #[serde(borrow)]
    pub namespace: Str<'a>,
    /// A string for function calls, an object for `tool_search_call`.
    #[serde(borrow)]
    pub arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub input: Str<'a>,
    #[serde(borrow)]
    pub output: TextOrList<'a, Obj<ContentPart<'a>>>,
    #[serde(borrow)]
    pub action: Option<&'a RawValue>,
    #[serde(borrow)]
    pub tools: TextOrList<'a, Obj<ToolDeclaration<'a>>>,
}
