//! Events of an answer → a Responses stream or document. The only writer of that protocol.
//! Source: what OpenAI sends and Codex 0.169.0 needs, section 5 of our protocol notes.

use bytes::{Bytes, BytesMut};

use self::{frame_writer::FrameWriter, open_item::Open};
use super::{
    super::{
        Delivery, Emit, EmitterSettings, Failure, KeepaliveStyle, Terminal,
        retention::Retention,
        sequence::{Piece, Sequencer},
    },
    frames::{
        EmptyObject, ErrorField, IncompleteDetails, Item, Lifecycle, Plain, Response, UsageField,
    },
};
use crate::{
    model::{Event, FinishReason, Frame, Ids, Usage},
    wire::{
        compaction,
        sse::{write_frame, write_raw_frame},
    },
};

mod frame_writer;
mod open_item;

/// Writes one answer. After a terminal event everything is ignored: there is exactly one.
#[derive(Debug)]
pub struct Emitter {
    settings: EmitterSettings,
    ids: Ids,
    response_id: String,
    sequencer: Sequencer,
    pieces: Vec<Piece>,
    frames: FrameWriter,
    started: bool,
    open: Open,
    items: Vec<Item>,
    usage: Option<Usage>,
    retention: Retention,
    document: Option<Bytes>,
    /// The summary so far, when the answer is one.
    summary: Option<String>,
    terminal: Option<Terminal>,
}

impl Emitter {
    /// Starts an answer; `ids` names it and its items.
    pub fn new(settings: EmitterSettings, mut ids: Ids) -> Self {
        let summary = settings.compaction.then(String::new);
        Self {
            response_id: ids.mint("resp"),
            ids,
            frames: FrameWriter::new(settings.delivery == Delivery::Stream),
            retention: Retention::new(settings.max_retained),
            settings,
            sequencer: Sequencer::default(),
            pieces: Vec::new(),
            started: false,
            open: Open::Nothing,
            items: Vec::new(),
            usage: None,
            document: None,
            summary,
            terminal: None,
        }
    }

    fn relay(&mut self, frame: &Frame, out: &mut BytesMut) {
        self.started = true;
        if let Some(number) = frame.sequence {
            self.frames.passed(number);
        }
        self.terminal = match frame.kind.as_str() {
            "response.completed" => Some(Terminal::Completed),
            "response.incomplete" => Some(Terminal::Incomplete),
            _ => None,
        };
        if self.frames.streams() {
            write_raw_frame(out, &frame.kind, &frame.data);
            if self.terminal.is_some() {
                out.extend_from_slice(DONE);
            }
        }
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
                    status: 400,
                    message: "the provider's content filter stopped the answer".into(),
                    retry_after: None,
                });
            }
        }
        Ok(())
    }

    /// Collects a summary. Codex wants exactly one item, and an empty or cut one would erase the
    /// session, so the turn rather fails.
    fn summarise(&mut self, event: Event, out: &mut BytesMut) -> Result<(), Failure> {
        let failed = |reason: &str| {
            let message = format!("no summary came of the compaction: {reason}");
            Failure::answer("compaction_failed", message)
        };
        match event {
            Event::TextDelta(delta) => {
                self.retention.add(delta.len())?;
                self.summary.get_or_insert_default().push_str(&delta);
                Ok(())
            }
            Event::Usage(usage) => {
                self.usage = Some(usage);
                Ok(())
            }
            Event::Finished(FinishReason::Stop) => {
                let summary = self.summary.take().unwrap_or_default();
                if summary.trim().is_empty() {
                    return Err(failed("the model wrote nothing"));
                }
                self.start(out);
                let id = self.ids.mint("cmp");
                let encrypted_content = compaction::seal(&compaction::continued(&summary));
                self.add_item(Item::Compaction { id, encrypted_content }, out);
                self.end(Terminal::Completed, "completed", None, None, out);
                Ok(())
            }
            Event::Finished(FinishReason::Length) => Err(failed("the token limit cut it")),
            Event::Finished(FinishReason::Filtered) => Err(failed("a content filter stopped it")),
            // Thoughts are no summary, and no tool was offered.
            _ => Ok(()),
        }
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
            Piece::State(state) => {
                self.state(&state, out);
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
            let sequence_number = self.frames.take_number();
            if self.frames.streams() {
                let response = self.response("in_progress", None, None);
                write_frame(out, kind, &Lifecycle { kind, sequence_number, response });
            }
        }
    }

    fn end(
        &mut self,
        terminal: Terminal,
        status: &'static str,
        error: Option<ErrorField<'_>>,
        incomplete: Option<&'static str>,
        out: &mut BytesMut,
    ) {
        let sequence_number = self.frames.take_number();
        self.terminal = Some(terminal);
        if !self.frames.streams() {
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
}

impl Emit for Emitter {
    fn id(&self) -> &str {
        &self.response_id
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
        if self.summary.is_some() {
            return self.summarise(event, out);
        }
        match event {
            Event::Verbatim(frame) => self.relay(&frame, out),
            Event::Document(bytes) => self.document = Some(bytes),
            Event::Usage(usage) => self.usage = Some(usage),
            Event::Finished(reason) => return self.finish(reason, out),
            Event::ReasoningDelta(_) if !self.settings.show_reasoning => {}
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
        if self.settings.relay && !self.started {
            // The upstream's own `response.created` must come first; a comment may precede it.
            out.extend_from_slice(b": keepalive\n\n");
            return Some(KeepaliveStyle::Comment);
        }
        self.start(out);
        // The upstream of a relay numbers its own frames and leaves no number free for this one.
        let sequence_number =
            if self.settings.relay { self.frames.next_number() } else { self.frames.take_number() };
        write_frame(out, "keepalive", &Plain { kind: "keepalive", sequence_number });
        Some(KeepaliveStyle::Typed)
    }

    fn fail(&mut self, failure: &Failure, out: &mut BytesMut) {
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

    fn into_document(self: Box<Self>) -> Bytes {
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
}

const MAX_OUTPUT: &str = "max_output_tokens";
const DONE: &[u8] = b"data: [DONE]\n\n";

#[cfg(test)]
mod tests;
