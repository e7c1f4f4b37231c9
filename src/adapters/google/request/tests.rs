use serde_json::{Value, json};

use crate::{
    adapters::{Target, adapter},
    callers::Protocol,
    credentials::{CapsuleKey, Credential, Sealer},
    model::ReasoningState,
    registry::{AdapterKind, Quirks},
};

fn sealer() -> Sealer {
    CapsuleKey::new([3; 32]).sealer("google", "https://g.example")
}

fn encode_for(model: &str, mut body: Value) -> (String, Value, String) {
    body["model"] = "m".into();
    let prompt = Protocol::Responses.parse(body.to_string().into()).expect("a body").prompt;
    let target = Target {
        model,
        base_url: "https://g.example/v1beta/",
        quirks: &Quirks::default(),
        headers: &[],
        credential: &Credential::Key("k-1".into()),
        sealer: Some(&sealer()),
    };
    let encoded = adapter(AdapterKind::Google).encode(&prompt, &target).expect("a request");
    assert!(!encoded.request.url.contains("k-1"));
    let body = serde_json::from_slice(&encoded.request.body).expect("JSON");
    (encoded.request.url, body, encoded.losses.to_string())
}

fn encode(body: Value) -> (Value, String) {
    let (_, body, losses) = encode_for("gemini-2.5-pro", body);
    (body, losses)
}

fn signed(signature: &str) -> Value {
    let state = ReasoningState { signature: Some(signature.into()), ..ReasoningState::default() };
    json!({"type": "reasoning", "summary": [], "encrypted_content": sealer().seal(&state)})
}

fn call(id: &str) -> Value {
    json!({"type": "function_call", "name": "f", "namespace": "ns", "call_id": id, "arguments": "{\"x\":1}"})
}

#[test]
fn the_address_names_the_model_and_the_method() {
    let (url, _, _) = encode_for("models/gemini-2.5-pro", json!({"stream": true}));
    assert_eq!(url, "https://g.example/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse");
    let (url, _, _) = encode_for("gemini-2.5-pro", json!({}));
    assert_eq!(url, "https://g.example/v1beta/models/gemini-2.5-pro:generateContent");
}

#[test]
fn a_model_name_cannot_lead_elsewhere() {
    let prompt = Protocol::Responses.parse(r#"{"model":"m"}"#.into()).expect("a body").prompt;
    for model in ["../../x", "m?key=1", "m#x", "a b"] {
        let target = Target {
            model,
            base_url: "https://g.example",
            quirks: &Quirks::default(),
            headers: &[],
            credential: &Credential::None,
            sealer: None,
        };
        assert!(adapter(AdapterKind::Google).encode(&prompt, &target).is_err(), "{model}");
    }
}

#[test]
fn a_tool_turn_with_signatures_where_they_came() {
    let (_, body, losses) = encode_for(
        "gemini-3-pro",
        json!({"input": [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": [{"type": "input_text", "text": "hi"},
            {"type": "input_image", "image_url": "data:image/png;base64,eA=="},
            {"type": "input_image", "image_url": "https://h/x.png"}]},
        signed("s1"), call("c1"), call("c2"),
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        call("c3"),
        {"type": "function_call_output", "call_id": "c3", "output": "three"},
        {"role": "assistant", "content": "done"}, signed("s2"),
        {"role": "user", "content": "next"}]}),
    );
    assert_eq!(losses, "image=1");
    assert_eq!(body["systemInstruction"], json!({"parts": [{"text": "rules"}]}));
    let function = |id: &str| json!({"id": id, "name": "ns__f", "args": {"x": 1}});
    let answer = |id: &str, text: &str| json!({"functionResponse": {"id": id, "name": "ns__f", "response": {"result": text}}});
    assert_eq!(
        body["contents"],
        json!([
            {"role": "user", "parts": [{"text": "hi"}, {"inlineData": {"mimeType": "image/png", "data": "eA=="}},
                {"text": "[an image was attached, which this model cannot see]"}]},
            {"role": "model", "parts": [
                {"functionCall": function("c1"), "thoughtSignature": "s1"}, {"functionCall": function("c2")}]},
            {"role": "user", "parts": [answer("c1", "one"), answer("c2", "two")]},
            {"role": "model", "parts": [
                {"functionCall": function("c3"), "thoughtSignature": "skip_thought_signature_validator"}]},
            {"role": "user", "parts": [answer("c3", "three")]},
            {"role": "model", "parts": [{"text": "done", "thoughtSignature": "s2"}]},
            {"role": "user", "parts": [{"text": "next"}]},
        ])
    );
}

#[test]
fn thinking_in_the_form_of_the_generation() {
    let thinking = |model: &str, reasoning: Value| {
        encode_for(model, json!({"reasoning": reasoning})).1["generationConfig"]["thinkingConfig"]
            .clone()
    };
    let high = || json!({"effort": "high", "summary": "auto"});
    assert_eq!(
        thinking("gemini-3-pro", high()),
        json!({"thinkingLevel": "high", "includeThoughts": true})
    );
    assert_eq!(
        thinking("gemini-3-flash", json!({"effort": "minimal"})),
        json!({"thinkingLevel": "minimal", "includeThoughts": false})
    );
    assert_eq!(
        thinking("gemini-2.5-pro", json!({"effort": "none"})),
        json!({"thinkingBudget": 128, "includeThoughts": false})
    );
    assert_eq!(
        thinking("gemini-2.5-flash", high()),
        json!({"thinkingBudget": 24576, "includeThoughts": true})
    );
    assert_eq!(thinking("gemini-2.0-flash", high()), Value::Null);
    assert_eq!(thinking("gemma-3", high()), Value::Null);
    let (_, _, lost) = encode_for("gemma-3", json!({"reasoning": {"effort": "high"}}));
    assert_eq!(lost, "field=1", "the effort");
    assert_eq!(thinking("gemini-3-pro", Value::Null), Value::Null);
}

#[test]
fn options_and_losses() {
    let asked = json!({"tools": [
            {"type": "function", "name": "f", "strict": true, "parameters": {"type": "object",
                "properties": {"a": {"type": "string", "pattern": "x"}}}},
            {"type": "function", "name": "g"}],
        "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false,
        "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 7, "stop": "X",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}});
    let (_, body, losses) = encode_for("gemini-3-pro", asked.clone());
    assert_eq!(losses, "tool_schema=1,field=2");
    let (older, losses) = encode(asked);
    assert_eq!(losses, "tool_schema=1,field=3", "JSON and tools exclude each other there");
    assert_eq!(older["generationConfig"].get("responseMimeType"), None);
    assert_eq!(
        body["generationConfig"],
        json!({"maxOutputTokens": 7, "temperature": 0.5, "topP": 0.9, "stopSequences": ["X"],
            "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}})
    );
    assert_eq!(
        body["toolConfig"]["functionCallingConfig"],
        json!({"mode": "ANY", "allowedFunctionNames": ["f"]})
    );
    let functions = &body["tools"][0]["functionDeclarations"];
    assert_eq!(functions[0]["parametersJsonSchema"]["properties"]["a"], json!({"type": "string"}));
    assert_eq!(functions[1].get("parametersJsonSchema"), None);
    assert_eq!(
        encode(json!({})).0["contents"],
        json!([{"role": "user", "parts": [{"text": "(empty)"}]}])
    );
}
