use serde_json::json;

use super::*;
use crate::adapters::{Decoder as _, SseDecoder};

fn stream(tolerant: bool, frames: &[Value]) -> (Vec<Event>, Result<(), DecodeError>) {
    let mut decoder = SseDecoder::new(ChatStream::new(tolerant, false));
    let mut events = Vec::new();
    for frame in frames {
        let data = frame.as_str().map_or_else(|| frame.to_string(), str::to_owned);
        match decoder.push(format!("data: {data}\n\n").as_bytes(), &mut events) {
            Ok(Step::Done) => return (events, Ok(())),
            Ok(Step::More) => {}
            Err(error) => return (events, Err(error)),
        }
    }
    let end = decoder.finish(&mut events);
    (events, end)
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

fn fragment(call: Value) -> Value {
    delta(json!({"tool_calls": [call]}))
}

fn ok(frames: &[Value]) -> Vec<Event> {
    let (events, end) = stream(false, frames);
    assert_eq!(end, Ok(()));
    events
}

fn text(text: &str) -> Event {
    Event::TextDelta(text.into())
}

fn started(call: u32, id: &str, name: &str) -> Event {
    Event::CallStarted { call, call_id: id.into(), name: name.into() }
}

fn arguments(call: u32, arguments: &str) -> Event {
    Event::CallDelta { call, arguments: arguments.into() }
}

#[test]
fn usage_may_share_a_chunk_with_the_last_words() {
    let mut last = delta(json!({"content": "end"}));
    last["usage"] = json!({"prompt_tokens": 9, "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}});
    let events = ok(&[
        delta(json!({"role": "assistant", "content": ""})),
        last,
        finish("stop"),
        "[DONE]".into(),
    ]);
    let usage = Usage { input: 9, cached: 4, cache_write: 0, output: 5, reasoning: 2 };
    assert_eq!(events, [Event::Usage(usage), text("end"), Event::Finished(FinishReason::Stop)]);
}

#[test]
fn interleaved_calls_keep_their_own_arguments() {
    let events = ok(&[
        fragment(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}})),
        fragment(json!({"index": 1, "id": "b", "function": {"name": "g", "arguments": "{\"y\""}})),
        fragment(json!({"index": 0, "id": null, "function": {"name": null, "arguments": "{}"}})),
        fragment(json!({"index": 1, "id": "b", "function": {"arguments": ":1}"}})),
        fragment(json!({"index": 1, "function": {"arguments": null}})),
        finish("tool_calls"),
    ]);
    assert_eq!(
        events,
        [
            started(0, "a", "f"),
            started(1, "b", "g"),
            arguments(1, "{\"y\""),
            arguments(0, "{}"),
            arguments(1, ":1}"),
            Event::CallEnded { call: 0 },
            Event::CallEnded { call: 1 },
            Event::Finished(FinishReason::Stop),
        ]
    );
}

#[test]
fn odd_numbering_is_understood() {
    let one_index = ok(&[
        fragment(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}})),
        fragment(json!({"index": 0, "id": "b", "function": {"name": "g", "arguments": {"x": 1}}})),
        finish("tool_calls"),
    ]);
    assert_eq!(one_index[2..4], [started(1, "b", "g"), arguments(1, "{\"x\":1}")]);
    let no_index = ok(&[
        fragment(json!({"id": "a", "function": {"arguments": "{"}})),
        fragment(json!({"id": "a", "function": {"name": "f"}})),
        fragment(json!({"function": {"arguments": "}"}})),
        finish("stop"),
    ]);
    assert_eq!(no_index[..3], [started(0, "a", "f"), arguments(0, "{"), arguments(0, "}")]);
}

#[test]
fn every_way_to_say_text_and_reasoning_is_heard() {
    let events = ok(&[
        delta(json!({"reasoning": "r1"})),
        delta(json!({"reasoning_content": "r2", "reasoning": "r2"})),
        delta(json!({"content": [{"type": "text", "text": "a"}, 7]})),
        json!({"choices": [{"message": {"content": "b"}}]}),
        delta(json!({"refusal": "no"})),
        json!(null),
        json!(3),
        json!({"choices": null}),
        json!({}),
        "[DONE]".into(),
    ]);
    let reasoning = |text: &str| Event::ReasoningDelta(text.into());
    assert_eq!(
        events,
        [
            reasoning("r1"),
            reasoning("r2"),
            text("a"),
            text("b"),
            text("no"),
            Event::Finished(FinishReason::Stop)
        ]
    );
}

#[test]
fn an_end_without_a_word_of_it_is_a_cut() {
    let said = [delta(json!({"content": "half"}))];
    assert_eq!(stream(false, &said).1, Err(DecodeError::Truncated));
    assert_eq!(stream(true, &said).1, Ok(()));
    assert_eq!(stream(true, &[delta(json!({"role": "assistant"}))]).1, Err(DecodeError::Truncated));
    assert_eq!(stream(false, &[]).1, Err(DecodeError::Empty));
    let call =
        [fragment(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}))];
    assert_eq!(stream(true, &call).1, Err(DecodeError::Truncated), "half a call is never done");
    assert_eq!(
        stream(false, &[said[0].clone(), finish("stop")]).1,
        Ok(()),
        "no [DONE], but an end"
    );
}

