//! Events of an answer → a Messages stream or document.
//! Source: docs.anthropic.com/en/docs/build-with-claude/streaming.

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::{
    Delivery, Emit, EmitterSettings, Failure, KeepaliveStyle, Terminal,
    arguments::Arguments,
    called,
    retention::Retention,
    sequence::{Piece, Sequencer},
};
use crate::{
    model::{Event, FinishReason, Ids, ReasoningState, Usage},
    wire::sse::write_frame,
};

/// Writes one answer.
#[derive(Debug)]
pub struct Emitter {
    settings: EmitterSettings,
    ids: Ids,
    id: String,
    started: bool,
    sequencer: Sequencer,
    pieces: Vec<Piece>,
    open: Open,
    blocks: Vec<Block>,
    usage: Option<Usage>,
    called_tools: bool,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
    retention: Retention,
    terminal: Option<Terminal>,
}

/// The block in progress.
#[derive(Debug)]
enum Open {
    Nothing,
    Text(String),
    Thinking(String),
    Call { id: String, tool: usize, arguments: String },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text { text: String },
    Thinking { thinking: String, signature: String },
    RedactedThinking { data: String },
    ToolUse { id: String, name: String, input: Box<RawValue> },
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: usize, content_block: &'a Block },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stop<'a>, usage: UsageField },
    MessageStop,
    Ping,
}

impl Frame<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
            Self::Ping => "ping",
        }
    }
}

#[derive(Clone, Copy, Serialize)]
struct Stop<'a> {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: &'a [Block],
    #[serde(flatten)]
    stop: Stop<'a>,
    usage: UsageField,
}

/// Cached tokens stand beside `input_tokens` here, not inside.
#[derive(Serialize)]
struct UsageField {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
}

impl From<Usage> for UsageField {
    fn from(usage: Usage) -> Self {
        let cached = usage.cached.saturating_add(usage.cache_write);
        Self {
            input_tokens: usage.input.saturating_sub(cached),
            cache_creation_input_tokens: usage.cache_write,
            cache_read_input_tokens: usage.cached,
            output_tokens: usage.output,
        }
    }
}

impl Emitter {
    /// Starts an answer; `ids` names it and its calls.
    pub fn new(settings: EmitterSettings, mut ids: Ids) -> Self {
        Self {
            id: ids.mint("msg"),
            ids,
            retention: Retention::new(settings.max_retained),
            settings,
            started: false,
            sequencer: Sequencer::default(),
            pieces: Vec::new(),
            open: Open::Nothing,
            blocks: Vec::new(),
            usage: None,
            called_tools: false,
            stop_reason: None,
            stop_sequence: None,
            terminal: None,
        }
    }

    fn write(&self, frame: &Frame<'_>, out: &mut BytesMut) {
        if self.settings.delivery == Delivery::Stream {
            write_frame(out, frame.name(), frame);
        }
    }

