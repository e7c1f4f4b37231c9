//! Responses answers → events, for callers that speak another protocol.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    super::{
        DecodeError, FrameDecoder, Step,
        frames::{json_error, malformed, object},
        refusal,
    },
    stream::WireUsage,
};
use crate::{
    model::{CallKey, Event, FinishReason, ReasoningState},
    wire::{
        json::{Count, Obj, Str, TextOrList},
        sse::SseFrame,
    },
};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Frame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    output_index: Count,
    summary_index: Count,
    #[serde(borrow)]
    delta: Str<'a>,
    #[serde(borrow)]
    item: Obj<Item<'a>>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    #[serde(borrow)]
    call_id: Str<'a>,
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    arguments: Str<'a>,
    #[serde(borrow)]
    encrypted_content: Str<'a>,
    #[serde(borrow)]
    content: TextOrList<'a, Obj<Text<'a>>>,
    #[serde(borrow)]
    summary: TextOrList<'a, Obj<Text<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Text<'a> {
    #[serde(borrow)]
    text: Str<'a>,
    #[serde(borrow)]
    refusal: Str<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Response<'a> {
    #[serde(borrow)]
    status: Str<'a>,
    #[serde(borrow)]
    output: TextOrList<'a, Obj<Item<'a>>>,
    #[serde(borrow)]
    incomplete_details: Obj<Incomplete<'a>>,
    usage: Obj<WireUsage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Incomplete<'a> {
    #[serde(borrow)]
    reason: Str<'a>,
}

/// Items of one answer; more is an attack.
const MAX_ITEMS: u64 = 4096;

/// Reads one answer.
#[derive(Default)]
pub(super) struct Translation {
    /// The calls in progress, by output index, and whether any of their arguments came.
    calls: Vec<(u64, CallKey, bool)>,
    next: CallKey,
}

impl Translation {
    fn started(
        &mut self,
        index: u64,
        item: &Item<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), DecodeError> {
        if item.kind.get() != Some("function_call") {
            return Ok(());
        }
        let known = self.calls.iter().any(|(open, ..)| *open == index);
        if index > MAX_ITEMS || known {
            return Err(DecodeError::Malformed(format!("a second or absurd item {index}")));
        }
        let name = item
            .name
            .non_empty()
            .ok_or_else(|| DecodeError::Malformed("a tool call without a name".to_owned()))?;
        let call = self.next;
        self.next += 1;
        self.calls.push((index, call, false));
        let (call_id, name) = (item.call_id.or_empty().to_owned(), name.to_owned());
        events.push(Event::CallStarted { call, call_id, name });
        Ok(())
    }

    fn arguments(&mut self, index: u64, delta: &str, events: &mut Vec<Event>) {
        let open = self.calls.iter_mut().find(|(open, ..)| *open == index);
        if let (Some((_, call, said)), false) = (open, delta.is_empty()) {
            *said = true;
            events.push(Event::CallDelta { call: *call, arguments: delta.to_owned() });
        }
    }

    fn done(
        &mut self,
        index: u64,
        item: &Item<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), DecodeError> {
        if let Some(encrypted) = item.encrypted_content.non_empty() {
            if item.kind.get() == Some("reasoning") {
                let signature = Some(encrypted.to_owned());
                events
                    .push(Event::State(ReasoningState { signature, ..ReasoningState::default() }));
            }
            return Ok(());
        }
        if item.kind.get() != Some("function_call") {
            return Ok(());
        }
        if !self.calls.iter().any(|(open, ..)| *open == index) {
            self.started(index, item, events)?;
        }
        let Some(at) = self.calls.iter().position(|(open, ..)| *open == index) else {
            return Ok(());
        };
        let (_, call, said) = self.calls.remove(at);
        if let (false, Some(arguments)) = (said, item.arguments.non_empty()) {
            events.push(Event::CallDelta { call, arguments: arguments.to_owned() });
        }
        events.push(Event::CallEnded { call });
        Ok(())
    }

    fn ended(
        &mut self,
        response: &Response<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), DecodeError> {
        let reason = match response.status.get() {
            Some("completed") => FinishReason::Stop,
            Some("incomplete") => {
                let details = response.incomplete_details.0.as_ref();
                match details.and_then(|details| details.reason.get()) {
                    Some("content_filter") => FinishReason::Filtered,
                    _ => FinishReason::Length,
                }
            }
            _ if response.error.is_some() => {
                let error = response.error.map_or("{}", RawValue::get);
                let error: Value = serde_json::from_str(error).map_err(malformed)?;
                return Err(DecodeError::Upstream(refusal::from_json(&error)));
            }
            _ => return Err(DecodeError::Malformed("no finished response".to_owned())),
        };
        if !self.calls.is_empty() && reason != FinishReason::Length {
            return Err(DecodeError::Truncated);
        }
        if let Obj(Some(usage)) = &response.usage {
            events.push(Event::Usage(usage.into()));
        }
        events.push(Event::Finished(reason));
        Ok(())
    }
}

fn text(text: &str, events: &mut Vec<Event>) {
    if !text.is_empty() {
        events.push(Event::TextDelta(text.to_owned()));
    }
}

