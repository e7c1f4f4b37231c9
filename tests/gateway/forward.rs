//! The caller's own ChatGPT login, relayed: listed headers only, to the trusted origin only.

use serde_json::{Value, json};

use crate::{
    app::{App, JSON, provider},
    support::upstream::{Reply, Upstream},
};

const CREATED: &str = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_up","headers":{"openai-model":"other"}}}"#;
const DELTA: &str = r#"{"type":"response.output_text.delta","sequence_number":1,"item_id":"m","output_index":0,"content_index":0,"delta":"é"}"#;
const COMPLETED: &str = r#"{"type":"response.completed","sequence_number":2,"response":{"id":"resp_up","object":"response","status":"completed","output":[{"type":"message"}],"usage":{"input_tokens":2,"output_tokens":1}}}"#;

fn stream() -> Reply {
    let frames = [CREATED, DELTA, COMPLETED].map(|frame| serde_json::Value::String(frame.into()));
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
        x-request-id: req_up\r\nx-codex-turn-state: sticky\r\nopenai-model: other\r\nset-cookie: evil=1\r\n\
        access-control-allow-origin: *\r\nx-ratelimit-limit-requests: 5\r\nopenai-processing-ms: 7\r\n\r\n";
    let mut reply = Reply(vec![crate::support::upstream::Step::Raw(head.to_vec())]);
    reply = reply.frames(&frames);
    reply.end()
}

fn upstream() -> Upstream {
    Upstream::start(|asked| {
        if asked.line.starts_with("GET") {
            return Reply::json(200, &json!({"models": [{"slug": "gpt-native", "x": 1}]}));
        }
        match asked.json()["model"].as_str() {
            Some("expired") => Reply::json(401, &json!({"error": {"message": "token expired"}})),
            Some("bare-error") => Reply::stream()
                .frames(&[json!({"type": "error", "error": {"message": "boom", "code": "x"}})])
                .end(),
            Some("cut") => Reply::stream()
                .frames(&[Value::String(CREATED.into()), Value::String(DELTA.into())])
                .end(),
            _ => stream(),
        }
    })
}

async fn app(upstream: &Upstream) -> App {
    let origin = format!("http://{}", upstream.address);
    App::start(&json!({"providers": {
        "openai": {"baseUrl": format!("{origin}/backend-api/codex"), "forwardOrigin": origin},
        "chat": provider(&upstream.base_url()),
    }}))
    .await
}

const LOGIN: [(&str, &str); 6] = [
    JSON,
    ("authorization", "Bearer chatgpt-token-canary"),
    ("chatgpt-account-id", "acct-1"),
    ("originator", "codex_exec"),
    ("cookie", "session=1"),
    ("user-agent", "codex/1"),
];

async fn ask(app: &App, body: Value) -> crate::app::Answer {
    app.send("POST /v1/responses", &LOGIN, body.to_string().as_bytes()).await
}

#[actix::test]
async fn p11_listed_headers_go_to_the_forward_provider_and_none_to_others() {
    let upstream = upstream();
    let app = app(&upstream).await;
    ask(&app, json!({"model": "gpt-5.5", "input": "x", "stream": true})).await;
    ask(&app, json!({"model": "chat/m", "input": "x", "stream": true})).await;
    let asked = upstream.asked();
    assert_eq!(asked[0].line, "POST /backend-api/codex/responses HTTP/1.1");
    let names: Vec<_> = asked[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "accept",
            "accept-encoding",
            "authorization",
            "chatgpt-account-id",
            "content-length",
            "content-type",
            "date",
            "host",
            "originator",
            "user-agent"
        ]
    );
    assert_eq!(asked[0].header("authorization"), Some("Bearer chatgpt-token-canary"));
    assert!(asked[0].header("user-agent").unwrap().starts_with("opencodex/"), "we are ourselves");
    for (route, body) in [
        ("POST /v1/messages", json!({"model": "gpt-5.5", "max_tokens": 9, "messages": []})),
        ("POST /v1/messages/count_tokens", json!({"model": "gpt-5.5", "messages": []})),
        ("POST /v1/chat/completions", json!({"model": "gpt-5.5", "messages": []})),
    ] {
        let answer = app.send(route, &LOGIN, body.to_string().as_bytes()).await;
        assert_eq!(answer.status, 401, "{route}: the key of another vendor's client is no login");
    }
    assert_eq!(upstream.asked().len(), 2);
    let to_chat = format!("{:?}", asked[1].headers);
    assert!(!to_chat.contains("canary") && !to_chat.contains("acct-1"), "{to_chat}");
}

