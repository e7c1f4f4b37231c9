//! Conversation → chat messages that every strict server accepts: one system message first, each
//! batch of calls directly followed by its results, nothing empty, nothing unpaired.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
};

use serde::Serialize;

use super::super::{Target, identity::neutral};
use crate::{
    model::{AssistantPart, Image, LossKind, Losses, Message, Part, Prompt, ToolCall, ToolResult},
    registry::{EmptyAssistantContent, lists},
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

/// What a call without a recorded result is answered with.
const NO_RESULT: &str = "No result was recorded for this call.";

/// Builds the messages of a prompt.
pub(super) fn messages<'a>(
    prompt: &'a Prompt,
    target: &Target<'a>,
    losses: &mut Losses,
) -> Vec<ChatMessage<'a>> {
    let mut history = History {
        target: *target,
        sees_images: target.quirks.sees_images(target.model),
        keeps_reasoning: lists(
            target.quirks.preserve_reasoning_content_models.as_ref(),
            target.model,
        ),
        results: ResultIndex::new(&prompt.messages),
        invented: 0,
        losses,
        out: Vec::with_capacity(prompt.messages.len() + 1),
    };
    let leading = history.system(prompt);
    for (position, message) in prompt.messages.iter().enumerate().skip(leading) {
        history.message(position, message);
    }
    history.out
}

/// Results by call id, so that each call finds its own, wherever it stands.
struct ResultIndex<'a> {
    waiting: HashMap<&'a str, VecDeque<(usize, &'a ToolResult)>>,
    taken: HashSet<usize>,
}

impl<'a> ResultIndex<'a> {
    fn new(messages: &'a [Message]) -> Self {
        let mut waiting: HashMap<&str, VecDeque<_>> = HashMap::new();
        for (position, message) in messages.iter().enumerate() {
            if let Message::ToolResult(result) = message {
                waiting.entry(&result.call_id).or_default().push_back((position, result));
            }
        }
        Self { waiting, taken: HashSet::new() }
    }

    /// The first result of this id that comes after `position` and answers no other call.
    fn take_after(&mut self, position: usize, call_id: &str) -> Option<&'a ToolResult> {
        let queue = self.waiting.get_mut(call_id)?;
        while let Some((at, result)) = queue.pop_front() {
            if at > position {
                self.taken.insert(at);
                return Some(result);
            }
        }
        None
    }
}

struct History<'a, 'l> {
    target: Target<'a>,
    sees_images: bool,
    keeps_reasoning: bool,
    results: ResultIndex<'a>,
    /// Ids invented for calls that had none.
    invented: u32,
    losses: &'l mut Losses,
    out: Vec<ChatMessage<'a>>,
}

impl<'a> History<'a, '_> {
    /// Writes the system message; developer messages at the start are part of it, because most
    /// servers take one system message, and first. Returns how many messages that used up.
    fn system(&mut self, prompt: &'a Prompt) -> usize {
        let keeps_role = self.target.quirks.developer_role == Some(true);
        let mut texts: Vec<String> = prompt.system.clone();
        let mut leading = 0;
        if !keeps_role {
            while let Some(Message::Developer(parts)) = prompt.messages.get(leading)
                && !parts.iter().any(|part| matches!(part, Part::Image(_)))
            {
                texts.push(text_of(parts).into_owned());
                leading += 1;
            }
        }
        texts.retain(|text| !text.is_empty());
        if !texts.is_empty() {
            let text = texts.join("\n\n");
            let text = neutral(&text, self.target.model).into_owned();
            self.push("system", Content::Text(text.into()));
        }
        leading
    }

    fn message(&mut self, position: usize, message: &'a Message) {
        match message {
            Message::User(parts) => self.outside_message("user", parts),
            Message::Developer(parts) => {
                let pictured = parts.iter().any(|part| matches!(part, Part::Image(_)));
                let keeps_role = self.target.quirks.developer_role == Some(true) && !pictured;
                self.outside_message(if keeps_role { "developer" } else { "user" }, parts);
            }
            Message::Assistant(parts) => self.assistant(position, parts),
            Message::ToolResult(result) => {
                if !self.results.taken.contains(&position) {
                    self.orphan(position, result);
                }
            }
        }
    }

    fn outside_message(&mut self, role: &'static str, parts: &'a [Part]) {
        let content = self.content(parts);
        if !matches!(&content, Content::Text(text) if text.is_empty()) {
            self.push(role, content);
        }
    }

    fn assistant(&mut self, position: usize, parts: &'a [AssistantPart]) {
        let (mut text, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
        for part in parts {
            match part {
                AssistantPart::Text(piece) => text.push_str(piece),
                AssistantPart::Reasoning { text, .. } => reasoning.push_str(text),
                AssistantPart::Call(call) => calls.push(call),
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
        let ids: Vec<Cow<'a, str>> = calls.iter().map(|call| self.id(&call.call_id)).collect();
        let tool_calls =
            calls.iter().zip(&ids).map(|(call, id)| chat_call(call, id.clone())).collect();
        self.out.push(ChatMessage {
            role: "assistant",
            content,
            reasoning_content,
            tool_calls,
            tool_call_id: None,
        });
        self.answers(position, &calls, ids);
    }

    /// The results of a batch, in the order of its calls, and then the pictures among them.
    fn answers(&mut self, position: usize, calls: &[&'a ToolCall], ids: Vec<Cow<'a, str>>) {
        let mut pictures = Vec::new();
        for (call, id) in calls.iter().zip(ids) {
            match self.results.take_after(position, &call.call_id) {
                Some(result) => self.answer(id, result, &mut pictures),
                None => self.tool_message(id, NO_RESULT.into()),
            }
        }
        self.pictures(pictures);
    }

    /// A result whose call is not in the history gets one.
    fn orphan(&mut self, position: usize, result: &'a ToolResult) {
        let id = self.id(&result.call_id);
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
        self.results.taken.insert(position);
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

    fn id(&mut self, call_id: &'a str) -> Cow<'a, str> {
        if !call_id.trim().is_empty() {
            return call_id.into();
        }
        self.invented += 1;
        format!("call_ocx_{}", self.invented).into()
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

/// Stands for a picture that the model cannot see.
const BLIND: &str = "[an image was attached, which this model cannot see]";

fn chat_call<'a>(call: &'a ToolCall, id: Cow<'a, str>) -> ChatCall<'a> {
    let function = CalledFunction { name: call.name.wire(), arguments: &call.arguments };
    ChatCall { id, kind: "function", function }
}

fn image_part(image: &Image) -> ChatPart<'_> {
    let image_url = ImageUrl { url: &image.url, detail: image.detail.as_deref() };
    ChatPart::ImageUrl { image_url }
}

fn images(parts: &[Part]) -> impl Iterator<Item = &Image> {
    parts.iter().filter_map(|part| match part {
        Part::Image(image) => Some(image),
        Part::Text(_) => None,
    })
}

/// The texts of the parts as one.
fn text_of(parts: &[Part]) -> Cow<'_, str> {
    let mut texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Image(_) => None,
    });
    match (texts.next(), texts.next()) {
        (None, _) => "".into(),
        (Some(only), None) => only.into(),
        (Some(first), Some(second)) => {
            let mut joined = format!("{first}\n{second}");
            for text in texts {
                joined.push('\n');
                joined.push_str(text);
            }
            joined.into()
        }
    }
}