    fn start(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.started, true) {
            self.write(&Frame::MessageStart { message: self.message(&[]) }, out);
        }
    }

    fn message<'a>(&'a self, content: &'a [Block]) -> Message<'a> {
        Message {
            id: &self.id,
            kind: "message",
            role: "assistant",
            model: &self.settings.model,
            content,
            stop: self.stop(),
            usage: self.usage.unwrap_or_default().into(),
        }
    }

    fn stop(&self) -> Stop<'_> {
        Stop { stop_reason: self.stop_reason, stop_sequence: self.stop_sequence.as_deref() }
    }

    fn begin(&mut self, open: Open, content_block: &Block, out: &mut BytesMut) {
        self.close(out);
        self.open = open;
        let index = self.blocks.len();
        self.write(&Frame::ContentBlockStart { index, content_block }, out);
    }

    fn delta(&self, delta: Delta<'_>, out: &mut BytesMut) {
        self.write(&Frame::ContentBlockDelta { index: self.blocks.len(), delta }, out);
    }

    fn end(&mut self, block: Block, out: &mut BytesMut) {
        self.write(&Frame::ContentBlockStop { index: self.blocks.len() }, out);
        self.blocks.push(block);
    }

    /// Ends a text or thinking block; a call is ended by its own event only.
    fn close(&mut self, out: &mut BytesMut) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => {}
            Open::Text(text) => self.end(Block::Text { text }, out),
            Open::Thinking(thinking) => {
                self.end(Block::Thinking { thinking, signature: String::new() }, out);
            }
            call @ Open::Call { .. } => self.open = call,
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut BytesMut) -> Result<(), Failure> {
        match piece {
            Piece::Text(delta) => self.text(&delta, out),
            Piece::Reasoning(delta) => self.thinking(&delta, out),
            Piece::State(state) => self.state(&state, out),
            Piece::CallStart { call_id, name } => return self.call_start(call_id, &name, out),
            Piece::CallDelta(delta) => {
                if let Open::Call { arguments, .. } = &mut self.open {
                    arguments.push_str(&delta);
                    self.delta(Delta::InputJson { partial_json: &delta }, out);
                }
            }
            Piece::CallEnd => return self.call_end(out),
        }
        Ok(())
    }

    fn text(&mut self, delta: &str, out: &mut BytesMut) {
        if delta.is_empty() {
            return;
        }
        if !matches!(self.open, Open::Text(_)) {
            self.begin(Open::Text(String::new()), &Block::Text { text: String::new() }, out);
        }
        if let Open::Text(text) = &mut self.open {
            text.push_str(delta);
        }
        self.delta(Delta::Text { text: delta }, out);
    }

    fn thinking(&mut self, delta: &str, out: &mut BytesMut) {
        self.begin_thinking(out);
        if let Open::Thinking(thinking) = &mut self.open {
            thinking.push_str(delta);
        }
        self.delta(Delta::Thinking { thinking: delta }, out);
    }

    fn begin_thinking(&mut self, out: &mut BytesMut) {
        if !matches!(self.open, Open::Thinking(_)) {
            let (thinking, signature) = (String::new(), String::new());
            let block = Block::Thinking { thinking, signature };
            self.begin(Open::Thinking(String::new()), &block, out);
        }
    }

    /// What the provider wants back: the signature of the thinking block, or a redacted one where no
    /// thinking is shown.
    fn state(&mut self, state: &ReasoningState, out: &mut BytesMut) {
        let signature = self.settings.sealer.seal(state);
        if let Open::Thinking(thinking) = &mut self.open {
            let thinking = std::mem::take(thinking);
            self.open = Open::Nothing;
            self.delta(Delta::Signature { signature: &signature }, out);
            return self.end(Block::Thinking { thinking, signature }, out);
        }
        let block = Block::RedactedThinking { data: signature };
        self.begin(Open::Nothing, &block, out);
        self.end(block, out);
    }

    fn call_start(
        &mut self,
        call_id: String,
        name: &str,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let (tool, found) = called(&self.settings.tools, name)?;
        let name = found.name.name.clone();
        let id = if call_id.is_empty() { self.ids.mint("toolu") } else { call_id };
        self.called_tools = true;
        let block = Block::ToolUse { id: id.clone(), name, input: empty_object() };
        self.begin(Open::Call { id, tool, arguments: String::new() }, &block, out);
        Ok(())
    }

    fn call_end(&mut self, out: &mut BytesMut) -> Result<(), Failure> {
        let Open::Call { id, tool, arguments } = std::mem::replace(&mut self.open, Open::Nothing)
        else {
            return Ok(());
        };
        let tool = &self.settings.tools[tool];
        let input = Arguments::of_call(tool, &arguments)?.into_object();
        let name = tool.name.name.clone();
        self.end(Block::ToolUse { id, name, input }, out);
        Ok(())
    }

    fn finish(&mut self, reason: FinishReason, out: &mut BytesMut) -> Result<(), Failure> {
        let in_call = self.sequencer.has_open_call();
        if in_call && reason != FinishReason::Length {
            return Err(Failure::answer("tool_call_cut", "the answer ended inside a tool call"));
        }
        self.start(out);
        match std::mem::replace(&mut self.open, Open::Nothing) {
            // The limit struck inside the call: its block ends, and `stop_reason` says why.
            Open::Call { .. } => {
                self.write(&Frame::ContentBlockStop { index: self.blocks.len() }, out);
            }
            open => {
                self.open = open;
                self.close(out);
            }
        }
        self.stop_reason = Some(match reason {
            FinishReason::Length => "max_tokens",
            FinishReason::Filtered => "refusal",
            FinishReason::Stop if self.called_tools => "tool_use",
            FinishReason::Stop if self.stop_sequence.is_some() => "stop_sequence",
            FinishReason::Stop => "end_turn",
        });
        self.terminal = Some(match reason {
            FinishReason::Stop => Terminal::Completed,
            FinishReason::Length | FinishReason::Filtered => Terminal::Incomplete,
        });
        let delta = self.stop();
        let usage = self.usage.unwrap_or_default().into();
        self.write(&Frame::MessageDelta { delta, usage }, out);
        self.write(&Frame::MessageStop, out);
        Ok(())
    }

    fn write_pieces(&mut self, out: &mut BytesMut) -> Result<(), Failure> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        self.start(out);
        let mut pieces = std::mem::take(&mut self.pieces);
        let written = pieces.drain(..).try_for_each(|piece| self.piece(piece, out));
        self.pieces = pieces;
        written
    }
}

