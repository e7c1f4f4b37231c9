//! Prompt → the body of `POST /v1/messages`.
//!
//! `messages` comes last, and markers aside, what stood in a body stands in the next one too: an
//! append-only conversation gives bodies that share all bytes up to the last message.

use std::{borrow::Cow, collections::HashSet};

use serde::Serialize;
use serde_json::{Number, Value, value::RawValue};

use super::{
    super::{Target, history::system_text},
    messages::{Block, CacheControl, Role, WireMessage, lacks_thoughts, messages},
    thinking::{self, Plan, Thinking},
};
use crate::{
    model::{
        AssistantPart, Effort, LossKind, Losses, Message, OutputFormat, Prompt, Reasoning,
        ThinkingWish, ToolChoice,
    },
    registry::{TOOL_NAME_ESCAPE, lists},
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u64,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'a str>,
    #[serde(flatten)]
    countable: Countable<'a>,
}

/// The part of a body that is tokens.
#[derive(Serialize)]
struct Countable<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "OutputConfig::is_empty")]
    output_config: OutputConfig,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Block<'a>>,
    messages: Vec<WireMessage<'a>>,
}

#[derive(Default, Serialize)]
struct OutputConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
}

impl OutputConfig {
    fn is_empty(&self) -> bool {
        self.effort.is_none() && self.format.is_none()
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format {
    JsonSchema { schema: Value },
}

#[derive(Serialize)]
struct WireTool<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    input_schema: Cow<'a, RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
struct Choice<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Serialize)]
struct CountBody<'a> {
    model: &'a str,
    #[serde(flatten)]
    countable: Countable<'a>,
}

/// Encodes a prompt.
pub(super) fn encode(prompt: &Prompt, target: &Target<'_>) -> (Vec<u8>, Losses) {
    let mut losses = Losses::default();
    let (countable, plan) = countable_of(prompt, target, &mut losses);
    let (temperature, top_p) = sampling(prompt, target, &plan, &mut losses);
    let stop = &prompt.sampling.stop;
    if stop.iter().any(|text| text.trim().is_empty()) {
        // Refused by Anthropic.
        losses.add(LossKind::Field);
    }
    if prompt.sampling.max_output_tokens.is_some_and(|limit| limit != plan.max_tokens) {
        losses.add(LossKind::Field);
    }
    let body = Body {
        model: target.quirks.wire_model(target.model),
        max_tokens: plan.max_tokens,
        stream: prompt.stream,
        temperature,
        top_p,
        stop_sequences: stop.iter().map(String::as_str).filter(|s| !s.trim().is_empty()).collect(),
        countable,
    };
    // Strings, numbers and parsed JSON serialise.
    (serde_json::to_vec(&body).unwrap_or_default(), losses)
}

/// The body of `POST /v1/messages/count_tokens`.
pub(super) fn countable(prompt: &Prompt, target: &Target<'_>) -> Vec<u8> {
    let (countable, _) = countable_of(prompt, target, &mut Losses::default());
    let body = CountBody { model: target.quirks.wire_model(target.model), countable };
    serde_json::to_vec(&body).unwrap_or_default()
}

fn countable_of<'a>(
    prompt: &'a Prompt,
    target: &Target<'a>,
    losses: &mut Losses,
) -> (Countable<'a>, Plan) {
    let quirks = target.quirks;
    let escape = if quirks.escape_builtin_tool_names == Some(true) { TOOL_NAME_ESCAPE } else { "" };
    let (system, leading) = system(prompt, target);
    let mut messages = messages(&prompt.messages, leading, target, escape, losses);
    let limit = prompt.sampling.max_output_tokens;
    let plan_for = |reasoning: &Reasoning| thinking::plan(reasoning, limit, quirks, target.model);
    let mut plan = plan_for(&prompt.reasoning);
    if misses_its_wish(&prompt.reasoning, &plan) {
        losses.add(LossKind::Field);
    }
    if plan.demands_thoughts() && lacks_thoughts(&messages) {
        // Refused otherwise. The next question of the user thinks again.
        losses.add(LossKind::Field);
        let (effort, thinking) = (prompt.reasoning.effort, ThinkingWish::Unstated);
        plan = plan_for(&Reasoning { effort, thinking, ..Reasoning::default() });
    }
    let mut system = system;
    let mut tools = tools(prompt, escape, losses);
    if quirks.prompt_cache_markers != Some(false) {
        mark(&mut tools, &mut system, &mut messages);
    }
    let countable = Countable {
        tool_choice: tool_choice(prompt, target, &plan, &tools, escape, losses),
        output_config: OutputConfig {
            effort: plan.effort.clone(),
            format: format(prompt, target, losses),
        },
        thinking: plan.thinking.clone(),
        tools,
        system,
        messages,
    };
    (countable, plan)
}

