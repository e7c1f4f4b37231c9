//! Nothing that a caller, a config or an upstream sends brings the gateway down, and each oddity has
//! its own clear error.

use std::io::Write as _;

use serde_json::json;

use crate::{
    app::{App, JSON, provider},
    support::{
        chat,
        upstream::{Reply, Step, Upstream},
    },
};

/// What must hold after every oddity: the gateway goes on, and nothing is left open.
async fn goes_on(app: &App, what: &str) {
    let answer = app.ask("chat/good").await;
    assert_eq!(answer.terminal()["type"], "response.completed", "after {what}");
    assert_eq!(app.metric("ocx_inflight_requests"), 0.0, "after {what}");
}

fn upstream() -> Upstream {
    Upstream::start(|asked| match asked.json()["model"].as_str().unwrap() {
        "error-in-200" => Reply::json(
            200,
            &json!({"error": {"message": "no credits", "code": "insufficient_quota"}}),
        ),
        "html" => Reply::body(200, "text/html", b"<html>captive portal</html>"),
        "html-as-json" => Reply::body(200, "application/json", b"<html>"),
        "empty" => Reply::body(200, "application/json", b""),
        "empty-stream" => Reply::stream().end(),
        "close-delimited" => {
            let text = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: [DONE]\n\n";
            Reply(vec![Step::Raw(text.as_bytes().to_vec()), Step::Close(false)])
        }
        "long-line" => {
            let mut reply = Reply::stream().chunk(b"data: {\"x\":\"");
            for _ in 0..17 {
                reply = reply.chunk(&vec![b'a'; 1 << 20]);
            }
            reply.end()
        }
        "redirect" => Reply::with_headers(307, &[("location", "http://127.0.0.1:1/")], b""),
        "early-hints" => {
            let text = "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            Reply(vec![Step::Raw(text.as_bytes().to_vec())])
        }
        "gzipped" => Reply::with_headers(
            200,
            &[("content-encoding", "gzip"), ("content-type", "application/json")],
            b"x",
        ),
        "no-http" => {
            Reply(vec![Step::Raw(b"SSH-2.0-OpenSSH_9\r\n\r\n".to_vec()), Step::Close(false)])
        }
        "many-headers" => {
            let mut text = "HTTP/1.1 200 OK\r\n".to_owned();
            (0..120).for_each(|n| text.push_str(&format!("x-{n}: 1\r\n")));
            Reply(vec![Step::Raw(format!("{text}content-length: 0\r\n\r\n").into_bytes())])
        }
        "garbage-frames" => Reply::stream().chunk(b"data: this is no json\n\n").end(),
        "undeclared-tool" => Reply::chat(
            &[chat::call(0, "c", "launch", &json!({}))]
                .into_iter()
                .chain(chat::end("tool_calls"))
                .collect::<Vec<_>>(),
        ),
        _ => Reply::chat(&chat::end("stop")),
    })
}

#[actix::test]
async fn odd_upstreams() {
    let upstream = upstream();
    let app = App::chat(&upstream.base_url(), json!({})).await;
    for (model, status, code, words) in [
        ("error-in-200", 429, "insufficient_quota", "no credits"),
        ("html", 502, "upstream_error", "HTML page"),
        ("html-as-json", 502, "upstream_error", "malformed"),
        ("empty", 502, "upstream_empty_body", "empty body"),
        ("empty-stream", 502, "upstream_empty_body", "empty body"),
        ("close-delimited", 502, "upstream_empty_body", "closing an HTTP/1.1 connection"),
        ("long-line", 502, "upstream_error", "longer than 16777216 bytes"),
        ("redirect", 400, "upstream_redirect_refused", "never followed"),
        ("early-hints", 502, "upstream_error", "interim status (103)"),
        ("gzipped", 502, "upstream_error", "compressed its answer (gzip)"),
        ("no-http", 502, "upstream_error", "no HTTP"),
        ("many-headers", 502, "upstream_error", "no HTTP"),
        ("garbage-frames", 502, "upstream_error", "no JSON"),
    ] {
        let answer = app.ask(model).await;
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (status, code),
            "{model}: {}",
            answer.text()
        );
        assert!(answer.text().contains(words), "{model}: {}", answer.text());
        goes_on(&app, model).await;
    }
    let tool = app.ask("undeclared-tool").await.terminal();
    assert_eq!(tool["response"]["error"]["code"], "undeclared_tool");
    assert_eq!(app.metric("ocx_requests_total{outcome=\"upstream_error\""), 12.0);
    assert_eq!(app.metric("ocx_requests_total{outcome=\"quota\""), 1.0);
}

