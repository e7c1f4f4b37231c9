//! Retries, circuits, and combos: what a caller does not see of a bad day.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    app::{App, provider},
    support::{
        chat,
        upstream::{Reply, Step, Upstream},
    },
};

fn good(name: &'static str) -> Upstream {
    Upstream::start(move |_| Reply::chat(&[vec![chat::text(name)], chat::end("stop")].concat()))
}

fn bad(status: u16) -> Upstream {
    Upstream::start(move |_| Reply::json(status, &json!({"error": {"message": "out of order"}})))
}

fn text(answer: &crate::app::Answer) -> String {
    let output = answer.json()["output"][0]["content"][0]["text"].clone();
    output.as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

async fn app(strategy: &str, targets: Value, upstreams: &[&Upstream]) -> App {
    let mut providers = json!({});
    for (n, upstream) in upstreams.iter().enumerate() {
        providers[format!("p{n}")] = provider(&upstream.base_url());
    }
    let combos = json!({"best": {"strategy": strategy, "targets": targets}});
    App::start(&json!({"providers": providers, "combos": combos})).await
}

async fn ask(app: &App, input: Value) -> crate::app::Answer {
    app.post(&json!({"model": "best", "input": input})).await
}

#[actix::test]
async fn a_server_error_is_tried_again_before_the_caller_is_told_anything() {
    let count = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_| match count.fetch_add(1, SeqCst) {
        0 | 1 => Reply::json(502, &json!({"error": {"message": "out of order"}})),
        _ => Reply::chat(&chat::end("stop")),
    });
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let answer = app.ask("m").await;
    assert_eq!((answer.status, answer.header("x-ocx-attempts")), (200, Some("3")));
    assert_eq!(app.metric("ocx_retries_total{cause=\"server_error\""), 2.0);

    let never = App::chat(&bad(502).base_url(), json!({"retryPosts": false})).await;
    assert_eq!(never.ask("m").await.status, 502);
    assert_eq!(never.metric("ocx_retries_total"), 0.0);
}

#[actix::test]
async fn f13_retries_stay_within_their_budget() {
    let upstream = bad(500);
    let app = App::chat(&upstream.base_url(), json!({})).await;
    for _ in 0..40 {
        assert_eq!(app.ask("m").await.status, 502);
    }
    let asked = upstream.asked().len();
    assert!((43..=48).contains(&asked), "40 calls and a fifth of them again: {asked}");
}

#[actix::test]
async fn failover_goes_to_the_next_target_and_tells_the_caller_nothing() {
    for broken in
        [bad(500), bad(401), bad(429), Upstream::start(|_| Reply(vec![Step::Close(true)]))]
    {
        let second = good("second");
        let app = app("failover", json!(["p0/a", "p1/b"]), &[&broken, &second]).await;
        let answer = ask(&app, json!("hi")).await;
        assert_eq!((answer.status, text(&answer)), (200, "second".to_owned()));
        assert_eq!(second.asked()[0].json()["model"], "b");
        assert_eq!(app.metric("ocx_failovers_total{from_provider=\"p0\",to_provider=\"p1\"}"), 1.0);
    }
    let (refusing, second) = (bad(400), good("second"));
    let app = app("failover", json!(["p0/a", "p1/b"]), &[&refusing, &second]).await;
    assert_eq!(ask(&app, json!("hi")).await.status, 400, "a wrong request is wrong everywhere");
    assert_eq!(second.asked().len(), 0);
}

#[actix::test]
async fn when_every_target_fails_the_last_word_is_told() {
    let (first, second) = (bad(500), bad(503));
    let app = app("failover", json!(["p0/a", "p1/b"]), &[&first, &second]).await;
    let answer = ask(&app, json!("hi")).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("p1"), "{}", answer.text());
}

