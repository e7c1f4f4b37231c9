//! Prompt → a Responses body, for callers that speak another protocol.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Number, value::RawValue};

use super::super::{
    Target,
    history::{BLIND, NO_RESULT, Turn, text_of, turns},
};
use crate::{
    model::{
        AssistantPart, Effort, LossKind, Losses, OutputFormat, Part, Prompt, Reasoning, ToolChoice,
        ToolResult,
    },
    registry::lists,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    stream: bool,
    store: bool,
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    include: &'static [&'static str],
    #[serde(skip_serializing_if = "str::is_empty")]
    instructions: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<ReasoningField>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<TextField<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<WireTool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    input: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct ReasoningField {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'static str>,
}

#[derive(Serialize)]
struct TextField<'a> {
    format: Format<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format<'a> {
    JsonObject,
    JsonSchema {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'a str>,
        schema: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
    },
}

#[derive(Serialize)]
struct WireTool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    description: &'a str,
    parameters: &'a RawValue,
    strict: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Choice<'a> {
    Word(&'static str),
    Named {
        #[serde(rename = "type")]
        kind: &'static str,
        name: &'a str,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item<'a> {
    Message { role: &'static str, content: Vec<Content<'a>> },
    Reasoning { summary: [(); 0], encrypted_content: String },
    FunctionCall { call_id: Cow<'a, str>, name: String, arguments: &'a str },
    FunctionCallOutput { call_id: Cow<'a, str>, output: Output<'a> },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Content<'a>>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content<'a> {
    InputText {
        text: &'a str,
    },
    OutputText {
        text: &'a str,
    },
    InputImage {
        image_url: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
    },
}

/// Writes the body.
pub(super) fn compose(prompt: &Prompt, target: &Target<'_>) -> (Vec<u8>, Losses) {
    let mut losses = Losses::default();
    let sampling = &prompt.sampling;
    let uncarried = [
        !sampling.stop.is_empty(),
        sampling.presence_penalty.is_some(),
        sampling.frequency_penalty.is_some(),
    ];
    for _ in uncarried.into_iter().filter(|given| *given) {
        losses.add(LossKind::Field);
    }
    let (quirks, model) = (target.quirks, target.model);
    let (temperature, top_p) = (sampling.temperature.as_ref(), sampling.top_p.as_ref());
    let temperature =
        accepted(temperature, lists(quirks.no_temperature_models.as_ref(), model), &mut losses);
    let top_p = accepted(top_p, lists(quirks.no_top_p_models.as_ref(), model), &mut losses);
    let unformatted = lists(quirks.no_response_format_models.as_ref(), model);
    let text = accepted(format(&prompt.output), unformatted, &mut losses);
    let instructions = prompt.system.join("\n\n");
    let input = input(prompt, target, &mut losses);
    let effort = effort(&prompt.reasoning, target, &mut losses);
    let reasons = reasons(target);
    // Shown to those who asked for reasoning: not every account may see it.
    let summary =
        (reasons && prompt.reasoning.show && prompt.reasoning.is_wanted()).then_some("auto");
    let body = Body {
        model: target.model,
        stream: prompt.stream,
        store: false,
        include: if reasons { &["reasoning.encrypted_content"] } else { &[] },
        instructions: &instructions,
        max_output_tokens: sampling.max_output_tokens,
        temperature,
        top_p,
        reasoning: (effort.is_some() || summary.is_some())
            .then_some(ReasoningField { effort, summary }),
        text: text.map(|format| TextField { format }),
        service_tier: prompt.service_tier.as_deref(),
        prompt_cache_key: prompt.prompt_cache_key.as_deref(),
        tools: tools(prompt),
        tool_choice: tool_choice(prompt, target, &mut losses),
        parallel_tool_calls: prompt.parallel_tool_calls.filter(|_| !prompt.tools.is_empty()),
        input,
    };
    // Strings, numbers and parsed JSON serialise.
    (serde_json::to_vec(&body).unwrap_or_default(), losses)
}

/// Whether the model may reason. Those that do not refuse to be asked for it, as the first names on
/// OpenAI's list; a deployment of another name is told by `noReasoningModels`.
fn reasons(target: &Target<'_>) -> bool {
    const PLAIN: [&str; 3] = ["gpt-3", "gpt-4", "chatgpt-"];
    match target.quirks.efforts(target.model) {
        Some(efforts) => !efforts.is_empty(),
        None => !PLAIN.iter().any(|name| target.model.starts_with(name)),
    }
}

/// What the model takes of a wish; one that it refuses is a loss.
fn accepted<T>(value: Option<T>, refused: bool, losses: &mut Losses) -> Option<T> {
    if refused && value.is_some() {
        losses.add(LossKind::Field);
    }
    value.filter(|_| !refused)
}

/// The wire's word. Here `none` is one too, where a list of efforts does not leave it out.
fn effort(reasoning: &Reasoning, target: &Target<'_>, losses: &mut Losses) -> Option<String> {
    let wanted = reasoning.wanted()?;
    let known = target.quirks.efforts(target.model);
    let takes_none = known.is_none_or(|known| known.iter().any(|word| word == "none"));
    let word = match target.quirks.wire_effort(target.model, wanted) {
        None if wanted == Effort::None && takes_none => {
            reasons(target).then(|| wanted.label().to_owned())
        }
        word => word,
    };
    if word.is_none() && reasons(target) || word.is_none() && wanted != Effort::None {
        losses.add(LossKind::Field);
    }
    word
}

fn format(output: &OutputFormat) -> Option<Format<'_>> {
    Some(match output {
        OutputFormat::Text => return None,
        OutputFormat::JsonObject => Format::JsonObject,
        OutputFormat::JsonSchema(format) => Format::JsonSchema {
            name: &format.name,
            description: format.description.as_deref(),
            schema: &format.schema,
            strict: format.strict,
        },
    })
}

fn tools(prompt: &Prompt) -> Vec<WireTool<'_>> {
    let tools = prompt.tools.iter().map(|tool| WireTool {
        kind: "function",
        name: &tool.wire_name,
        description: &tool.description,
        parameters: &tool.parameters,
        // OpenAI's own default here is strict, which other protocols' schemas do not stand.
        strict: tool.strict == Some(true),
    });
    tools.collect()
}

fn tool_choice<'a>(
    prompt: &'a Prompt,
    target: &Target<'_>,
    losses: &mut Losses,
) -> Option<Choice<'a>> {
    if prompt.tools.is_empty() {
        return None;
    }
    let auto_only = lists(target.quirks.auto_tool_choice_only_models.as_ref(), target.model);
    Some(match &prompt.tool_choice {
        ToolChoice::Unstated => return None,
        ToolChoice::Required | ToolChoice::Named(_) if auto_only => {
            losses.add(LossKind::Field);
            Choice::Word("auto")
        }
        ToolChoice::Auto => Choice::Word("auto"),
        ToolChoice::None => Choice::Word("none"),
        ToolChoice::Required => Choice::Word("required"),
        ToolChoice::Named(name) => Choice::Named { kind: "function", name },
    })
}

