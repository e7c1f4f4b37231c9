//! Messages answers → events.
//! Source: docs.anthropic.com/en/docs/build-with-claude/streaming.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::super::{
    DecodeError, FrameDecoder, Step,
    frames::{json_error, malformed, object},
    refusal,
};
use crate::{
    model::{CallKey, Event, FinishReason, ReasoningState, Usage},
    registry::TOOL_NAME_ESCAPE,
    wire::{
        json::{Count, Obj, Str, TextOrList},
        sse::SseFrame,
    },
};

/// A frame of any type.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    message: Obj<Message<'a>>,
    index: Count,
    #[serde(borrow)]
    content_block: Obj<Block<'a>>,
    #[serde(borrow)]
    delta: Obj<Delta<'a>>,
    usage: Obj<WireUsage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    content: TextOrList<'a, Obj<Block<'a>>>,
    #[serde(borrow)]
    stop_reason: Str<'a>,
    #[serde(borrow)]
    stop_sequence: Str<'a>,
    usage: Obj<WireUsage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    text: Str<'a>,
    #[serde(borrow)]
    thinking: Str<'a>,
    #[serde(borrow)]
    signature: Str<'a>,
    #[serde(borrow)]
    data: Str<'a>,
    #[serde(borrow)]
    id: Str<'a>,
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    text: Str<'a>,
    #[serde(borrow)]
    thinking: Str<'a>,
    #[serde(borrow)]
    signature: Str<'a>,
    #[serde(borrow)]
    partial_json: Str<'a>,
    #[serde(borrow)]
    stop_reason: Str<'a>,
    #[serde(borrow)]
    stop_sequence: Str<'a>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    input_tokens: Count,
    output_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
}

impl WireUsage {
    /// What a later frame says replaces what an earlier one said: its numbers are cumulative.
    fn update(&mut self, newer: Self) {
        for (mine, theirs) in [
            (&mut self.input_tokens, newer.input_tokens),
            (&mut self.output_tokens, newer.output_tokens),
            (&mut self.cache_read_input_tokens, newer.cache_read_input_tokens),
            (&mut self.cache_creation_input_tokens, newer.cache_creation_input_tokens),
        ] {
            if theirs.0.is_some() {
                *mine = theirs;
            }
        }
    }
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        let cached = wire.cache_read_input_tokens.or_zero();
        let cache_write = wire.cache_creation_input_tokens.or_zero();
        Self {
            input: wire.input_tokens.or_zero().saturating_add(cached).saturating_add(cache_write),
            cached,
            cache_write,
            output: wire.output_tokens.or_zero(),
            reasoning: 0,
        }
    }
}

/// Blocks of one answer; more is an attack.
const MAX_BLOCKS: usize = 4096;
/// Thinking that is held for its signature, in bytes.
const MAX_THINKING: usize = 8 << 20;

/// Reads one answer.
pub(super) struct AnthropicStream {
    /// Whether tool names come with our prefix.
    escaped: bool,
    open: Vec<(u64, Open)>,
    blocks: usize,
    calls: CallKey,
    /// A call whose block has ended. Whether it is complete is known when the answer goes on: the
    /// token limit closes blocks too.
    ending: Option<CallKey>,
    usage: WireUsage,
    finish: Option<FinishReason>,
}

/// A block in progress.
enum Open {
    Text,
    Thinking {
        text: String,
        signature: String,
    },
    Call {
        call: CallKey,
        said_anything: bool,
        input: Option<String>,
    },
    /// Of a kind that tells us nothing.
    Other,
}

impl AnthropicStream {
    pub fn new(escaped: bool) -> Self {
        Self {
            escaped,
            open: Vec::new(),
            blocks: 0,
            calls: 0,
            ending: None,
            usage: WireUsage::default(),
            finish: None,
        }
    }

