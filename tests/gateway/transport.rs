//! What awc and actix would get wrong by default.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    app::{App, provider},
    supervision::paced,
    support::{
        chat,
        upstream::{Reply, Step, Upstream},
    },
};

#[actix::test]
async fn x05_two_hundred_and_fifty_streams_to_one_host_do_not_stop_another() {
    let slow = Upstream::start(|_| {
        Reply::stream().frames(&[chat::text("x")]).pause(2500).frames(&chat::end("stop")).end()
    });
    let quick = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let config = json!({"workers": 1, "providers": {"slow": provider(&slow.base_url()), "quick": provider(&quick.base_url())}});
    let app = App::start(&config).await;
    let streams = (0..250).map(|_| app.post_owned("slow/m"));
    let other = async {
        actix_rt::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(app.metric("ocx_open_streams"), 250.0);
        let started = Instant::now();
        assert_eq!(app.ask("quick/m").await.terminal()["type"], "response.completed");
        started.elapsed()
    };
    let (answers, took) = tokio::join!(join_all(streams), other);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(answers.iter().all(|answer| answer.terminal()["type"] == "response.completed"));
}

#[actix::test]
async fn x04_a_redirect_takes_neither_key_nor_prompt_anywhere() {
    let thief = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let to = format!("http://{}/v1/chat/completions", thief.address);
    let upstream = Upstream::start(move |asked| {
        let status = asked.json()["model"].as_str().unwrap().parse().unwrap();
        Reply::with_headers(status, &[("location", &to)], b"")
    });
    let app = App::start(
        &json!({"providers": {"k": {"adapter": "openai-chat", "baseUrl": upstream.base_url(),
        "apiKey": "sk-1", "headers": {"x-api-key": "also-secret"}}}}),
    )
    .await;
    for status in [301, 302, 303, 307, 308] {
        let answer = app.ask(&format!("k/{status}")).await;
        assert_eq!(answer.status, 400, "{status}");
        assert!(answer.text().contains("redirect"), "{}", answer.text());
    }
    assert_eq!(thief.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[actix::test]
async fn small_frames_are_not_held_back() {
    let upstream = Upstream::start(|_| paced(60, 10));
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let started = Instant::now();
    app.ask("m").await;
    // Nagle against delayed acknowledgement would cost 40 ms for many of the sixty.
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[actix::test]
async fn a_finished_connection_is_used_again() {
    // The end of the body comes after the end of the protocol, in a packet of its own.
    let upstream = Upstream::start(|_| Reply::stream().frames(&chat::end("stop")).pause(10).end());
    let mut config = crate::app::chat_config(&upstream.base_url());
    config["workers"] = json!(1);
    let app = App::start(&config).await;
    for _ in 0..20 {
        assert_eq!(app.ask("m").await.terminal()["type"], "response.completed");
        actix_rt::time::sleep(Duration::from_millis(50)).await;
    }
    let connections = upstream.connections.load(std::sync::atomic::Ordering::SeqCst);
    // One, if nothing ever waits 40 ms; a busy machine may take some more.
    assert!(connections <= 10, "{connections} connections for 20 streams");
}

#[actix::test]
async fn an_upstream_that_keeps_the_connection_after_the_end_holds_nobody() {
    let upstream =
        Upstream::start(|_| Reply::stream().frames(&chat::end("stop")).then(Step::AwaitClose));
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let started = Instant::now();
    assert_eq!(app.ask("m").await.terminal()["type"], "response.completed");
    assert!(started.elapsed() < Duration::from_secs(1));
}
