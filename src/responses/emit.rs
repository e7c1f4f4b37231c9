//! Events of an answer → a Responses stream or document. The only writer of that protocol.
//! Source: what OpenAI sends and Codex 0.169.0 needs, section 5 of our protocol notes.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::{
    Failure,
    arguments::{Arguments, shell_action},
    frames::{
        ArgumentsDelta, ArgumentsDone, EmptyObject, ErrorField, IncompleteDetails, InputDelta,
        InputDone, Item, ItemEvent, Lifecycle, OutputText, PartEvent, Plain, Response,
        SummaryDelta, SummaryDone, SummaryPartEvent, SummaryText, TextDelta, TextDone, UsageField,
    },
    sequence::{Piece, Sequencer},
};
use crate::{
    model::{Event, FinishReason, Frame, Ids, Tool, ToolKind, Usage, sanitize_wire_name},
    wire::sse::{write_frame, write_raw_frame},
};

/// How the caller wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Server-sent events.
    Stream,
    /// One JSON document.
    Whole,
}

/// What an emitter must know beforehand.
#[derive(Debug)]
pub struct EmitterSettings {
    /// Stream or document.
    pub delivery: Delivery,
    /// The model to name in the answer.
    pub model: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Whether the caller wants to see reasoning.
    pub show_reasoning: bool,
    /// The upstream speaks Responses itself: frames pass through.
    pub relay: bool,
    /// The tools the model may call.
    pub tools: Vec<Tool>,
    /// Most bytes of text and arguments held for one answer.
    pub max_retained: usize,
}

/// How an answer ended, as the caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// `response.completed`.
    Completed,
    /// `response.incomplete`.
    Incomplete,
    /// `response.failed`.
    Failed,
}

/// What a sign of life looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepaliveStyle {
    /// An event.
    Typed,
    /// A comment, which resets fewer clocks.
    Comment,
}

/// Writes one answer. After a terminal event everything is ignored: there is exactly one.
#[derive(Debug)]
pub struct Emitter {
    settings: EmitterSettings,
    ids: Ids,
    response_id: String,
    sequencer: Sequencer,
    pieces: Vec<Piece>,
    sequence: u64,
    started: bool,
    open: Open,
    items: Vec<Item>,
    usage: Option<Usage>,
    retained: usize,
    document: Option<Bytes>,
    terminal: Option<Terminal>,
}

/// The item in progress.
#[derive(Debug)]
enum Open {
    Nothing,
    Message { id: String, text: String },
    Reasoning { id: String, text: String },
    Call(OpenCall),
}

#[derive(Debug)]
struct OpenCall {
    id: String,
    call_id: String,
    /// Index into the settings' tools.
    tool: usize,
    arguments: String,
}

impl Emitter {
    /// Starts an answer; `ids` names it and its items.
    pub fn new(settings: EmitterSettings, mut ids: Ids) -> Self {
        Self {
            response_id: ids.mint("resp"),
            ids,
            settings,
            sequencer: Sequencer::default(),
            pieces: Vec::new(),
            sequence: 0,
            started: false,
            open: Open::Nothing,
            items: Vec::new(),
            usage: None,
            retained: 0,
            document: None,
            terminal: None,
        }
    }

    /// The answer's id.
    pub fn response_id(&self) -> &str {
        &self.response_id
    }

    /// How the answer ended, once it has.
    pub fn terminal(&self) -> Option<Terminal> {
        self.terminal
    }

    /// The last token counts.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Takes the next event and writes what follows from it.
    ///
    /// # Errors
    ///
    /// When the answer cannot be given to the caller: a call of a tool that was never offered,
    /// arguments that are no JSON, or too much of it. The caller of this then [fails](Self::fail).
    pub fn push(&mut self, event: Event, out: &mut BytesMut) -> Result<(), Failure> {
        if self.terminal.is_some() {
            return Ok(());
        }
        match event {
            Event::Verbatim(frame) => return self.relay(frame, out),
            Event::Document(bytes) => self.document = Some(bytes),
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Finished(reason) => return self.finish(reason, out),
            Event::TextDelta(delta) => {
                self.retain(delta.len())?;
                self.sequencer.text(delta, &mut self.pieces);
            }
            Event::ReasoningDelta(_) if !self.settings.show_reasoning => {}
            Event::ReasoningDelta(delta) => {
                self.retain(delta.len())?;
                self.sequencer.reasoning(delta, &mut self.pieces);
            }
            Event::CallStarted { call, call_id, name } => {
                self.sequencer.call_started(call, call_id, name, &mut self.pieces);
            }
            Event::CallDelta { call, arguments } => {
                self.retain(arguments.len())?;
                self.sequencer.call_delta(call, arguments, &mut self.pieces);
            }
            Event::CallEnded { call } => self.sequencer.call_ended(call, &mut self.pieces),
        }
        self.write_pieces(out)
    }