    fn start(
        &mut self,
        index: u64,
        block: &Block<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), DecodeError> {
        self.end_call(events);
        self.blocks += 1;
        if self.blocks > MAX_BLOCKS {
            return Err(DecodeError::Malformed(format!("more than {MAX_BLOCKS} blocks")));
        }
        if self.open.iter().any(|(open, _)| *open == index) {
            return Err(DecodeError::Malformed(format!("block {index} begins twice")));
        }
        let open = match block.kind.or_empty() {
            "text" => {
                text(block.text.or_empty(), events);
                Open::Text
            }
            "thinking" => {
                let thinking = block.thinking.or_empty();
                thought(thinking, events);
                let signature = block.signature.or_empty().to_owned();
                Open::Thinking { text: thinking.to_owned(), signature }
            }
            "redacted_thinking" => {
                let redacted = Some(block.data.or_empty().to_owned());
                events.push(Event::State(ReasoningState { redacted, ..ReasoningState::default() }));
                Open::Other
            }
            "tool_use" => self.call(block, events)?,
            _ => Open::Other,
        };
        self.open.push((index, open));
        Ok(())
    }

    fn call(&mut self, block: &Block<'_>, events: &mut Vec<Event>) -> Result<Open, DecodeError> {
        let name = block
            .name
            .non_empty()
            .ok_or_else(|| DecodeError::Malformed("a tool call without a name".to_owned()))?;
        let name =
            if self.escaped { name.strip_prefix(TOOL_NAME_ESCAPE).unwrap_or(name) } else { name };
        let call = self.calls;
        self.calls += 1;
        let (call_id, name) = (block.id.or_empty().to_owned(), name.to_owned());
        events.push(Event::CallStarted { call, call_id, name });
        // Usually `{}`, with the arguments to come in pieces; some servers send them whole.
        let input = block.input.map(RawValue::get).filter(|input| !matches!(*input, "{}" | "null"));
        Ok(Open::Call { call, said_anything: false, input: input.map(str::to_owned) })
    }

    fn delta(
        &mut self,
        index: u64,
        delta: &Delta<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), DecodeError> {
        let Some((_, open)) = self.open.iter_mut().find(|(open, _)| *open == index) else {
            return Err(DecodeError::Malformed(format!(
                "a piece of block {index}, which is not open"
            )));
        };
        match (open, delta.kind.or_empty()) {
            (Open::Text, "text_delta") => text(delta.text.or_empty(), events),
            (Open::Thinking { text, .. }, "thinking_delta") => {
                let piece = delta.thinking.or_empty();
                if text.len() + piece.len() > MAX_THINKING {
                    return Err(DecodeError::Malformed("endless thinking".to_owned()));
                }
                text.push_str(piece);
                thought(piece, events);
            }
            (Open::Thinking { signature, .. }, "signature_delta") => {
                let piece = delta.signature.or_empty();
                if signature.len() + piece.len() > MAX_THINKING {
                    return Err(DecodeError::Malformed("an endless signature".to_owned()));
                }
                signature.push_str(piece);
            }
            (Open::Call { call, said_anything, .. }, "input_json_delta") => {
                let arguments = delta.partial_json.or_empty();
                if !arguments.is_empty() {
                    *said_anything = true;
                    let arguments = arguments.to_owned();
                    events.push(Event::CallDelta { call: *call, arguments });
                }
            }
            // Citations and what is to come.
            _ => {}
        }
        Ok(())
    }

    fn stop(&mut self, index: u64, events: &mut Vec<Event>) {
        let Some(at) = self.open.iter().position(|(open, _)| *open == index) else {
            return;
        };
        match self.open.remove(at).1 {
            Open::Text | Open::Other => {}
            Open::Thinking { text, signature } => {
                // Compatible servers that sign nothing want nothing back.
                if !signature.is_empty() {
                    let signature = Some(signature);
                    events.push(Event::State(ReasoningState { text, signature, redacted: None }));
                }
            }
            Open::Call { call, said_anything, input } => {
                if let (false, Some(arguments)) = (said_anything, input) {
                    events.push(Event::CallDelta { call, arguments });
                }
                self.ending = Some(call);
            }
        }
    }

    fn end_call(&mut self, events: &mut Vec<Event>) {
        if let Some(call) = self.ending.take() {
            events.push(Event::CallEnded { call });
        }
    }

    fn usage(&mut self, newer: Option<WireUsage>, events: &mut Vec<Event>) {
        if let Some(newer) = newer {
            self.usage.update(newer);
            events.push(Event::Usage(self.usage.into()));
        }
    }

