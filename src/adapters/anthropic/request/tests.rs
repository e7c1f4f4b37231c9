use serde_json::{Value, json};

use crate::{
    adapters::{Target, adapter},
    callers::Protocol,
    credentials::{CapsuleKey, Credential, Sealer},
    model::ReasoningState,
    registry::{AdapterKind, Quirks},
};

fn sealer() -> Sealer {
    CapsuleKey::new([3; 32]).sealer("anthropic", "https://x.example")
}

fn encode_with(model: &str, quirks: &Quirks, body: Value) -> (Value, String) {
    let mut body = body;
    body["model"] = "m".into();
    let prompt = Protocol::Responses.parse(body.to_string().into()).expect("a body").prompt;
    let target = Target {
        model,
        base_url: "https://x.example",
        quirks,
        headers: &[],
        credential: &Credential::None,
        sealer: Some(&sealer()),
    };
    let encoded = adapter(AdapterKind::Anthropic).encode(&prompt, &target).expect("a request");
    let body = serde_json::from_slice(&encoded.request.body).expect("JSON");
    (body, encoded.losses.to_string())
}

fn encode(body: Value) -> (Value, String) {
    encode_with("claude-sonnet-4-5", &Quirks::default(), body)
}

/// Without markers, which move with every turn.
fn unmarked(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            object.remove("cache_control");
            for inner in object.values_mut() {
                *inner = unmarked(inner.take());
            }
        }
        Value::Array(list) => {
            for inner in list {
                *inner = unmarked(inner.take());
            }
        }
        _ => {}
    }
    value
}

fn capsule(state: ReasoningState) -> Value {
    json!({"type": "reasoning", "summary": [], "encrypted_content": sealer().seal(&state)})
}