#[actix::test]
async fn only_when_every_target_is_left_alone_is_one_asked_all_the_same() {
    let (refusing, broken) = (bad(401), bad(500));
    let mut far = provider(&broken.base_url());
    (far["authMode"], far["apiKey"], far["circuit"]) = ("key".into(), "k".into(), true.into());
    let app = App::start(&json!({
        "maxRetries": 0,
        "providers": {"p0": provider(&refusing.base_url()), "p1": far.clone(), "p2": far},
        "combos": {
            "best": {"targets": ["p0/a", "p1/b"]},
            "broken": {"targets": ["p1/a", "p2/b"]},
        },
    }))
    .await;
    for model in ["p1/b", "p2/b"] {
        for _ in 0..5 {
            app.post(&json!({"model": model, "input": "x"})).await;
        }
    }
    let asked = broken.asked().len();
    assert_eq!(ask(&app, json!("hi")).await.status, 503);
    assert_eq!(refusing.asked().len(), 1, "its answer was no: asking again brings no other");
    assert_eq!(broken.asked().len(), asked);
    let answer = app.post(&json!({"model": "broken", "input": "x"})).await;
    assert_eq!((answer.status, broken.asked().len()), (502, asked + 1), "{}", answer.text());
}

#[actix::test]
async fn targets_that_are_not_asked_do_not_count_as_asked() {
    let (broken, last) = (bad(500), good("last"));
    let mut far = provider(&broken.base_url());
    (far["authMode"], far["apiKey"], far["circuit"]) = ("key".into(), "k".into(), true.into());
    let mut providers = json!({"good": provider(&last.base_url())});
    let mut targets = Vec::new();
    for n in 0..9 {
        providers[format!("far{n}")] = far.clone();
        targets.push(format!("far{n}/m"));
    }
    targets.push("good/m".to_owned());
    let combos = json!({"best": {"targets": targets}});
    let config = json!({"maxRetries": 0, "providers": providers, "combos": combos});
    let app = App::start(&config).await;
    for n in 0..9 {
        for _ in 0..5 {
            app.post(&json!({"model": format!("far{n}/m"), "input": "x"})).await;
        }
    }
    let answer = ask(&app, json!("hi")).await;
    assert_eq!((answer.status, answer.header("x-ocx-attempts")), (200, None), "{}", answer.text());
    assert_eq!(text(&answer), "last");
}

#[actix::test]
async fn new_conversations_go_round_and_each_stays_where_it_began() {
    let (first, second) = (good("p0"), good("p1"));
    let targets = json!([{"model": "p0/m", "weight": 2}, "p1/m"]);
    let app = app("round-robin", targets, &[&first, &second]).await;
    let mut began = Vec::new();
    for n in 0..6 {
        began.push(text(&ask(&app, json!(format!("question {n}"))).await));
    }
    assert_eq!(began, ["p0", "p0", "p1", "p0", "p0", "p1"]);
    for (n, began) in began.iter().enumerate() {
        let history = json!([{"role": "user", "content": format!("question {n}")},
            {"role": "assistant", "content": began}, {"role": "user", "content": "more"}]);
        assert_eq!(text(&ask(&app, history).await), *began, "its prompt cache is there");
    }
    let listed = app.get("/v1/models").await.json();
    let rows = listed["data"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["id"] == "best" && row["owned_by"] == "ocx"), "{listed}");
}

#[actix::test]
async fn an_upstream_that_keeps_failing_is_left_alone_and_others_are_not_touched() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let upstream = Upstream::start(move |_| {
        if state.load(SeqCst) {
            Reply::json(500, &json!({"error": {"message": "out of order"}}))
        } else {
            Reply::chat(&chat::end("stop"))
        }
    });
    let other = good("other");
    // Reached by a name that is not plainly local, as real upstreams are.
    let mut config = json!({"maxRetries": 0, "providers": {
        "far": provider(&upstream.base_url()), "near": provider(&other.base_url())}});
    config["providers"]["far"]["authMode"] = "key".into();
    config["providers"]["far"]["apiKey"] = "k".into();
    config["providers"]["far"]["circuit"] = true.into();
    let app = App::start(&config).await;
    let ask = async |model: &str| app.post(&json!({"model": model, "input": "x"})).await;
    for _ in 0..5 {
        assert_eq!(ask("far/m").await.status, 502);
    }
    let refused = ask("far/m").await;
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("left alone"), "{}", refused.text());
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((28..=30).contains(&wait), "{wait}");
    assert_eq!(upstream.asked().len(), 5);
    let started = Instant::now();
    assert_eq!(ask("near/m").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(1));
}
