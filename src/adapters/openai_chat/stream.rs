//! Chat Completions answers → events.
//! Source: platform.openai.com/docs/api-reference/chat-streaming; the lenience is for servers that
//! send nulls, whole messages, arguments as objects, one index for all calls, or no `[DONE]`.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::super::{
    DecodeError, FrameDecoder, Step,
    frames::{json_error, malformed, object},
    refusal,
};
use crate::{
    model::{CallKey, Event, FinishReason, ReasoningState, Usage},
    wire::{
        json::{Count, Obj, Str, TextOrList},
        sse::SseFrame,
    },
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: TextOrList<'a, Obj<Choice<'a>>>,
    usage: Obj<WireUsage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Obj<Delta<'a>>,
    #[serde(borrow)]
    message: Obj<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Str<'a>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    content: TextOrList<'a, Obj<TextPart<'a>>>,
    #[serde(borrow)]
    reasoning_content: Str<'a>,
    #[serde(borrow)]
    reasoning: Str<'a>,
    #[serde(borrow)]
    refusal: Str<'a>,
    #[serde(borrow)]
    tool_calls: TextOrList<'a, Obj<CallDelta<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TextPart<'a> {
    #[serde(borrow)]
    text: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CallDelta<'a> {
    index: Count,
    #[serde(borrow)]
    id: Str<'a>,
    #[serde(borrow)]
    function: Obj<FunctionDelta<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FunctionDelta<'a> {
    #[serde(borrow)]
    name: Str<'a>,
    /// Text, or the object itself.
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    prompt_tokens_details: Obj<PromptDetails>,
    completion_tokens_details: Obj<CompletionDetails>,
    /// DeepSeek's name for cached tokens.
    prompt_cache_hit_tokens: Count,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Count,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Count,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        let details = wire.prompt_tokens_details.0.unwrap_or_default();
        Self {
            input: wire.prompt_tokens.or_zero(),
            cached: details.cached_tokens.0.unwrap_or(wire.prompt_cache_hit_tokens.or_zero()),
            cache_write: 0,
            output: wire.completion_tokens.or_zero(),
            reasoning: wire
                .completion_tokens_details
                .0
                .unwrap_or_default()
                .reasoning_tokens
                .or_zero(),
        }
    }
}

/// Tool calls of one answer; more is an attack.
const MAX_CALLS: usize = 256;
/// Arguments that may come before the name of their call, in bytes.
const MAX_EARLY: usize = 64 << 10;

/// Reasoning that is kept for the next turn, in bytes.
const MAX_KEPT: usize = 8 << 20;

/// Reads one answer.
pub(super) struct ChatStream {
    calls: Vec<CallState>,
    finish: Option<FinishReason>,
    said_something: bool,
    eof_tolerant: bool,
    /// The reasoning in progress, where the model must get it back.
    kept: Option<String>,
}

/// A tool call in progress; its place in the list is its key.
struct CallState {
    index: Option<u64>,
    id: String,
    /// Arguments that came before the name.
    early: String,
    started: bool,
    ended: bool,
}

impl ChatStream {
    /// Reads leniently if the upstream is known to end without a word, and keeps the reasoning of
    /// models that want it back.
    pub fn new(eof_tolerant: bool, keeps_reasoning: bool) -> Self {
        let kept = keeps_reasoning.then(String::new);
        Self { calls: Vec::new(), finish: None, said_something: false, eof_tolerant, kept }
    }

    fn chunk(&mut self, data: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(malformed)?;
        if let Some(error) = chunk.error.filter(|error| error.get() != "{}") {
            let body: Value = serde_json::from_str(error.get()).map_err(malformed)?;
            return Err(DecodeError::Upstream(refusal::from_json(&body)));
        }
        if let Some(usage) = chunk.usage.0 {
            events.push(Event::Usage(usage.into()));
        }
        // One choice was asked for; some servers number it oddly, so the first is taken.
        if let Some(Obj(Some(choice))) = chunk.choices.list().first() {
            self.choice(choice, events)?;
        }
        Ok(())
    }

    fn choice(&mut self, choice: &Choice<'_>, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        if let Some(delta) = choice.delta.0.as_ref().or(choice.message.0.as_ref()) {
            self.delta(delta, events)?;
        }
        match choice.finish_reason.non_empty() {
            None => return Ok(()),
            Some("length") => self.finish = Some(FinishReason::Length),
            Some("error") => {
                let error = choice.error.map(RawValue::get).unwrap_or(r#""the upstream failed""#);
                let body: Value = serde_json::from_str(error).map_err(malformed)?;
                return Err(DecodeError::Upstream(refusal::from_json(&body)));
            }
            Some("content_filter") => self.finish = Some(FinishReason::Filtered),
            Some(_) => self.finish = Some(FinishReason::Stop),
        }
        self.end_calls(events)
    }