fn input<'a>(prompt: &'a Prompt, target: &Target<'_>, losses: &mut Losses) -> Vec<Item<'a>> {
    let sees_images = target.quirks.sees_images(target.model);
    let mut items = Vec::with_capacity(prompt.messages.len());
    for turn in turns(&prompt.messages, 0) {
        match turn {
            Turn::Said { developer, parts } => {
                let role = if developer { "developer" } else { "user" };
                items.push(Item::Message { role, content: content(parts, sees_images, losses) });
            }
            Turn::Answered { parts, calls } => {
                let mut calls_left = calls.iter();
                for part in parts {
                    match part {
                        AssistantPart::Text(text) => items.push(Item::Message {
                            role: "assistant",
                            content: vec![Content::OutputText { text }],
                        }),
                        AssistantPart::Reasoning { encrypted, .. } => {
                            let state =
                                target.open(encrypted.as_deref()).filter(|_| reasons(target));
                            match state.and_then(|state| state.signature) {
                                Some(encrypted_content) => {
                                    items.push(Item::Reasoning { summary: [], encrypted_content })
                                }
                                None => losses.add(LossKind::Reasoning),
                            }
                        }
                        AssistantPart::Call(call) => {
                            let Some(paired) = calls_left.next() else { continue };
                            items.push(Item::FunctionCall {
                                call_id: paired.id.clone(),
                                name: call.name.wire(),
                                arguments: &call.arguments,
                            });
                        }
                    }
                }
                for paired in calls {
                    let output = match paired.result {
                        Some(result) => output(result, sees_images, losses),
                        None => Output::Text(NO_RESULT.into()),
                    };
                    items.push(Item::FunctionCallOutput { call_id: paired.id, output });
                }
            }
            // OpenAI refuses a result without its call.
            Turn::Orphan { result, .. } => {
                items.push(Item::Message {
                    role: "user",
                    content: content(&result.content, sees_images, losses),
                });
            }
        }
    }
    items
}

fn output<'a>(result: &'a ToolResult, sees_images: bool, losses: &mut Losses) -> Output<'a> {
    if result.content.iter().any(|part| matches!(part, Part::Image(_))) {
        return Output::Parts(content(&result.content, sees_images, losses));
    }
    Output::Text(text_of(&result.content))
}

