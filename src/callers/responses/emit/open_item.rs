//! Messages, reasoning and calls: how an item of the answer opens, grows and ends.

use bytes::BytesMut;

use super::{
    super::{
        super::{
            Failure,
            arguments::{Arguments, shell_action},
            called,
        },
        frames::{
            ArgumentsDelta, ArgumentsDone, InputDelta, InputDone, Item, ItemEvent, OutputText,
            PartEvent, SummaryDelta, SummaryDone, SummaryPartEvent, SummaryText, TextDelta,
            TextDone,
        },
    },
    Emitter,
};
use crate::model::{ReasoningState, ToolKind};

/// The item in progress.
#[derive(Debug)]
pub(super) enum Open {
    Nothing,
    Message { id: String, text: String },
    Reasoning { id: String, text: String },
    Call(OpenCall),
}

#[derive(Debug)]
pub(super) struct OpenCall {
    id: String,
    call_id: String,
    /// Index into the settings' tools.
    tool: usize,
    arguments: String,
}

impl Emitter {
    pub(super) fn text(&mut self, delta: &str, out: &mut BytesMut) {
        if delta.is_empty() {
            return;
        }
        if !matches!(self.open, Open::Message { .. }) {
            self.open_message(out);
        }
        let output_index = self.items.len();
        let Open::Message { id, text } = &mut self.open else {
            return;
        };
        text.push_str(delta);
        self.frames.write(out, "response.output_text.delta", |kind, sequence_number| TextDelta {
            kind,
            sequence_number,
            item_id: id,
            output_index,
            content_index: 0,
            delta,
            logprobs: [],
        });
    }

    fn open_message(&mut self, out: &mut BytesMut) {
        self.close_open(out);
        let id = self.ids.mint("msg");
        let item = Item::Message {
            id: id.clone(),
            status: "in_progress",
            role: "assistant",
            content: Vec::new(),
        };
        self.item_event(out, "response.output_item.added", &item);
        self.part_event(out, "response.content_part.added", &id, &OutputText::new(String::new()));
        self.open = Open::Message { id, text: String::new() };
    }

    pub(super) fn reasoning(&mut self, delta: &str, out: &mut BytesMut) {
        if delta.is_empty() {
            return;
        }
        self.open_reasoning(out);
        let output_index = self.items.len();
        let Open::Reasoning { id, text } = &mut self.open else {
            return;
        };
        if text.is_empty() {
            let part = SummaryText { kind: "summary_text", text: String::new() };
            let kind = "response.reasoning_summary_part.added";
            self.frames.write(out, kind, |kind, sequence_number| SummaryPartEvent {
                kind,
                sequence_number,
                item_id: id,
                output_index,
                summary_index: 0,
                part: &part,
            });
        }
        text.push_str(delta);
        let kind = "response.reasoning_summary_text.delta";
        self.frames.write(out, kind, |kind, sequence_number| SummaryDelta {
            kind,
            sequence_number,
            item_id: id,
            output_index,
            summary_index: 0,
            delta,
        });
    }

    fn open_reasoning(&mut self, out: &mut BytesMut) {
        if matches!(self.open, Open::Reasoning { .. }) {
            return;
        }
        self.close_open(out);
        let id = self.ids.mint("rs");
        let (summary, encrypted_content) = (Vec::new(), None);
        let item = Item::Reasoning { id: id.clone(), summary, encrypted_content };
        self.item_event(out, "response.output_item.added", &item);
        self.open = Open::Reasoning { id, text: String::new() };
    }

    /// Ends the reasoning in progress, or an item without any of its text, with what the provider
    /// wants back.
    pub(super) fn state(&mut self, state: &ReasoningState, out: &mut BytesMut) {
        self.open_reasoning(out);
        if let Open::Reasoning { id, text } = std::mem::replace(&mut self.open, Open::Nothing) {
            self.close_reasoning(id, text, Some(self.settings.sealer.seal(state)), out);
        }
    }

    fn close_reasoning(
        &mut self,
        id: String,
        text: String,
        encrypted_content: Option<String>,
        out: &mut BytesMut,
    ) {
        let mut summary = Vec::new();
        if !text.is_empty() {
            let output_index = self.items.len();
            let part = SummaryText { kind: "summary_text", text };
            let kind = "response.reasoning_summary_text.done";
            self.frames.write(out, kind, |kind, sequence_number| SummaryDone {
                kind,
                sequence_number,
                item_id: &id,
                output_index,
                summary_index: 0,
                text: &part.text,
            });
            let kind = "response.reasoning_summary_part.done";
            self.frames.write(out, kind, |kind, sequence_number| SummaryPartEvent {
                kind,
                sequence_number,
                item_id: &id,
                output_index,
                summary_index: 0,
                part: &part,
            });
            summary.push(part);
        }
        self.finish_item(Item::Reasoning { id, summary, encrypted_content }, out);
    }

    /// Writes an item that comes whole.
    pub(super) fn add_item(&mut self, item: Item, out: &mut BytesMut) {
        self.close_open(out);
        self.item_event(out, "response.output_item.added", &item);
        self.finish_item(item, out);
    }

    fn finish_item(&mut self, item: Item, out: &mut BytesMut) {
        self.item_event(out, "response.output_item.done", &item);
        self.items.push(item);
    }