#[test]
fn codexs_base_prompt_is_the_system_prompt_and_later_notes_stay_in_place() {
    let (body, _) = encode(json!({"instructions": "sys", "input": [
        {"role": "developer", "content": "You are Codex, a coding agent based on GPT-5. Rules."},
        {"role": "developer", "content": "skills"},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": "a note"}]}));
    let system = body["system"][0]["text"].as_str().expect("text");
    assert!(
        system.starts_with("sys\n\nYou are a coding agent running on the model claude-sonnet-4-5.")
    );
    assert!(system.ends_with("Rules.\n\nskills"), "{system}");
    assert_eq!(
        unmarked(body["messages"].clone()),
        json!([{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "a note"}]}])
    );
}

#[test]
fn a_tool_turn_keeps_every_rule() {
    let signed =
        ReasoningState { text: "hm".into(), signature: Some("sig".into()), redacted: None };
    let redacted = ReasoningState { redacted: Some("blob".into()), ..ReasoningState::default() };
    let (body, losses) = encode(json!({"reasoning": {"effort": "high"}, "input": [
        {"role": "user", "content": "hi"},
        capsule(signed), capsule(redacted),
        {"type": "function_call", "name": "f", "call_id": "a.1", "arguments": "{\"x\":1}"},
        {"role": "assistant", "content": "doing"},
        {"type": "function_call", "name": "g", "namespace": "ns", "call_id": "a:1", "arguments": "{}"},
        {"role": "user", "content": "in between"},
        {"type": "function_call_output", "call_id": "a:1", "output": ""},
        {"type": "function_call_output", "call_id": "lost", "output": "orphan"},
    ], "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]}));
    assert_eq!(losses, "");
    assert_eq!(body["thinking"], json!({"type": "enabled", "budget_tokens": 16384}));
    assert_eq!(
        unmarked(body["messages"].clone()),
        json!([
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "redacted_thinking", "data": "blob"},
                {"type": "text", "text": "doing"},
                {"type": "tool_use", "id": "a_1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "a_1-2", "name": "ns__g", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a_1", "is_error": true,
                    "content": [{"type": "text", "text": "No result was recorded for this call."}]},
                {"type": "tool_result", "tool_use_id": "a_1-2",
                    "content": [{"type": "text", "text": "(empty tool output)"}]},
                {"type": "text", "text": "in between"},
                {"type": "text", "text": "Earlier result of a tool:"},
                {"type": "text", "text": "orphan"}]},
        ])
    );
}

#[test]
fn reasoning_that_this_upstream_did_not_sign_is_left_out_and_thinking_pauses() {
    let foreign = CapsuleKey::new([4; 32]).sealer("anthropic", "https://x.example");
    let state = ReasoningState { signature: Some("s".into()), ..ReasoningState::default() };
    let mut body = json!({"reasoning": {"effort": "high"}, "input": [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "summary": [], "encrypted_content": foreign.seal(&state)},
        {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "r"}]});
    let (sent, losses) = encode(body.clone());
    assert_eq!(losses, "reasoning=1,field=1");
    assert_eq!(sent.get("thinking"), None, "refused without the thoughts before the call");
    assert_eq!(sent["tool_choice"], json!({"type": "none"}), "no tool is on offer");
    assert_eq!(sent["tools"][0]["name"], "f", "but the one that was called is declared");
    body["input"].as_array_mut().expect("a list").push(json!({"role": "user", "content": "next"}));
    // Still the same message of the user, so still the same answer in progress.
    assert_eq!(encode(body.clone()).0.get("thinking"), None);
    let input = body["input"].as_array_mut().expect("a list");
    input.extend([
        json!({"role": "assistant", "content": "done"}),
        json!({"role": "user", "content": "q"}),
    ]);
    assert!(encode(body).0.get("thinking").is_some());
}

#[test]
fn nothing_is_empty_and_the_user_has_the_first_and_the_last_word() {
    let (body, _) = encode(json!({"input": [
        {"role": "assistant", "content": "I began"},
        {"role": "user", "content": "   "},
        {"role": "assistant", "content": "and end"}]}));
    assert_eq!(
        unmarked(body["messages"].clone()),
        json!([
            {"role": "user", "content": [{"type": "text", "text": "(empty)"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "I began"}, {"type": "text", "text": "and end"}]},
            {"role": "user", "content": [{"type": "text", "text": "Continue."}]},
        ])
    );
    assert_eq!(
        unmarked(encode(json!({})).0["messages"].clone())[0]["content"][0]["text"],
        "(empty)"
    );
}

#[test]
fn images_go_in_their_form_and_the_rest_is_counted() {
    let image = |url: &str| json!({"type": "input_image", "image_url": url});
    let body = json!({"input": [{"role": "user", "content": [
        image("data:image/png;base64,eA=="), image("https://h/x.png"), image("data:image/bmp;base64,eA=="), image("http://h/x")]}]});
    let (sent, losses) = encode(body.clone());
    assert_eq!(losses, "image=2");
    let content = &sent["messages"][0]["content"];
    assert_eq!(
        content[0]["source"],
        json!({"type": "base64", "media_type": "image/png", "data": "eA=="})
    );
    assert_eq!(content[1]["source"], json!({"type": "url", "url": "https://h/x.png"}));
    let blind =
        Quirks { no_vision_models: Some(vec!["claude-sonnet-4-5".into()]), ..Quirks::default() };
    assert_eq!(encode_with("claude-sonnet-4-5", &blind, body).1, "image=4");
}

#[test]
fn tool_choice_and_sampling_as_the_model_takes_them() {
    let tools = json!([{"type": "function", "name": "f", "strict": true}, {"type": "function", "name": "g"}]);
    let choice = |choice: Value, more: Value| {
        let mut body = json!({"tools": tools, "tool_choice": choice});
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        let (sent, losses) = encode(body);
        (sent["tool_choice"].clone(), losses)
    };
    let none = || json!({});
    assert_eq!(choice(json!("auto"), none()).0, json!({"type": "auto"}));
    assert_eq!(choice(json!("none"), none()).0, json!({"type": "none"}));
    assert_eq!(choice(json!(null), none()).0, Value::Null);
    assert_eq!(
        choice(json!("required"), json!({"parallel_tool_calls": false})).0,
        json!({"type": "any", "disable_parallel_tool_use": true})
    );
    let named = json!({"type": "function", "name": "g"});
    assert_eq!(
        choice(named.clone(), none()),
        (json!({"type": "tool", "name": "g"}), "field=1".into())
    );
    let thinking = json!({"reasoning": {"effort": "low"}, "temperature": 0.5, "top_p": 0.5});
    assert_eq!(choice(named, thinking), (json!({"type": "auto"}), "field=4".into()));
    let (sent, losses) = encode(json!({"temperature": 1.5, "top_p": 0.5, "stop": ["X", " "],
        "presence_penalty": 1, "max_output_tokens": 77}));
    assert_eq!(
        (&sent["temperature"], &sent["stop_sequences"], &sent["max_tokens"]),
        (&json!(1), &json!(["X"]), &json!(77))
    );
    assert_eq!((sent.get("top_p"), losses.as_str()), (None, "field=4"));
}

#[test]
fn structured_output_and_adaptive_thinking_share_a_field() {
    let schema = json!({"type": "object", "properties": {}});
    let format = json!({"type": "json_schema", "name": "n", "schema": schema});
    let (sent, _) = encode_with(
        "claude-sonnet-5",
        &Quirks::default(),
        json!({"reasoning": {"effort": "max", "summary": "auto"}, "text": {"format": format}}),
    );
    assert_eq!(sent["thinking"], json!({"type": "adaptive", "display": "summarized"}));
    assert_eq!(
        sent["output_config"],
        json!({"effort": "max", "format": {"type": "json_schema",
            "schema": {"type": "object", "properties": {}, "additionalProperties": false}}})
    );
    assert_eq!(encode(json!({"text": {"format": {"type": "json_object"}}})).1, "field=1");
}

#[test]
fn four_markers_at_most_and_none_where_they_are_refused() {
    let input: Vec<Value> = (0..6)
        .map(|n| json!({"role": if n % 2 == 0 { "user" } else { "assistant" }, "content": format!("m{n}")}))
        .collect();
    let body =
        json!({"instructions": "s", "input": input, "tools": [{"type": "function", "name": "f"}]});
    let (sent, _) = encode(body.clone());
    assert_eq!(sent.to_string().matches("cache_control").count(), 4);
    let quirks = Quirks { prompt_cache_markers: Some(false), ..Quirks::default() };
    let (sent, _) = encode_with("m", &quirks, body);
    assert!(!sent.to_string().contains("cache_control"));
}

#[test]
fn escaped_names_and_a_preamble_are_what_the_config_says() {
    let quirks = Quirks {
        escape_builtin_tool_names: Some(true),
        system_preamble: Some(vec!["first".into()]),
        ..Quirks::default()
    };
    let (sent, _) = encode_with(
        "m",
        &quirks,
        json!({"instructions": "s",
        "tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "f"},
        "input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"}]}),
    );
    assert_eq!(sent["tools"][0]["name"], "ocx_f");
    assert_eq!(sent["tool_choice"]["name"], "ocx_f");
    assert_eq!(sent["messages"][1]["content"][0]["name"], "ocx_f");
    assert_eq!(sent["system"][0]["text"], "first");
}

#[test]
fn the_newest_models_take_no_temperature_also_without_thinking() {
    for (model, sent, losses) in [
        ("claude-opus-4-7", Value::Null, "field=1"),
        ("claude-sonnet-5", Value::Null, "field=1"),
        ("claude-opus-4-6", json!(0.5), ""),
    ] {
        let (body, lost) =
            encode_with(model, &Quirks::default(), json!({"input": "x", "temperature": 0.5}));
        assert_eq!((&body["temperature"], lost.as_str()), (&sent, losses), "{model}");
    }
}

#[test]
fn objects_of_a_format_are_closed_and_its_values_stay() {
    let open = json!({"type": ["object", "null"], "properties": {
        "list": {"type": "array", "items": {"properties": {"a": {"type": "string"}}}},
        "one": {"enum": [{"type": "object"}], "default": {"type": "object"}}}});
    let format = json!({"type": "json_schema", "name": "n", "schema": open, "strict": true});
    let (body, losses) = encode(json!({"input": "x", "text": {"format": format}}));
    let schema = &body["output_config"]["format"]["schema"];
    assert_eq!(losses, "");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["list"]["items"]["additionalProperties"], false);
    assert_eq!(schema["properties"]["one"], open["properties"]["one"]);
}
