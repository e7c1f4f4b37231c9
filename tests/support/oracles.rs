//! What must hold of any answer, whatever the upstream sends: the laws of decoders and of the
//! streams that callers read. Used by property tests and by the fuzzer.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;
use ocx::{
    adapters::{DecodeError, Expect, ResponseHead, Step, adapter},
    callers::{Delivery, EmitterSettings, Protocol, Terminal},
    credentials::CapsuleKey,
    error::GatewayError,
    model::{Event, Ids},
    registry::AdapterKind,
    wire::sse::SseParser,
};
use serde_json::Value;

/// Feeds the pieces and returns every event, or the error that ended it.
pub fn decode_in_pieces<'a>(
    kind: AdapterKind,
    head: &ResponseHead,
    expect: Expect,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, Result<(), DecodeError>) {
    let mut decoder = adapter(kind).decoder(head, expect);
    let mut events = Vec::new();
    for piece in pieces {
        match decoder.push(piece, &mut events) {
            Ok(Step::Done) => return (events, Ok(())),
            Ok(Step::More) => {}
            Err(error) => return (events, Err(error)),
        }
    }
    let end = decoder.finish(&mut events);
    (events, end)
}

/// How many events say that the answer is over.
pub fn finished(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Finished(_))).count()
}

/// Whether every piece of a call names one that is open.
pub fn brackets(events: &[Event]) -> Result<(), String> {
    let mut open = HashSet::new();
    for event in events {
        let sound = match event {
            Event::CallStarted { call, .. } => open.insert(*call),
            Event::CallDelta { call, .. } => open.contains(call),
            Event::CallEnded { call } => open.remove(call),
            _ => true,
        };
        if !sound {
            return Err(format!("{event:?} in {events:?}"));
        }
    }
    Ok(())
}

/// P-01, P-05, P-06 for arbitrary bytes of an upstream: the events do not depend on how the bytes
/// are split, success is told once and last, calls are bracketed, and in every caller's protocol the
/// stream is sound and ends once.
///
/// # Errors
///
/// What does not hold.
pub fn check_answer(
    kind: AdapterKind,
    head: &ResponseHead,
    expect: Expect,
    bytes: &[u8],
    size: usize,
) -> Result<(), String> {
    let whole = decode_in_pieces(kind, head, expect, [bytes]);
    let pieces = decode_in_pieces(kind, head, expect, bytes.chunks(size.max(1)));
    if whole != pieces {
        return Err(format!("split by {size}: {whole:?} and {pieces:?}"));
    }
    let (events, end) = whole;
    if finished(&events) != usize::from(end.is_ok()) {
        return Err(format!("{} ends for {end:?}", finished(&events)));
    }
    if end.is_ok() && !matches!(events.last(), Some(Event::Finished(_))) {
        return Err(format!("the end is not the last: {events:?}"));
    }
    brackets(&events)?;
    let relays = expect.relay && adapter(kind).relays();
    for protocol in Protocol::ALL {
        if relays && protocol != Protocol::Responses {
            continue;
        }
        check_stream(protocol, relays, &events, end.as_ref().err())?;
    }
    Ok(())
}

/// Writes the events as a stream and checks what a caller reads.
fn check_stream(
    protocol: Protocol,
    relay: bool,
    events: &[Event],
    error: Option<&DecodeError>,
) -> Result<(), String> {
    let tool = r#"{"model":"m","input":[],"messages":[],"tools":[
        {"type":"function","name":"f"},{"type":"function","name":"exec_command"},{"type":"custom","name":"apply_patch"},
        {"type":"tool_search"},{"type":"local_shell"}]}"#;
    let parsed = Protocol::Responses.parse(tool.into()).map_err(|error| error.to_string())?;
    let settings = EmitterSettings {
        delivery: Delivery::Stream,
        model: "m".into(),
        created_at: 0,
        show_reasoning: events.len().is_multiple_of(2),
        relay,
        tools: parsed.prompt.tools,
        max_retained: 1 << 20,
        sealer: CapsuleKey::new([0; 32]).sealer("x", "y"),
        include_usage: true,
        compaction: false,
    };
    let mut emitter = protocol.emitter(settings, Ids::new(1));
    let mut out = BytesMut::new();
    for event in events {
        if let Err(failure) = emitter.push(event.clone(), &mut out) {
            emitter.fail(&failure, &mut out);
        }
    }
    if let Some(error) = error {
        let error = GatewayError::Decode { provider: "up".into(), error: error.clone() };
        emitter.fail(&error.failure(), &mut out);
    }
    let terminal = emitter.terminal().ok_or("no terminal")?;
    if terminal == Terminal::Completed && error.is_some() {
        return Err(format!("completed in spite of {error:?}"));
    }
    let before = out.len();
    emitter.keepalive(&mut out);
    if out.len() != before {
        return Err("a sign of life after the end".to_owned());
    }
    if relay {
        // The upstream's own JSON passes as it is, numbers beyond every range included.
        return Ok(());
    }
    let frames = frames(&out)?;
    match protocol {
        Protocol::Responses => responses(&frames, terminal),
        Protocol::ChatCompletions => chat_completions(&frames, terminal),
        Protocol::Messages => messages(&frames, terminal),
    }
}

