//! A provider actor that panics costs nobody a stream.

use futures_util::future::join_all;
use serde_json::json;

use crate::{
    app::{App, anonymous, provider},
    support::{
        chat,
        upstream::{Reply, Upstream},
    },
};

/// A stream of so many events, a pause before each.
pub fn paced(events: usize, millis: u64) -> Reply {
    let reply = (0..events).fold(Reply::stream(), |reply, n| {
        reply.frames(&[chat::text(&format!("word {n} "))]).pause(millis)
    });
    reply.frames(&chat::end("stop")).end()
}

#[actix::test]
async fn fifty_streams_on_two_providers_outlive_the_panics_of_one() {
    let upstream = Upstream::start(|_| paced(100, 8));
    let url = upstream.base_url();
    let config = json!({"providers": {"a": provider(&url), "b": provider(&url)}});
    let app = App::start(&config).await;
    let undisturbed = anonymous(&app.ask("a/m").await.text());

    let streams = (0..50).map(|n| app.post_owned(if n % 2 == 0 { "a/m" } else { "b/m" }));
    let drill = async {
        actix_rt::time::sleep(std::time::Duration::from_millis(300)).await;
        let snapshot = app.shared.cell.load_full();
        assert_eq!(app.metric("ocx_open_streams"), 50.0, "all of them run");
        assert!(
            snapshot.providers["a"].drill().await,
            "the sender of the fatal message learns of it"
        );
        app.ask("a/m").await
    };
    let (answers, next) = tokio::join!(join_all(streams), drill);
    for (n, answer) in answers.iter().enumerate() {
        let expected =
            if n % 2 == 0 { undisturbed.clone() } else { undisturbed.replace("a/m", "b/m") };
        assert_eq!(anonymous(&answer.text()), expected, "stream {n}");
        assert_eq!(answer.terminal()["type"], "response.completed");
    }
    assert_eq!(next.terminal()["type"], "response.completed", "the next request succeeds");
    assert_eq!(app.metric("ocx_actor_restarts_total{actor=\"a\",cause=\"panic\"}"), 1.0);
    assert_eq!(app.metric("ocx_actor_restarts_total{actor=\"b\""), 0.0);
    assert_eq!(app.metric("ocx_open_streams"), 0.0);
}

#[actix::test]
async fn a_provider_that_panics_too_often_fails_alone_and_a_reload_starts_it_again() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let url = upstream.base_url();
    let config = json!({"providers": {"a": provider(&url), "b": provider(&url)}});
    let app = App::start(&config).await;
    // Six panics within the window are one too many. The rests between them double from 100 ms.
    for _ in 0..6 {
        app.shared.cell.load_full().providers["a"].drill().await;
    }
    let answer = app.ask("a/m").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(answer.text().contains("out of service"), "{}", answer.text());
    assert_eq!(app.metric("ocx_actor_up{actor=\"a\"}"), 0.0);
    assert_eq!(app.metric("ocx_provider_state{provider=\"a\",state=\"failed\"}"), 1.0);
    assert_eq!(app.ask("b/m").await.terminal()["type"], "response.completed");

    assert_eq!(app.reload().await.json()["result"], "applied");
    assert_eq!(app.ask("a/m").await.terminal()["type"], "response.completed");
    assert_eq!(app.metric("ocx_actor_up{actor=\"a\"}"), 1.0);
}