#[actix::test]
async fn t25_frames_pass_verbatim_and_of_the_headers_only_harmless_ones() {
    let upstream = upstream();
    let app = app(&upstream).await;
    let answer = ask(&app, json!({"model": "gpt-5.5", "input": "x", "stream": true})).await;
    let created = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_up"}}"#;
    let expected = format!(
        "event: response.created\ndata: {created}\n\nevent: response.output_text.delta\ndata: {DELTA}\n\n\
         event: response.completed\ndata: {COMPLETED}\n\ndata: [DONE]\n\n"
    );
    assert_eq!(answer.text(), expected);
    assert_eq!(answer.header("x-codex-turn-state"), Some("sticky"));
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("5"));
    for never in ["openai-model", "set-cookie", "access-control-allow-origin"] {
        assert_eq!(answer.header(never), None, "{never}");
    }
    assert_eq!(app.metric("ocx_requests_total{outcome=\"ok\""), 1.0);
}

#[actix::test]
async fn a_caller_of_a_document_gets_the_end_of_the_stream() {
    let upstream = upstream();
    let app = app(&upstream).await;
    let answer = ask(&app, json!({"model": "gpt-5.5", "input": "x"})).await;
    assert_eq!(answer.json()["output"], json!([{"type": "message"}]));
    assert_eq!(upstream.asked()[0].json()["stream"], true);
    assert_eq!(upstream.asked()[0].json()["store"], false);
}

#[actix::test]
async fn failures_reach_codex_in_the_form_it_understands() {
    let upstream = upstream();
    let app = app(&upstream).await;
    let expired = ask(&app, json!({"model": "openai/expired", "input": "x", "stream": true})).await;
    assert_eq!(expired.status, 401, "Codex renews its login");
    let bare = ask(&app, json!({"model": "openai/bare-error", "input": "x", "stream": true})).await;
    assert_eq!((bare.status, bare.error_code().as_str()), (502, "upstream_error"));
    let cut = ask(&app, json!({"model": "openai/cut", "input": "x", "stream": true})).await;
    let terminal = cut.terminal();
    assert_eq!(terminal["type"], "response.failed");
    assert_eq!(terminal["sequence_number"], 2, "it follows the upstream's own numbers");
    let nobody = app.post(&json!({"model": "gpt-5.5", "input": "x"})).await;
    assert_eq!(nobody.status, 401);
    assert!(nobody.text().contains("codex login"));
    let sent = upstream.asked().len();
    assert_eq!(sent, 3, "without a login nothing is sent");
}

#[actix::test]
async fn codex_gets_its_native_catalogue_and_ours() {
    let upstream = upstream();
    let app = app(&upstream).await;
    let answer = app.send("GET /v1/models?client_version=0.169.0", &LOGIN, b"").await;
    let document = answer.json();
    let models = document["models"].as_array().unwrap();
    assert_eq!(models[0], json!({"slug": "gpt-native", "x": 1}));
    let asked = upstream.asked();
    assert_eq!(asked[0].line, "GET /backend-api/codex/models?client_version=0.169.0 HTTP/1.1");
    let plain = app.get("/v1/models").await.json();
    assert_eq!(plain["object"], "list");
    assert!(plain["data"].as_array().unwrap().iter().any(|model| model["id"] == "gpt-5.5"));
}

#[actix::test]
async fn a_key_provider_of_the_same_protocol_gets_its_key_and_not_the_login() {
    let upstream = Upstream::start(|_| stream());
    let app = App::start(&json!({"providers": {"api": {
        "adapter": "openai-responses", "baseUrl": upstream.base_url(), "apiKey": "sk-api"}}}))
    .await;
    let answer = ask(&app, json!({"model": "api/m", "input": "x", "stream": true})).await;
    assert_eq!(answer.terminal()["type"], "response.completed");
    let asked = &upstream.asked()[0];
    assert_eq!(asked.line, "POST /v1/responses HTTP/1.1");
    assert_eq!(asked.header("authorization"), Some("Bearer sk-api"));
    assert_eq!(asked.header("chatgpt-account-id"), None);
}
