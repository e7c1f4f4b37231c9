//! Conversation → chat messages that every strict server accepts: one system message first, each
//! batch of calls directly followed by its results, nothing empty, nothing unpaired.

use std::borrow::Cow;

use serde::Serialize;

use super::super::{
    Target,
    history::{BLIND, NO_RESULT, PairedCall, Turn, images, joined, system_text, text_of, turns},
};
use crate::{
    model::{AssistantPart, Image, LossKind, Losses, Part, Prompt, ToolCall, ToolResult},
    registry::EmptyAssistantContent,
};

/// A message as the wire has it.
#[derive(Debug, Serialize)]
pub(super) struct ChatMessage<'a> {
    role: &'static str,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ChatCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<ChatPart<'a>>),
    Null,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ChatPart<'a> {
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Debug, Serialize)]
struct ImageUrl<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ChatCall<'a> {
    id: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: &'static str,
    function: CalledFunction<'a>,
}

#[derive(Debug, Serialize)]
struct CalledFunction<'a> {
    name: String,
    arguments: &'a str,
}

/// Builds the messages of a prompt.
pub(super) fn messages<'a>(
    prompt: &'a Prompt,
    target: &Target<'a>,
    losses: &mut Losses,
) -> Vec<ChatMessage<'a>> {
    let mut history = History {
        target: *target,
        sees_images: target.quirks.sees_images(target.model),
        keeps_reasoning: target.quirks.keeps_reasoning(target.model),
        losses,
        out: Vec::with_capacity(prompt.messages.len() + 1),
    };
    let leading = history.system(prompt);
    for turn in turns(&prompt.messages, leading) {
        match turn {
            Turn::Said { developer, parts } => history.said(developer, parts),
            Turn::Answered { parts, calls } => history.answered(parts, &calls),
            Turn::Orphan { id, result } => history.orphan(id, result),
        }
    }
    history.out
}

struct History<'a, 'l> {
    target: Target<'a>,
    sees_images: bool,
    keeps_reasoning: bool,
    losses: &'l mut Losses,
    out: Vec<ChatMessage<'a>>,
}

