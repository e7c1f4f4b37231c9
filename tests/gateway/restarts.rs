//! A conversation with `ocx` restarted between every two turns: upstream it looks as if nothing had
//! happened. What the provider wants back is with the caller, and the key is with us.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    app::{Answer, JSON, parse_answer, request},
    support::{
        ocx::Ocx,
        scratch,
        scripted::{Scripted, Wire, call, text, think},
    },
};

const TURNS: usize = 4;

/// Thinks, calls, and at last answers.
fn scripted() -> Scripted {
    Scripted::start(|question| match question.results.len() {
        done if done + 1 < TURNS => {
            vec![
                think(&format!("thought {done}")),
                call("f", json!({"n": done})),
                call("f", json!({})),
            ]
            .into_iter()
            // Two calls at first, one later.
            .take(if done == 0 { 3 } else { 2 })
            .collect()
        }
        _ => vec![text("done")],
    })
}

fn post(ocx: &Ocx, body: &Value) -> Answer {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(ocx.address).unwrap();
    let bytes = request(ocx.address, "POST /v1/responses", &[JSON], body.to_string().as_bytes());
    socket.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    parse_answer(&answer)
}

/// Runs the loop as a client does that keeps the history, and gives the bodies that went upstream.
fn conversation(dir: &Path, wire: Wire, show: bool, restarts: bool) -> Vec<String> {
    let scripted = scripted();
    let config = json!({"providers": {"up": wire.provider(&scripted.upstream)}});
    let mut ocx = Ocx::serve(dir, &config);
    let mut input = vec![
        json!({"role": "developer", "content": "Be good."}),
        json!({"role": "user", "content": "go"}),
    ];
    let mut last = String::new();
    for _ in 0..=TURNS {
        let mut body = json!({"model": format!("up/{}", wire.thinking_model()), "stream": true,
            "input": input, "reasoning": {"effort": "high"},
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}]});
        if show {
            body["reasoning"]["summary"] = "auto".into();
        }
        let response = post(&ocx, &body).terminal()["response"].clone();
        assert_eq!(response["status"], "completed", "{response}");
        let output = response["output"].as_array().unwrap().clone();
        let calls: Vec<&Value> =
            output.iter().filter(|item| item["type"] == "function_call").collect();
        let results = calls.iter().map(|call| {
            // Gemini gives no ids, so ours are minted: what they are named must not matter upstream.
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "r"})
        });
        let results: Vec<Value> = results.collect();
        if let Some(message) = output.iter().find(|item| item["type"] == "message") {
            last = message["content"][0]["text"].as_str().unwrap().to_owned();
        }
        let over = results.is_empty();
        input.extend(output.iter().cloned());
        input.extend(results);
        if over {
            break;
        }
        if restarts {
            drop(ocx);
            ocx = Ocx::serve(dir, &config);
        }
    }
    assert_eq!(last, "done");
    scripted.assert_rules_kept();
    scripted.bodies()
}

/// Minted ids differ from run to run; here they are numbered in order of their appearance.
fn numbered(bodies: Vec<String>) -> Vec<String> {
    let minted = regex::Regex::new("call_[0-9a-f]{32}").unwrap();
    let mut known: Vec<String> = Vec::new();
    bodies
        .into_iter()
        .map(|body| {
            minted
                .replace_all(&body, |found: &regex::Captures<'_>| {
                    let id = found[0].to_owned();
                    let at = known.iter().position(|other| *other == id).unwrap_or_else(|| {
                        known.push(id);
                        known.len() - 1
                    });
                    format!("minted-{at}")
                })
                .into_owned()
        })
        .collect()
}

#[test]
fn a_restart_between_every_two_turns_changes_no_byte_upstream() {
    for wire in Wire::TRANSLATED {
        for show in [true, false] {
            let dir = scratch(&format!("restarts-{}-{show}", wire.adapter()));
            let without = numbered(conversation(&dir, wire, show, false));
            let with = numbered(conversation(&dir, wire, show, true));
            assert_eq!(with, without, "{wire:?}");
            assert_eq!(with.len(), TURNS - 1, "{wire:?}");
            let last = with.last().unwrap();
            let kept = match wire {
                Wire::Chat => "\"reasoning_content\":\"thought 0\"",
                Wire::Anthropic => "\"signature\":\"sig-0-0\"",
                _ => "\"thoughtSignature\":\"gsig-0\"",
            };
            assert!(last.contains(kept), "{wire:?}, shown: {show}: {last}");
        }
    }
}

#[test]
fn with_another_key_the_reasoning_is_gone_and_the_conversation_goes_on() {
    // The check above can fail: this is what it looks like when the key does not outlive us.
    let dir = scratch("restarts-key");
    let wire = Wire::Chat;
    let scripted = scripted();
    let config = json!({"providers": {"up": wire.provider(&scripted.upstream)}});
    let ocx = Ocx::serve(&dir, &config);
    let ask = json!({"model": "up/thinker", "stream": true, "input": "go",
        "tools": [{"type": "function", "name": "f"}]});
    let output = post(&ocx, &ask).terminal()["response"]["output"].as_array().unwrap().clone();
    drop(ocx);
    fs::remove_file(dir.join("capsule-key")).unwrap();
    let ocx = Ocx::serve(&dir, &config);
    let mut input = vec![json!({"role": "user", "content": "go"})];
    input.extend(output);
    let mut again = ask;
    again["input"] = input.into();
    let answer = post(&ocx, &again);
    assert_eq!(answer.terminal()["type"], "response.completed");
    assert!(!scripted.bodies()[1].contains("thought 0"));
}
