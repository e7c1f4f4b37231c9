use serde_json::json;

use super::*;
use crate::adapters::{Decoder as _, SseDecoder};

fn run(frames: &[Value]) -> (Vec<Event>, Result<(), DecodeError>) {
    let wire: String = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
    let mut decoder = SseDecoder::new(AnthropicStream::new(false));
    let mut events = Vec::new();
    let end = match decoder.push(wire.as_bytes(), &mut events) {
        Ok(Step::Done) => Ok(()),
        Ok(Step::More) => decoder.finish(&mut events),
        Err(error) => Err(error),
    };
    (events, end)
}

fn start(index: u32, block: Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": block})
}

fn delta(index: u32, delta: Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn stop(index: u32) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn end(reason: &str) -> [Value; 2] {
    [
        json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ]
}

#[test]
fn usage_counts_cached_tokens_once_and_later_numbers_replace() {
    let began = json!({"type": "message_start", "message": {"usage":
        {"input_tokens": 10, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3, "output_tokens": 1}}});
    let (events, _) = run(&[&[began][..], &end("end_turn")].concat());
    let usage = events.iter().rev().find_map(|event| match event {
        Event::Usage(usage) => Some(*usage),
        _ => None,
    });
    let expected = Usage { input: 33, cached: 20, cache_write: 3, output: 5, reasoning: 0 };
    assert_eq!(usage, Some(expected));
}

#[test]
fn thinking_is_signed_at_its_end_and_redacted_thinking_is_kept() {
    let frames = [
        &[
            start(0, json!({"type": "thinking", "thinking": ""})),
            delta(0, json!({"type": "thinking_delta", "thinking": "a"})),
            delta(0, json!({"type": "thinking_delta", "thinking": "b"})),
            delta(0, json!({"type": "signature_delta", "signature": "si"})),
            delta(0, json!({"type": "signature_delta", "signature": "g"})),
            stop(0),
            start(1, json!({"type": "redacted_thinking", "data": "blob"})),
            stop(1),
        ][..],
        &end("end_turn"),
    ]
    .concat();
    let (events, _) = run(&frames);
    let states: Vec<_> =
        events.iter().filter(|event| matches!(event, Event::State(_))).cloned().collect();
    let signed =
        ReasoningState { text: "ab".into(), signature: Some("sig".into()), redacted: None };
    let redacted = ReasoningState { redacted: Some("blob".into()), ..ReasoningState::default() };
    assert_eq!(states, [Event::State(signed), Event::State(redacted)]);
}

#[test]
fn a_call_that_comes_whole_has_its_arguments() {
    let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}});
    let (events, end) = run(&[&[start(0, call), stop(0)][..], &end("tool_use")].concat());
    assert_eq!(end, Ok(()));
    assert_eq!(events[1], Event::CallDelta { call: 0, arguments: "{\"a\":1}".into() });
    assert_eq!(events[3], Event::CallEnded { call: 0 });
}

#[test]
fn every_reason_to_stop_has_its_meaning() {
    for (reason, finish) in [
        ("end_turn", FinishReason::Stop),
        ("stop_sequence", FinishReason::Stop),
        ("tool_use", FinishReason::Stop),
        ("max_tokens", FinishReason::Length),
        ("model_context_window_exceeded", FinishReason::Length),
        ("pause_turn", FinishReason::Length),
        ("refusal", FinishReason::Filtered),
    ] {
        let (events, _) = run(&end(reason));
        assert_eq!(events.last(), Some(&Event::Finished(finish)), "{reason}");
    }
    assert!(matches!(run(&end("error")).1, Err(DecodeError::Upstream(_))));
    let mut told = end("stop_sequence");
    told[0]["delta"]["stop_sequence"] = "X".into();
    assert_eq!(run(&told).0.first(), Some(&Event::StopSequence("X".into())));
}

#[test]
fn an_end_inside_a_call_is_a_cut_unless_the_limit_struck() {
    let call = start(0, json!({"type": "tool_use", "id": "t", "name": "f", "input": {}}));
    assert_eq!(
        run(&[&[call.clone()][..], &end("tool_use")].concat()).1,
        Err(DecodeError::Truncated)
    );
    assert_eq!(run(&[&[call][..], &end("max_tokens")].concat()).1, Ok(()));
    assert_eq!(run(&[json!({"type": "ping"})]).1, Err(DecodeError::Truncated));
    // The reason came, and only the last frame is missing.
    assert_eq!(run(&end("end_turn")[..1]).1, Ok(()));
}

#[test]
fn an_error_in_the_stream_is_the_upstreams_no() {
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let Err(DecodeError::Upstream(failure)) = run(&[error]).1 else { panic!() };
    assert_eq!(failure.kind.as_deref(), Some("overloaded_error"));
    let mut events = Vec::new();
    let body = br#"{"type":"error","error":{"type":"api_error","message":"m"}}"#;
    let refused = AnthropicStream::new(false).document(body, &mut events);
    assert!(matches!(refused, Err(DecodeError::Upstream(_))), "{refused:?}");
}

#[test]
fn only_our_own_prefix_is_taken_off() {
    let mut stream = AnthropicStream::new(true);
    let mut events = Vec::new();
    let body = json!({"content": [
        {"type": "tool_use", "id": "a", "name": "ocx_ocx_f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}}]});
    stream.document(body.to_string().as_bytes(), &mut events).unwrap();
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::CallStarted { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["ocx_f", "g"]);
}

#[test]
fn pieces_of_blocks_that_are_not_open_are_malformed() {
    let stray = delta(3, json!({"type": "text_delta", "text": "x"}));
    assert!(matches!(run(&[stray]).1, Err(DecodeError::Malformed(_))));
}
