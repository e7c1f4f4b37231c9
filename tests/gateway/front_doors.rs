//! Chat Completions, Messages and Responses over every upstream protocol, streaming and not.

use serde_json::{Value, json};

use crate::{
    app::{App, JSON},
    support::{
        scripted::{Say, Scripted, Wire, call, text, think},
        upstream::{Reply, Upstream},
    },
};

async fn app(wire: Wire, scripted: &Scripted) -> App {
    App::start(&json!({"providers": {"up": wire.provider(&scripted.upstream)}})).await
}

fn said() -> Vec<Say> {
    vec![think("hm"), text("Hello you"), call("f", json!({"a": 1})), call("f", json!({}))]
}

/// Reasoning, text and calls of an answer, however it was given.
type Told = (String, String, Vec<(String, Value)>);

fn function(name: &Value, arguments: &Value) -> (String, Value) {
    let arguments = match arguments {
        Value::String(text) => serde_json::from_str(text).unwrap(),
        other => other.clone(),
    };
    (name.as_str().unwrap().to_owned(), arguments)
}

fn chat_told(message: &Value) -> Told {
    let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let calls = calls.iter().map(|c| function(&c["function"]["name"], &c["function"]["arguments"]));
    (text("reasoning_content"), text("content"), calls.collect())
}

fn chat_stream_told(frames: &[Value]) -> Told {
    let mut message = json!({"reasoning_content": "", "content": ""});
    let mut calls: Vec<Value> = Vec::new();
    let append = |value: &mut Value, more: &Value| {
        let more = more.as_str().unwrap_or_default();
        *value = format!("{}{more}", value.as_str().unwrap_or_default()).into();
    };
    for delta in frames.iter().filter_map(|frame| frame.pointer("/choices/0/delta")) {
        for key in ["content", "reasoning_content"] {
            append(&mut message[key], &delta[key]);
        }
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            if piece.get("id").is_some() {
                calls.push(piece.clone());
            } else {
                let index = usize::try_from(piece["index"].as_u64().unwrap()).unwrap();
                let arguments = &mut calls[index]["function"]["arguments"];
                append(arguments, &piece["function"]["arguments"]);
            }
        }
    }
    message["tool_calls"] = calls.into();
    chat_told(&message)
}

fn blocks_told(blocks: &[Value]) -> Told {
    let of = |kind: &str, key: &str| -> String {
        let blocks = blocks.iter().filter(|block| block["type"] == kind);
        blocks.map(|block| block[key].as_str().unwrap().to_owned()).collect()
    };
    let calls = blocks.iter().filter(|block| block["type"] == "tool_use");
    let calls = calls.map(|block| function(&block["name"], &block["input"])).collect();
    (of("thinking", "thinking"), of("text", "text"), calls)
}

fn messages_stream_told(frames: &[Value]) -> Told {
    let mut blocks: Vec<Value> = Vec::new();
    for frame in frames {
        match frame["type"].as_str().unwrap() {
            "content_block_start" => blocks.push(frame["content_block"].clone()),
            "content_block_delta" => {
                let block = blocks.last_mut().unwrap();
                for (key, from) in
                    [("text", "text"), ("thinking", "thinking"), ("json", "partial_json")]
                {
                    if let Some(more) = frame["delta"][from].as_str() {
                        block[key] =
                            format!("{}{more}", block[key].as_str().unwrap_or_default()).into();
                    }
                }
            }
            "content_block_stop" => {
                let block = blocks.last_mut().unwrap();
                if let Some(json) = block.get("json").cloned() {
                    block["input"] = serde_json::from_str(json.as_str().unwrap()).unwrap();
                }
            }
            _ => {}
        }
    }
    blocks_told(&blocks)
}

fn items_told(items: &[Value]) -> Told {
    let of = |kind: &str, pointer: &str| -> String {
        let items = items.iter().filter(|item| item["type"] == kind);
        items.filter_map(|item| item.pointer(pointer)?.as_str()).collect()
    };
    let calls = items.iter().filter(|item| item["type"] == "function_call");
    let calls = calls.map(|item| function(&item["name"], &item["arguments"])).collect();
    (of("reasoning", "/summary/0/text"), of("message", "/content/0/text"), calls)
}