/// Whether a caller asked for more, or less, thinking or effort than it gets: no room for it, or a model
/// that cannot.
fn misses_its_wish(reasoning: &Reasoning, plan: &Plan) -> bool {
    let stated = reasoning.effort.is_some_and(|effort| effort != Effort::None);
    match (reasoning.thinking, reasoning.wanted()) {
        (_, None) => false,
        (_, Some(Effort::None)) => {
            (plan.thinks && !plan.forbids_thoughts()) || (stated && plan.effort.is_none())
        }
        (ThinkingWish::Unstated, _) => stated && plan.effort.is_none(),
        _ => {
            let own_effort = stated && reasoning.budget_tokens.is_some();
            !plan.asks_for_thoughts() || (own_effort && plan.effort.is_none())
        }
    }
}

fn system<'a>(prompt: &'a Prompt, target: &Target<'a>) -> (Vec<Block<'a>>, usize) {
    let (text, leading) = system_text(prompt, target.model);
    let preamble = target.quirks.system_preamble.iter().flatten();
    let mut blocks: Vec<Block<'a>> = preamble.map(|text| Block::text(text.as_str())).collect();
    if !text.trim().is_empty() {
        blocks.push(Block::text(text));
    }
    (blocks, leading)
}

fn tools<'a>(prompt: &'a Prompt, escape: &'a str, losses: &mut Losses) -> Vec<WireTool<'a>> {
    if prompt.tools.is_empty() {
        return remembered_tools(prompt, escape);
    }
    prompt
        .tools
        .iter()
        .map(|tool| {
            if tool.strict == Some(true) {
                losses.add(LossKind::Field);
            }
            WireTool {
                name: escaped(escape, &tool.wire_name),
                description: &tool.description,
                input_schema: Cow::Borrowed(&tool.parameters),
                cache_control: None,
            }
        })
        .collect()
}

/// A history with calls is refused without tools, so those that were called are declared; the
/// choice `none` keeps them from being called again.
fn remembered_tools<'a>(prompt: &'a Prompt, escape: &'a str) -> Vec<WireTool<'a>> {
    let mut seen = HashSet::new();
    let answers = prompt.messages.iter().filter_map(|message| match message {
        Message::Assistant(parts) => Some(parts),
        _ => None,
    });
    answers
        .flatten()
        .filter_map(|part| match part {
            AssistantPart::Call(call) => Some(call.name.wire()),
            _ => None,
        })
        .filter(|name| seen.insert(name.clone()))
        .map(|name| WireTool {
            name: Cow::Owned(format!("{escape}{name}")),
            description: "",
            input_schema: Cow::Owned(crate::wire::json::to_raw(
                &serde_json::json!({"type": "object"}),
            )),
            cache_control: None,
        })
        .collect()
}

fn escaped<'a>(escape: &str, name: &'a str) -> Cow<'a, str> {
    if escape.is_empty() { name.into() } else { format!("{escape}{name}").into() }
}

