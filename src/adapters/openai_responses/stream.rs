//! Responses frames → verbatim events, with an eye on how the answer ends.
//!
//! A frame is passed on as JSON, never as raw lines: an upstream cannot put anything else into the
//! caller's stream. The caller's stream ends at the first terminal frame, and one that never comes
//! is a cut, even if the connection closed in good order.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::super::{
    DecodeError, FrameDecoder, Step,
    frames::{json_error, malformed, object},
    refusal,
};
use crate::{
    model::{Event, FinishReason, Frame, Usage},
    wire::{
        json::{Count, Edit, Obj, Str, edit_object},
        sse::SseFrame,
    },
};

/// Passes an answer on.
pub(super) struct Relay {
    /// The caller wants the frames; else only the document at their end.
    stream: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Peek<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    sequence_number: Count,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponsePeek {
    usage: Obj<WireUsage>,
    headers: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireUsage {
    input_tokens: Count,
    output_tokens: Count,
    input_tokens_details: Obj<InputDetails>,
    output_tokens_details: Obj<OutputDetails>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Count,
    cache_write_tokens: Count,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Count,
}

impl From<&WireUsage> for Usage {
    fn from(wire: &WireUsage) -> Self {
        let input = wire.input_tokens_details.0.unwrap_or_default();
        Self {
            input: wire.input_tokens.or_zero(),
            cached: input.cached_tokens.or_zero(),
            cache_write: input.cache_write_tokens.or_zero(),
            output: wire.output_tokens.or_zero(),
            reasoning: wire.output_tokens_details.0.unwrap_or_default().reasoning_tokens.or_zero(),
        }
    }
}

/// What a whole document of the Responses API tells of tokens.
pub fn document_usage(document: &[u8]) -> Option<Usage> {
    let peek: ResponsePeek = serde_json::from_slice(document).ok()?;
    peek.usage.0.as_ref().map(Usage::from)
}

impl Relay {
    pub fn new(stream: bool) -> Self {
        Self { stream }
    }

    fn terminal(
        &self,
        kind: &str,
        response: Option<&RawValue>,
        events: &mut Vec<Event>,
    ) -> Option<Event> {
        let reason = match kind {
            "response.completed" => FinishReason::Stop,
            "response.incomplete" => FinishReason::Length,
            _ => return None,
        };
        if let Some(usage) = response.and_then(|raw| peek_response(raw).usage.0) {
            events.push(Event::Usage((&usage).into()));
        }
        Some(Event::Finished(reason))
    }
}

fn peek_response(raw: &RawValue) -> ResponsePeek {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

impl FrameDecoder for Relay {
    fn frame(&mut self, frame: SseFrame<'_>, events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        // serde does not look at strings that nobody asks for, and these are passed on.
        if std::str::from_utf8(frame.data).is_err() {
            return Err(DecodeError::Malformed("a frame that is no UTF-8".to_owned()));
        }
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(Step::More);
        }
        let Some(data) = object(&frame)? else {
            return Ok(Step::More);
        };
        let peek: Peek<'_> = serde_json::from_slice(data).map_err(malformed)?;
        let kind = peek.kind.non_empty().unwrap_or(frame.event);
        // Codex does not read a bare error as an end, and the text of either may hold what must not
        // be told: both are an error of ours, told in our own words and with what is safe.
        if kind == "error" || kind == "response.failed" {
            let body: Value = serde_json::from_slice(data).unwrap_or_default();
            let failure = body.get("response").unwrap_or(&body);
            return Err(DecodeError::Upstream(refusal::from_json(failure)));
        }
        if kind.is_empty()
            || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            return Err(DecodeError::Malformed("a frame without a type".to_owned()));
        }
        let finished = self.terminal(kind, peek.response, events);
        if self.stream {
            let data = match peek.response {
                Some(response) if kind == "response.created" => without_headers(data, response),
                _ => Bytes::copy_from_slice(data),
            };
            let sequence = peek.sequence_number.0;
            events.push(Event::Verbatim(Frame { kind: kind.to_owned(), data, sequence }));
        } else if finished.is_some() {
            let response = peek.response.map(RawValue::get).unwrap_or_default();
            return self.document(response.as_bytes(), events).map(|()| Step::Done);
        }
        let Some(finished) = finished else {
            return Ok(Step::More);
        };
        events.push(finished);
        Ok(Step::Done)
    }

    fn end(&mut self, _: &mut Vec<Event>) -> Result<(), DecodeError> {
        Err(DecodeError::Truncated)
    }

    fn document(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let value: Value = serde_json::from_slice(body).map_err(json_error)?;
        let reason = match value["status"].as_str() {
            Some("completed") => FinishReason::Stop,
            Some("incomplete") => FinishReason::Length,
            _ if value.get("error").is_some_and(|error| !error.is_null()) => {
                return Err(DecodeError::Upstream(refusal::from_json(&value)));
            }
            _ => return Err(DecodeError::Malformed("no finished response".to_owned())),
        };
        let usage: Obj<WireUsage> =
            serde_json::from_value(value["usage"].clone()).unwrap_or_default();
        let already = matches!(events.last(), Some(Event::Usage(_)));
        if let (Some(usage), false) = (usage.0, already) {
            events.push(Event::Usage((&usage).into()));
        }
        if self.stream {
            events.extend(as_stream(&value, &reason));
        } else {
            events.push(Event::Document(Bytes::copy_from_slice(body)));
        }
        events.push(Event::Finished(reason));
        Ok(())
    }
}

/// `response.created` without the headers that OpenAI repeats in it: `openai-model` there makes
/// Codex warn about an account that was flagged.
fn without_headers(frame: &[u8], response: &RawValue) -> Bytes {
    if peek_response(response).headers.is_none() {
        return Bytes::copy_from_slice(frame);
    }
    edit_object(response.get().as_bytes(), &[("headers", Edit::Remove)])
        .ok()
        .and_then(|response| String::from_utf8(response).ok())
        .and_then(|response| edit_object(frame, &[("response", Edit::Set(response))]).ok())
        .map_or_else(|| Bytes::copy_from_slice(frame), Bytes::from)
}

/// The frames of a stream for an upstream that answered with a document instead.
fn as_stream(response: &Value, reason: &FinishReason) -> Vec<Event> {
    let mut sequence = 0;
    let mut frame = |kind: &str, mut data: Value| {
        data["type"] = kind.into();
        data["sequence_number"] = sequence.into();
        let event = Event::Verbatim(Frame {
            kind: kind.to_owned(),
            data: data.to_string().into(),
            sequence: Some(sequence),
        });
        sequence += 1;
        event
    };
    let created = json!({"id": response["id"], "object": "response", "status": "in_progress",
        "created_at": response["created_at"], "model": response["model"], "output": []});
    let mut events = vec![frame("response.created", json!({ "response": created }))];
    for (index, item) in response["output"].as_array().into_iter().flatten().enumerate() {
        for kind in ["response.output_item.added", "response.output_item.done"] {
            events.push(frame(kind, json!({"output_index": index, "item": item})));
        }
    }
    let terminal = match reason {
        FinishReason::Stop => "response.completed",
        _ => "response.incomplete",
    };
    events.push(frame(terminal, json!({ "response": response })));
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::{Decoder as _, SseDecoder};

    fn run(stream: bool, wire: &str) -> (Vec<Event>, Result<(), DecodeError>) {
        let mut decoder = SseDecoder::new(Relay::new(stream));
        let mut events = Vec::new();
        match decoder.push(wire.as_bytes(), &mut events) {
            Ok(Step::Done) => (events, Ok(())),
            Ok(Step::More) => {
                let end = decoder.finish(&mut events);
                (events, end)
            }
            Err(error) => (events, Err(error)),
        }
    }

    const COMPLETED: &str = r#"{"type":"response.completed","sequence_number":1,"response":{"id":"r","status":"completed","output":[],"usage":{"input_tokens":3,"output_tokens":2,"input_tokens_details":{"cached_tokens":1},"output_tokens_details":null}}}"#;

    #[test]
    fn frames_pass_verbatim_up_to_the_terminal_one() {
        let delta = r#"{"type":"response.output_text.delta","sequence_number":0,"delta":"é\n" }"#;
        let wire = format!(
            ": hi\n\ndata: {delta}\n\nevent: response.completed\ndata: {COMPLETED}\n\ndata: {delta}\n\n"
        );
        let (events, end) = run(true, &wire);
        assert_eq!(end, Ok(()));
        let frame = |kind: &str, data: &'static str, sequence| {
            let data = Bytes::from_static(data.as_bytes());
            Event::Verbatim(Frame { kind: kind.into(), data, sequence: Some(sequence) })
        };
        assert_eq!(
            events,
            [
                frame("response.output_text.delta", delta, 0),
                Event::Usage(Usage { input: 3, cached: 1, output: 2, ..Usage::default() }),
                frame("response.completed", COMPLETED, 1),
                Event::Finished(FinishReason::Stop),
            ]
        );
    }