fn content<'a>(parts: &'a [Part], sees_images: bool, losses: &mut Losses) -> Vec<Content<'a>> {
    let content = parts.iter().map(|part| match part {
        Part::Text(text) => Content::InputText { text },
        Part::Image(_) if !sees_images => {
            losses.add(LossKind::Image);
            Content::InputText { text: BLIND }
        }
        Part::Image(image) => {
            Content::InputImage { image_url: &image.url, detail: image.detail.as_deref() }
        }
    });
    content.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        callers::Protocol,
        credentials::{CapsuleKey, Credential},
        model::ReasoningState,
        registry::Quirks,
    };

    #[test]
    fn a_messages_call_becomes_a_responses_body() {
        let sealer = CapsuleKey::new([0; 32]).sealer("openai-responses", "https://h");
        let state = ReasoningState { signature: Some("enc".into()), ..ReasoningState::default() };
        let body = json!({"model": "m", "system": "sys", "stream": true, "stop_sequences": ["X"],
            "thinking": {"type": "enabled", "budget_tokens": 16384},
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": sealer.seal(&state)},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [
                    {"type": "image", "source": {"type": "url", "url": "https://h/x.png"}}]}]}]});
        let prompt = Protocol::Messages.parse(body.to_string().into()).expect("a body").prompt;
        let target = Target {
            model: "gpt",
            base_url: "https://h",
            quirks: &Quirks::default(),
            headers: &[],
            credential: &Credential::None,
            sealer: Some(&sealer),
        };
        let (body, losses) = compose(&prompt, &target);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(losses.to_string(), "field=1");
        assert_eq!(body["reasoning"], json!({"effort": "high", "summary": "auto"}));
        assert_eq!((&body["store"], &body["instructions"]), (&json!(false), &json!("sys")));
        assert_eq!(
            body["input"],
            json!([
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "reasoning", "summary": [], "encrypted_content": "enc"},
                {"type": "function_call", "call_id": "t", "name": "f", "arguments": "{\"a\":1}"},
                {"type": "function_call_output", "call_id": "t",
                    "output": [{"type": "input_image", "image_url": "https://h/x.png"}]},
            ])
        );
    }

    fn composed(model: &str, quirks: &Quirks, mut body: Value) -> (Value, String) {
        body["model"] = "m".into();
        let prompt =
            Protocol::ChatCompletions.parse(body.to_string().into()).expect("a body").prompt;
        let target = Target {
            model,
            base_url: "https://h",
            quirks,
            headers: &[],
            credential: &Credential::None,
            sealer: None,
        };
        let (body, losses) = compose(&prompt, &target);
        (serde_json::from_slice(&body).expect("JSON"), losses.to_string())
    }

    #[test]
    fn a_model_is_asked_for_its_reasoning_if_it_may_have_some() {
        let ask = |effort: Value| {
            let body = json!({"messages": [], "reasoning_effort": effort});
            composed("gpt", &Quirks::default(), body).0
        };
        let plain = ask(json!(null));
        assert_eq!(plain["include"], json!(["reasoning.encrypted_content"]));
        assert_eq!(plain.get("reasoning"), None);
        assert_eq!(ask(json!("none"))["reasoning"], json!({"effort": "none"}));
        assert_eq!(ask(json!("high"))["reasoning"], json!({"effort": "high", "summary": "auto"}));
        let body = || json!({"messages": [], "reasoning_effort": "none"});
        let (dull, losses) = composed("gpt-4o", &Quirks::default(), body());
        assert_eq!((dull.get("include"), dull.get("reasoning")), (None, None));
        assert_eq!(losses, "", "none is what it does");
        let efforts = |list: &[&str]| Quirks {
            reasoning_efforts: Some(list.iter().map(|text| (*text).to_owned()).collect()),
            ..Quirks::default()
        };
        assert_eq!(
            composed("gpt", &efforts(&["none", "low"]), body()).0["reasoning"]["effort"],
            "none"
        );
        assert_eq!(composed("gpt", &efforts(&["low"]), body()).1, "field=1");
    }

    #[test]
    fn what_a_model_refuses_is_not_sent_and_counted() {
        let all = || Some(vec!["gpt-4o".to_owned()]);
        let quirks = Quirks {
            no_reasoning_models: all(),
            no_temperature_models: all(),
            no_top_p_models: all(),
            no_response_format_models: all(),
            no_vision_models: all(),
            auto_tool_choice_only_models: all(),
            ..Quirks::default()
        };
        let body = json!({"temperature": 1, "top_p": 1, "reasoning_effort": "high",
            "response_format": {"type": "json_object"}, "tool_choice": "required",
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "https://h/x.png"}}]}]});
        let (sent, losses) = composed("gpt-4o", &quirks, body.clone());
        assert_eq!(losses, "image=1,field=5");
        for field in ["temperature", "top_p", "reasoning", "text", "include"] {
            assert_eq!(sent.get(field), None, "{field}");
        }
        assert_eq!(sent["tool_choice"], "auto");
        assert_eq!(sent["input"][0]["content"][0]["text"], BLIND);
        assert_eq!(composed("gpt-5", &quirks, body).1, "");
    }
}