impl<'a> History<'a, '_> {
    /// Writes the system message, and first, because most servers take one. Returns how many
    /// messages that used up.
    fn system(&mut self, prompt: &'a Prompt) -> usize {
        let (text, leading) = if self.target.quirks.developer_role == Some(true) {
            let texts = prompt.system.iter().map(Into::into).collect();
            (joined(texts, self.target.model), 0)
        } else {
            system_text(prompt, self.target.model)
        };
        if !text.is_empty() {
            self.push("system", Content::Text(text.into()));
        }
        leading
    }

    fn said(&mut self, developer: bool, parts: &'a [Part]) {
        let keeps_role = developer
            && self.target.quirks.developer_role == Some(true)
            && images(parts).next().is_none();
        self.outside_message(if keeps_role { "developer" } else { "user" }, parts);
    }

    fn outside_message(&mut self, role: &'static str, parts: &'a [Part]) {
        let content = self.content(parts);
        if !matches!(&content, Content::Text(text) if text.is_empty()) {
            self.push(role, content);
        }
    }

    fn answered(&mut self, parts: &'a [AssistantPart], calls: &[PairedCall<'a>]) {
        let (mut text, mut reasoning) = (String::new(), String::new());
        for part in parts {
            match part {
                AssistantPart::Text(piece) => text.push_str(piece),
                AssistantPart::Reasoning { text, encrypted } if self.keeps_reasoning => {
                    // The capsule has it whole, also when none of it was shown.
                    match self.target.open(encrypted.as_deref()) {
                        Some(state) if !state.text.is_empty() => reasoning.push_str(&state.text),
                        _ if text.is_empty() && encrypted.is_some() => {
                            self.losses.add(LossKind::Reasoning);
                        }
                        _ => reasoning.push_str(text),
                    }
                }
                AssistantPart::Reasoning { .. } => self.losses.add(LossKind::Reasoning),
                AssistantPart::Call(_) => {}
            }
        }
        let reasoning_content = self.keeps_reasoning.then_some(reasoning).and_then(|reasoning| {
            // Thinking models refuse a calling message without the field, even if it is lost.
            let placeholder = (!calls.is_empty()).then_some(Cow::Borrowed(" "));
            if reasoning.is_empty() { placeholder } else { Some(reasoning.into()) }
        });
        if text.is_empty() && calls.is_empty() && reasoning_content.is_none() {
            return;
        }
        let content = match (text.is_empty(), calls.is_empty()) {
            (true, false) => self.empty_content(),
            _ => Content::Text(text.into()),
        };
        let tool_calls = calls.iter().map(|paired| chat_call(paired.call, paired.id.clone()));
        self.out.push(ChatMessage {
            role: "assistant",
            content,
            reasoning_content,
            tool_calls: tool_calls.collect(),
            tool_call_id: None,
        });
        self.answers(calls);
    }

    /// The results of a batch, in the order of its calls, and then the pictures among them.
    fn answers(&mut self, calls: &[PairedCall<'a>]) {
        let mut pictures = Vec::new();
        for PairedCall { id, result, .. } in calls {
            match result {
                Some(result) => self.answer(id.clone(), result, &mut pictures),
                None => self.tool_message(id.clone(), NO_RESULT.into()),
            }
        }
        self.pictures(pictures);
    }

    /// A result whose call is not in the history gets one.
    fn orphan(&mut self, id: Cow<'a, str>, result: &'a ToolResult) {
        let name =
            result.name.as_ref().map_or_else(|| "tool_result".to_owned(), |name| name.wire());
        let call = ChatCall {
            id: id.clone(),
            kind: "function",
            function: CalledFunction { name, arguments: "{}" },
        };
        let content = self.empty_content();
        self.out.push(ChatMessage {
            role: "assistant",
            content,
            reasoning_content: self.keeps_reasoning.then_some(" ".into()),
            tool_calls: vec![call],
            tool_call_id: None,
        });
        let mut pictures = Vec::new();
        self.answer(id, result, &mut pictures);
        self.pictures(pictures);
    }

    fn answer(
        &mut self,
        id: Cow<'a, str>,
        result: &'a ToolResult,
        pictures: &mut Vec<ChatPart<'a>>,
    ) {
        let mut text = text_of(&result.content);
        for image in images(&result.content) {
            let note = if self.sees_images { "[image]" } else { BLIND };
            text = if text.is_empty() { note.into() } else { format!("{text}\n{note}").into() };
            if self.sees_images {
                let line = format!("Image from the result of call {id}:");
                pictures.push(ChatPart::Text { text: line.into() });
                pictures.push(image_part(image));
            } else {
                self.losses.add(LossKind::Image);
            }
        }
        self.tool_message(id, text);
    }

    /// Tool messages hold text only, so pictures follow as the user's, after the whole batch.
    fn pictures(&mut self, pictures: Vec<ChatPart<'a>>) {
        if !pictures.is_empty() {
            self.push("user", Content::Parts(pictures));
        }
    }

    fn tool_message(&mut self, id: Cow<'a, str>, text: Cow<'a, str>) {
        self.out.push(ChatMessage {
            role: "tool",
            content: Content::Text(text),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: Some(id),
        });
    }

    fn empty_content(&self) -> Content<'a> {
        match self.target.quirks.empty_assistant_content.unwrap_or_default() {
            EmptyAssistantContent::EmptyString => Content::Text("".into()),
            EmptyAssistantContent::Null => Content::Null,
            EmptyAssistantContent::TextPart => {
                Content::Parts(vec![ChatPart::Text { text: "".into() }])
            }
        }
    }

    fn content(&mut self, parts: &'a [Part]) -> Content<'a> {
        if images(parts).next().is_none() {
            return Content::Text(text_of(parts));
        }
        let sees = self.sees_images;
        let parts = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => ChatPart::Text { text: text.into() },
                Part::Image(image) if sees => image_part(image),
                Part::Image(_) => {
                    self.losses.add(LossKind::Image);
                    ChatPart::Text { text: BLIND.into() }
                }
            })
            .collect();
        Content::Parts(parts)
    }

    fn push(&mut self, role: &'static str, content: Content<'a>) {
        self.out.push(ChatMessage {
            role,
            content,
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        });
    }
}

fn chat_call<'a>(call: &'a ToolCall, id: Cow<'a, str>) -> ChatCall<'a> {
    let function = CalledFunction { name: call.name.wire(), arguments: &call.arguments };
    ChatCall { id, kind: "function", function }
}

fn image_part(image: &Image) -> ChatPart<'_> {
    let image_url = ImageUrl { url: &image.url, detail: image.detail.as_deref() };
    ChatPart::ImageUrl { image_url }
}