#[test]
fn a_call_that_the_limit_cut_stays_open() {
    let events = ok(&[
        fragment(json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{\"x"}})),
        finish("length"),
    ]);
    assert_eq!(events[2..], [Event::Finished(FinishReason::Length)]);
    assert_eq!(ok(&[finish("content_filter")]), [Event::Finished(FinishReason::Filtered)]);
}

#[test]
fn an_error_in_the_stream_is_the_upstreams_no() {
    for (error, code) in [
        (json!({"error": {"message": "busy", "code": "overloaded"}}), Some("overloaded")),
        (json!({"error": "busy"}), None),
    ] {
        let Err(DecodeError::Upstream(failure)) = stream(false, &[error]).1 else { panic!() };
        assert_eq!((failure.message.as_str(), failure.code.as_deref()), ("busy", code));
    }
    assert!(matches!(stream(false, &["garbage".into()]).1, Err(DecodeError::Malformed(_))));
    let unnamed =
        [fragment(json!({"index": 0, "id": "a", "function": {"arguments": "{}"}})), finish("stop")];
    assert!(matches!(stream(false, &unnamed).1, Err(DecodeError::Malformed(_))));
}

#[test]
fn a_document_gives_the_events_of_the_stream() {
    let body = json!({"choices": [{"message": {"role": "assistant", "content": null, "reasoning_content": "r",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
        "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "prompt_cache_hit_tokens": 1}});
    let read = |body: &[u8]| {
        let mut events = Vec::new();
        let end = ChatStream::new(false, false).document(body, &mut events);
        (events, end)
    };
    let (events, end) = read(body.to_string().as_bytes());
    assert_eq!(end, Ok(()));
    assert_eq!(
        events,
        [
            Event::Usage(Usage { input: 1, cached: 1, output: 2, ..Usage::default() }),
            Event::ReasoningDelta("r".into()),
            started(0, "a", "f"),
            arguments(0, "{\"x\":1}"),
            Event::CallEnded { call: 0 },
            Event::Finished(FinishReason::Stop),
        ]
    );
    assert_eq!(read(b"{\"choices\":[{\"mess").1, Err(DecodeError::Truncated));
    for odd in ["{}", "[]", "{\"choices\":[]}", "<html>"] {
        assert!(matches!(read(odd.as_bytes()).1, Err(DecodeError::Malformed(_))), "{odd}");
    }
    assert!(matches!(read(br#"{"error":{"message":"x"}}"#).1, Err(DecodeError::Upstream(_))));
}

#[test]
fn odd_numbers_cost_nothing_but_themselves() {
    let mut chunk = delta(
        json!({"content": "t", "tool_calls": [{"index": "0", "id": "a", "function": {"name": "f"}}]}),
    );
    chunk["usage"] = json!({"prompt_tokens": 3.0, "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": "x"}});
    let events = ok(&[chunk, finish("stop")]);
    let usage = Usage { input: 3, ..Usage::default() };
    assert_eq!(events[..3], [Event::Usage(usage), text("t"), started(0, "a", "f")]);
}

#[test]
fn calls_without_number_and_id_are_told_apart_by_their_names() {
    let one = json!({"function": {"name": "f", "arguments": {}}});
    let two = json!({"function": {"name": "g", "arguments": {}}});
    let events = ok(&[
        json!({"choices": [{"message": {"tool_calls": [one, two]}, "finish_reason": "stop"}]}),
    ]);
    assert_eq!(events[2], started(1, "", "g"));
}

#[test]
fn an_error_as_the_reason_to_finish_is_the_upstreams_no() {
    let mut last = finish("error");
    last["choices"][0]["error"] = json!({"code": 502, "message": "bad gateway"});
    let Err(DecodeError::Upstream(failure)) =
        stream(false, &[delta(json!({"content": "x"})), last]).1
    else {
        panic!()
    };
    assert_eq!((failure.status, failure.message.as_str()), (Some(502), "bad gateway"));
    assert!(matches!(stream(false, &[finish("error")]).1, Err(DecodeError::Upstream(_))));
}

#[test]
fn x03_an_end_to_nothing_is_an_empty_answer() {
    assert_eq!(stream(false, &["[DONE]".into()]).1, Err(DecodeError::Empty));
}

#[test]
fn a_flood_of_calls_is_refused() {
    let frames: Vec<Value> = (0..300)
        .map(|n| fragment(json!({"index": n, "id": format!("c{n}"), "function": {"name": "f"}})))
        .collect();
    assert!(matches!(stream(false, &frames).1, Err(DecodeError::Malformed(_))));
    let early =
        vec![fragment(json!({"index": 0, "function": {"arguments": "x".repeat(1000)}})); 100];
    assert!(matches!(stream(false, &early).1, Err(DecodeError::Malformed(_))));
}

#[test]
fn reasoning_that_the_model_wants_back_is_told_when_it_is_complete() {
    let chunk = |delta: Value| format!("data: {}\n\n", json!({"choices": [{"delta": delta}]}));
    let call = json!([{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]);
    let wire = [
        chunk(json!({"reasoning_content": "a"})),
        chunk(json!({"reasoning_content": "b", "content": ""})),
        chunk(json!({"tool_calls": call})),
        chunk(json!({"reasoning_content": "c"})),
        "data: {\"choices\":[{\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let states = |keeps| {
        let mut decoder = SseDecoder::new(ChatStream::new(false, keeps));
        let mut events = Vec::new();
        decoder.push(wire.as_bytes(), &mut events).unwrap();
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::State(state) => Some(state.text),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(states(true), ["ab", "c"]);
    assert!(states(false).is_empty());
}
