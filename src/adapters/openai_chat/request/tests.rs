use bytes::Bytes;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::super::super::{Target, adapter};
use crate::{
    credentials::Credential,
    model::Losses,
    registry::{AdapterKind, Quirks},
};

// The caller's protocol is the natural way to write a prompt down; adapters themselves never see it.
fn prompt(body: &Value) -> crate::model::Prompt {
    crate::callers::responses::parse(Bytes::from(body.to_string())).unwrap().prompt
}

fn encode_with(quirks: Value, body: Value) -> (Value, Losses) {
    let quirks: Quirks = serde_json::from_value(quirks).unwrap();
    let credential = Credential::Key(SecretString::from("sk-1"));
    let target = Target {
        model: "m-1",
        base_url: "https://api.example/v1",
        quirks: &quirks,
        headers: &[],
        credential: &credential,
        sealer: None,
    };
    let mut body = body;
    body["model"] = "m-1".into();
    let encoded = adapter(AdapterKind::OpenAiChat).encode(&prompt(&body), &target).unwrap();
    assert_eq!(encoded.request.url, "https://api.example/v1/chat/completions");
    (serde_json::from_slice(&encoded.request.body).unwrap(), encoded.losses)
}

fn encode(body: Value) -> Value {
    encode_with(json!({}), body).0
}

fn messages(input: Value) -> Value {
    encode(json!({"input": input}))["messages"].take()
}

fn call(id: &str) -> Value {
    json!({"type": "function_call", "name": "f", "arguments": "{}", "call_id": id})
}

fn result(id: &str) -> Value {
    json!({"type": "function_call_output", "call_id": id, "output": format!("out {id}")})
}

fn summary(messages: &Value) -> Vec<String> {
    let row = |message: &Value| {
        let calls: Vec<_> = message["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|call| call["id"].as_str().unwrap())
            .collect();
        let content = match &message["content"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let id = message["tool_call_id"].as_str().unwrap_or_default();
        format!("{}:{id}{}:{content}", message["role"].as_str().unwrap(), calls.join("+"))
    };
    messages.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_plain_question_has_no_field_too_many() {
    let body = encode(json!({"input": "hi", "stream": true, "store": false, "include": ["x"],
        "metadata": {}, "prompt_cache_key": "k", "service_tier": "auto", "parallel_tool_calls": true}));
    assert_eq!(
        body,
        json!({"model": "m-1", "stream": true, "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "hi"}]})
    );
    assert_eq!(encode(json!({"input": "hi"})).get("stream_options"), None);
}

#[test]
fn developer_items_at_the_start_are_the_system_message() {
    let claim = "You are Codex, an agent based on GPT-5. You help.";
    let rows = summary(&messages(json!([
        {"role": "developer", "content": claim},
        {"role": "developer", "content": "skills"},
        {"role": "user", "content": "env"},
        {"role": "developer", "content": "late"},
        {"role": "user", "content": "ask"},
    ])));
    assert_eq!(
        rows,
        [
            "system::You are a coding agent running on the model m-1. Do not claim to be GPT-5 or to come from OpenAI. You help.\n\nskills",
            "user::env",
            "user::late",
            "user::ask",
        ]
    );
    let (kept, _) = encode_with(
        json!({"developerRole": true}),
        json!({"instructions": "sys", "input": [{"role": "developer", "content": "d"}]}),
    );
    assert_eq!(summary(&kept["messages"]), ["system::sys", "developer::d"]);
}

#[test]
fn results_follow_their_batch_whatever_the_history_looks_like() {
    let rows = summary(&messages(json!([
        {"role": "user", "content": "q"},
        call("a"), call("b"),
        result("b"),
        {"role": "user", "content": "between"},
        result("a"),
        call("c"),
        {"role": "user", "content": "next"},
        result("zzz"),
    ])));
    assert_eq!(
        rows,
        [
            "user::q",
            "assistant:a+b:",
            "tool:a:out a",
            "tool:b:out b",
            "user::between",
            "assistant:c:",
            "tool:c:No result was recorded for this call.",
            "user::next",
            "assistant:zzz:",
            "tool:zzz:out zzz",
        ]
    );
}

#[test]
fn blank_and_repeated_ids_stay_paired_in_order() {
    let rows = summary(&messages(json!([
        call(""),
        result(""),
        call("x"),
        result("x"),
        call("x"),
        result("x")
    ])));
    assert_eq!(
        rows,
        [
            "assistant:call_ocx_1:",
            "tool:call_ocx_1:out ",
            "assistant:x:",
            "tool:x:out x",
            "assistant:x_2:",
            "tool:x_2:out x",
        ]
    );
}

#[test]
fn pictures_in_results_come_after_the_batch() {
    let image =
        json!({"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "high"});
    let history = json!([
        call("a"), call("b"),
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "t"}, image]},
        result("b"),
    ]);
    let body = messages(history.clone());
    assert_eq!(summary(&body)[1..3], ["tool:a:t\n[image]", "tool:b:out b"]);
    assert_eq!(
        body[3],
        json!({"role": "user", "content": [
            {"type": "text", "text": "Image from the result of call a:"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "high"}}]})
    );
    let (blind, losses) =
        encode_with(json!({"noVisionModels": ["m-1"]}), json!({"input": history}));
    assert!(!blind.to_string().contains("base64"), "{blind}");
    assert_eq!(losses.to_string(), "image=1");
}

#[test]
fn reasoning_goes_back_only_to_models_that_need_it() {
    let thought = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]});
    let input = json!([{"role": "user", "content": "q"}, thought, call("a"), result("a"), call("b"), result("b")]);
    assert!(!messages(input.clone()).to_string().contains("hm"));
    let (body, _) =
        encode_with(json!({"preserveReasoningContentModels": ["m-1"]}), json!({"input": input}));
    assert_eq!(body["messages"][1]["reasoning_content"], "hm");
    assert_eq!(body["messages"][3]["reasoning_content"], " ", "lost, but the field is demanded");
    assert!(body["messages"][0].get("reasoning_content").is_none());
}

