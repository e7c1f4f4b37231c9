//! Several keys of one provider.

use serde_json::json;

use crate::{
    app::App,
    support::{
        chat,
        upstream::{Asked, Reply, Upstream},
    },
};

fn key(asked: &Asked) -> &str {
    asked.header("authorization").unwrap_or_default().trim_start_matches("Bearer ")
}

fn upstream() -> Upstream {
    Upstream::start(|asked| match key(asked) {
        "dead-key" => Reply::json(401, &json!({"error": {"message": "no such key: dead-key"}})),
        "busy-key" => Reply::with_headers(
            429,
            &[("content-type", "application/json"), ("retry-after", "30")],
            br#"{"error":{"message":"slow down"}}"#,
        ),
        _ => Reply::chat(&chat::end("stop")),
    })
}

async fn app(upstream: &Upstream, keys: &[&str]) -> App {
    let provider =
        json!({"adapter": "openai-chat", "baseUrl": upstream.base_url(), "apiKeys": keys});
    App::start(&json!({"providers": {"chat": provider}})).await
}

#[actix::test]
async fn with_one_dead_key_and_one_live_no_caller_sees_an_error() {
    let upstream = upstream();
    let app = app(&upstream, &["dead-key", "live-key"]).await;
    for _ in 0..20 {
        let answer = app.post(&json!({"model": "chat/m", "input": "x"})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let keys: Vec<_> = upstream.asked().iter().map(|asked| key(asked).to_owned()).collect();
    let dead = keys.iter().filter(|key| *key == "dead-key").count();
    assert_eq!((dead, keys.len()), (1, 21), "the dead one is probed once per interval: {keys:?}");
    assert_eq!(app.metric("ocx_retries_total{cause=\"key\""), 1.0);
}

#[actix::test]
async fn a_key_over_its_limit_rests_and_the_others_go_on() {
    let upstream = upstream();
    let app = app(&upstream, &["busy-key", "live-1", "live-2"]).await;
    for _ in 0..9 {
        assert_eq!(app.post(&json!({"model": "chat/m", "input": "x"})).await.status, 200);
    }
    let count = |wanted: &str| upstream.asked().iter().filter(|asked| key(asked) == wanted).count();
    assert_eq!(count("busy-key"), 1);
    assert!(count("live-1") >= 4 && count("live-2") >= 4, "they take turns");
}

#[actix::test]
async fn when_every_key_is_refused_the_caller_reads_the_upstreams_words() {
    let upstream = upstream();
    let app = app(&upstream, &["dead-key", "dead-key"]).await;
    let answer = app.post(&json!({"model": "chat/m", "input": "x"})).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("no such key") && !answer.text().contains("dead-key"));
    assert_eq!(upstream.asked().len(), 2, "each once");
    let resting = app.post(&json!({"model": "chat/m", "input": "x"})).await;
    assert_eq!(resting.status, 429);
    assert_eq!(upstream.asked().len(), 2);
}
