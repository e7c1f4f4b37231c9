//! Prompt → the body of `POST /chat/completions`.
//!
//! `messages` comes last: an append-only conversation then gives bodies that share all bytes up to
//! the last message, which is what prompt caches look at.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Number, Value, json, value::RawValue};

use super::{
    super::Target,
    history::{ChatMessage, messages},
};
use crate::{
    model::{Effort, LossKind, Losses, OutputFormat, Prompt, Tool, ToolChoice},
    registry::{MaxTokensField, Quirks, ReasoningWireFormat, lists},
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(flatten)]
    limit: Limit,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(flatten)]
    thinking: Thinking,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ChatTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    messages: Vec<ChatMessage<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// The output limit under the name that the upstream reads.
struct Limit(Option<(MaxTokensField, u64)>);

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some((field, tokens)) = self.0 {
            map.serialize_entry(&field, &tokens)?;
        }
        map.end()
    }
}

/// The fields that say how hard to think, in the upstream's own way.
struct Thinking(Vec<(&'static str, Value)>);

impl Serialize for Thinking {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[derive(Serialize)]
struct ChatTool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    parameters: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Choice<'a> {
    Word(&'static str),
    Named {
        #[serde(rename = "type")]
        kind: &'static str,
        function: NamedFunction<'a>,
    },
}

#[derive(Serialize)]
struct NamedFunction<'a> {
    name: &'a str,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat<'a> {
    JsonObject,
    JsonSchema { json_schema: SchemaFormat<'a> },
}

#[derive(Serialize)]
struct SchemaFormat<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    schema: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

/// Encodes a prompt.
pub(super) fn encode(prompt: &Prompt, target: &Target<'_>) -> (Vec<u8>, Losses) {
    let mut losses = Losses::default();
    let (quirks, model, sampling) = (target.quirks, target.model, &prompt.sampling);
    let limit = sampling.max_output_tokens.or_else(|| quirks.max_output_tokens(model));
    let mut accepted = |value, refusing: Option<&Vec<String>>| {
        accepted(value, lists(refusing, model), &mut losses)
    };
    let temperature =
        accepted(sampling.temperature.as_ref(), quirks.no_temperature_models.as_ref());
    let top_p = accepted(sampling.top_p.as_ref(), quirks.no_top_p_models.as_ref());
    let penalties = quirks.no_penalty_models.as_ref();
    let presence_penalty = accepted(sampling.presence_penalty.as_ref(), penalties);
    let frequency_penalty = accepted(sampling.frequency_penalty.as_ref(), penalties);
    let offers_tools = !prompt.tools.is_empty();
    let body = Body {
        model: quirks.wire_model(model),
        stream: prompt.stream,
        stream_options: (prompt.stream && quirks.no_stream_options != Some(true))
            .then_some(StreamOptions { include_usage: true }),
        limit: Limit(limit.map(|tokens| (quirks.max_tokens_field.unwrap_or_default(), tokens))),
        temperature,
        top_p,
        presence_penalty,
        frequency_penalty,
        stop: &sampling.stop,
        thinking: thinking(prompt.reasoning.wanted(), limit, quirks, model),
        response_format: response_format(&prompt.output, quirks, model, &mut losses),
        service_tier: passed(prompt.service_tier.as_deref(), quirks.supports_service_tier),
        prompt_cache_key: passed(prompt.prompt_cache_key.as_deref(), quirks.prompt_cache_key),
        tools: prompt.tools.iter().map(chat_tool).collect(),
        tool_choice: tool_choice(&prompt.tool_choice, quirks, model).filter(|_| offers_tools),
        parallel_tool_calls: quirks
            .parallel_tool_calls
            .filter(|_| offers_tools)
            .map(|sent| sent && prompt.parallel_tool_calls != Some(false)),
        messages: messages(prompt, target, &mut losses),
    };
    for _ in 0..unsent(prompt, &body) {
        losses.add(LossKind::Field);
    }
    // Strings, numbers and parsed JSON serialise.
    (serde_json::to_vec(&body).unwrap_or_default(), losses)
}

/// Wishes of the caller that this upstream is not told.
fn unsent(prompt: &Prompt, body: &Body<'_>) -> usize {
    let thinks = prompt.reasoning.is_wanted();
    let forced = matches!(prompt.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    let offers_tools = !body.tools.is_empty();
    [
        thinks && body.thinking.0.is_empty(),
        prompt.service_tier.is_some() && body.service_tier.is_none(),
        offers_tools && forced && matches!(body.tool_choice, Some(Choice::Word("auto"))),
        offers_tools
            && prompt.parallel_tool_calls == Some(false)
            && body.parallel_tool_calls.is_none(),
    ]
    .into_iter()
    .filter(|unsent| *unsent)
    .count()
}

/// A parameter, unless the model refuses it, which is a loss.
fn accepted<'n>(
    value: Option<&'n Number>,
    refused: bool,
    losses: &mut Losses,
) -> Option<&'n Number> {
    if refused && value.is_some() {
        losses.add(LossKind::Field);
    }
    value.filter(|_| !refused)
}

fn passed(value: Option<&str>, supported: Option<bool>) -> Option<&str> {
    value.filter(|_| supported == Some(true))
}

fn chat_tool(tool: &Tool) -> ChatTool<'_> {
    let function = Function {
        name: &tool.wire_name,
        description: &tool.description,
        parameters: &tool.parameters,
        strict: tool.strict,
    };
    ChatTool { kind: "function", function }
}

fn tool_choice<'a>(choice: &'a ToolChoice, quirks: &Quirks, model: &str) -> Option<Choice<'a>> {
    let auto_only = lists(quirks.auto_tool_choice_only_models.as_ref(), model);
    Some(match choice {
        ToolChoice::Unstated => return None,
        ToolChoice::None => Choice::Word("none"),
        ToolChoice::Required | ToolChoice::Named(_) if auto_only => Choice::Word("auto"),
        ToolChoice::Auto => Choice::Word("auto"),
        ToolChoice::Required => Choice::Word("required"),
        ToolChoice::Named(name) => {
            Choice::Named { kind: "function", function: NamedFunction { name } }
        }
    })
}