fn empty_object() -> Box<RawValue> {
    crate::wire::json::to_raw(&serde_json::json!({}))
}

impl Emit for Emitter {
    fn id(&self) -> &str {
        &self.id
    }

    fn terminal(&self) -> Option<Terminal> {
        self.terminal
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn push(&mut self, event: Event, out: &mut BytesMut) -> Result<(), Failure> {
        if self.terminal.is_some() {
            return Ok(());
        }
        match event {
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Verbatim(_) | Event::Document(_) => return Err(Failure::unrelayable()),
            Event::Finished(reason) => return self.finish(reason, out),
            Event::ReasoningDelta(_) if !self.settings.show_reasoning => {}
            Event::StopSequence(text) => {
                self.retention.add(text.len())?;
                self.stop_sequence = Some(text);
            }
            piece => {
                self.retention.hold(&piece)?;
                self.sequencer.take(piece, &mut self.pieces);
            }
        }
        self.write_pieces(out)
    }

    fn keepalive(&mut self, out: &mut BytesMut) -> Option<KeepaliveStyle> {
        if self.terminal.is_some() {
            return None;
        }
        self.start(out);
        self.write(&Frame::Ping, out);
        Some(KeepaliveStyle::Typed)
    }

    fn fail(&mut self, failure: &Failure, out: &mut BytesMut) {
        if self.terminal.is_some() {
            return;
        }
        self.terminal = Some(Terminal::Failed);
        if self.settings.delivery == Delivery::Stream {
            write_frame(out, "error", &ErrorDocument::new(failure, failure.status));
        }
    }

    fn into_document(self: Box<Self>) -> Bytes {
        // Our own types serialise.
        serde_json::to_vec(&self.message(&self.blocks)).unwrap_or_default().into()
    }
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: ErrorField<'a>,
}

#[derive(Serialize)]
struct ErrorField<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

impl<'a> ErrorDocument<'a> {
    /// Source: docs.anthropic.com/en/api/errors.
    fn new(failure: &'a Failure, status: u16) -> Self {
        let kind = match status {
            400 if failure.code == "invalid_api_key" => "authentication_error",
            400 if failure.code == "model_not_found" => "not_found_error",
            413 => "request_too_large",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            504 => "timeout_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        };
        Self { kind: "error", error: ErrorField { kind, message: &failure.message } }
    }
}

/// `{"type": "error", "error": {…}}`.
pub fn error_document(failure: &Failure, status: u16) -> Vec<u8> {
    serde_json::to_vec(&ErrorDocument::new(failure, status)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
