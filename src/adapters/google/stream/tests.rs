use serde_json::json;

use super::*;
use crate::adapters::{Decoder as _, SseDecoder};

fn run(chunks: &[Value]) -> (Vec<Event>, Result<(), DecodeError>) {
    let wire: String = chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n")).collect();
    let mut decoder = SseDecoder::new(GoogleStream::default());
    let mut events = Vec::new();
    let end = match decoder.push(wire.as_bytes(), &mut events) {
        Ok(_) => decoder.finish(&mut events),
        Err(error) => Err(error),
    };
    (events, end)
}

fn parts(parts: Value) -> Value {
    json!({"candidates": [{"content": {"role": "model", "parts": parts}}]})
}

fn finish(reason: &str) -> Value {
    json!({"candidates": [{"finishReason": reason}]})
}

#[test]
fn thoughts_text_calls_and_signatures() {
    let (events, end) = run(&[
        parts(json!([{"text": "hm", "thought": true}])),
        parts(
            json!([{"text": "hi"}, {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s"},
            {"functionCall": {"id": "own", "name": "g"}}]),
        ),
        json!({"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 24, "thoughtsTokenCount": 10, "cachedContentTokenCount": 4}}),
        finish("STOP"),
    ]);
    assert_eq!(end, Ok(()));
    let state = ReasoningState { signature: Some("s".into()), ..ReasoningState::default() };
    let started = |call, id: &str, name: &str| Event::CallStarted {
        call,
        call_id: id.into(),
        name: name.into(),
    };
    assert_eq!(
        events,
        [
            Event::ReasoningDelta("hm".into()),
            Event::TextDelta("hi".into()),
            Event::State(state),
            started(0, "", "f"),
            Event::CallDelta { call: 0, arguments: "{\"a\":1}".into() },
            Event::CallEnded { call: 0 },
            started(1, "own", "g"),
            Event::CallEnded { call: 1 },
            Event::Usage(Usage { input: 10, cached: 4, cache_write: 0, output: 34, reasoning: 10 }),
            Event::Finished(FinishReason::Stop),
        ]
    );
}

#[test]
fn every_reason_to_stop_has_its_meaning() {
    for (reason, expected) in [
        ("STOP", FinishReason::Stop),
        ("MAX_TOKENS", FinishReason::Length),
        ("SAFETY", FinishReason::Filtered),
        ("SPII", FinishReason::Filtered),
    ] {
        assert_eq!(run(&[finish(reason)]).0.last(), Some(&Event::Finished(expected)), "{reason}");
    }
    let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}});
    assert_eq!(run(&[blocked]).0, [Event::Finished(FinishReason::Filtered)]);
    for reason in ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "NEW_REASON"] {
        assert!(matches!(run(&[finish(reason)]).1, Err(DecodeError::Upstream(_))), "{reason}");
    }
}

#[test]
fn an_answer_without_its_reason_is_a_cut() {
    assert_eq!(run(&[parts(json!([{"text": "hi"}]))]).1, Err(DecodeError::Truncated));
    let null = json!({"candidates": [{"content": {"parts": null}}, null]});
    assert_eq!(run(&[null]).1, Err(DecodeError::Truncated));
}

#[test]
fn errors_in_and_instead_of_the_stream() {
    let error = json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota"}});
    let Err(DecodeError::Upstream(failure)) = run(std::slice::from_ref(&error)).1 else { panic!() };
    assert_eq!((failure.status, failure.message.as_str()), (Some(429), "quota"));
    for body in [error.clone(), json!([error])] {
        let refused =
            GoogleStream::default().document(body.to_string().as_bytes(), &mut Vec::new());
        assert!(matches!(refused, Err(DecodeError::Upstream(_))), "{body}");
    }
    let nothing = GoogleStream::default().document(b"{}", &mut Vec::new());
    assert!(matches!(nothing, Err(DecodeError::Malformed(_))));
}