fn response_format<'a>(
    output: &'a OutputFormat,
    quirks: &Quirks,
    model: &str,
    losses: &mut Losses,
) -> Option<ResponseFormat<'a>> {
    let format = match output {
        OutputFormat::Text => return None,
        OutputFormat::JsonObject => ResponseFormat::JsonObject,
        OutputFormat::JsonSchema(format) => ResponseFormat::JsonSchema {
            json_schema: SchemaFormat {
                name: &format.name,
                description: format.description.as_deref(),
                schema: &format.schema,
                strict: format.strict,
            },
        },
    };
    if lists(quirks.no_response_format_models.as_ref(), model) {
        losses.add(LossKind::Field);
        return None;
    }
    Some(format)
}

/// Tokens that a budget is a part of when no limit is known.
const DEFAULT_BUDGET_BASE: u64 = 32_768;

fn thinking(effort: Option<Effort>, limit: Option<u64>, quirks: &Quirks, model: &str) -> Thinking {
    let mut fields = Vec::new();
    if let Some(effort) = effort {
        fields.extend(effort_field(effort, limit, quirks, model));
    }
    if lists(quirks.reasoning_split_models.as_ref(), model) {
        fields.push(("reasoning_split", true.into()));
    }
    Thinking(fields)
}

fn effort_field(
    effort: Effort,
    limit: Option<u64>,
    quirks: &Quirks,
    model: &str,
) -> Option<(&'static str, Value)> {
    let wire = quirks.wire_effort(model, effort);
    if quirks.reasoning_wire_format == Some(ReasoningWireFormat::GatewayObject) {
        if effort == Effort::None {
            return Some(("reasoning", json!({"enabled": false})));
        }
        return Some(("reasoning", json!({"enabled": true, "effort": wire?})));
    }
    if lists(quirks.thinking_budget_models.as_ref(), model) {
        return Some(("thinking_budget", budget(effort, limit)?.into()));
    }
    if lists(quirks.thinking_toggle_models.as_ref(), model) {
        let state = wire?;
        return matches!(state.as_str(), "enabled" | "disabled" | "adaptive")
            .then(|| ("thinking", json!({"type": state})));
    }
    Some(("reasoning_effort", wire?.into()))
}

/// The part of the output that may be thinking, in tokens.
fn budget(effort: Effort, limit: Option<u64>) -> Option<u64> {
    let percent = match effort {
        Effort::None => return None,
        Effort::Minimal => return Some(0),
        Effort::Low => 20,
        Effort::Medium => 50,
        Effort::High => 75,
        Effort::XHigh => 90,
        Effort::Max => 100,
    };
    Some((limit.unwrap_or(DEFAULT_BUDGET_BASE).saturating_mul(percent) / 100).max(1))
}

#[cfg(test)]
mod tests;
