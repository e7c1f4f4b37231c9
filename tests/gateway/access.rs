//! Who may come in: every route of the table, over real sockets.

use ocx::http::{AuthClass, ROUTES};
use serde_json::json;

use crate::{
    app::{ADMIN, App, JSON, provider},
    support::{
        chat,
        upstream::{Reply, Upstream},
    },
};

async fn app() -> (App, Upstream) {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    (App::chat(&upstream.base_url(), json!({})).await, upstream)
}

#[actix::test]
async fn t01_every_route_turns_away_a_foreign_host() {
    let (app, upstream) = app().await;
    let paths = ROUTES
        .iter()
        .map(|rule| (rule.method, rule.path))
        .chain([("GET", "/nowhere"), ("GET", "/v1/x")]);
    for (method, path) in paths {
        for host in ["evil.com", "127.0.0.1.nip.io", "localhost@evil", ""] {
            let headers = [
                JSON,
                ("host", host),
                ("x-forwarded-host", "localhost"),
                ("forwarded", "host=localhost"),
            ];
            let answer = app.send(&format!("{method} {path}"), &headers, b"").await;
            // actix itself refuses what is no host at all.
            assert!(
                matches!(answer.status, 421 | 400),
                "{method} {path} {host}: {}",
                answer.status
            );
        }
        let line = format!("{method} http://evil.com{path}");
        let absolute = app.send(&line, &[JSON, ("host", "localhost")], b"").await;
        assert_eq!(absolute.status, 421, "{line}");
    }
    assert!(upstream.asked().is_empty());
    assert!(app.metric("ocx_rejected_total{reason=\"bad_host\"}") > 0.0);
}

#[actix::test]
async fn t02_a_page_cannot_post() {
    let (app, upstream) = app().await;
    let body = json!({"model": "m", "input": "x"}).to_string();
    let post = "POST /v1/responses";
    let plain = app.send(post, &[("content-type", "text/plain")], body.as_bytes()).await;
    assert_eq!(plain.status, 415);
    for headers in [
        vec![JSON, ("origin", "https://evil.example")],
        vec![JSON, ("origin", "null")],
        vec![JSON, ("sec-fetch-site", "cross-site")],
    ] {
        let answer = app.send(post, &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 403, "{headers:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let preflight =
        app.send("OPTIONS /v1/responses", &[("origin", "https://evil.example")], b"").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (403, None));
    assert!(upstream.asked().is_empty(), "nothing reached the upstream");
    // The refusal comes before the body: it has hardly been sent.
    let huge = format!(
        "{post} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 10000000\r\n\r\n"
    );
    let early = app.raw(huge.as_bytes()).await;
    assert_eq!(early.status, 415);
}

#[actix::test]
async fn an_origin_that_the_config_names_may_call() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let app =
        App::chat(&upstream.base_url(), json!({"allowedOrigins": ["https://tools.example"]})).await;
    let origin = ("origin", "https://tools.example");
    let preflight = app.send("OPTIONS /v1/responses", &[origin], b"").await;
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (204, Some("https://tools.example"))
    );
    let body = json!({"model": "m", "input": "x", "stream": true}).to_string();
    let answer = app.send("POST /v1/responses", &[JSON, origin], body.as_bytes()).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("https://tools.example"))
    );
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[actix::test]
async fn t10_t11_beyond_loopback_every_route_takes_the_key_of_its_class() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let app = App::start(&json!({
        "hostname": "0.0.0.0", "apiKeys": ["data-key-1"], "adminToken": "admin-key-1",
        "defaultProvider": "chat", "providers": {"chat": provider(&upstream.base_url())},
    }))
    .await;
    let body = json!({"model": "m", "input": "x", "stream": true}).to_string();
    for rule in ROUTES {
        for (key, is) in [
            ("", "nothing"),
            ("wrong", "nothing"),
            ("data-key-1", "data"),
            ("admin-key-1", "admin"),
            (ADMIN, "nothing"),
        ] {
            let admitted = match rule.class {
                AuthClass::Public => true,
                AuthClass::Data => is == "data",
                AuthClass::Observe => is != "nothing",
                AuthClass::Admin => is == "admin",
            };
            let bearer = format!("Bearer {key}");
            for header in [("x-opencodex-api-key", key), ("authorization", bearer.as_str())] {
                let line = format!("{} {}", rule.method, rule.path);
                let answer = app.send(&line, &[JSON, header], body.as_bytes()).await;
                assert_eq!(
                    answer.status != 401,
                    admitted,
                    "{line} with {header:?}: {}",
                    answer.status
                );
            }
        }
    }
    let asked = upstream.asked();
    // Each of the two admitted keys, for `/v1/responses` and for `/v1/responses/compact`.
    assert_eq!(asked.len(), 4);
    assert!(
        asked.iter().all(|asked| asked.header("authorization").is_none()),
        "our key is not sent on"
    );
    for path in [
        "//v1/models",
        "/v1/%2e%2e/api/config/reload",
        "/API/config/reload",
        "/v1/models/",
        "/v1/models;x",
        "/api%2fconfig%2freload",
    ] {
        let answer = app.send(&format!("GET {path}"), &[], b"").await;
        assert!(matches!(answer.status, 404 | 401), "{path}: {}", answer.status);
    }
}

#[actix::test]
async fn unknown_paths_and_wrong_methods_are_json() {
    let (app, _) = app().await;
    for (line, status) in [
        ("GET /v1/nope", 404),
        ("POST /v1/chat/nope", 404),
        ("GET /api/nope", 404),
        ("GET /favicon.ico", 404),
        ("GET /v1/responses", 405),
        ("POST /healthz", 405),
    ] {
        let answer = app.send(line, &[JSON], b"").await;
        assert_eq!(answer.status, status, "{line}");
        assert!(answer.json()["error"]["message"].is_string(), "{line}");
    }
}

#[actix::test]
async fn a_websocket_upgrade_is_told_to_use_http() {
    let (app, _) = app().await;
    let headers =
        [("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", "x")];
    let answer = app.send("GET /v1/responses", &headers, b"").await;
    assert_eq!((answer.status, answer.error_code().as_str()), (426, "upgrade_required"));
}

#[actix::test]
async fn health_readiness_and_the_page() {
    let (app, _) = app().await;
    assert_eq!(app.get("/healthz").await.json()["status"], "ok");
    assert_eq!(app.get("/readyz").await.json()["generation"], 1);
    let page = app.get("/").await;
    assert!(page.text().contains("<td>chat<td>openai-chat"), "{}", page.text());
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    app.shared.lifecycle.drain();
    assert_eq!(app.get("/readyz").await.status, 503);
    let refused = app.ask("m").await;
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "server_shutdown"));
}
