use serde_json::{Value, json};

use super::*;
use crate::{
    callers::{Call, Protocol},
    credentials::{CapsuleKey, Sealer},
};

fn sealer() -> Sealer {
    CapsuleKey::new([0; 32]).sealer("anthropic", "https://x.example")
}

fn emitter(delivery: Delivery, show_reasoning: bool) -> Emitter {
    let body = json!({"model": "p/m", "messages": [], "tools": [{"name": "f"}]});
    let Call { prompt, .. } = Protocol::Messages.parse(body.to_string().into()).expect("a body");
    let settings = EmitterSettings {
        delivery,
        model: "p/m".into(),
        created_at: 7,
        show_reasoning,
        relay: false,
        tools: prompt.tools,
        max_retained: 10_000,
        sealer: sealer(),
        include_usage: false,
        compaction: false,
    };
    Emitter::new(settings, Ids::new(1))
}

fn state() -> ReasoningState {
    ReasoningState { text: "hm".into(), signature: Some("s".into()), redacted: None }
}

fn events() -> Vec<Event> {
    vec![
        Event::Usage(Usage { input: 10, cached: 4, cache_write: 1, ..Usage::default() }),
        Event::ReasoningDelta("hm".into()),
        Event::State(state()),
        Event::TextDelta("Hello".into()),
        Event::CallStarted { call: 0, call_id: "t0".into(), name: "f".into() },
        Event::CallStarted { call: 1, call_id: String::new(), name: "f".into() },
        Event::CallDelta { call: 1, arguments: "{\"b\":2}".into() },
        Event::CallDelta { call: 0, arguments: "{\"a\":1}".into() },
        Event::CallEnded { call: 0 },
        Event::CallEnded { call: 1 },
        Event::Usage(Usage { input: 10, cached: 4, cache_write: 1, output: 3, reasoning: 0 }),
        Event::Finished(FinishReason::Stop),
    ]
}

fn run(mut emitter: Emitter, events: Vec<Event>) -> (Emitter, Vec<Value>) {
    let mut out = BytesMut::new();
    for event in events {
        if let Err(failure) = emitter.push(event, &mut out) {
            emitter.fail(&failure, &mut out);
        }
    }
    let text = String::from_utf8(out.to_vec()).expect("text");
    let frames = text.lines().filter_map(|line| line.strip_prefix("data: "));
    (emitter, frames.map(|data| serde_json::from_str(data).expect("JSON")).collect())
}

/// Blocks put together from their frames, as an SDK does it.
fn assemble(frames: &[Value]) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut open = None;
    for frame in frames {
        match frame["type"].as_str().expect("a type") {
            "content_block_start" => {
                assert_eq!(open.replace(frame["index"].clone()), None, "one block at a time");
                assert_eq!(frame["index"], blocks.len());
                blocks.push(frame["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(open.as_ref(), Some(&frame["index"]));
                let (block, delta) = (blocks.last_mut().expect("a block"), &frame["delta"]);
                for (field, from) in [
                    ("text", "text"),
                    ("thinking", "thinking"),
                    ("signature", "signature"),
                    ("json", "partial_json"),
                ] {
                    if let Some(more) = delta[from].as_str() {
                        let sofar = block[field].as_str().unwrap_or_default();
                        block[field] = format!("{sofar}{more}").into();
                    }
                }
            }
            "content_block_stop" => assert!(open.take().is_some()),
            _ => {}
        }
    }
    assert_eq!(open, None);
    blocks
}

#[test]
fn a_stream_as_the_sdk_puts_it_together() {
    let (emitter, frames) = run(emitter(Delivery::Stream, true), events());
    assert_eq!(emitter.terminal(), Some(Terminal::Completed));
    assert_eq!(frames[0]["type"], "message_start");
    assert_eq!(frames[0]["message"]["usage"]["input_tokens"], 5);
    let blocks = assemble(&frames);
    let kinds: Vec<_> = blocks.iter().map(|block| block["type"].as_str().expect("type")).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    let signature = blocks[0]["signature"].as_str().expect("a signature");
    assert_eq!(sealer().open(signature), Some(state()));
    assert_eq!((&blocks[2]["id"], &blocks[2]["json"]), (&json!("t0"), &json!("{\"a\":1}")));
    assert!(blocks[3]["id"].as_str().expect("an id").starts_with("toolu_"));
    let [.., delta, stop] = frames.as_slice() else { panic!() };
    assert_eq!(delta["delta"]["stop_reason"], "tool_use");
    assert_eq!(
        delta["usage"],
        json!({"input_tokens": 5, "cache_creation_input_tokens": 1,
        "cache_read_input_tokens": 4, "output_tokens": 3})
    );
    assert_eq!(stop["type"], "message_stop");
}

#[test]
fn p07_a_document_says_what_the_stream_said() {
    let (_, frames) = run(emitter(Delivery::Stream, true), events());
    let (whole, none) = run(emitter(Delivery::Whole, true), events());
    assert!(none.is_empty());
    let document: Value = serde_json::from_slice(&Box::new(whole).into_document()).expect("JSON");
    let streamed: Vec<Value> = assemble(&frames)
        .into_iter()
        .map(|mut block| {
            if let Some(json) = block.as_object_mut().expect("a block").remove("json") {
                block["input"] = serde_json::from_str(json.as_str().expect("text")).expect("JSON");
            }
            block
        })
        .collect();
    assert_eq!(document["content"], json!(streamed));
    assert_eq!(document["stop_reason"], "tool_use");
}

#[test]
fn hidden_thinking_leaves_its_state_all_the_same() {
    let (_, frames) = run(emitter(Delivery::Stream, false), events());
    let blocks = assemble(&frames);
    assert_eq!(blocks[0]["type"], "redacted_thinking");
    assert_eq!(sealer().open(blocks[0]["data"].as_str().expect("data")), Some(state()));
}

#[test]
fn a_failure_is_an_error_event_and_the_last() {
    let (emitter, frames) = run(
        emitter(Delivery::Stream, true),
        vec![Event::TextDelta("x".into()), Event::Document(Bytes::new())],
    );
    assert_eq!(emitter.terminal(), Some(Terminal::Failed));
    assert_eq!(frames.last().expect("frames")["type"], "error");
}

#[test]
fn limits_and_refusals_have_their_reasons() {
    for (reason, word) in
        [(FinishReason::Length, "max_tokens"), (FinishReason::Filtered, "refusal")]
    {
        let begun = Event::CallStarted { call: 0, call_id: "t".into(), name: "f".into() };
        let begun = (reason == FinishReason::Length).then_some(begun);
        let events = begun.into_iter().chain([Event::Finished(reason)]).collect();
        let (_, frames) = run(emitter(Delivery::Stream, true), events);
        assemble(&frames);
        assert_eq!(frames[frames.len() - 2]["delta"]["stop_reason"], word);
    }
    let events = vec![Event::StopSequence("X".into()), Event::Finished(FinishReason::Stop)];
    let (_, frames) = run(emitter(Delivery::Stream, true), events);
    let delta = &frames[frames.len() - 2]["delta"];
    assert_eq!(delta, &serde_json::json!({"stop_reason": "stop_sequence", "stop_sequence": "X"}));
}