fn expected() -> Told {
    let calls = vec![("f".to_owned(), json!({"a": 1})), ("f".to_owned(), json!({}))];
    ("hm".to_owned(), "Hello you".to_owned(), calls)
}

#[actix::test]
async fn p07_every_caller_gets_the_same_from_every_upstream_streamed_or_whole() {
    for wire in Wire::ALL {
        let scripted = Scripted::start(|_| said());
        let app = app(wire, &scripted).await;
        let model = format!("up/{}", wire.thinking_model());
        for stream in [true, false] {
            let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
            let chat = json!({"model": model, "stream": stream,
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]});
            let answer =
                app.send("POST /v1/chat/completions", &[JSON], chat.to_string().as_bytes()).await;
            let told = if stream {
                assert!(answer.text().ends_with("data: [DONE]\n\n"));
                chat_stream_told(&answer.events())
            } else {
                chat_told(&answer.json()["choices"][0]["message"])
            };
            assert_eq!(told, expected(), "chat completions over {wire:?}, stream: {stream}");

            let messages = json!({"model": model, "stream": stream, "max_tokens": 20_000,
                "thinking": {"type": "enabled", "budget_tokens": 4096},
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [{"name": "f", "input_schema": schema}]});
            let answer = app
                .send("POST /v1/messages?beta=true", &[JSON], messages.to_string().as_bytes())
                .await;
            let told = if stream {
                messages_stream_told(&answer.events())
            } else {
                assert_eq!(answer.json()["stop_reason"], "tool_use");
                blocks_told(answer.json()["content"].as_array().unwrap())
            };
            assert_eq!(told, expected(), "messages over {wire:?}, stream: {stream}");

            let responses = json!({"model": model, "stream": stream, "input": "hi",
                "reasoning": {"effort": "low", "summary": "auto"},
                "tools": [{"type": "function", "name": "f", "parameters": schema}]});
            let answer = app.post(&responses).await;
            let document =
                if stream { answer.terminal()["response"].clone() } else { answer.json() };
            let told = items_told(document["output"].as_array().unwrap());
            assert_eq!(told, expected(), "responses over {wire:?}, stream: {stream}");
            assert_eq!(document["usage"]["total_tokens"], 18);
        }
        scripted.assert_rules_kept();
        assert_eq!(app.metric("ocx_requests_total{outcome=\"ok\""), 6.0);
    }
}