/// Four markers at most: tools, system, and the last two messages of the user, so that the next
/// turn finds the entry that this one wrote.
fn mark(tools: &mut [WireTool<'_>], system: &mut [Block<'_>], messages: &mut [WireMessage<'_>]) {
    if let Some(tool) = tools.last_mut() {
        tool.cache_control = Some(CacheControl::Ephemeral);
    }
    if let Some(block) = system.last_mut() {
        block.mark();
    }
    let of_user = messages.iter_mut().rev().filter(|message| message.role == Role::User);
    for message in of_user.take(2) {
        let _ = message.content.iter_mut().rev().any(Block::mark);
    }
}

fn tool_choice<'a>(
    prompt: &'a Prompt,
    target: &Target<'_>,
    plan: &Plan,
    tools: &[WireTool<'_>],
    escape: &str,
    losses: &mut Losses,
) -> Option<Choice<'a>> {
    if tools.is_empty() {
        return None;
    }
    let choice = |kind, name| Choice { kind, name, disable_parallel_tool_use: None };
    if prompt.tools.is_empty() {
        return Some(choice("none", None));
    }
    let forced = matches!(prompt.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    let auto_only = plan.thinks
        || !thinking::takes_forced_choice(target.model)
        || lists(target.quirks.auto_tool_choice_only_models.as_ref(), target.model);
    let mut choice = match &prompt.tool_choice {
        _ if forced && auto_only => {
            losses.add(LossKind::Field);
            choice("auto", None)
        }
        ToolChoice::Unstated if prompt.parallel_tool_calls != Some(false) => return None,
        ToolChoice::Unstated | ToolChoice::Auto => choice("auto", None),
        ToolChoice::None => return Some(choice("none", None)),
        ToolChoice::Required => choice("any", None),
        ToolChoice::Named(name) => choice("tool", Some(escaped(escape, name))),
    };
    choice.disable_parallel_tool_use = (prompt.parallel_tool_calls == Some(false)).then_some(true);
    Some(choice)
}

fn format(prompt: &Prompt, target: &Target<'_>, losses: &mut Losses) -> Option<Format> {
    let refused = lists(target.quirks.no_response_format_models.as_ref(), target.model);
    match &prompt.output {
        OutputFormat::Text => None,
        OutputFormat::JsonSchema(format) if !refused => {
            let mut schema: Value = serde_json::from_str(format.schema.get()).unwrap_or_default();
            let opened = close_objects(&mut schema);
            for _ in [opened, format.description.is_some()].into_iter().filter(|lost| *lost) {
                losses.add(LossKind::Field);
            }
            Some(Format::JsonSchema { schema })
        }
        // JSON without a schema cannot be asked for here.
        OutputFormat::JsonObject | OutputFormat::JsonSchema(_) => {
            losses.add(LossKind::Field);
            None
        }
    }
}

/// Restrictions that a format may not hold.
/// Source: docs.anthropic.com/en/docs/build-with-claude/structured-outputs, 2026-11.
const UNKNOWN_TO_FORMATS: [&str; 9] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
];

/// Anthropic takes only schemas whose objects are closed, and few restrictions. Tells whether an object
/// was meant to be open, or a restriction is gone.
fn close_objects(schema: &mut Value) -> bool {
    let Value::Object(object) = schema else { return false };
    let before = object.len();
    object.retain(|keyword, _| !UNKNOWN_TO_FORMATS.contains(&keyword.as_str()));
    let mut was_open = object.len() < before;
    for (keyword, inner) in object.iter_mut() {
        was_open |= match (keyword.as_str(), inner) {
            ("properties" | "$defs" | "definitions", Value::Object(named)) => {
                named.values_mut().map(close_objects).fold(false, |any, open| any | open)
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(list)) => {
                list.iter_mut().map(close_objects).fold(false, |any, open| any | open)
            }
            ("items", inner) => close_objects(inner),
            // All else is values and restrictions: an `enum` of objects stays what it is.
            _ => false,
        };
    }
    let typed = match object.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        _ => object.contains_key("properties"),
    };
    if typed {
        let before = object.insert("additionalProperties".into(), false.into());
        was_open |= before.is_some_and(|before| before != Value::Bool(false));
    }
    was_open
}

/// Temperature and nucleus. A thinking model takes neither, the newest none ever, newer ones not
/// both, and the scale ends at 1.
fn sampling<'a>(
    prompt: &'a Prompt,
    target: &Target<'_>,
    plan: &Plan,
    losses: &mut Losses,
) -> (Option<Number>, Option<&'a Number>) {
    let sampling = &prompt.sampling;
    let quirks = target.quirks;
    let never = plan.thinks || !thinking::takes_sampling(target.model);
    // The default, which nobody misses.
    let is_default = |number: &Number| never && number.as_f64() == Some(1.0);
    let given = [
        sampling.temperature.as_ref().is_some_and(|number| !is_default(number)),
        sampling.top_p.as_ref().is_some_and(|number| !is_default(number)),
        sampling.presence_penalty.is_some(),
        sampling.frequency_penalty.is_some(),
        prompt.service_tier.is_some(),
    ];
    let refuses = |list: Option<&Vec<String>>| never || lists(list, target.model);
    let temperature =
        sampling.temperature.clone().filter(|_| !refuses(quirks.no_temperature_models.as_ref()));
    let top_p = sampling
        .top_p
        .as_ref()
        .filter(|_| temperature.is_none() && !refuses(quirks.no_top_p_models.as_ref()));
    let sent = usize::from(temperature.is_some()) + usize::from(top_p.is_some());
    for _ in sent..given.into_iter().filter(|given| *given).count() {
        losses.add(LossKind::Field);
    }
    let clamped = temperature.map(|number| {
        if number.as_f64().is_some_and(|value| value > 1.0) {
            losses.add(LossKind::Field);
            return 1.into();
        }
        number
    });
    (clamped, top_p)
}

#[cfg(test)]
mod tests;