    fn delta(&mut self, delta: &Delta<'_>, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let reasoning = delta.reasoning_content.non_empty().or(delta.reasoning.non_empty());
        if let Some(text) = reasoning {
            self.said_something = true;
            if let Some(kept) = &mut self.kept {
                if kept.len() + text.len() > MAX_KEPT {
                    return Err(DecodeError::Malformed("endless reasoning".to_owned()));
                }
                kept.push_str(text);
            }
            events.push(Event::ReasoningDelta(text.to_owned()));
        }
        match &delta.content {
            TextOrList::Nothing => {}
            TextOrList::Text(text) => self.text(text, events),
            TextOrList::List(parts) => {
                for part in parts.iter().filter_map(|part| part.0.as_ref()) {
                    self.text(part.text.or_empty(), events);
                }
            }
        }
        self.text(delta.refusal.or_empty(), events);
        for call in delta.tool_calls.list().iter().filter_map(|call| call.0.as_ref()) {
            self.call(call, events)?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str, events: &mut Vec<Event>) {
        if !text.is_empty() {
            self.said_something = true;
            self.settle_reasoning(events);
            events.push(Event::TextDelta(text.to_owned()));
        }
    }

    /// Something else follows the reasoning, so it is complete.
    fn settle_reasoning(&mut self, events: &mut Vec<Event>) {
        if let Some(kept) = &mut self.kept
            && !kept.is_empty()
        {
            let text = std::mem::take(kept);
            events.push(Event::State(ReasoningState { text, ..ReasoningState::default() }));
        }
    }

    fn call(&mut self, delta: &CallDelta<'_>, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        self.settle_reasoning(events);
        let function = FunctionDelta::default();
        let function = delta.function.0.as_ref().unwrap_or(&function);
        let key = self.find_or_add(delta, function);
        if self.calls.len() > MAX_CALLS {
            return Err(DecodeError::Malformed(format!("more than {MAX_CALLS} tool calls")));
        }
        let call = &mut self.calls[key as usize];
        if call.id.is_empty() {
            delta.id.or_empty().clone_into(&mut call.id);
        }
        if let (false, Some(name)) = (call.started, function.name.non_empty()) {
            call.started = true;
            let (call_id, name) = (call.id.clone(), name.to_owned());
            events.push(Event::CallStarted { call: key, call_id, name });
            if !call.early.is_empty() {
                let arguments = std::mem::take(&mut call.early);
                events.push(Event::CallDelta { call: key, arguments });
            }
        }
        let arguments = match function.arguments {
            None => return Ok(()),
            Some(raw) if raw.get().starts_with('"') => {
                serde_json::from_str::<String>(raw.get()).map_err(malformed)?
            }
            Some(raw) => raw.get().to_owned(),
        };
        if arguments.is_empty() || call.ended {
            return Ok(());
        }
        if call.started {
            events.push(Event::CallDelta { call: key, arguments });
        } else if call.early.len() + arguments.len() > MAX_EARLY {
            return Err(DecodeError::Malformed("a tool call without a name".to_owned()));
        } else {
            call.early.push_str(&arguments);
        }
        Ok(())
    }

    /// The call a fragment belongs to: by index, else by id, else the last. A fragment with a new
    /// id and a name begins a call of its own even if its index was used before.
    fn find_or_add(&mut self, delta: &CallDelta<'_>, function: &FunctionDelta<'_>) -> CallKey {
        let id = delta.id.non_empty();
        let is_new = |call: &CallState| {
            function.name.non_empty().is_some()
                && id.is_some_and(|id| !call.id.is_empty() && call.id != id)
        };
        let found =
            match (delta.index.0, id) {
                (Some(index), _) => self.calls.iter().rposition(|call| call.index == Some(index)),
                (None, Some(id)) => self.calls.iter().rposition(|call| call.id == id),
                // A name on a call that has one begins another.
                (None, None) => self.calls.len().checked_sub(1).filter(|last| {
                    !self.calls[*last].started || function.name.non_empty().is_none()
                }),
            };
        if let Some(found) = found.filter(|found| !is_new(&self.calls[*found])) {
            return found as CallKey;
        }
        self.calls.push(CallState {
            index: delta.index.0,
            id: String::new(),
            early: String::new(),
            started: false,
            ended: false,
        });
        (self.calls.len() - 1) as CallKey
    }

    /// The upstream said that it is done. A call that the token limit cut stays open.
    fn end_calls(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        if self.finish == Some(FinishReason::Length) {
            return Ok(());
        }
        for (key, call) in self.calls.iter_mut().enumerate().filter(|(_, call)| !call.ended) {
            if !call.started {
                return Err(DecodeError::Malformed("a tool call without a name".to_owned()));
            }
            call.ended = true;
            events.push(Event::CallEnded { call: key as CallKey });
        }
        Ok(())
    }

    fn done(&mut self, events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        self.settle_reasoning(events);
        self.end_calls(events)?;
        events.push(Event::Finished(self.finish.take().unwrap_or(FinishReason::Stop)));
        Ok(Step::Done)
    }
}

impl FrameDecoder for ChatStream {
    fn frame(&mut self, frame: SseFrame<'_>, events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        if frame.data.trim_ascii() == b"[DONE]" {
            if self.finish.is_none() && !self.said_something && self.calls.is_empty() {
                return Err(DecodeError::Empty);
            }
            return self.done(events);
        }
        if let Some(chunk) = object(&frame)? {
            self.chunk(chunk, events)?;
        }
        Ok(Step::More)
    }

    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let unfinished_call = self.calls.iter().any(|call| !call.ended);
        let tolerated = self.eof_tolerant && self.said_something && !unfinished_call;
        if self.finish.is_none() && !tolerated {
            return Err(DecodeError::Truncated);
        }
        self.done(events).map(|_| ())
    }

    fn document(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
        // Only structure that broke off is a cut; a document of another shape is malformed.
        serde_json::from_slice::<serde::de::IgnoredAny>(body).map_err(json_error)?;
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(DecodeError::Malformed("no chat completion".to_owned()));
        }
        let before = events.len();
        self.chunk(body, events)?;
        if self.finish.is_none() && !self.said_something && self.calls.is_empty() {
            events.truncate(before);
            return Err(DecodeError::Malformed("an answer without choices".to_owned()));
        }
        self.done(events).map(|_| ())
    }
}

#[cfg(test)]
mod tests;