#[actix::test]
async fn errors_have_the_shape_of_the_callers_protocol() {
    let upstream = Upstream::start(|_| {
        Reply::with_headers(
            429,
            &[("content-type", "application/json"), ("retry-after", "7")],
            br#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#,
        )
    });
    let provider = |wire: Wire| wire.provider(&upstream);
    let app = App::start(&json!({"providers": {"up": provider(Wire::Anthropic)}})).await;
    let chat = br#"{"model":"up/m","messages":[]}"#;
    let answer = app.send("POST /v1/chat/completions", &[JSON], chat).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    assert_eq!(answer.error_code(), "rate_limit_exceeded");
    let answer = app.send("POST /v1/messages", &[JSON], br#"{"model":"up/","messages":[]}"#).await;
    assert_eq!(answer.status, 400);
    let body = answer.json();
    assert_eq!(
        (&body["type"], &body["error"]["type"]),
        (&json!("error"), &json!("not_found_error"))
    );
    let answer = app.send("POST /v1/messages", &[JSON], b"{").await;
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
}

#[actix::test]
async fn a_stream_that_breaks_ends_as_the_caller_expects() {
    let cut = |_: &_| Reply::stream().frames(&[crate::support::chat::text("half")]).end();
    let upstream = Upstream::start(cut);
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let chat = br#"{"model":"m","stream":true,"messages":[]}"#;
    let answer = app.send("POST /v1/chat/completions", &[JSON], chat).await;
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    assert_eq!(answer.events().last().unwrap()["error"]["code"], "upstream_truncated");
    let answer = app.send("POST /v1/messages", &[JSON], chat).await;
    let last = answer.events().last().unwrap().clone();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")));
}

#[actix::test]
async fn tokens_are_counted_by_the_provider_or_estimated() {
    let body =
        json!({"model": "up/m", "messages": [{"role": "user", "content": "word ".repeat(300)}]});
    let count = |app: App| async move {
        let answer =
            app.send("POST /v1/messages/count_tokens", &[JSON], body.to_string().as_bytes()).await;
        let tokens = answer.json()["input_tokens"].as_u64().unwrap();
        (tokens, answer.header("x-ocx-estimated").is_some())
    };
    let scripted = Scripted::start(|_| Vec::new());
    assert_eq!(count.clone()(app(Wire::Anthropic, &scripted).await).await, (12, false));
    let (estimate, estimated) = count.clone()(app(Wire::Chat, &scripted).await).await;
    assert!(estimated && (300..900).contains(&estimate), "{estimate}");
    let without = Upstream::start(|_| Reply::json(404, &json!({"error": "no such path"})));
    let app = App::start(&json!({"providers": {"up": Wire::Anthropic.provider(&without)}})).await;
    assert!(count(app).await.1);
}

#[actix::test]
async fn strict_providers_refuse_what_others_count() {
    let scripted = Scripted::start(|_| vec![text("ok")]);
    let provider = Wire::Anthropic.provider(&scripted.upstream);
    let mut strict = provider.clone();
    strict["strict"] = true.into();
    let app = App::start(&json!({"providers": {"lax": provider, "strict": strict}})).await;
    let ask = |provider: &str| {
        json!({"model": format!("{provider}/m"), "stream": true, "presence_penalty": 1,
            "tools": [{"type": "web_search"}], "input": "hi"})
    };
    let answer = app.post(&ask("lax")).await;
    assert_eq!(answer.header("x-ocx-losses"), Some("hosted_tool=1,field=1"));
    assert_eq!(
        app.metric("ocx_translation_drops_total{kind=\"hosted_tool\",provider=\"lax\"}"),
        1.0
    );
    let answer = app.post(&ask("strict")).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (400, "lossy_translation"));
    assert!(answer.text().contains("hosted_tool=1,field=1"), "{}", answer.text());
    assert_eq!(scripted.questions().len(), 1, "nothing was sent");
    // What other protocols have not by nature is no reason to refuse.
    let grammar = json!({"model": "strict/m", "stream": true, "input": "hi", "tools": [
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}}]});
    assert_eq!(app.post(&grammar).await.terminal()["type"], "response.completed");
}

#[actix::test]
async fn a_foreign_or_tampered_capsule_is_dropped_and_counted() {
    let scripted = Scripted::start(|_| vec![think("hm"), call("f", json!({}))]);
    let app = app(Wire::Anthropic, &scripted).await;
    let tools = json!([{"type": "function", "name": "f"}]);
    let ask = |input: &Value| {
        json!({"model": "up/claude-sonnet-4-5", "stream": true, "input": input, "tools": tools,
            "reasoning": {"effort": "low"}})
    };
    let first = app.post(&ask(&json!("hi"))).await.terminal();
    let output = first["response"]["output"].as_array().unwrap().clone();
    let sealed = output[0]["encrypted_content"].as_str().unwrap().to_owned();
    assert!(sealed.starts_with("ocxr1:"));
    let result =
        json!({"type": "function_call_output", "call_id": output[1]["call_id"], "output": "r"});
    let history = |capsule: &str| {
        let mut reasoning = output[0].clone();
        reasoning["encrypted_content"] = capsule.into();
        json!([{"role": "user", "content": "hi"}, reasoning, output[1], result])
    };
    app.post(&ask(&history(&sealed))).await.terminal();
    assert!(scripted.questions()[1].body.to_string().contains("sig-0-0"));
    assert_eq!(app.metric("ocx_translation_drops_total{kind=\"reasoning\""), 0.0);
    let tampered = sealed.replace("ocxr1:", "ocxr1:A");
    for (n, capsule) in [tampered.as_str(), "gAAAAAforeign"].into_iter().enumerate() {
        let answer = app.post(&ask(&history(capsule))).await;
        assert_eq!(answer.terminal()["type"], "response.completed");
        assert_eq!(answer.header("x-ocx-losses"), Some("reasoning=1,field=1"));
        assert!(!scripted.questions()[2 + n].body.to_string().contains("\"thinking\""));
    }
    assert_eq!(app.metric("ocx_translation_drops_total{kind=\"reasoning\""), 2.0);
    scripted.assert_rules_kept();
}
