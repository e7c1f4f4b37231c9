//! The history as it is built up, message by message, whatever protocol it comes in.

use std::collections::HashMap;

use serde::de::IgnoredAny;

use super::tools::ToolList;
use crate::model::{
    AssistantPart, LossKind, Losses, Message, Part, ToolCall, ToolKind, ToolName, ToolResult,
};

/// Builds a conversation.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub system: Vec<String>,
    pub messages: Vec<Message>,
    pub tools: ToolList,
    pub losses: Losses,
    /// The caller asked for a summary of all this.
    pub compaction: bool,
    /// Reasoning that waits for the answer it led to.
    pending: Vec<AssistantPart>,
    /// Names of the calls so far, for their results.
    calls: HashMap<String, ToolName>,
}

impl Conversation {
    /// Text that stands before everything else.
    pub fn system(&mut self, parts: &[Part]) {
        self.settle_reasoning();
        if parts.iter().any(|part| matches!(part, Part::Image(_))) {
            self.losses.add(LossKind::Image);
        }
        let text = super::parts::texts(parts);
        if !text.is_empty() {
            self.system.push(text);
        }
    }

    pub fn developer(&mut self, parts: Vec<Part>) {
        self.settle_reasoning();
        self.messages.push(Message::Developer(parts));
    }

    pub fn user(&mut self, parts: Vec<Part>) {
        self.settle_reasoning();
        self.messages.push(Message::User(parts));
    }

    /// What the model said; it says nothing in pictures that any protocol would take back.
    pub fn assistant_said(&mut self, parts: &[Part]) {
        for _ in parts.iter().filter(|part| matches!(part, Part::Image(_))) {
            self.losses.add(LossKind::Image);
        }
        self.assistant_text(super::parts::texts(parts));
    }

    pub fn assistant_text(&mut self, text: String) {
        if !text.is_empty() {
            self.assistant(AssistantPart::Text(text));
        }
    }

    /// What the model thought; it belongs to the answer that follows.
    pub fn reasoning(&mut self, text: String, encrypted: Option<String>) {
        self.pending.push(AssistantPart::Reasoning { text, encrypted });
    }

    pub fn call(&mut self, call_id: &str, name: ToolName, kind: ToolKind, arguments: String) {
        self.calls.insert(call_id.to_owned(), name.clone());
        let call = ToolCall { call_id: call_id.to_owned(), name, kind, arguments };
        self.assistant(AssistantPart::Call(call));
    }

    pub fn result(&mut self, call_id: &str, content: Vec<Part>, failed: bool) {
        self.settle_reasoning();
        let name = self.calls.get(call_id).cloned();
        let call_id = call_id.to_owned();
        self.messages.push(Message::ToolResult(ToolResult { call_id, name, content, failed }));
    }

    /// Something of a kind that we do not know.
    pub fn unknown_item(&mut self) {
        self.losses.add(LossKind::UnknownItem);
    }

    /// The conversation is complete.
    pub fn finish(&mut self) {
        self.settle_reasoning();
    }

    fn assistant(&mut self, part: AssistantPart) {
        if !matches!(self.messages.last(), Some(Message::Assistant(_))) {
            self.messages.push(Message::Assistant(Vec::new()));
        }
        if let Some(Message::Assistant(parts)) = self.messages.last_mut() {
            parts.append(&mut self.pending);
            parts.push(part);
        }
    }

    /// Reasoning that no answer follows: what a provider signed belongs to the answer before it, the
    /// rest led nowhere.
    fn settle_reasoning(&mut self) {
        for part in self.pending.drain(..) {
            let signed = matches!(&part, AssistantPart::Reasoning { encrypted: Some(_), .. });
            match self.messages.last_mut() {
                Some(Message::Assistant(parts)) if signed => parts.push(part),
                _ => self.losses.add(LossKind::Reasoning),
            }
        }
    }

    /// Arguments as JSON text of an object; anything else is replaced and counted.
    pub fn object_text(&mut self, text: String) -> String {
        let trimmed = text.trim();
        let is_object =
            trimmed.starts_with('{') && serde_json::from_str::<IgnoredAny>(trimmed).is_ok();
        if is_object {
            return text;
        }
        if !trimmed.is_empty() {
            self.losses.add(LossKind::ToolArguments);
        }
        "{}".to_owned()
    }
}
