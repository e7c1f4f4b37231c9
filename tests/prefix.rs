//! Prompt caches look at the beginning of a body: for a history that only grows, the body of a turn
//! begins with the body of the turn before, up to its last message. For every adapter.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use ocx::{
    adapters::{Target, adapter},
    callers::Protocol,
    credentials::{CapsuleKey, Credential},
    model::ReasoningState,
    registry::{AdapterKind, Quirks},
};
use proptest::prelude::*;
use regex::Regex;
use serde_json::{Value, json};

const BASE_URL: &str = "https://up.example";

/// A body as it goes upstream, without Anthropic's markers: they move with every turn and are no part
/// of what its cache compares.
fn encode(kind: AdapterKind, input: &[Value]) -> String {
    let body = json!({"model": "m", "stream": true, "instructions": "Be good.", "input": input,
        "store": false, "prompt_cache_key": "thread-1",
        "reasoning": {"effort": "high", "summary": "auto"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}},
            {"type": "custom", "name": "apply_patch"}]});
    let prompt = Protocol::Responses.parse(body.to_string().into()).unwrap().prompt;
    let sealer = CapsuleKey::new([1; 32]).sealer(kind.name(), BASE_URL);
    let model = match kind {
        AdapterKind::Google => "gemini-3-pro",
        AdapterKind::OpenAiChat => "thinker",
        _ => "claude-sonnet-5",
    };
    let quirks = Quirks {
        preserve_reasoning_content_models: Some(vec!["thinker".into()]),
        ..Quirks::default()
    };
    let target = Target {
        model,
        base_url: BASE_URL,
        quirks: &quirks,
        headers: &[],
        credential: &Credential::None,
        sealer: Some(&sealer),
    };
    let encoded = adapter(kind).encode(&prompt, &target).unwrap();
    let text = String::from_utf8(encoded.request.body).unwrap();
    Regex::new(r#","cache_control":\{"type":"ephemeral"\}"#).unwrap().replace_all(&text, "").into()
}

/// Where the last message of a body begins.
fn last_message(body: &str) -> usize {
    let value: Value = serde_json::from_str(body).unwrap();
    let list = ["messages", "contents", "input"].iter().find_map(|key| value[*key].as_array());
    let last = list.unwrap().last().unwrap().to_string();
    body.rfind(&last).unwrap_or_else(|| panic!("{last} in {body}"))
}

/// What one turn adds to a history: what the model answered, and what came of it.
#[derive(Clone, Debug)]
struct Turn {
    thinks: bool,
    says: bool,
    calls: u8,
    asks: bool,
    image: bool,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = (any::<bool>(), any::<bool>(), 0u8..3, any::<bool>(), any::<bool>()).prop_map(
        |(thinks, says, calls, asks, image)| Turn {
            thinks,
            says,
            calls,
            asks: asks || calls == 0,
            image,
        },
    );
    proptest::collection::vec(turn, 1..6)
}

fn grow(kind: AdapterKind, input: &mut Vec<Value>, n: usize, turn: &Turn) {
    let sealer = CapsuleKey::new([1; 32]).sealer(kind.name(), BASE_URL);
    if turn.thinks {
        let state = ReasoningState {
            text: format!("thought {n}"),
            signature: Some(format!("sig{n}")),
            redacted: None,
        };
        input.push(json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": format!("thought {n}")}],
            "encrypted_content": sealer.seal(&state)}));
    }
    if turn.says || turn.calls == 0 {
        input.push(json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": format!("answer {n}")}]}));
    }
    for call in 0..turn.calls {
        // Ids of any origin.
        let id = format!("call:{n}/{call}");
        input.push(json!({"type": "function_call", "name": "f", "call_id": id, "arguments": "{\"b\":1,\"a\":2}"}));
    }
    for call in 0..turn.calls {
        let mut output = vec![json!({"type": "input_text", "text": format!("result {n}")})];
        if turn.image {
            output.push(json!({"type": "input_image", "image_url": "data:image/png;base64,eA=="}));
        }
        input.push(json!({"type": "function_call_output", "call_id": format!("call:{n}/{call}"), "output": output}));
    }
    if turn.asks {
        input.push(json!({"type": "message", "role": "user", "content": format!("question {n}")}));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_growing_history_keeps_its_beginning(turns in turns()) {
        for kind in AdapterKind::ALL {
            let mut input = vec![
                json!({"type": "message", "role": "developer", "content": "Base instructions."}),
                json!({"type": "message", "role": "user", "content": "question"}),
            ];
            let mut before = encode(kind, &input);
            for (n, turn) in turns.iter().enumerate() {
                grow(kind, &mut input, n, turn);
                let after = encode(kind, &input);
                let common = &before[..last_message(&before)];
                prop_assert!(after.starts_with(common), "{}:\n{}\n{}", kind.name(), before, after);
                // A restart and a second replica have the same key, and so the same bytes.
                prop_assert_eq!(&encode(kind, &input), &after);
                before = after;
            }
        }
    }
}

#[test]
fn the_check_can_fail() {
    let input = [
        json!({"role": "user", "content": "a"}),
        json!({"role": "assistant", "content": "b"}),
        json!({"role": "user", "content": "c"}),
    ];
    let mut other = input.to_vec();
    other[0]["content"] = "x".into();
    let (before, after) =
        (encode(AdapterKind::Anthropic, &input), encode(AdapterKind::Anthropic, &other));
    assert!(!after.starts_with(&before[..last_message(&before)]));
}