fn thought(text: &str, events: &mut Vec<Event>) {
    if !text.is_empty() {
        events.push(Event::ReasoningDelta(text.to_owned()));
    }
}

impl FrameDecoder for Translation {
    fn frame(&mut self, frame: SseFrame<'_>, events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(Step::More);
        }
        let Some(data) = object(&frame)? else {
            return Ok(Step::More);
        };
        let wire: Frame<'_> = serde_json::from_slice(data).map_err(malformed)?;
        let index = wire.output_index.or_zero();
        let delta = wire.delta.or_empty();
        let kind = wire.kind.non_empty().unwrap_or(frame.event);
        match kind {
            "response.output_text.delta" | "response.refusal.delta" => text(delta, events),
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                thought(delta, events);
            }
            // Parts of a summary are paragraphs.
            "response.reasoning_summary_part.added" if wire.summary_index.or_zero() > 0 => {
                thought("\n\n", events);
            }
            "response.function_call_arguments.delta" => self.arguments(index, delta, events),
            "response.output_item.added" => {
                self.started(index, &wire.item.0.unwrap_or_default(), events)?;
            }
            "response.output_item.done" => {
                self.done(index, &wire.item.0.unwrap_or_default(), events)?;
            }
            "response.completed" | "response.incomplete" => {
                let response = wire.response.map_or("{}", RawValue::get);
                let response: Response<'_> = serde_json::from_str(response).map_err(malformed)?;
                self.ended(&response, events)?;
                return Ok(Step::Done);
            }
            "error" | "response.failed" => {
                let body: Value = serde_json::from_slice(data).unwrap_or_default();
                let failure = body.get("response").unwrap_or(&body);
                return Err(DecodeError::Upstream(refusal::from_json(failure)));
            }
            _ => {}
        }
        Ok(Step::More)
    }

    fn end(&mut self, _: &mut Vec<Event>) -> Result<(), DecodeError> {
        Err(DecodeError::Truncated)
    }

    fn document(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let response: Response<'_> = serde_json::from_slice(body).map_err(json_error)?;
        for (index, item) in (0..).zip(response.output.list()) {
            let Obj(Some(item)) = item else { continue };
            for part in item.summary.list().iter().filter_map(|part| part.0.as_ref()) {
                thought(part.text.or_empty(), events);
            }
            if item.kind.get() == Some("message") {
                for part in item.content.list().iter().filter_map(|part| part.0.as_ref()) {
                    text(part.text.non_empty().unwrap_or(part.refusal.or_empty()), events);
                }
            }
            self.done(index, item, events)?;
        }
        self.ended(&response, events)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::adapters::{Decoder as _, SseDecoder};

    fn output() -> Value {
        json!([
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "enc"},
            {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"a\":1}"},
        ])
    }

    fn finished() -> Value {
        json!({"status": "completed", "output": output(), "usage": {"input_tokens": 3, "output_tokens": 2}})
    }

    fn stream(frames: &[Value]) -> (Vec<Event>, Result<(), DecodeError>) {
        let wire: String = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
        let mut decoder = SseDecoder::new(Translation::default());
        let mut events = Vec::new();
        let end = match decoder.push(wire.as_bytes(), &mut events) {
            Ok(Step::Done) => Ok(()),
            Ok(Step::More) => decoder.finish(&mut events),
            Err(error) => Err(error),
        };
        (events, end)
    }

    #[test]
    fn p07_a_stream_and_a_document_say_the_same() {
        let item = |kind: &str, n: usize| json!({"type": format!("response.output_item.{kind}"), "output_index": n, "item": output()[n]});
        let (streamed, end) = stream(&[
            item("added", 0),
            json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "hm"}),
            item("done", 0),
            json!({"type": "response.output_text.delta", "output_index": 1, "delta": "hi"}),
            item("done", 1),
            item("added", 2),
            json!({"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{\"a\":1}"}),
            item("done", 2),
            json!({"type": "response.completed", "response": finished()}),
        ]);
        assert_eq!(end, Ok(()));
        let mut whole = Vec::new();
        Translation::default().document(finished().to_string().as_bytes(), &mut whole).unwrap();
        assert_eq!(streamed, whole);
        assert!(matches!(whole.last(), Some(Event::Finished(FinishReason::Stop))));
    }

    #[test]
    fn ends_that_are_none() {
        let call =
            json!({"type": "response.output_item.added", "output_index": 0, "item": output()[2]});
        let open = stream(&[call, json!({"type": "response.completed", "response": finished()})]);
        assert_eq!(open.1, Err(DecodeError::Truncated));
        assert_eq!(stream(&[json!({"type": "response.created"})]).1, Err(DecodeError::Truncated));
        let failed = json!({"type": "response.failed", "response": {"error": {"code": "c", "message": "m"}}});
        assert!(matches!(stream(&[failed]).1, Err(DecodeError::Upstream(_))));
        let filtered =
            json!({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}});
        let (events, _) = stream(&[json!({"type": "response.incomplete", "response": filtered})]);
        assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Filtered)));
    }
}
