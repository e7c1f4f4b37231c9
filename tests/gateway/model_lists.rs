//! Model lists: fetched aside, old rather than empty, kept over a restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    app::App,
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Reply, Step, Upstream},
    },
};

fn listed(models: &Value) -> Vec<String> {
    let rows = models["data"].as_array().unwrap().iter();
    rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[actix::test]
async fn thirty_slow_lists_come_side_by_side_and_delay_no_call() {
    let upstream = Upstream::start(|asked| {
        if asked.line.contains("/models") {
            let mut reply = Reply::json(200, &json!({"data": [{"id": "live"}]}));
            reply.0.insert(0, Step::Pause(Duration::from_millis(700)));
            return reply;
        }
        Reply::chat(&chat::end("stop"))
    });
    let mut providers = json!({});
    for n in 0..30 {
        providers[format!("p{n}")] =
            json!({"adapter": "openai-chat", "baseUrl": upstream.base_url(), "authMode": "local"});
    }
    let app = App::start(&json!({"providers": providers})).await;
    let started = Instant::now();
    let lists = async {
        let models = app.get("/v1/models").await.json();
        (started.elapsed(), listed(&models).len())
    };
    let calls = async {
        actix_rt::time::sleep(Duration::from_millis(100)).await;
        let mut slowest = Duration::ZERO;
        for n in 0..10 {
            let begun = Instant::now();
            let answer = app.post(&json!({"model": format!("p{n}/m"), "input": "x"})).await;
            assert_eq!(answer.status, 200);
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let ((took, count), slowest) = futures_util::future::join(lists, calls).await;
    assert_eq!(count, 30);
    assert!(took < Duration::from_secs(3), "side by side, not one after the other: {took:?}");
    assert!(slowest < Duration::from_millis(400), "no call waits for a list: {slowest:?}");
}

#[test]
fn a_list_outlives_a_restart_and_an_upstream_that_cannot_say() {
    let state = Arc::new(AtomicU8::new(0));
    let seen = Arc::clone(&state);
    let upstream = Upstream::start(move |_| match seen.load(SeqCst) {
        0 => Reply::json(200, &json!({"data": [{"id": "live-a"}, {"id": "live-b"}]})),
        1 => Reply::json(500, &json!({})),
        2 => Reply::json(200, &json!({"data": []})),
        _ => Reply(vec![Step::Pause(Duration::from_secs(20))]),
    });
    let home = scratch("model-lists");
    let config = json!({"providers": {"p": {"adapter": "openai-chat", "baseUrl": upstream.base_url(),
        "authMode": "local", "models": ["own"]}}});
    let models = |gateway: &Ocx| listed(&serde_json::from_str(&gateway.get("/v1/models")).unwrap());
    let all = ["p/live-a", "p/live-b", "p/own"];
    let first = Ocx::serve(&home, &config);
    assert_eq!(models(&first), all);
    std::thread::sleep(Duration::from_millis(200));
    drop(first);
    for (now, why) in [(1, "an error"), (2, "an empty list"), (3, "silence")] {
        state.store(now, SeqCst);
        let gateway = Ocx::serve(&home, &config);
        let started = Instant::now();
        assert_eq!(models(&gateway), all, "{why}");
        assert!(started.elapsed() < Duration::from_secs(4), "{why}");
    }
    // Another address has other models.
    let other = Upstream::start(|_| Reply::json(500, &json!({})));
    let mut moved = config.clone();
    moved["providers"]["p"]["baseUrl"] = other.base_url().into();
    assert_eq!(models(&Ocx::serve(&home, &moved)), ["p/own"]);
}
