//! The laws of adapters (see `ocx::adapters`), for every adapter, on every transcript.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/mod.rs"]
mod support;

use std::collections::HashSet;

use ocx::{
    adapters::{DecodeError, Expect, MAX_FRAME, ResponseHead, Step, adapter},
    model::Event,
    registry::AdapterKind,
};
use proptest::prelude::*;
use support::transcripts::{Transcript, all};

/// Feeds the pieces and returns every event, or the error that ended it.
fn decode_in_pieces<'a>(
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

fn decode<'a>(
    case: &'a Transcript,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, Result<(), DecodeError>) {
    decode_in_pieces(case.kind, &case.head, case.expect(), pieces)
}

fn finished(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Finished(_))).count()
}

#[test]
fn split_where_the_bytes_are_split_never_matters() {
    for case in all() {
        let whole = decode(&case, [case.body.as_slice()]);
        for size in 1..=64 {
            assert_eq!(decode(&case, case.body.chunks(size)), whole, "{} by {size}", case.name);
        }
        for at in 0..case.body.len() {
            let (a, b) = case.body.split_at(at);
            assert_eq!(decode(&case, [a, b]), whole, "{} at {at}", case.name);
        }
    }
}

#[test]
fn cut_a_body_that_stops_early_is_never_finished() {
    for case in all() {
        let whole = decode(&case, [case.body.as_slice()]);
        for at in 0..case.body.len() {
            let (events, end) = decode(&case, [&case.body[..at]]);
            match end {
                // Whatever was cut off said nothing: the end of the answer had come already.
                Ok(()) => assert_eq!(
                    without_usage(&events),
                    without_usage(&whole.0),
                    "{} at {at}",
                    case.name
                ),
                Err(_) => assert_eq!(finished(&events), 0, "{} at {at}", case.name),
            }
        }
    }
}

fn without_usage(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|event| !matches!(event, Event::Usage(_))).collect()
}

#[test]
fn terminal_success_finishes_once_and_last() {
    for case in all() {
        let (events, end) = decode(&case, [case.body.as_slice()]);
        assert_eq!(finished(&events), usize::from(end.is_ok()), "{}", case.name);
        if end.is_ok() {
            assert!(matches!(events.last(), Some(Event::Finished(_))), "{}", case.name);
        }
    }
}

fn brackets(events: &[Event]) -> Result<(), String> {
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

#[test]
fn brackets_every_piece_of_a_call_names_one_that_is_open() {
    for case in all() {
        for at in 0..=case.body.len() {
            brackets(&decode(&case, [&case.body[..at]]).0).unwrap();
        }
    }
}

#[test]
fn deterministic_the_same_prompt_gives_the_same_bytes() {
    for case in all() {
        assert_eq!(case.encode(), case.encode(), "{}", case.name);
    }
}

#[test]
fn total_the_frame_limit_is_kept() {
    for kind in AdapterKind::ALL {
        for content_type in ["text/event-stream", "application/json"] {
            let head =
                ResponseHead { content_type: content_type.into(), ..ResponseHead::default() };
            let piece = vec![b'x'; 1 << 20];
            let pieces = (0..=MAX_FRAME >> 20).map(|_| piece.as_slice());
            let expect = Expect { stream: true, ..Expect::default() };
            let (_, end) = decode_in_pieces(kind, &head, expect, pieces);
            assert!(
                matches!(end, Err(DecodeError::TooLong(_))),
                "{kind:?} {content_type}: {end:?}"
            );
        }
    }
}

/// Bytes that look like a stream: frames of known fields with values of any type, in any order.
fn stream_like() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"text\"".to_owned()),
        Just("\"\"".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        Just(
            "[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]"
                .to_owned()
        ),
        Just("[{\"index\":1,\"function\":{\"arguments\":\"}\"}},3]".to_owned()),
        Just("[{\"text\":\"t\"}]".to_owned()),
    ];
    let key = prop::sample::select(vec![
        "content",
        "reasoning_content",
        "reasoning",
        "refusal",
        "tool_calls",
        "role",
    ]);
    let finish =
        prop::sample::select(vec!["null", "\"stop\"", "\"length\"", "\"tool_calls\"", "7"]);
    let chat = (key, value.clone(), finish).prop_map(|(key, value, finish)| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"{key}\":{value}}},\"finish_reason\":{finish}}}]}}\n\n")
    });
    let kind = prop::sample::select(vec![
        "response.created",
        "response.output_text.delta",
        "response.completed",
        "response.failed",
        "error",
        "x",
    ]);
    let responses = (kind, value.clone()).prop_map(|(kind, value)| {
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":1,\"response\":{value}}}\n\n")
    });
    let field = prop::sample::select(vec!["choices", "usage", "error", "type", "response"]);
    let odd =
        (field, value).prop_map(|(field, value)| format!("data: {{\"{field}\":{value}}}\r\n\r\n"));
    let frame = prop_oneof![
        5 => chat,
        3 => responses,
        2 => odd,
        1 => Just("data: [DONE]\n\n".to_owned()),
        1 => Just(": comment\n\n".to_owned()),
        1 => "\\PC{0,12}",
    ];
    proptest::collection::vec(frame, 0..14).prop_map(|frames| frames.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn p05_total_and_bracketed_on_anything(
        bytes in prop_oneof![stream_like(), proptest::collection::vec(any::<u8>(), 0..300)],
        kind in prop::sample::select(AdapterKind::ALL.to_vec()),
        content_type in prop::sample::select(vec!["text/event-stream", "application/json", ""]),
        stream in any::<bool>(),
        tolerant in any::<bool>(),
        relay in any::<bool>(),
        size in 1usize..40,
    ) {
        let head = ResponseHead { content_type: content_type.into(), ..ResponseHead::default() };
        let expect = Expect {
            stream,
            relay,
            eof_tolerant: tolerant,
            keeps_reasoning: tolerant,
            escapes_tool_names: relay,
        };
        let whole = decode_in_pieces(kind, &head, expect, [bytes.as_slice()]);
        prop_assert_eq!(&decode_in_pieces(kind, &head, expect, bytes.chunks(size)), &whole);
        let (events, end) = whole;
        prop_assert_eq!(finished(&events), usize::from(end.is_ok()));
        prop_assert!(brackets(&events).is_ok(), "{:?}", brackets(&events));
    }
}