#[test]
fn tools_and_choice_are_translated() {
    let tools = json!([
        {"type": "function", "name": "f", "description": "d", "strict": false, "parameters": {"type": "object", "properties": {}}},
        {"type": "namespace", "name": "mcp__s", "tools": [{"type": "function", "name": "g"}]},
        {"type": "custom", "name": "apply_patch", "description": "Edits."},
    ]);
    let forced = json!({"type": "function", "namespace": "mcp__s", "name": "g"});
    let body = encode(json!({"input": "x", "tools": tools, "tool_choice": forced}));
    assert_eq!(
        body["tools"][0],
        json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}, "strict": false}})
    );
    assert_eq!(body["tool_choice"], json!({"type": "function", "function": {"name": "mcp__s__g"}}));
    assert_eq!(body["tools"][2]["function"]["parameters"]["required"], json!(["input"]));
    assert!(body.get("parallel_tool_calls").is_none());
    let none = encode(json!({"input": "x", "tool_choice": "required"}));
    assert!(none.get("tool_choice").is_none() && none.get("tools").is_none());
    let quirks = json!({"autoToolChoiceOnlyModels": ["m-1"], "parallelToolCalls": true});
    let (auto, _) = encode_with(
        quirks,
        json!({"input": "x", "tools": tools, "tool_choice": forced, "parallel_tool_calls": false}),
    );
    assert_eq!(
        (&auto["tool_choice"], &auto["parallel_tool_calls"]),
        (&json!("auto"), &json!(false))
    );
}