    pub(super) fn open_call(
        &mut self,
        call_id: String,
        name: &str,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        self.close_open(out);
        let (tool, _) = called(&self.settings.tools, name)?;
        let call_id = if call_id.is_empty() { self.ids.mint("call") } else { call_id };
        let prefix = match self.settings.tools[tool].kind {
            ToolKind::Function => "fc",
            ToolKind::Freeform => "ctc",
            ToolKind::Search => "tsc",
            ToolKind::LocalShell => "lsh",
        };
        let call = OpenCall { id: self.ids.mint(prefix), call_id, tool, arguments: String::new() };
        let item = self.call_item(&call, "in_progress", Arguments::empty());
        self.item_event(out, "response.output_item.added", &item);
        self.open = Open::Call(call);
        Ok(())
    }

    pub(super) fn call_delta(&mut self, delta: &str, out: &mut BytesMut) {
        let output_index = self.items.len();
        let Open::Call(call) = &mut self.open else {
            return;
        };
        call.arguments.push_str(delta);
        // Only functions stream their JSON; the others' arguments are known when complete.
        if self.settings.tools[call.tool].kind != ToolKind::Function || delta.is_empty() {
            return;
        }
        let kind = "response.function_call_arguments.delta";
        self.frames.write(out, kind, |kind, sequence_number| ArgumentsDelta {
            kind,
            sequence_number,
            item_id: &call.id,
            output_index,
            delta,
        });
    }

    pub(super) fn close_call(&mut self, out: &mut BytesMut) -> Result<(), Failure> {
        let Open::Call(call) = std::mem::replace(&mut self.open, Open::Nothing) else {
            return Ok(());
        };
        let tool = &self.settings.tools[call.tool];
        let arguments = match Arguments::of_call(tool, &call.arguments) {
            Ok(arguments) => arguments,
            Err(failure) => {
                self.open = Open::Call(call);
                return Err(failure);
            }
        };
        let (item_id, output_index) = (call.id.as_str(), self.items.len());
        match &arguments {
            Arguments::Json(arguments) if tool.kind == ToolKind::Function => {
                let kind = "response.function_call_arguments.done";
                self.frames.write(out, kind, |kind, sequence_number| ArgumentsDone {
                    kind,
                    sequence_number,
                    item_id,
                    output_index,
                    arguments,
                });
            }
            Arguments::Input(input) => {
                let kind = "response.custom_tool_call_input.delta";
                self.frames.write(out, kind, |kind, sequence_number| InputDelta {
                    kind,
                    sequence_number,
                    item_id,
                    output_index,
                    delta: input,
                });
                let kind = "response.custom_tool_call_input.done";
                self.frames.write(out, kind, |kind, sequence_number| InputDone {
                    kind,
                    sequence_number,
                    item_id,
                    output_index,
                    input,
                });
            }
            Arguments::Json(_) => {}
        }
        let item = self.call_item(&call, "completed", arguments);
        self.finish_item(item, out);
        Ok(())
    }

    fn call_item(&self, call: &OpenCall, status: &'static str, arguments: Arguments) -> Item {
        let tool = &self.settings.tools[call.tool];
        let (id, call_id) = (call.id.clone(), call.call_id.clone());
        let name = tool.name.name.clone();
        match (tool.kind, arguments) {
            (ToolKind::Function, arguments) => Item::FunctionCall {
                id,
                call_id,
                name,
                namespace: tool.name.namespace.clone(),
                arguments: arguments.into_text(),
                status,
            },
            (ToolKind::Freeform, arguments) => {
                Item::CustomToolCall { id, call_id, name, input: arguments.into_text(), status }
            }
            (ToolKind::Search, arguments) => Item::ToolSearchCall {
                id,
                call_id,
                execution: "client",
                arguments: arguments.into_object(),
                status,
            },
            (ToolKind::LocalShell, arguments) => Item::LocalShellCall {
                id,
                call_id,
                action: shell_action(arguments.into_object()),
                status,
            },
        }
    }

    fn close_open(&mut self, out: &mut BytesMut) {
        let open = std::mem::replace(&mut self.open, Open::Nothing);
        self.close(open, out);
    }

    /// Ends a message or reasoning item; a call is ended by its own event only.
    pub(super) fn close(&mut self, open: Open, out: &mut BytesMut) {
        let output_index = self.items.len();
        let item = match open {
            Open::Nothing => return,
            Open::Call(call) => {
                self.open = Open::Call(call);
                return;
            }
            Open::Message { id, text } => {
                let part = OutputText::new(text);
                self.frames.write(out, "response.output_text.done", |kind, sequence_number| {
                    TextDone {
                        kind,
                        sequence_number,
                        item_id: &id,
                        output_index,
                        content_index: 0,
                        text: &part.text,
                        logprobs: [],
                    }
                });
                self.part_event(out, "response.content_part.done", &id, &part);
                let content = vec![part];
                Item::Message { id, status: "completed", role: "assistant", content }
            }
            Open::Reasoning { id, text } => return self.close_reasoning(id, text, None, out),
        };
        self.finish_item(item, out);
    }

    fn item_event(&mut self, out: &mut BytesMut, kind: &'static str, item: &Item) {
        let output_index = self.items.len();
        self.frames.write(out, kind, |kind, sequence_number| ItemEvent {
            kind,
            sequence_number,
            output_index,
            item,
        });
    }

    fn part_event(&mut self, out: &mut BytesMut, kind: &'static str, id: &str, part: &OutputText) {
        let output_index = self.items.len();
        self.frames.write(out, kind, |kind, sequence_number| PartEvent {
            kind,
            sequence_number,
            item_id: id,
            output_index,
            content_index: 0,
            part,
        });
    }
}
