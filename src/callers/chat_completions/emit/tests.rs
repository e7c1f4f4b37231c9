use serde_json::{Value, json};

use super::*;
use crate::{
    callers::{Call, Protocol},
    credentials::CapsuleKey,
    model::ReasoningState,
};

fn emitter(delivery: Delivery) -> Emitter {
    let body = json!({"model": "p/m", "messages": [], "tools": [
        {"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "patch"}}]});
    let Call { prompt, .. } =
        Protocol::ChatCompletions.parse(body.to_string().into()).expect("a body");
    let settings = EmitterSettings {
        delivery,
        model: "p/m".into(),
        created_at: 7,
        show_reasoning: true,
        relay: false,
        tools: prompt.tools,
        max_retained: 1000,
        sealer: CapsuleKey::new([0; 32]).sealer("x", "y"),
        include_usage: true,
        compaction: false,
    };
    Emitter::new(settings, Ids::new(1))
}

fn events() -> Vec<Event> {
    let call = |call, name: &str| Event::CallStarted {
        call,
        call_id: format!("c{call}"),
        name: name.into(),
    };
    let delta = |call, text: &str| Event::CallDelta { call, arguments: text.into() };
    vec![
        Event::ReasoningDelta("hm".into()),
        Event::State(ReasoningState { text: "hm".into(), ..ReasoningState::default() }),
        Event::State(ReasoningState { signature: Some("s".into()), ..ReasoningState::default() }),
        Event::TextDelta("He".into()),
        Event::TextDelta("llo".into()),
        call(0, "f"),
        call(1, "patch"),
        call(2, "f"),
        delta(1, "{\"input\":\"*** x\"}"),
        delta(0, "{\"a\":1}"),
        Event::CallEnded { call: 0 },
        Event::CallEnded { call: 1 },
        Event::CallEnded { call: 2 },
        Event::Usage(Usage { input: 5, cached: 2, output: 3, reasoning: 1, ..Usage::default() }),
        Event::Finished(FinishReason::Stop),
    ]
}

fn run(mut emitter: Emitter, events: Vec<Event>) -> (Emitter, String) {
    let mut out = BytesMut::new();
    for event in events {
        if let Err(failure) = emitter.push(event, &mut out) {
            emitter.fail(&failure, &mut out);
        }
    }
    (emitter, String::from_utf8(out.to_vec()).expect("text"))
}

fn chunks(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect()
}

#[test]
fn a_stream_as_sdks_read_it() {
    let (emitter, text) = run(emitter(Delivery::Stream), events());
    let chunks = chunks(&text);
    assert_eq!(emitter.terminal(), Some(Terminal::Completed));
    assert_eq!(emitter.losses().to_string(), "reasoning=1");
    assert!(text.ends_with("data: [DONE]\n\n"));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let all = |pointer: &str| -> String {
        chunks.iter().filter_map(|chunk| chunk.pointer(pointer)?.as_str()).collect()
    };
    assert_eq!(all("/choices/0/delta/content"), "Hello");
    assert_eq!(all("/choices/0/delta/reasoning_content"), "hm");
    assert_eq!(all("/choices/0/finish_reason"), "tool_calls");
    let calls: Vec<&Value> =
        chunks.iter().filter_map(|c| c.pointer("/choices/0/delta/tool_calls/0")).collect();
    assert_eq!(
        calls[0],
        &json!({"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}})
    );
    let custom = calls.iter().find(|call| call["index"] == 1).expect("a custom call");
    assert_eq!(
        **custom,
        json!({"index": 1, "id": "c1", "type": "custom", "custom": {"name": "patch", "input": "*** x"}})
    );
    let third: String = calls
        .iter()
        .filter(|call| call["index"] == 2)
        .filter_map(|call| call["function"]["arguments"].as_str())
        .collect();
    assert_eq!(third, "{}", "never empty");
    let usage = &chunks.last().expect("chunks")["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["total_tokens"]), (&json!(5), &json!(8)));
}

#[test]
fn p07_a_document_says_what_the_stream_said() {
    let (emitter, text) = run(emitter(Delivery::Whole), events());
    assert_eq!(text, "");
    let document: Value = serde_json::from_slice(&Box::new(emitter).into_document()).expect("JSON");
    let message = &document["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!("Hello"), &json!("hm"))
    );
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
    assert_eq!(message["tool_calls"][1]["custom"]["input"], "*** x");
    assert_eq!(message["tool_calls"][2]["function"]["arguments"], "{}");
    assert_eq!(document["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(document["usage"]["completion_tokens"], 3);
}

#[test]
fn a_failure_is_an_error_and_no_good_end() {
    let cut = vec![
        Event::TextDelta("x".into()),
        Event::CallStarted { call: 0, call_id: "c".into(), name: "f".into() },
        Event::Finished(FinishReason::Stop),
    ];
    for (events, code) in [
        (cut, "tool_call_cut"),
        (
            vec![Event::CallStarted { call: 0, call_id: "c".into(), name: "g".into() }],
            "undeclared_tool",
        ),
        (vec![Event::Document(Bytes::new())], "internal_error"),
    ] {
        let (emitter, text) = run(emitter(Delivery::Stream), events);
        assert_eq!(emitter.terminal(), Some(Terminal::Failed));
        assert_eq!(chunks(&text).last().expect("an error")["error"]["code"], code);
        assert!(!text.contains("[DONE]"));
    }
}

#[test]
fn limits_and_filters_have_their_reasons() {
    for (reason, word) in
        [(FinishReason::Length, "length"), (FinishReason::Filtered, "content_filter")]
    {
        let (emitter, text) = run(emitter(Delivery::Stream), vec![Event::Finished(reason)]);
        assert_eq!(emitter.terminal(), Some(Terminal::Incomplete));
        assert!(text.contains(word), "{text}");
    }
}