    fn stop_reason(&mut self, reason: Option<&str>) -> Result<(), DecodeError> {
        self.finish = Some(match reason {
            None => return Ok(()),
            Some("max_tokens" | "model_context_window_exceeded" | "pause_turn") => {
                FinishReason::Length
            }
            Some("refusal") => FinishReason::Filtered,
            Some("error") => {
                return Err(DecodeError::Upstream(refusal::from_json(&Value::from(
                    "the upstream failed",
                ))));
            }
            Some(_) => FinishReason::Stop,
        });
        Ok(())
    }

    /// What the end means when the upstream has told why it stopped.
    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let in_call = self.open.iter().any(|(_, open)| matches!(open, Open::Call { .. }));
        match self.finish.take() {
            None => Err(DecodeError::Truncated),
            // The token limit may strike inside a call; nothing else may.
            Some(reason) if in_call && reason != FinishReason::Length => {
                Err(DecodeError::Truncated)
            }
            Some(reason) => {
                if reason != FinishReason::Length {
                    self.end_call(events);
                }
                events.push(Event::Finished(reason));
                Ok(())
            }
        }
    }
}

fn stop_sequence(sequence: &Str<'_>, events: &mut Vec<Event>) {
    events.extend(sequence.non_empty().map(|text| Event::StopSequence(text.to_owned())));
}

fn text(piece: &str, events: &mut Vec<Event>) {
    if !piece.is_empty() {
        events.push(Event::TextDelta(piece.to_owned()));
    }
}

fn thought(piece: &str, events: &mut Vec<Event>) {
    if !piece.is_empty() {
        events.push(Event::ReasoningDelta(piece.to_owned()));
    }
}

fn upstream_error(error: Option<&RawValue>) -> DecodeError {
    let text = error.map_or(r#""the upstream failed""#, RawValue::get);
    match serde_json::from_str::<Value>(text) {
        Ok(value) => DecodeError::Upstream(refusal::from_json(&value)),
        Err(error) => malformed(error),
    }
}

impl FrameDecoder for AnthropicStream {
    fn frame(&mut self, frame: SseFrame<'_>, events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        let Some(data) = object(&frame)? else {
            return Ok(Step::More);
        };
        let wire: Frame<'_> = serde_json::from_slice(data).map_err(malformed)?;
        let index = wire.index.or_zero();
        match wire.kind.non_empty().unwrap_or(frame.event) {
            "message_start" => {
                self.usage(wire.message.0.and_then(|message| message.usage.0), events);
            }
            "content_block_start" => {
                let block = wire.content_block.0.unwrap_or_default();
                self.start(index, &block, events)?;
            }
            "content_block_delta" => {
                self.delta(index, &wire.delta.0.unwrap_or_default(), events)?;
            }
            "content_block_stop" => self.stop(index, events),
            "message_delta" => {
                let delta = wire.delta.0.unwrap_or_default();
                self.stop_reason(delta.stop_reason.non_empty())?;
                stop_sequence(&delta.stop_sequence, events);
                self.usage(wire.usage.0, events);
            }
            "message_stop" => {
                // A message without a reason is over all the same.
                self.finish.get_or_insert(FinishReason::Stop);
                self.finish(events)?;
                return Ok(Step::Done);
            }
            "error" => return Err(upstream_error(wire.error)),
            // `ping`, and what is to come.
            _ => {}
        }
        Ok(Step::More)
    }

    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        self.finish(events)
    }

    fn document(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let message: Message<'_> = serde_json::from_slice(body).map_err(json_error)?;
        if message.error.is_some() || message.kind.get() == Some("error") {
            return Err(upstream_error(message.error));
        }
        let TextOrList::List(blocks) = &message.content else {
            return Err(DecodeError::Malformed("a message without content".to_owned()));
        };
        self.usage(message.usage.0, events);
        for (index, block) in (0..).zip(blocks.iter().filter_map(|block| block.0.as_ref())) {
            self.start(index, block, events)?;
            self.stop(index, events);
        }
        self.stop_reason(message.stop_reason.non_empty())?;
        stop_sequence(&message.stop_sequence, events);
        self.finish.get_or_insert(FinishReason::Stop);
        self.finish(events)
    }
}

#[cfg(test)]
mod tests;