#[actix::test]
async fn odd_requests() {
    let upstream = upstream();
    let config = json!({"maxBodyBytes": 100_000, "defaultProvider": "nowhere", "providers": {
        "chat": provider(&upstream.base_url()),
        "holes": provider("https://{account}.example/v1"),
        "keyless": {"adapter": "openai-chat", "baseUrl": upstream.base_url(), "apiKey": "${OCX_TEST_UNSET}"},
        "nowhere": {"adapter": "openai-chat", "baseUrl": "http://127.0.0.1:1", "disabled": true},
    }});
    let app = App::start(&config).await;
    let good = json!({"model": "chat/m", "input": "x"}).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![b' '; 50 << 20]).unwrap();
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 100_000);
    let big = format!("{{\"model\":\"chat/m\",\"input\":\"{}\"}}", "x".repeat(200_000));
    let plain: &[(&str, &str)] = &[JSON];
    let encoded = |name| [JSON, ("content-encoding", name)];
    for (what, headers, body, code, words) in [
        ("invalid JSON", plain, &b"{\"model\":"[..], "invalid_request_error", "invalid JSON"),
        ("no body", plain, b"", "invalid_request_error", "invalid JSON"),
        ("a list", plain, b"[]", "invalid_request_error", "must be a JSON object"),
        ("no model", plain, b"{}", "invalid_request_error", "/model"),
        (
            "a wrong type",
            plain,
            br#"{"model":"m","temperature":"hot"}"#,
            "invalid_request_error",
            "/temperature",
        ),
        ("a disabled provider", plain, br#"{"model":"nowhere/m"}"#, "model_not_found", "disabled"),
        ("an unknown model", plain, br#"{"model":"zzz"}"#, "model_not_found", "provider/model"),
        ("a provider without model", plain, br#"{"model":"chat/"}"#, "model_not_found", "no model"),
        (
            "an earlier answer",
            plain,
            br#"{"model":"chat/m","previous_response_id":"resp_1"}"#,
            "previous_response_not_found",
            "whole",
        ),
        ("a placeholder", plain, br#"{"model":"holes/m"}"#, "invalid_request_error", "{account}"),
        ("no key", plain, br#"{"model":"keyless/m"}"#, "invalid_api_key", "OCX_TEST_UNSET"),
        ("oversize", plain, big.as_bytes(), "request_too_large", "100000 bytes"),
        ("a bomb", &encoded("gzip"), &bomb, "request_too_large", "100000 bytes"),
        ("unknown coding", &encoded("lzma"), good.as_bytes(), "invalid_request_error", "zstd"),
        ("corrupt gzip", &encoded("gzip"), good.as_bytes(), "invalid_request_error", "decompress"),
        ("corrupt zstd", &encoded("zstd"), good.as_bytes(), "invalid_request_error", "decompress"),
    ] {
        let answer = app.send("POST /v1/responses", headers, body).await;
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (400, code),
            "{what}: {}",
            answer.text()
        );
        assert!(answer.text().contains(words), "{what}: {}", answer.text());
        goes_on(&app, what).await;
    }
    assert_eq!(app.metric("ocx_requests_total{outcome=\"client_error\""), 15.0);
    assert_eq!(app.metric("ocx_requests_total{outcome=\"auth\""), 1.0);
}

#[actix::test]
async fn compressed_bodies_are_read() {
    let upstream = upstream();
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let body = json!({"model": "chat/m", "input": "x", "stream": true}).to_string();
    let zstd = zstd::encode_all(body.as_bytes(), 3).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    for (name, bytes) in
        [("zstd", zstd), ("gzip", gzip.finish().unwrap()), ("identity", body.into_bytes())]
    {
        let answer =
            app.send("POST /v1/responses", &[JSON, ("content-encoding", name)], &bytes).await;
        assert_eq!(answer.terminal()["type"], "response.completed", "{name}");
    }
}

#[actix::test]
async fn t29_an_upstream_that_echoes_the_key_does_not_give_it_away() {
    let upstream = Upstream::start(|asked| {
        let key = asked.header("authorization").unwrap().replace("Bearer ", "");
        let error = json!({"error": {"message": format!("Incorrect API key provided: {key}.")}});
        if asked.line.contains("/v1/responses") {
            let failed = json!({"type": "response.failed", "response": {"status": "failed", "error":
                {"code": "server_error", "message": format!("{}{key}", "x".repeat(490))}}});
            return Reply::stream()
                .frames(&[json!({"type": "response.created", "response": {}}), failed])
                .end();
        }
        if asked.json()["model"] == "in-stream" {
            return Reply::chat(&[chat::text("x"), error]);
        }
        Reply::json(401, &error)
    });
    let keyed = |adapter: &str| json!({"adapter": adapter, "baseUrl": upstream.base_url(), "apiKey": "sk-canary-0123456789"});
    let config = json!({"providers": {"k": keyed("openai-chat"), "r": keyed("openai-responses")}});
    let app = App::start(&config).await;
    for model in ["k/before", "k/in-stream", "r/relayed"] {
        let answer = app.ask(model).await;
        // The relayed one is clipped within the mark, after the key was blotted out.
        assert!(answer.text().contains("[redacted"), "{}", answer.text());
        assert!(!answer.text().contains("sk-can"), "{}", answer.text());
    }
    assert!(!app.get("/metrics").await.text().contains("canary"));
}

#[actix::test]
async fn x10_a_body_that_drips_is_given_up_after_ten_silent_seconds() {
    use tokio::io::AsyncWriteExt as _;
    let upstream = upstream();
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let head = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{";
    let mut socket = tokio::net::TcpStream::connect(app.address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let started = std::time::Instant::now();
    let mut bytes = vec![0; 4096];
    let read = tokio::io::AsyncReadExt::read(&mut socket, &mut bytes).await.unwrap();
    let answer = crate::app::parse_answer(&bytes[..read]);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("too slowly"), "{}", answer.text());
    assert!((9..13).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[actix::test]
async fn t24_an_endless_answer_to_a_caller_of_a_document_is_given_up() {
    let upstream = Upstream::start(|_| {
        let text = chat::text(&"x".repeat(1 << 20));
        (0..200).fold(Reply::stream(), |reply, _| reply.frames([&text])).end()
    });
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let answer = app.post(&json!({"model": "m", "input": "x"})).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (502, "upstream_error"));
    assert!(answer.text().contains("longer than"), "{}", answer.text());
}

#[actix::test]
async fn f16_a_caller_that_does_not_read_frees_its_slot_and_the_upstream() {
    use tokio::io::AsyncWriteExt as _;
    let upstream = Upstream::start(|asked| {
        if asked.number > 0 {
            return Reply::chat(&chat::end("stop"));
        }
        // More than kernel buffers take, less than the limit of an answer.
        let text = chat::text(&"x".repeat(1 << 20));
        (0..30).fold(Reply::stream(), |reply, _| reply.frames([&text])).end()
    });
    let mut only = provider(&upstream.base_url());
    only["maxConcurrency"] = json!(1);
    let config = json!({"clientWriteTimeoutMs": 1000, "providers": {"chat": only}});
    let app = App::start(&config).await;
    let body = json!({"model": "chat/m", "input": "x", "stream": true}).to_string();
    let bytes = crate::app::request(app.address, "POST /v1/responses", &[JSON], body.as_bytes());
    let mut socket = tokio::net::TcpStream::connect(app.address).await.unwrap();
    socket.write_all(&bytes).await.unwrap();
    actix_rt::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(app.ask("chat/m").await.error_code(), "saturated");
    actix_rt::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(app.ask("chat/m").await.terminal()["type"], "response.completed");
    let answer = crate::app::read_answer(&mut socket).await;
    assert!(answer.text().contains("took nothing of the answer"), "told when it reads again");
}
