use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    credentials::CapsuleKey,
    model::{ReasoningState, Tool, ToolKind, ToolName},
    wire::{json::to_raw, sse::SseParser},
};

fn tool(name: ToolName, kind: ToolKind) -> Tool {
    Tool {
        wire_name: name.wire(),
        name,
        kind,
        description: String::new(),
        parameters: to_raw(&EmptyObject {}),
        strict: None,
    }
}

fn settings(delivery: Delivery) -> EmitterSettings {
    EmitterSettings {
        sealer: CapsuleKey::new([0; 32]).sealer("x", "y"),
        include_usage: false,
        compaction: false,
        delivery,
        model: "chat/m".into(),
        created_at: 1_760_000_000,
        show_reasoning: true,
        relay: false,
        tools: vec![
            tool(ToolName::bare("f"), ToolKind::Function),
            tool(
                ToolName { namespace: Some("mcp__s".into()), name: "g".into() },
                ToolKind::Function,
            ),
            tool(ToolName::bare("apply_patch"), ToolKind::Freeform),
            tool(ToolName::bare("tool_search"), ToolKind::Search),
            tool(ToolName::bare("shell"), ToolKind::LocalShell),
        ],
        max_retained: 1 << 20,
    }
}

/// Runs events through an emitter as the program does: an error becomes a failure.
fn run(delivery: Delivery, events: &[Event]) -> (Emitter, Vec<Value>) {
    let mut emitter = Emitter::new(settings(delivery), Ids::new(1));
    let mut out = BytesMut::new();
    for event in events {
        if let Err(failure) = emitter.push(event.clone(), &mut out) {
            emitter.fail(&failure, &mut out);
        }
    }
    if emitter.terminal().is_none() {
        emitter.fail(&Failure::answer("upstream_truncated", "cut"), &mut out);
    }
    (emitter, frames(&out))
}

fn frames(out: &[u8]) -> Vec<Value> {
    let mut parser = SseParser::new(1 << 24);
    parser.push(out);
    let mut frames = Vec::new();
    while let Some(frame) = parser.next_frame() {
        let frame = frame.unwrap();
        if frame.data == b"[DONE]" {
            frames.push(json!("[DONE]"));
            continue;
        }
        let data: Value = serde_json::from_slice(frame.data).unwrap();
        assert_eq!(data["type"], frame.event, "the name and the type of an event agree");
        frames.push(data);
    }
    frames
}

fn started(call: u32, name: &str) -> Event {
    Event::CallStarted { call, call_id: format!("call_{call}"), name: name.into() }
}

fn delta(call: u32, arguments: &str) -> Event {
    Event::CallDelta { call, arguments: arguments.into() }
}

fn text(text: &str) -> Event {
    Event::TextDelta(text.into())
}

fn kinds(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame["type"].as_str().unwrap_or("[DONE]")).collect()
}

#[test]
fn a_message_has_every_event_that_some_client_needs() {
    let usage = Usage { input: 10, cached: 4, output: 3, reasoning: 1, ..Usage::default() };
    let events =
        [text("Hi "), text("\"you\""), Event::Usage(usage), Event::Finished(FinishReason::Stop)];
    let (_, frames) = run(Delivery::Stream, &events);
    assert_eq!(
        kinds(&frames),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
            "[DONE]",
        ]
    );
    let response = &frames[9]["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], "Hi \"you\"");
    assert_eq!(
        response["usage"],
        json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 13})
    );
    assert_eq!(frames[0]["response"]["usage"], Value::Null);
}

