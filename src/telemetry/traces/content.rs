//! Questions and answers in the form of the semantic conventions.
//! Source: opentelemetry.io/docs/specs/semconv/gen-ai, `gen_ai.input.messages`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::bounded;
use crate::model::{AssistantPart, Message, Part};

/// A part that is text.
pub(super) fn text(text: &str) -> Value {
    json!({"type": "text", "content": text})
}

/// An answer.
pub(super) fn answer(said: &str) -> Value {
    json!([{"role": "assistant", "parts": [text(said)]}])
}

/// The text of a Responses API's `response.output_text.delta`.
pub(super) fn delta(data: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Delta<'d> {
        #[serde(borrow)]
        delta: Cow<'d, str>,
    }
    serde_json::from_slice::<Delta<'_>>(data).ok().map(|frame| frame.delta)
}

/// A message; pictures without their bytes.
pub(super) fn message(message: &Message) -> Value {
    let (role, parts) = match message {
        Message::User(said) => ("user", parts(said)),
        Message::Developer(said) => ("system", parts(said)),
        Message::Assistant(said) => ("assistant", said.iter().map(assistant_part).collect()),
        Message::ToolResult(result) => {
            let part = json!({"type": "tool_call_response", "id": result.call_id,
                "response": plain(&result.content)});
            ("tool", vec![part])
        }
    };
    json!({"role": role, "parts": parts})
}

/// The beginning of a message that is too long as a whole.
pub(super) fn beginning(message: &Message, limit: usize) -> Value {
    let (role, said) = match message {
        Message::User(said) => ("user", plain(said)),
        Message::Developer(said) => ("system", plain(said)),
        Message::ToolResult(result) => ("tool", plain(&result.content)),
        Message::Assistant(said) => ("assistant", said.iter().map(spoken).collect()),
    };
    json!({"role": role, "parts": [text(bounded(&said, limit))]})
}

fn parts(parts: &[Part]) -> Vec<Value> {
    let of = |part: &Part| match part {
        Part::Text(said) => text(said),
        Part::Image(_) => json!({"type": "image"}),
    };
    parts.iter().map(of).collect()
}

fn plain(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Image(_) => None,
    });
    texts.collect()
}

fn assistant_part(part: &AssistantPart) -> Value {
    match part {
        AssistantPart::Text(said) => text(said),
        AssistantPart::Reasoning { text, .. } => json!({"type": "reasoning", "content": text}),
        AssistantPart::Call(call) => json!({"type": "tool_call", "id": call.call_id,
            "name": call.name.wire(), "arguments": call.arguments}),
    }
}

fn spoken(part: &AssistantPart) -> &str {
    match part {
        AssistantPart::Text(text) | AssistantPart::Reasoning { text, .. } => text,
        AssistantPart::Call(call) => &call.arguments,
    }
}
