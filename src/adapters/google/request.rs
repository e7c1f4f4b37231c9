//! Prompt → the body of `:generateContent`.
//!
//! `contents` comes last: an append-only conversation gives bodies that share all bytes up to the
//! last content, which is what implicit caching looks at.

use serde::Serialize;
use serde_json::{Number, Value, value::RawValue};

use super::{
    super::{Target, history::system_text},
    contents::{Content, WirePart, contents, generation},
    schema::reduce,
};
use crate::{
    model::{Effort, LossKind, Losses, OutputFormat, Prompt, Reasoning, ToolChoice},
    registry::{Quirks, lists},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Config::is_empty")]
    generation_config: Config<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Declarations<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<SystemInstruction<'a>>,
    contents: Vec<Content<'a>>,
}

#[derive(Serialize)]
struct SystemInstruction<'a> {
    parts: [WirePart<'a>; 1],
}

#[derive(Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<SchemaText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<Thinking>,
}

impl Config<'_> {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct SchemaText<'a>(&'a RawValue);

impl PartialEq for SchemaText<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Thinking {
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_budget: Option<u32>,
    include_thoughts: bool,
}

impl Thinking {
    fn is_stated(&self) -> bool {
        self.thinking_level.is_some() || self.thinking_budget.is_some()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Declarations<'a> {
    function_declarations: Vec<Function<'a>>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    #[serde(rename = "parametersJsonSchema", skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'a> {
    function_calling_config: CallingConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallingConfig<'a> {
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_function_names: Option<[&'a str; 1]>,
}

/// Encodes a prompt.
pub(super) fn encode(prompt: &Prompt, target: &Target<'_>) -> (Vec<u8>, Losses) {
    let mut losses = Losses::default();
    let (system, leading) = system_text(prompt, target.model);
    let system_instruction =
        (!system.is_empty()).then(|| SystemInstruction { parts: [WirePart::text(system)] });
    let body = Body {
        generation_config: config(prompt, target, &mut losses),
        tools: tools(prompt, &mut losses),
        tool_config: tool_config(prompt, target, &mut losses),
        system_instruction,
        contents: contents(&prompt.messages, leading, target, &mut losses),
    };
    // Strings, numbers and parsed JSON serialise.
    (serde_json::to_vec(&body).unwrap_or_default(), losses)
}

fn tools<'a>(prompt: &'a Prompt, losses: &mut Losses) -> Vec<Declarations<'a>> {
    if prompt.tools.is_empty() {
        return Vec::new();
    }
    let functions = prompt.tools.iter().map(|tool| {
        let subset = reduce(&tool.parameters);
        if subset.lost {
            losses.add(LossKind::ToolSchema);
        }
        if tool.strict == Some(true) {
            losses.add(LossKind::Field);
        }
        Function {
            name: &tool.wire_name,
            description: &tool.description,
            parameters: subset.parameters,
        }
    });
    vec![Declarations { function_declarations: functions.collect() }]
}

fn tool_config<'a>(
    prompt: &'a Prompt,
    target: &Target<'_>,
    losses: &mut Losses,
) -> Option<ToolConfig<'a>> {
    if prompt.tools.is_empty() {
        return None;
    }
    if prompt.parallel_tool_calls == Some(false) {
        losses.add(LossKind::Field);
    }
    let auto_only = lists(target.quirks.auto_tool_choice_only_models.as_ref(), target.model);
    let (mode, allowed_function_names) = match &prompt.tool_choice {
        ToolChoice::Unstated | ToolChoice::Auto => return None,
        ToolChoice::None => ("NONE", None),
        _ if auto_only => {
            losses.add(LossKind::Field);
            return None;
        }
        ToolChoice::Required => ("ANY", None),
        ToolChoice::Named(name) => ("ANY", Some([name.as_str()])),
    };
    Some(ToolConfig { function_calling_config: CallingConfig { mode, allowed_function_names } })
}