    /// Writes a sign of life, of the kind that every known client accepts.
    pub fn keepalive(&mut self, out: &mut BytesMut) -> Option<KeepaliveStyle> {
        if self.terminal.is_some() {
            return None;
        }
        if self.settings.relay && !self.started {
            // The upstream's own `response.created` must come first; a comment may precede it.
            out.extend_from_slice(b": keepalive\n\n");
            return Some(KeepaliveStyle::Comment);
        }
        self.start(out);
        let sequence_number = self.sequence;
        write_frame(out, "keepalive", &Plain { kind: "keepalive", sequence_number });
        if !self.settings.relay {
            self.sequence += 1;
        }
        Some(KeepaliveStyle::Typed)
    }

    /// Ends the answer with `response.failed`.
    pub fn fail(&mut self, failure: &Failure, out: &mut BytesMut) {
        if self.terminal.is_some() {
            return;
        }
        self.start(out);
        // What is open is left as it is. Codex runs a call as soon as its item is done, even with the
        // status `incomplete` and no arguments (seen with 0.169.0), and keeps a message that is done,
        // so that half an answer would be part of the next try.
        self.open = Open::Nothing;
        let error =
            ErrorField { code: failure.stream_code, message: &failure.message_with_delay() };
        self.end(Terminal::Failed, "failed", Some(error), None, out);
    }

    /// The document of an answer that did not fail.
    pub fn into_document(self) -> Bytes {
        if let Some(document) = self.document {
            return document;
        }
        let incomplete = self.terminal == Some(Terminal::Incomplete);
        let (status, reason) =
            if incomplete { ("incomplete", Some(MAX_OUTPUT)) } else { ("completed", None) };
        let response = self.response(status, None, reason);
        // Our own types serialise.
        serde_json::to_vec(&response).unwrap_or_default().into()
    }

    fn relay(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), Failure> {
        self.started = true;
        self.sequence = frame.sequence.map_or(self.sequence, |sequence| sequence.saturating_add(1));
        self.terminal = match frame.kind.as_str() {
            "response.completed" => Some(Terminal::Completed),
            "response.incomplete" => Some(Terminal::Incomplete),
            _ => None,
        };
        if self.settings.delivery == Delivery::Stream {
            write_raw_frame(out, &frame.kind, &frame.data);
            if self.terminal.is_some() {
                out.extend_from_slice(DONE);
            }
        }
        Ok(())
    }

    fn finish(&mut self, reason: FinishReason, out: &mut BytesMut) -> Result<(), Failure> {
        if self.document.is_some() {
            self.terminal = Some(match reason {
                FinishReason::Stop => Terminal::Completed,
                FinishReason::Length | FinishReason::Filtered => Terminal::Incomplete,
            });
            return Ok(());
        }
        if self.sequencer.has_open_call() && reason != FinishReason::Length {
            return Err(Failure::answer("tool_call_cut", "the answer ended inside a tool call"));
        }
        self.start(out);
        match std::mem::replace(&mut self.open, Open::Nothing) {
            // The limit struck inside the call: what there is of it must not be run.
            Open::Call(_) => {}
            open => self.close(open, out),
        }
        match reason {
            FinishReason::Stop => self.end(Terminal::Completed, "completed", None, None, out),
            FinishReason::Length => {
                self.end(Terminal::Incomplete, "incomplete", None, Some(MAX_OUTPUT), out);
            }
            // Codex repeats a turn that ends `incomplete` for this reason five times, for the
            // same result; this code ends it at once and shows the message.
            FinishReason::Filtered => {
                return Err(Failure {
                    kind: "invalid_request_error".into(),
                    code: "invalid_prompt".into(),
                    stream_code: "invalid_prompt",
                    message: "the provider's content filter stopped the answer".into(),
                    retry_after: None,
                });
            }
        }
        Ok(())
    }

    fn retain(&mut self, bytes: usize) -> Result<(), Failure> {
        self.retained += bytes;
        if self.retained > self.settings.max_retained {
            let limit = self.settings.max_retained;
            let message = format!("the answer is longer than {limit} bytes");
            return Err(Failure::answer("answer_too_long", message));
        }
        Ok(())
    }

