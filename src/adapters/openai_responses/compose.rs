//! Prompt → a Responses body, for callers that speak another protocol.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Number, value::RawValue};

use super::super::{
    Target,
    history::{NO_RESULT, Turn, text_of, turns},
};
use crate::model::{
    AssistantPart, LossKind, Losses, OutputFormat, Part, Prompt, ToolChoice, ToolResult,
};

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    stream: bool,
    store: bool,
    include: [&'static str; 1],
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
    let effort = prompt.reasoning.effort.map(|effort| {
        let wire = target.quirks.wire_effort(target.model, effort);
        wire.unwrap_or_else(|| effort.label().to_owned())
    });
    let summary = prompt.reasoning.show.then_some("auto");
    let instructions = prompt.system.join("\n\n");
    let body = Body {
        model: target.model,
        stream: prompt.stream,
        store: false,
        include: ["reasoning.encrypted_content"],
        instructions: &instructions,
        max_output_tokens: sampling.max_output_tokens,
        temperature: sampling.temperature.as_ref(),
        top_p: sampling.top_p.as_ref(),
        reasoning: (effort.is_some() || summary.is_some())
            .then_some(ReasoningField { effort, summary }),
        text: format(&prompt.output).map(|format| TextField { format }),
        service_tier: prompt.service_tier.as_deref(),
        prompt_cache_key: prompt.prompt_cache_key.as_deref(),
        tools: tools(prompt),
        tool_choice: tool_choice(&prompt.tool_choice).filter(|_| !prompt.tools.is_empty()),
        parallel_tool_calls: prompt.parallel_tool_calls.filter(|_| !prompt.tools.is_empty()),
        input: input(prompt, target, &mut losses),
    };
    // Strings, numbers and parsed JSON serialise.
    (serde_json::to_vec(&body).unwrap_or_default(), losses)
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

fn tool_choice(choice: &ToolChoice) -> Option<Choice<'_>> {
    Some(match choice {
        ToolChoice::Unstated => return None,
        ToolChoice::Auto => Choice::Word("auto"),
        ToolChoice::None => Choice::Word("none"),
        ToolChoice::Required => Choice::Word("required"),
        ToolChoice::Named(name) => Choice::Named { kind: "function", name },
    })
}

fn input<'a>(prompt: &'a Prompt, target: &Target<'_>, losses: &mut Losses) -> Vec<Item<'a>> {
    let mut items = Vec::with_capacity(prompt.messages.len());
    for turn in turns(&prompt.messages, 0) {
        match turn {
            Turn::Said { developer, parts } => {
                let role = if developer { "developer" } else { "user" };
                items.push(Item::Message { role, content: content(parts) });
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
                            let state = target.open(encrypted.as_deref());
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
                items.extend(calls.into_iter().map(|paired| Item::FunctionCallOutput {
                    call_id: paired.id,
                    output: paired.result.map_or(Output::Text(NO_RESULT.into()), output),
                }));
            }
            // OpenAI refuses a result without its call.
            Turn::Orphan { result, .. } => {
                items.push(Item::Message { role: "user", content: content(&result.content) });
            }
        }
    }
    items
}

fn output(result: &ToolResult) -> Output<'_> {
    if result.content.iter().any(|part| matches!(part, Part::Image(_))) {
        return Output::Parts(content(&result.content));
    }
    Output::Text(text_of(&result.content))
}

fn content(parts: &[Part]) -> Vec<Content<'_>> {
    let content = parts.iter().map(|part| match part {
        Part::Text(text) => Content::InputText { text },
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
}