fn config<'a>(prompt: &'a Prompt, target: &Target<'_>, losses: &mut Losses) -> Config<'a> {
    let (sampling, quirks, model) = (&prompt.sampling, target.quirks, target.model);
    let mut accepted = |value: Option<&'a Number>, refusing: Option<&Vec<String>>| {
        let refused = lists(refusing, model);
        if refused && value.is_some() {
            losses.add(LossKind::Field);
        }
        value.filter(|_| !refused)
    };
    let temperature =
        accepted(sampling.temperature.as_ref(), quirks.no_temperature_models.as_ref());
    let top_p = accepted(sampling.top_p.as_ref(), quirks.no_top_p_models.as_ref());
    let penalties = quirks.no_penalty_models.as_ref();
    let presence_penalty = accepted(sampling.presence_penalty.as_ref(), penalties);
    let frequency_penalty = accepted(sampling.frequency_penalty.as_ref(), penalties);
    if prompt.service_tier.is_some() {
        losses.add(LossKind::Field);
    }
    let (response_mime_type, response_json_schema) = match &prompt.output {
        OutputFormat::Text => (None, None),
        // Before Gemini 3, JSON and tools exclude each other.
        _ if !prompt.tools.is_empty() && generation(model).is_some_and(|major| major < 3) => {
            losses.add(LossKind::Field);
            (None, None)
        }
        _ if lists(quirks.no_response_format_models.as_ref(), model) => {
            losses.add(LossKind::Field);
            (None, None)
        }
        OutputFormat::JsonObject => (Some(JSON), None),
        OutputFormat::JsonSchema(format) => (Some(JSON), Some(SchemaText(&format.schema))),
    };
    let described = match &prompt.output {
        OutputFormat::JsonSchema(format) => format.description.is_some(),
        _ => false,
    };
    if described && response_json_schema.is_some() {
        losses.add(LossKind::Field);
    }
    let thinking_config = thinking(&prompt.reasoning, quirks, model);
    if prompt.reasoning.is_wanted() && !thinking_config.as_ref().is_some_and(Thinking::is_stated) {
        losses.add(LossKind::Field);
    }
    Config {
        max_output_tokens: sampling.max_output_tokens.or_else(|| quirks.max_output_tokens(model)),
        temperature,
        top_p,
        presence_penalty,
        frequency_penalty,
        stop_sequences: &sampling.stop,
        response_mime_type,
        response_json_schema,
        thinking_config,
    }
}

const JSON: &str = "application/json";

/// Levels since Gemini 3, budgets in 2.5, nothing before; thoughts are summarised where the caller
/// wants to see them.
/// Source: ai.google.dev/gemini-api/docs/thinking, 2026-11.
fn thinking(reasoning: &Reasoning, quirks: &Quirks, model: &str) -> Option<Thinking> {
    let silent = quirks.efforts(model).is_some_and(<[String]>::is_empty);
    let generation = generation(model).filter(|_| !silent)?;
    let is_flash = model.contains("flash");
    let (mut thinking_level, mut thinking_budget) = (None, None);
    match (generation, reasoning.wanted()) {
        (_, None) => {}
        (3.., Some(effort)) => {
            let known = quirks.efforts(model).and_then(|_| quirks.wire_effort(model, effort));
            let level = known.unwrap_or_else(|| default_level(effort, is_flash).to_owned());
            thinking_level = Some(level);
        }
        (2, Some(effort)) if model.contains("gemini-2.5") => {
            thinking_budget = Some(match reasoning.budget_tokens {
                Some(tokens) => own_budget(tokens, is_flash),
                None => budget(effort, is_flash),
            });
        }
        _ => {}
    }
    let thinks = generation >= 3 || model.contains("gemini-2.5");
    let stated = thinking_level.is_some() || thinking_budget.is_some();
    (thinks && (stated || reasoning.show)).then_some(Thinking {
        thinking_level,
        thinking_budget,
        include_thoughts: reasoning.show,
    })
}

fn default_level(effort: Effort, is_flash: bool) -> &'static str {
    match effort {
        Effort::None | Effort::Minimal if is_flash => "minimal",
        Effort::None | Effort::Minimal | Effort::Low => "low",
        Effort::Medium if is_flash => "medium",
        _ => "high",
    }
}

/// A caller's own number, within what the model takes.
fn own_budget(tokens: u64, is_flash: bool) -> u32 {
    let (least, most) = if is_flash { (0, 24_576) } else { (128, 32_768) };
    u32::try_from(tokens).unwrap_or(u32::MAX).clamp(least, most)
}

/// Pro cannot stop thinking.
fn budget(effort: Effort, is_flash: bool) -> u32 {
    match effort {
        Effort::None => {
            if is_flash {
                0
            } else {
                128
            }
        }
        Effort::Minimal => 512,
        Effort::Low => 1_024,
        Effort::Medium => 8_192,
        Effort::High | Effort::XHigh | Effort::Max => 24_576,
    }
}

#[cfg(test)]
mod tests;
