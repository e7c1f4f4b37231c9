//! The laws of adapters (see `ocx::adapters`), for every adapter, on every transcript.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/mod.rs"]
mod support;

use ocx::{
    adapters::{DecodeError, Expect, MAX_FRAME, ResponseHead, adapter},
    model::Event,
    registry::AdapterKind,
};
use proptest::prelude::*;
use support::{
    oracles::{brackets, check_answer, decode_in_pieces, finished},
    transcripts::{Transcript, all},
};

fn decode<'a>(
    case: &'a Transcript,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, Result<(), DecodeError>) {
    decode_in_pieces(case.kind, &case.head, case.expect(), pieces)
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

#[test]
fn p05_p06_in_every_callers_protocol_and_cut_anywhere() {
    for case in all() {
        for relay in [false, adapter(case.kind).relays()] {
            let expect = Expect { relay, ..case.expect() };
            for at in (0..=case.body.len()).rev().step_by(7) {
                let checked = check_answer(case.kind, &case.head, expect, &case.body[..at], 5);
                assert_eq!(checked, Ok(()), "{} at {at}", case.name);
            }
        }
    }
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
    let block = prop::sample::select(vec![
        r#"{"type":"text","text":"t"}"#,
        r#"{"type":"thinking","thinking":""}"#,
        r#"{"type":"redacted_thinking","data":"d"}"#,
        r#"{"type":"tool_use","id":"a","name":"f","input":{}}"#,
        r#"{"type":"tool_use","name":"f","input":{"a":1}}"#,
        "null",
    ]);
    let piece = prop::sample::select(vec![
        r#"{"type":"text_delta","text":"t"}"#,
        r#"{"type":"thinking_delta","thinking":"h"}"#,
        r#"{"type":"signature_delta","signature":"s"}"#,
        r#"{"type":"input_json_delta","partial_json":"{}"}"#,
        r#"{"type":"input_json_delta","partial_json":"{"}"#,
        r#"{"stop_reason":"tool_use"}"#,
        r#"{"stop_reason":"max_tokens"}"#,
        "7",
    ]);
    let step = prop::sample::select(vec![
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
    ]);
    let anthropic = (step, 0u8..3, block, piece).prop_map(|(step, index, block, piece)| {
        format!("data: {{\"type\":\"{step}\",\"index\":{index},\"content_block\":{block},\"delta\":{piece},\"usage\":{{\"output_tokens\":1}}}}\n\n")
    });
    let part = prop::sample::select(vec![
        r#"{"text":"t"}"#,
        r#"{"text":"h","thought":true,"thoughtSignature":"s"}"#,
        r#"{"functionCall":{"name":"f","args":{"a":1}}}"#,
        r#"{"functionCall":{"id":"x","name":"f"},"thoughtSignature":"s"}"#,
        "null",
    ]);
    let reason = prop::sample::select(vec![
        "null",
        "\"STOP\"",
        "\"MAX_TOKENS\"",
        "\"SAFETY\"",
        "\"MALFORMED_FUNCTION_CALL\"",
    ]);
    let google = (part, reason).prop_map(|(part, reason)| {
        format!("data: {{\"candidates\":[{{\"content\":{{\"parts\":[{part}]}},\"finishReason\":{reason}}}]}}\n\n")
    });
    let field = prop::sample::select(vec!["choices", "usage", "error", "type", "response"]);
    let odd =
        (field, value).prop_map(|(field, value)| format!("data: {{\"{field}\":{value}}}\r\n\r\n"));
    let frame = prop_oneof![
        5 => chat,
        3 => responses,
        5 => anthropic,
        4 => google,
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
        let checked = check_answer(kind, &head, expect, &bytes, size);
        prop_assert!(checked.is_ok(), "{:?}", checked);
    }
}