    #[test]
    fn a_stream_without_its_terminal_frame_is_a_cut() {
        let wire = "data: {\"type\":\"response.created\"}\n\ndata: [DONE]\n\n";
        assert_eq!(run(true, wire).1, Err(DecodeError::Truncated));
        assert_eq!(run(true, "").1, Err(DecodeError::Empty));
    }

    #[test]
    fn a_bare_error_event_is_the_upstreams_no() {
        let (_, end) = run(
            true,
            "data: {\"type\":\"error\",\"error\":{\"message\":\"m\",\"code\":\"c\"}}\n\n",
        );
        let Err(DecodeError::Upstream(failure)) = end else { panic!("{end:?}") };
        assert_eq!((failure.message.as_str(), failure.code.as_deref()), ("m", Some("c")));
    }

    #[test]
    fn the_headers_inside_created_do_not_reach_codex() {
        let wire = r#"data: {"type":"response.created","response":{"id":"r","headers":{"openai-model":"x"}}}"#;
        let (events, _) = run(true, &format!("{wire}\n\n"));
        let Event::Verbatim(frame) = &events[0] else { panic!() };
        assert_eq!(&frame.data[..], br#"{"type":"response.created","response":{"id":"r"}}"#);
    }

    #[test]
    fn a_hostile_event_name_is_refused() {
        let wire = "event: x y\ndata: {\"no\":\"type\"}\n\n";
        assert!(matches!(run(true, wire).1, Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_document_is_taken_from_the_end_of_a_stream_and_a_stream_made_of_a_document() {
        let (events, end) = run(false, &format!("data: {COMPLETED}\n\n"));
        assert_eq!(end, Ok(()));
        assert_eq!(events.len(), 3, "{events:?}");
        let Event::Document(document) = &events[1] else { panic!("{events:?}") };
        assert!(document.starts_with(b"{\"id\":\"r\""));

        let body = json!({"id": "r", "status": "completed", "output": [{"type": "message"}]});
        let mut events = Vec::new();
        Relay::new(true).document(body.to_string().as_bytes(), &mut events).unwrap();
        let kinds: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Verbatim(frame) => Some(frame.kind.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(
            kinds,
            [
                "response.created",
                "response.output_item.added",
                "response.output_item.done",
                "response.completed"
            ]
        );
        for (body, cut) in [("{\"status\":\"com", true), ("{}", false)] {
            let error = Relay::new(true).document(body.as_bytes(), &mut Vec::new()).unwrap_err();
            assert_eq!(error == DecodeError::Truncated, cut, "{body}");
        }
    }
}