    fn write_pieces(&mut self, out: &mut BytesMut) -> Result<(), Failure> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        self.start(out);
        let mut pieces = std::mem::take(&mut self.pieces);
        let written = pieces.drain(..).try_for_each(|piece| match piece {
            Piece::Text(delta) => {
                self.text(&delta, out);
                Ok(())
            }
            Piece::Reasoning(delta) => {
                self.reasoning(&delta, out);
                Ok(())
            }
            Piece::CallStart { call_id, name } => self.open_call(call_id, &name, out),
            Piece::CallDelta(delta) => {
                self.call_delta(&delta, out);
                Ok(())
            }
            Piece::CallEnd => self.close_call(out),
        });
        // The list is kept for its capacity: it is filled once per event.
        self.pieces = pieces;
        written
    }

    fn start(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        for kind in ["response.created", "response.in_progress"] {
            let sequence_number = self.next_sequence();
            if self.settings.delivery == Delivery::Stream {
                let response = self.response("in_progress", None, None);
                write_frame(out, kind, &Lifecycle { kind, sequence_number, response });
            }
        }
    }

    fn text(&mut self, delta: &str, out: &mut BytesMut) {
        if delta.is_empty() {
            return;
        }
        if !matches!(self.open, Open::Message { .. }) {
            self.open_message(out);
        }
        let sequence_number = self.next_sequence();
        let (stream, output_index) = (self.streams(), self.items.len());
        let Open::Message { id, text } = &mut self.open else {
            return;
        };
        text.push_str(delta);
        if stream {
            let kind = "response.output_text.delta";
            let data = TextDelta {
                kind,
                sequence_number,
                item_id: id,
                output_index,
                content_index: 0,
                delta,
                logprobs: [],
            };
            write_frame(out, kind, &data);
        }
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

    fn reasoning(&mut self, delta: &str, out: &mut BytesMut) {
        if delta.is_empty() {
            return;
        }
        if !matches!(self.open, Open::Reasoning { .. }) {
            self.close_open(out);
            let id = self.ids.mint("rs");
            let item = Item::Reasoning { id: id.clone(), summary: Vec::new() };
            self.item_event(out, "response.output_item.added", &item);
            let part = SummaryText { kind: "summary_text", text: String::new() };
            self.summary_part_event(out, "response.reasoning_summary_part.added", &id, &part);
            self.open = Open::Reasoning { id, text: String::new() };
        }
        let sequence_number = self.next_sequence();
        let (stream, output_index) = (self.streams(), self.items.len());
        let Open::Reasoning { id, text } = &mut self.open else {
            return;
        };
        text.push_str(delta);
        if stream {
            let kind = "response.reasoning_summary_text.delta";
            let data = SummaryDelta {
                kind,
                sequence_number,
                item_id: id,
                output_index,
                summary_index: 0,
                delta,
            };
            write_frame(out, kind, &data);
        }
    }

    fn open_call(
        &mut self,
        call_id: String,
        name: &str,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        self.close_open(out);
        let found = self.settings.tools.iter().position(|tool| tool.wire_name == name);
        let Some(tool) = found else {
            let name = sanitize_wire_name(name);
            let message = format!("the model called `{name}`, which is no tool of this turn");
            return Err(Failure::answer("undeclared_tool", message));
        };
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

    fn call_delta(&mut self, delta: &str, out: &mut BytesMut) {
        let (stream, output_index, sequence) = (self.streams(), self.items.len(), self.sequence);
        let Open::Call(call) = &mut self.open else {
            return;
        };
        call.arguments.push_str(delta);
        // Only functions stream their JSON; the others' arguments are known when complete.
        if self.settings.tools[call.tool].kind != ToolKind::Function || delta.is_empty() {
            return;
        }
        self.sequence += 1;
        if stream {
            let kind = "response.function_call_arguments.delta";
            let data = ArgumentsDelta {
                kind,
                sequence_number: sequence,
                item_id: &call.id,
                output_index,
                delta,
            };
            write_frame(out, kind, &data);
        }
    }

    fn close_call(&mut self, out: &mut BytesMut) -> Result<(), Failure> {
        let Open::Call(call) = std::mem::replace(&mut self.open, Open::Nothing) else {
            return Ok(());
        };
        let tool = &self.settings.tools[call.tool];
        let arguments = match Arguments::complete(tool.kind, &call.arguments) {
            Ok(arguments) => arguments,
            Err(reason) => {
                let message =
                    format!("the arguments of `{}` are no JSON: {reason}", tool.wire_name);
                self.open = Open::Call(call);
                return Err(Failure::answer("malformed_tool_arguments", message));
            }
        };
        let (id, output_index) = (&call.id, self.items.len());
        match &arguments {
            Arguments::Json(json) if tool.kind == ToolKind::Function => {
                let (id, json) = (id.clone(), json.clone());
                self.frame(
                    out,
                    "response.function_call_arguments.done",
                    |kind, sequence_number| ArgumentsDone {
                        kind,
                        sequence_number,
                        item_id: id,
                        output_index,
                        arguments: json,
                    },
                );
            }
            Arguments::Input(input) => {
                let (id, input) = (id.clone(), input.clone());
                self.frame(
                    out,
                    "response.custom_tool_call_input.delta",
                    |kind, sequence_number| InputDelta {
                        kind,
                        sequence_number,
                        item_id: id.clone(),
                        output_index,
                        delta: input.clone(),
                    },
                );
                self.frame(out, "response.custom_tool_call_input.done", |kind, sequence_number| {
                    InputDone { kind, sequence_number, item_id: id, output_index, input }
                });
            }
            Arguments::Json(_) => {}
        }
        let item = self.call_item(&call, "completed", arguments);
        self.item_event(out, "response.output_item.done", &item);
        self.items.push(item);
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
    fn close(&mut self, open: Open, out: &mut BytesMut) {
        let output_index = self.items.len();
        let item = match open {
            Open::Nothing => return,
            Open::Call(call) => {
                self.open = Open::Call(call);
                return;
            }
            Open::Message { id, text } => {
                let part = OutputText::new(text);
                self.frame(out, "response.output_text.done", |kind, sequence_number| TextDone {
                    kind,
                    sequence_number,
                    item_id: &id,
                    output_index,
                    content_index: 0,
                    text: &part.text,
                    logprobs: [],
                });
                self.part_event(out, "response.content_part.done", &id, &part);
                let content = vec![part];
                Item::Message { id, status: "completed", role: "assistant", content }
            }
            Open::Reasoning { id, text } => {
                let part = SummaryText { kind: "summary_text", text };
                self.frame(out, "response.reasoning_summary_text.done", |kind, sequence_number| {
                    SummaryDone {
                        kind,
                        sequence_number,
                        item_id: &id,
                        output_index,
                        summary_index: 0,
                        text: &part.text,
                    }
                });
                self.summary_part_event(out, "response.reasoning_summary_part.done", &id, &part);
                Item::Reasoning { id, summary: vec![part] }
            }
        };
        self.item_event(out, "response.output_item.done", &item);
        self.items.push(item);
    }

    fn end(
        &mut self,
        terminal: Terminal,
        status: &'static str,
        error: Option<ErrorField<'_>>,
        incomplete: Option<&'static str>,
        out: &mut BytesMut,
    ) {
        let sequence_number = self.next_sequence();
        self.terminal = Some(terminal);
        if self.settings.delivery == Delivery::Whole {
            return;
        }
        let kind = match terminal {
            Terminal::Completed => "response.completed",
            Terminal::Incomplete => "response.incomplete",
            Terminal::Failed => "response.failed",
        };
        let response = self.response(status, error, incomplete);
        write_frame(out, kind, &Lifecycle { kind, sequence_number, response });
        out.extend_from_slice(DONE);
    }

    fn response<'r>(
        &'r self,
        status: &'static str,
        error: Option<ErrorField<'r>>,
        incomplete: Option<&'static str>,
    ) -> Response<'r> {
        let over = status != "in_progress";
        Response {
            id: &self.response_id,
            object: "response",
            created_at: self.settings.created_at,
            status,
            error,
            incomplete_details: incomplete.map(|reason| IncompleteDetails { reason }),
            instructions: None,
            metadata: EmptyObject {},
            model: &self.settings.model,
            output: &self.items,
            parallel_tool_calls: true,
            store: false,
            tool_choice: "auto",
            tools: [],
            usage: over.then(|| self.usage.map(UsageField::from)).flatten(),
        }
    }

    fn streams(&self) -> bool {
        self.settings.delivery == Delivery::Stream
    }

    fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    fn frame<T: Serialize>(
        &mut self,
        out: &mut BytesMut,
        kind: &'static str,
        data: impl FnOnce(&'static str, u64) -> T,
    ) {
        let sequence_number = self.next_sequence();
        if self.streams() {
            write_frame(out, kind, &data(kind, sequence_number));
        }
    }

    fn item_event(&mut self, out: &mut BytesMut, kind: &'static str, item: &Item) {
        let output_index = self.items.len();
        self.frame(out, kind, |kind, sequence_number| ItemEvent {
            kind,
            sequence_number,
            output_index,
            item,
        });
    }

    fn part_event(&mut self, out: &mut BytesMut, kind: &'static str, id: &str, part: &OutputText) {
        let output_index = self.items.len();
        self.frame(out, kind, |kind, sequence_number| PartEvent {
            kind,
            sequence_number,
            item_id: id,
            output_index,
            content_index: 0,
            part,
        });
    }

    fn summary_part_event(
        &mut self,
        out: &mut BytesMut,
        kind: &'static str,
        id: &str,
        part: &SummaryText,
    ) {
        let output_index = self.items.len();
        self.frame(out, kind, |kind, sequence_number| SummaryPartEvent {
            kind,
            sequence_number,
            item_id: id,
            output_index,
            summary_index: 0,
            part,
        });
    }
}

const MAX_OUTPUT: &str = "max_output_tokens";
const DONE: &[u8] = b"data: [DONE]\n\n";

#[cfg(test)]
mod tests;