#[test]
fn each_way_of_thinking_has_its_field() {
    let with = |quirks: Value, effort: &str| {
        let (body, _) = encode_with(quirks, json!({"input": "x", "reasoning": {"effort": effort}}));
        let keep =
            ["reasoning_effort", "thinking", "thinking_budget", "reasoning", "reasoning_split"];
        let mut fields = body.as_object().unwrap().clone();
        fields.retain(|name, _| keep.contains(&name.as_str()));
        Value::Object(fields)
    };
    let models = json!(["m-1"]);
    assert_eq!(with(json!({}), "max"), json!({"reasoning_effort": "xhigh"}));
    assert_eq!(with(json!({}), "none"), json!({}));
    assert_eq!(with(json!({}), "warp"), json!({}));
    assert_eq!(with(json!({"noReasoningModels": models}), "high"), json!({}));
    let gateway = json!({"reasoningWireFormat": "gateway-object"});
    assert_eq!(
        with(gateway.clone(), "low"),
        json!({"reasoning": {"enabled": true, "effort": "low"}})
    );
    assert_eq!(with(gateway, "none"), json!({"reasoning": {"enabled": false}}));
    let budget = json!({"thinkingBudgetModels": models});
    assert_eq!(with(budget.clone(), "low"), json!({"thinking_budget": 6553}));
    assert_eq!(with(budget, "minimal"), json!({"thinking_budget": 0}));
    let toggle = json!({"thinkingToggleModels": models, "reasoningEffortMap": {"high": "enabled", "none": "disabled"}});
    assert_eq!(with(toggle.clone(), "high"), json!({"thinking": {"type": "enabled"}}));
    assert_eq!(with(toggle.clone(), "none"), json!({"thinking": {"type": "disabled"}}));
    assert_eq!(with(toggle, "low"), json!({}));
    assert_eq!(
        with(json!({"reasoningSplitModels": models}), "low"),
        json!({"reasoning_effort": "low", "reasoning_split": true})
    );
}

#[test]
fn refused_parameters_are_left_out_and_counted() {
    let quirks = json!({"noTemperatureModels": ["m-1"], "noPenaltyModels": ["m-1"],
        "maxTokensField": "max_completion_tokens", "modelMaxOutputTokens": {"m-1": 77}});
    let (body, losses) = encode_with(
        quirks.clone(),
        json!({"input": "x", "temperature": 0.5, "top_p": 0.25, "presence_penalty": 1}),
    );
    assert_eq!(losses.to_string(), "field=2");
    assert_eq!(
        body,
        json!({"model": "m-1", "stream": false, "max_completion_tokens": 77, "top_p": 0.25,
            "messages": [{"role": "user", "content": "x"}]})
    );
    let (body, _) = encode_with(quirks, json!({"input": "x", "max_output_tokens": 5}));
    assert_eq!(body["max_completion_tokens"], 5);
}

#[test]
fn structured_output_becomes_response_format() {
    let format = json!({"format": {"type": "json_schema", "name": "n", "strict": true, "schema": {"type": "object"}}});
    let body = encode(json!({"input": "x", "text": format}));
    assert_eq!(
        body["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}})
    );
    let body = encode(json!({"input": "x", "text": {"format": {"type": "json_object"}}}));
    assert_eq!(body["response_format"], json!({"type": "json_object"}));
}

#[test]
fn a_longer_history_begins_with_the_bytes_of_the_shorter() {
    let encode = |input: Value| {
        let target = Target {
            model: "m",
            base_url: "http://x",
            quirks: &Quirks::default(),
            headers: &[],
            credential: &Credential::None,
            sealer: None,
        };
        let body = json!({"model": "m", "stream": true, "input": input, "tools": [{"type": "function", "name": "f"}]});
        adapter(AdapterKind::OpenAiChat).encode(&prompt(&body), &target).unwrap().request.body
    };
    let mut history = vec![
        json!({"role": "developer", "content": "base"}),
        json!({"role": "user", "content": "one"}),
    ];
    let mut shorter = encode(history.clone().into());
    for n in 0..5 {
        let id = format!("c{n}");
        history.extend([call(&id), result(&id)]);
        let longer = encode(history.clone().into());
        // All but the `]}` that closes the list.
        assert!(longer.starts_with(&shorter[..shorter.len() - 2]));
        shorter = longer;
    }
}

#[test]
fn an_unfilled_placeholder_is_refused() {
    let target = Target {
        model: "m",
        base_url: "https://{account}.example/v1",
        quirks: &Quirks::default(),
        headers: &[],
        credential: &Credential::None,
        sealer: None,
    };
    let error = adapter(AdapterKind::OpenAiChat)
        .encode(&prompt(&json!({"model": "m"})), &target)
        .unwrap_err();
    assert!(error.to_string().contains("{account}"));
}