#[test]
fn each_kind_of_tool_is_answered_in_its_own_form() {
    let mut events = Vec::new();
    for (n, name, arguments) in [
        (0, "f", ""),
        (1, "mcp__s__g", "{\"x\":1}"),
        (2, "apply_patch", "{\"input\":\"*** Begin\\n\"}"),
        (3, "tool_search", "{\"query\":\"q\"}"),
        (4, "shell", "{\"command\":[\"ls\"]}"),
        (5, "apply_patch", "*** raw text"),
    ] {
        events.extend([started(n, name), delta(n, arguments), Event::CallEnded { call: n }]);
    }
    events.push(Event::Finished(FinishReason::Stop));
    let (_, frames) = run(Delivery::Stream, &events);
    let items: Vec<_> = frames
        .iter()
        .filter(|frame| frame["type"] == "response.output_item.done")
        .map(|frame| {
            let mut item = frame["item"].clone();
            item.as_object_mut().unwrap().remove("id");
            item
        })
        .collect();
    let done = "completed";
    assert_eq!(
        items,
        [
            json!({"type": "function_call", "call_id": "call_0", "name": "f", "arguments": "{}", "status": done}),
            json!({"type": "function_call", "call_id": "call_1", "name": "g", "namespace": "mcp__s", "arguments": "{\"x\":1}", "status": done}),
            json!({"type": "custom_tool_call", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin\n", "status": done}),
            json!({"type": "tool_search_call", "call_id": "call_3", "execution": "client", "arguments": {"query": "q"}, "status": done}),
            json!({"type": "local_shell_call", "call_id": "call_4", "action": {"command": ["ls"], "type": "exec"}, "status": done}),
            json!({"type": "custom_tool_call", "call_id": "call_5", "name": "apply_patch", "input": "*** raw text", "status": done}),
        ]
    );
}

#[test]
fn an_open_call_is_never_completed() {
    for events in [
        vec![started(0, "f"), delta(0, "{\"cmd\":\"rm -rf /tmp/x")],
        vec![started(0, "f"), delta(0, "{}"), Event::Finished(FinishReason::Stop)],
        vec![started(0, "f"), delta(0, "{oops"), Event::CallEnded { call: 0 }],
    ] {
        let (emitter, frames) = run(Delivery::Stream, &events);
        assert_eq!(emitter.terminal(), Some(Terminal::Failed));
        assert!(!kinds(&frames).contains(&"response.output_item.done"), "Codex would run it");
        let last = &frames[frames.len() - 2];
        assert_eq!(
            (&last["type"], &last["response"]["output"]),
            (&json!("response.failed"), &json!([]))
        );
    }
}

#[test]
fn half_a_message_is_not_done_when_the_answer_fails() {
    let (_, frames) = run(Delivery::Stream, &[text("half")]);
    assert_eq!(
        kinds(&frames[3..]),
        ["response.content_part.added", "response.output_text.delta", "response.failed", "[DONE]"]
    );
}

#[test]
fn t31_a_tool_that_was_never_offered_fails_the_turn() {
    let (emitter, frames) =
        run(Delivery::Stream, &[started(0, "launch"), delta(0, "{\"secret\":1}")]);
    assert_eq!(emitter.terminal(), Some(Terminal::Failed));
    let text = serde_json::to_string(&frames).unwrap();
    assert!(text.contains("undeclared_tool") && !text.contains("secret"), "{text}");
}

#[test]
fn a_filter_ends_the_turn_with_a_code_that_codex_does_not_repeat() {
    let (emitter, frames) =
        run(Delivery::Stream, &[text("a"), Event::Finished(FinishReason::Filtered)]);
    assert_eq!(emitter.terminal(), Some(Terminal::Failed));
    assert_eq!(frames[frames.len() - 2]["response"]["error"]["code"], "invalid_prompt");
}

#[test]
fn hidden_reasoning_leaves_no_trace() {
    let mut emitter = Emitter::new(
        EmitterSettings {
            sealer: CapsuleKey::new([0; 32]).sealer("x", "y"),
            include_usage: false,
            compaction: false,
            show_reasoning: false,
            ..settings(Delivery::Stream)
        },
        Ids::new(1),
    );
    let mut out = BytesMut::new();
    emitter.push(Event::ReasoningDelta("hidden".into()), &mut out).unwrap();
    emitter.push(Event::Finished(FinishReason::Stop), &mut out).unwrap();
    assert!(!String::from_utf8_lossy(&out).contains("hidden"));
}

#[test]
fn an_answer_over_the_limit_fails() {
    let mut emitter = Emitter::new(
        EmitterSettings {
            sealer: CapsuleKey::new([0; 32]).sealer("x", "y"),
            include_usage: false,
            compaction: false,
            max_retained: 256 + 10,
            ..settings(Delivery::Stream)
        },
        Ids::new(1),
    );
    let mut out = BytesMut::new();
    emitter.push(text("12345678"), &mut out).unwrap();
    let failure = emitter.push(text("9ab"), &mut out).unwrap_err();
    assert_eq!(failure.code, "answer_too_long");
}

#[test]
fn a_keepalive_comes_after_created_and_takes_a_number() {
    let mut emitter = Emitter::new(settings(Delivery::Stream), Ids::new(1));
    let mut out = BytesMut::new();
    assert_eq!(emitter.keepalive(&mut out), Some(KeepaliveStyle::Typed));
    emitter.push(Event::Finished(FinishReason::Stop), &mut out).unwrap();
    assert_eq!(emitter.keepalive(&mut out), None);
    let frames = frames(&out);
    assert_eq!(
        kinds(&frames),
        ["response.created", "response.in_progress", "keepalive", "response.completed", "[DONE]"]
    );
    assert_eq!(
        (&frames[2]["sequence_number"], &frames[3]["sequence_number"]),
        (&json!(2), &json!(3))
    );
}

fn event() -> impl Strategy<Value = Event> {
    let call = 0u32..4;
    let name =
        prop::sample::select(vec!["f", "mcp__s__g", "apply_patch", "tool_search", "shell", "zzz"]);
    let piece =
        prop::sample::select(vec!["{}", "{\"input\":\"", "x\"}", "", "{\"a\":1}", "[1]", "é\n"]);
    let (call2, call3) = (call.clone(), call.clone());
    prop_oneof![
        4 => "[a-z\"\\\\é]{0,5}".prop_map(Event::TextDelta),
        2 => "[a-z]{0,5}".prop_map(Event::ReasoningDelta),
        3 => (call, name).prop_map(|(call, name)| Event::CallStarted { call, call_id: String::new(), name: name.into() }),
        4 => (call2, piece).prop_map(|(call, piece)| Event::CallDelta { call, arguments: piece.into() }),
        3 => call3.prop_map(|call| Event::CallEnded { call }),
        1 => any::<u32>().prop_map(|n| Event::Usage(Usage { input: n.into(), ..Usage::default() })),
        1 => prop::sample::select(vec![FinishReason::Stop, FinishReason::Length, FinishReason::Filtered]).prop_map(Event::Finished),
    ]
}

proptest! {
    #[test]
    fn p05_any_sequence_of_events_makes_a_sound_stream(events in proptest::collection::vec(event(), 0..40)) {
        let (emitter, frames) = run(Delivery::Stream, &events);
        let (done, frames) = frames.split_last().unwrap();
        prop_assert_eq!(done, &json!("[DONE]"));
        let terminal = |frame: &Value| matches!(frame["type"].as_str(), Some("response.completed" | "response.failed" | "response.incomplete"));
        prop_assert_eq!(frames.iter().filter(|frame| terminal(frame)).count(), 1);
        prop_assert!(terminal(frames.last().unwrap()));
        let (mut open, mut joined, mut finished) = (None::<String>, String::new(), Vec::new());
        for (n, frame) in frames.iter().enumerate() {
            prop_assert_eq!(&frame["sequence_number"], &json!(n));
            let kind = frame["type"].as_str().unwrap();
            match kind {
                "response.output_item.added" => {
                    prop_assert!(open.is_none(), "one item at a time");
                    open = frame["item"]["id"].as_str().map(str::to_owned);
                    joined.clear();
                }
                "response.output_item.done" => {
                    let opened = open.take();
                    prop_assert_eq!(frame["item"]["id"].as_str(), opened.as_deref());
                    if frame["item"]["status"] != "incomplete" { finished.push(frame["item"].clone()); }
                    if frame["item"]["type"] == "function_call" && frame["item"]["status"] == "completed" {
                        let arguments = frame["item"]["arguments"].as_str().unwrap();
                        prop_assert!(serde_json::from_str::<Value>(arguments).is_ok());
                    }
                }
                _ => if let Some(item) = frame.get("item_id") {
                    prop_assert_eq!(item.as_str(), open.as_deref());
                    if kind.ends_with(".delta") { joined.push_str(frame["delta"].as_str().unwrap()); }
                    if let Some(text) = frame.get("text") { prop_assert_eq!(text.as_str().unwrap(), &joined); }
                },
            }
        }
        prop_assert_eq!(&frames.last().unwrap()["response"]["output"], &Value::from(finished));
        prop_assert!(open.is_none() || emitter.terminal() != Some(Terminal::Completed));
    }

    #[test]
    fn p07_stream_and_document_agree(events in proptest::collection::vec(event(), 0..40)) {
        let (streamed, frames) = run(Delivery::Stream, &events);
        let (whole, silent) = run(Delivery::Whole, &events);
        prop_assert!(silent.is_empty());
        prop_assert_eq!(streamed.terminal(), whole.terminal());
        if whole.terminal() != Some(Terminal::Failed) {
            let document: Value = serde_json::from_slice(&Box::new(whole).into_document()).unwrap();
            prop_assert_eq!(&document, &frames[frames.len() - 2]["response"]);
        }
    }
}

#[test]
fn what_the_provider_wants_back_stands_in_the_reasoning_item() {
    let state = |text: &str| ReasoningState {
        text: text.into(),
        signature: Some("sig".into()),
        redacted: None,
    };
    let sealer = CapsuleKey::new([0; 32]).sealer("x", "y");
    let events = || {
        [
            Event::ReasoningDelta("hm".into()),
            Event::State(state("hm")),
            Event::State(state("hidden")),
            Event::CallStarted { call: 0, call_id: "c".into(), name: "f".into() },
            // Waits for the call before it.
            Event::State(state("late")),
            Event::CallEnded { call: 0 },
            Event::Finished(FinishReason::Stop),
        ]
    };
    for show in [true, false] {
        let mut settings = settings(Delivery::Whole);
        settings.show_reasoning = show;
        settings.tools = vec![tool(ToolName::bare("f"), ToolKind::Function)];
        let (mut emitter, mut out) = (Emitter::new(settings, Ids::new(1)), BytesMut::new());
        for event in events() {
            emitter.push(event, &mut out).unwrap();
        }
        let document: Value = serde_json::from_slice(&Box::new(emitter).into_document()).unwrap();
        let output = document["output"].as_array().unwrap();
        let kinds: Vec<_> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["reasoning", "reasoning", "function_call", "reasoning"]);
        let opened: Vec<_> = output
            .iter()
            .filter_map(|item| sealer.open(item["encrypted_content"].as_str()?))
            .map(|state| state.text)
            .collect();
        assert_eq!(opened, ["hm", "hidden", "late"]);
        let shown = if show { json!([{"type": "summary_text", "text": "hm"}]) } else { json!([]) };
        assert_eq!(output[0]["summary"], shown);
    }
}

#[test]
fn a_compaction_is_one_sealed_item_or_a_failure() {
    let run = |events: Vec<Event>| {
        let mut settings = settings(Delivery::Stream);
        settings.compaction = true;
        let (mut emitter, mut out) = (Emitter::new(settings, Ids::new(1)), BytesMut::new());
        for event in events {
            if let Err(failure) = emitter.push(event, &mut out) {
                emitter.fail(&failure, &mut out);
            }
        }
        (emitter.terminal(), String::from_utf8(out.to_vec()).unwrap())
    };
    let said = |text: &str| vec![Event::ReasoningDelta("hm".into()), Event::TextDelta(text.into())];
    let (terminal, text) =
        run([said("we did X"), vec![Event::Finished(FinishReason::Stop)]].concat());
    assert_eq!(terminal, Some(Terminal::Completed));
    let last = text.lines().rev().find(|line| line.contains("response.completed\"")).unwrap();
    let event: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    let output = event["response"]["output"].as_array().unwrap();
    assert_eq!((output.len(), &output[0]["type"]), (1, &json!("compaction")));
    let summary = crate::wire::compaction::open(output[0]["encrypted_content"].as_str().unwrap());
    assert!(summary.unwrap().ends_with("we did X"));
    assert_eq!(text.matches("event: response.output_item.done").count(), 1);
    for (events, reason) in [
        ([said("  "), vec![Event::Finished(FinishReason::Stop)]].concat(), "wrote nothing"),
        ([said("half"), vec![Event::Finished(FinishReason::Length)]].concat(), "limit"),
        ([said("half"), vec![Event::Finished(FinishReason::Filtered)]].concat(), "filter"),
    ] {
        let (terminal, text) = run(events);
        assert_eq!(terminal, Some(Terminal::Failed));
        assert!(text.contains(reason) && !text.contains("cmp_"), "{text}");
    }
}
