//! `ocx verify` against a model that can do everything, and one that can do little.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Asked, Reply, Step, Upstream},
    },
    text,
};

/// What the last message of a question says.
fn question(asked: &Value) -> String {
    let messages = asked["messages"].as_array().unwrap();
    messages.last().unwrap()["content"].to_string()
}

fn says(stream: bool, words: &str, reasoning: Option<&str>) -> Reply {
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13});
    if stream {
        let pieces: Vec<_> = words.split_inclusive(' ').map(chat::text).collect();
        return Reply::chat(&[pieces, chat::end("stop")].concat());
    }
    let mut message = json!({"role": "assistant", "content": words});
    if let Some(reasoning) = reasoning {
        message["reasoning_content"] = json!(reasoning);
    }
    Reply::json(
        200,
        &json!({"id": "x", "usage": usage,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}),
    )
}

fn calls(calls: &[(&str, Value)]) -> Reply {
    let call = |(n, (name, arguments)): (usize, &(&str, Value))| {
        json!({"id": format!("call_{n}"), "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}})
    };
    let calls: Vec<_> = calls.iter().enumerate().map(call).collect();
    Reply::json(
        200,
        &json!({"id": "x", "choices": [{"index": 0, "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": null, "tool_calls": calls}}]}),
    )
}

fn refuses(message: &str) -> Reply {
    Reply::json(400, &json!({"error": {"message": message}}))
}

/// One that does as it is asked.
fn able(asked: &Asked) -> Reply {
    let body = asked.json();
    let (stream, question) = (body["stream"] == true, question(&body));
    let tool = body["tools"][0]["function"]["name"].as_str().unwrap_or_default();
    let city = |city: &str| ("get_weather", json!({"city": city}));
    match tool {
        "get_weather" if body["messages"].to_string().contains("7 degrees") => {
            says(stream, "It is 7 degrees in Paris.", None)
        }
        "get_weather" if question.contains("both") => calls(&[city("Paris"), city("Rome")]),
        "get_weather" => calls(&[city("Paris")]),
        "write_note" => calls(&[("write_note", json!({"input": "milk and bread"}))]),
        _ if question.contains("image_url") => says(stream, "Red.", None),
        _ if question.contains("2027") => says(stream, "Yes.", Some("It has no divisor.")),
        _ if question.contains("2 + 3") => says(stream, "{\"sum\": 5}", None),
        _ if question.contains("two thousand") => {
            Reply::stream().frames(&[chat::text("one ")]).then(Step::AwaitClose)
        }
        _ => says(stream, "Pineapple, one two three.", None),
    }
}

/// One that can talk, and little else.
fn unable(asked: &Asked) -> Reply {
    let body = asked.json();
    let (stream, question) = (body["stream"] == true, question(&body));
    if question.contains("image_url") {
        return refuses("images are not supported");
    }
    if body.get("reasoning_effort").is_some() {
        return refuses("unknown field reasoning_effort");
    }
    if body["tool_choice"].is_object() || body["tool_choice"] == "required" {
        return refuses("tool_choice must be auto");
    }
    if body.get("response_format").is_some() {
        return refuses("response_format is not supported");
    }
    says(stream, "I would rather talk about pineapple.", None)
}

fn verify(home: &Path, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
    let out = command.arg("verify").args(args).env("OPENCODEX_HOME", home).output().unwrap();
    (out.status.success(), text(&out))
}

fn card(home: &Path, model: &str) -> Value {
    let (done, said) = verify(home, &[model, "--json"]);
    assert!(done, "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn states(card: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let row = |row: &Value| (text(&row["name"]), text(&row["state"]));
    card["capabilities"].as_array().unwrap().iter().map(row).collect()
}

fn config(upstream: &Upstream) -> Value {
    json!({"providers": {"some": {"adapter": "openai-chat", "baseUrl": upstream.base_url(),
        "authMode": "local", "defaultModel": "m", "noVisionModels": ["blind"],
        "preserveReasoningContentModels": ["m"]}}})
}

#[test]
fn a_model_that_can_do_everything_is_found_to() {
    let upstream = Upstream::start(able);
    let home = scratch("verify-able");
    let _ocx = Ocx::serve(&home, &config(&upstream));
    let card = card(&home, "some/m");
    let states = states(&card);
    assert_eq!(states.len(), 11, "{card:#}");
    assert!(states.iter().all(|(_, state)| state == "good"), "{card:#}");
    assert_eq!(card["config"], json!({}));
    // It was really left, and not only at our side.
    let left = Instant::now();
    while upstream.closed.lock().unwrap().len() != 1 {
        assert!(left.elapsed() < Duration::from_secs(10), "the upstream is still waited for");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_model_lacks_is_found_and_can_be_written_into_the_config() {
    let upstream = Upstream::start(unable);
    let home = scratch("verify-unable");
    let ocx = Ocx::serve(&home, &config(&upstream));
    let found = card(&home, "some");
    let bad: Vec<_> = states(&found).into_iter().filter(|(_, state)| state == "bad").collect();
    let names: Vec<_> = bad.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "tool",
        "forced tool",
        "parallel tools",
        "freeform tool",
        "image",
        "reasoning",
        "JSON schema",
    ];
    assert_eq!(names, expected, "{found:#}");
    let lists = json!({"autoToolChoiceOnlyModels": ["m"], "noVisionModels": ["blind", "m"],
        "noReasoningModels": ["m"], "noResponseFormatModels": ["m"]});
    assert_eq!(found["config"], lists, "{found:#}");
    let before = fs::read_to_string(&ocx.config).unwrap();
    let (done, said) = verify(&home, &["some"]);
    assert!(done && said.contains("`--write` puts it there"), "{said}");
    assert_eq!(fs::read_to_string(&ocx.config).unwrap(), before, "nothing is written unasked");
    let (done, said) = verify(&home, &["some", "--write"]);
    assert!(
        done && said.contains("Wrote the model into") && said.contains("noVisionModels"),
        "{said}"
    );
    let written: Value = serde_json::from_str(&fs::read_to_string(&ocx.config).unwrap()).unwrap();
    for (field, models) in lists.as_object().unwrap() {
        assert_eq!(&written["providers"]["some"][field], models, "{field}");
    }
    let reload = Command::new(env!("CARGO_BIN_EXE_ocx"))
        .arg("reload")
        .env("OPENCODEX_HOME", &home)
        .output()
        .unwrap();
    assert!(reload.status.success(), "{}", text(&reload));
    // The model is not asked for what it refuses any more.
    let again = card(&home, "some");
    assert_eq!(again["config"], json!({}), "{again:#}");
    let details = again["capabilities"].to_string();
    assert!(!details.contains("answered 400"), "{details}");
}

/// One that sees nothing of what it is sent, takes no tools at all, and is busy when it should think.
fn odd(asked: &Asked) -> Reply {
    let body = asked.json();
    if body["tools"].is_array() {
        return refuses("this model does not support tools");
    }
    if body.get("reasoning_effort").is_some() {
        return Reply::json(429, &json!({"error": {"message": "slow down"}}));
    }
    // Neither "shared" nor "rendered" is a colour.
    says(body["stream"] == true, "Pineapple shared, rendered green.", None)
}

#[test]
fn what_says_nothing_about_a_setting_is_written_nowhere() {
    let upstream = Upstream::start(odd);
    let home = scratch("verify-odd");
    let mut config = config(&upstream);
    config["maxRetries"] = json!(0);
    let _ocx = Ocx::serve(&home, &config);
    let card = card(&home, "some/m");
    // Two squares were called green; a limit is no inability, and who takes no tools takes no forced ones.
    assert_eq!(card["config"], json!({"noVisionModels": ["blind", "m"]}), "{card:#}");
    let state = |name: &str| {
        states(&card).into_iter().find(|(known, _)| known == name).map(|(_, state)| state).unwrap()
    };
    let named = ["tool", "forced tool", "image", "reasoning"].map(state);
    assert_eq!(named, ["bad", "bad", "bad", "doubt"], "{card:#}");
}

#[test]
fn a_model_that_does_not_answer_is_no_card_but_an_error() {
    let upstream = Upstream::start(|_| refuses("no such model"));
    let home = scratch("verify-none");
    let _ocx = Ocx::serve(&home, &config(&upstream));
    let (done, said) = verify(&home, &["some/other"]);
    assert!(
        !done && said.contains("`some/other` does not answer: some answered 400: no such model"),
        "{said}"
    );
    let (done, said) = verify(&home, &["nobody/m"]);
    assert!(!done && said.contains("no provider `nobody`"), "{said}");
}