/// P-04: what is written reads back as frames of JSON, the marker of the end apart.
fn frames(out: &[u8]) -> Result<Vec<Option<Value>>, String> {
    if out.contains(&b'\r') {
        return Err("a carriage return".to_owned());
    }
    let mut parser = SseParser::new(16 << 20);
    parser.push(out);
    let mut frames = Vec::new();
    while let Some(frame) = parser.next_frame() {
        let frame = frame.map_err(|error| error.to_string())?;
        frames.push(if frame.data == b"[DONE]" {
            None
        } else {
            Some(serde_json::from_slice(frame.data).map_err(|error| error.to_string())?)
        });
    }
    Ok(frames)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn responses(frames: &[Option<Value>], terminal: Terminal) -> Result<(), String> {
    let Some((None, rest)) = frames.split_last() else {
        return Err("no [DONE] at the end".to_owned());
    };
    let rest: Vec<&Value> = rest.iter().flatten().collect();
    let mut open: Option<(Value, String)> = None;
    let mut done = Vec::new();
    for (n, frame) in rest.iter().enumerate() {
        if frame["sequence_number"] != n {
            return Err(format!("the number of {frame} is not {n}"));
        }
        let kind = text(frame, "type");
        if kind.ends_with(".delta") {
            let (id, so_far) = open.as_mut().ok_or(format!("nothing is open for {frame}"))?;
            if *id != frame["item_id"] {
                return Err(format!("{frame} while {id} is open"));
            }
            so_far.push_str(text(frame, "delta"));
        }
        match kind {
            "response.output_item.added" => {
                let before = open.replace((frame["item"]["id"].clone(), String::new()));
                before.map_or(Ok(()), |(id, _)| Err(format!("{frame} while {id} is open")))?;
            }
            "response.output_text.done" | "response.reasoning_summary_text.done" => {
                let said = open.as_ref().map(|(_, so_far)| so_far.as_str());
                let same = said == Some(text(frame, "text"));
                same.then_some(()).ok_or(format!("{frame} is not what the deltas said"))?;
            }
            "response.output_item.done" => {
                let (id, _) = open.take().ok_or("an end without a begin")?;
                let item = &frame["item"];
                if item["id"] != id {
                    return Err(format!("{item} while {id} is open"));
                }
                if item["type"] == "function_call"
                    && serde_json::from_str::<Value>(text(item, "arguments")).is_err()
                {
                    return Err(format!("arguments that are no JSON: {item}"));
                }
                done.push(item.clone());
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                if n + 1 != rest.len() {
                    return Err("a terminal event that is not the last".to_owned());
                }
                if frame["response"]["output"] != Value::Array(done.clone()) {
                    return Err(format!("{frame} does not hold {done:?}"));
                }
            }
            _ => {}
        }
    }
    let expected = match terminal {
        Terminal::Completed => "response.completed",
        Terminal::Incomplete => "response.incomplete",
        Terminal::Failed => "response.failed",
    };
    match rest.last() {
        Some(last) if last["type"] == expected => Ok(()),
        last => Err(format!("{last:?} is not {expected}")),
    }
}

fn chat_completions(frames: &[Option<Value>], terminal: Terminal) -> Result<(), String> {
    let done = frames.iter().filter(|frame| frame.is_none()).count();
    let reasons = frames
        .iter()
        .flatten()
        .filter(|frame| frame["choices"][0]["finish_reason"].is_string())
        .count();
    let errors = frames.iter().flatten().filter(|frame| frame.get("error").is_some()).count();
    let sound = match terminal {
        Terminal::Failed => (done, reasons, errors) == (0, 0, 1),
        _ => (done, reasons, errors) == (1, 1, 0) && frames.last() == Some(&None),
    };
    if !sound {
        return Err(format!("{done} ends, {reasons} reasons, {errors} errors for {terminal:?}"));
    }
    let mut calls: HashMap<u64, String> = HashMap::new();
    for call in frames.iter().flatten().filter_map(|f| f.pointer("/choices/0/delta/tool_calls/0")) {
        let index = call["index"].as_u64().ok_or("a call without an index")?;
        let fresh = call.get("id").is_some();
        if fresh == calls.contains_key(&index) {
            return Err(format!("{call} begins twice, or never did"));
        }
        calls.entry(index).or_default().push_str(text(&call["function"], "arguments"));
    }
    Ok(())
}

fn messages(frames: &[Option<Value>], terminal: Terminal) -> Result<(), String> {
    let mut open = None;
    let mut next = 0;
    for frame in frames {
        let frame = frame.as_ref().ok_or("a [DONE]")?;
        match text(frame, "type") {
            "content_block_start" => {
                if frame["index"] != next || open.replace(next).is_some() {
                    return Err(format!("{frame} while {open:?} is open"));
                }
                next += 1;
            }
            "content_block_delta" if open.is_none_or(|open| frame["index"] != open) => {
                return Err(format!("{frame} while {open:?} is open"));
            }
            "content_block_stop" if open.take().is_none_or(|open| frame["index"] != open) => {
                return Err(format!("{frame} ends nothing"));
            }
            _ => {}
        }
    }
    let ends =
        frames.iter().flatten().filter(|f| matches!(text(f, "type"), "message_stop" | "error"));
    let expected = if terminal == Terminal::Failed { "error" } else { "message_stop" };
    let last = frames.last().and_then(Option::as_ref).map(|frame| text(frame, "type"));
    if ends.count() != 1 || last != Some(expected) {
        return Err(format!("{last:?} at the end for {terminal:?}"));
    }
    Ok(())
}
