//! What a caller is told when the upstream says "no", breaks off, or says nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    app::{App, JSON, request},
    support::{
        chat,
        upstream::{Reply, Step, Upstream},
    },
};

#[actix::test]
async fn statuses_before_the_answer() {
    // (upstream's status, its code, its Retry-After) → (ours, our code, our Retry-After).
    type Row = (u16, &'static str, &'static str, u16, &'static str, Option<&'static str>);
    const TABLE: [Row; 15] = [
        (400, "", "", 400, "invalid_request_error", None),
        (401, "", "", 400, "invalid_api_key", None),
        (403, "", "", 400, "invalid_api_key", None),
        (404, "model_not_found", "", 400, "model_not_found", None),
        (413, "context_length_exceeded", "", 400, "context_length_exceeded", None),
        (422, "", "", 400, "invalid_request_error", None),
        (429, "", "", 429, "rate_limit_exceeded", Some("5")),
        (429, "", "0", 429, "rate_limit_exceeded", Some("0")),
        (429, "", "garbage", 429, "rate_limit_exceeded", Some("5")),
        (429, "", "3600", 429, "usage_limit_reached", None),
        (429, "insufficient_quota", "1", 429, "insufficient_quota", None),
        (500, "", "", 502, "upstream_error", None),
        (502, "", "", 502, "upstream_error", None),
        (503, "", "7", 503, "upstream_overloaded", Some("7")),
        (529, "", "", 503, "upstream_overloaded", None),
    ];
    let upstream = Upstream::start(|asked| {
        let row = TABLE[asked.json()["model"].as_str().unwrap().parse::<usize>().unwrap()];
        let error = json!({"error": {"message": "the reason", "code": row.1}});
        let retry = ("retry-after", row.2);
        let headers = [("content-type", "application/json"), retry];
        let count = if row.2.is_empty() { 1 } else { 2 };
        Reply::with_headers(row.0, &headers[..count], error.to_string().as_bytes())
    });
    for (n, row) in TABLE.iter().enumerate() {
        // Each with a fresh gateway: a pause that one row asks for is not the next one's.
        let app = App::chat(&upstream.base_url(), json!({})).await;
        for stream in [true, false] {
            let answer = app
                .post(&json!({"model": format!("chat/{n}"), "input": "x", "stream": stream}))
                .await;
            let seen = (
                answer.status,
                answer.error_code(),
                answer.header("retry-after").map(str::to_owned),
            );
            if row.0 == 429 && row.2 == "3600" && !stream {
                continue;
            }
            assert_eq!(
                seen,
                (row.3, row.4.to_owned(), row.5.map(str::to_owned)),
                "{row:?} {}",
                answer.text()
            );
            if answer.status != 429 || stream {
                assert!(answer.text().contains("the reason"), "{}", answer.text());
            }
        }
    }
    assert_eq!(
        upstream.asked().iter().filter(|asked| asked.json()["model"] == "11").count(),
        5,
        "a server error is tried three times, and three retries are what little traffic may have"
    );
}

#[actix::test]
async fn a_pause_that_an_upstream_asked_for_is_answered_without_asking_it() {
    let upstream = Upstream::start(|_| {
        let body = json!({"error": {"message": "slow"}}).to_string();
        Reply::with_headers(
            429,
            &[("content-type", "application/json"), ("retry-after", "30")],
            body.as_bytes(),
        )
    });
    let app = App::chat(&upstream.base_url(), json!({})).await;
    app.ask("m").await;
    let second = app.ask("m").await;
    assert_eq!((second.status, second.error_code().as_str()), (429, "rate_limit_exceeded"));
    let wait: u64 = second.header("retry-after").unwrap().parse().unwrap();
    assert!((28..=30).contains(&wait), "{wait}");
    assert_eq!(upstream.asked().len(), 1);
    assert_eq!(app.metric("ocx_provider_state{provider=\"chat\",state=\"cooling\"}"), 1.0);
}

fn failed_code(event: &Value) -> &str {
    assert_eq!(event["type"], "response.failed", "{event}");
    event["response"]["error"]["code"].as_str().unwrap()
}

#[actix::test]
async fn an_error_in_the_stream_before_any_word_is_a_status_and_after_it_an_event() {
    let upstream = Upstream::start(|asked| {
        let error =
            json!({"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}});
        let frames = if asked.json()["model"] == "late" {
            vec![chat::text("a"), error]
        } else {
            vec![error]
        };
        Reply::chat(&frames)
    });
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let early = app.ask("early").await;
    assert_eq!((early.status, early.header("retry-after")), (429, Some("5")));
    let late = app.ask("late").await;
    assert_eq!(late.status, 200);
    let terminal = late.terminal();
    assert_eq!(failed_code(&terminal), "rate_limit_exceeded");
    let message = terminal["response"]["error"]["message"].as_str().unwrap();
    assert!(message.contains("try again in 5s"), "the words that Codex reads: {message}");
}

#[actix::test]
async fn x02_a_body_cut_in_any_way_is_never_a_completed_answer() {
    let half =
        json!({"choices": [{"message": {"content": "half"}, "finish_reason": "stop"}]}).to_string();
    let upstream = Upstream::start(move |asked| {
        let begun = Reply::stream().frames(&[chat::text("begun")]);
        match asked.json()["model"].as_str().unwrap() {
            "between-chunks" => begun.then(Step::Close(false)),
            "in-a-chunk" => {
                begun.then(Step::Raw(b"40\r\ndata: {\"cho".to_vec())).then(Step::Close(false))
            }
            "reset" => begun.pause(50).then(Step::Close(true)),
            "ended-early" => begun.end(),
            _ => {
                let head = format!(
                    "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    half.len() + 9
                );
                Reply(vec![
                    Step::Raw(head.into_bytes()),
                    Step::Raw(half.clone().into_bytes()),
                    Step::Close(false),
                ])
            }
        }
    });
    let app = App::chat(&upstream.base_url(), json!({})).await;
    for cut in ["between-chunks", "in-a-chunk", "reset", "ended-early"] {
        let answer = app.ask(cut).await;
        assert_eq!(failed_code(&answer.terminal()), "upstream_truncated", "{cut}");
        assert!(answer.text().contains("begun"), "{cut}: what came is told");
    }
    let whole = app.post(&json!({"model": "short-document", "input": "x"})).await;
    assert_eq!((whole.status, whole.error_code().as_str()), (502, "upstream_truncated"));
    assert_eq!(
        app.metric("ocx_stream_terminations_total{protocol=\"responses\",reason=\"upstream_eof\"}"),
        4.0
    );
}

#[actix::test]
async fn silence_is_met_with_signs_of_life_and_ends_at_the_limit() {
    let upstream = Upstream::start(|asked| {
        let begun = Reply::stream().frames(&[chat::text("begun")]);
        match asked.json()["model"].as_str().unwrap() {
            "silent" => begun.then(Step::AwaitClose),
            "silent-from-the-start" => Reply::stream().then(Step::AwaitClose),
            _ => (0..30)
                .fold(begun, |reply, _| reply.chunk(b": still here\n\n").pause(100))
                .then(Step::AwaitClose),
        }
    });
    let limits = json!({"stallTimeoutSec": 1, "progressTimeoutSec": 2, "keepaliveIntervalMs": 200});
    let app = App::chat(&upstream.base_url(), limits).await;
    for (model, seconds, words) in [
        ("silent", 1, "no bytes"),
        ("silent-from-the-start", 1, "no bytes"),
        ("comments-only", 2, "no events"),
    ] {
        let started = Instant::now();
        let answer = app.ask(model).await;
        let took = started.elapsed();
        let limit = Duration::from_secs(seconds);
        assert!(took >= limit && took < limit + Duration::from_millis(1500), "{model}: {took:?}");
        let terminal = answer.terminal();
        assert_eq!(failed_code(&terminal), "upstream_stalled");
        assert!(
            terminal["response"]["error"]["message"].as_str().unwrap().contains(words),
            "{terminal}"
        );
        let events = answer.events();
        let alive: Vec<_> = events.iter().filter(|event| event["type"] == "keepalive").collect();
        assert!(alive.len() >= 2, "{model}: {}", answer.text());
        assert!(alive.iter().all(|event| event["sequence_number"].is_number()));
        assert_eq!(events[0]["type"], "response.created", "clients want this first");
    }
    assert!(app.metric("ocx_keepalives_total{style=\"typed\"}") >= 6.0);
    let deadline = Instant::now() + Duration::from_secs(1);
    // The third one sees it as a failed write.
    while upstream.closed.lock().unwrap().len() < 2 {
        assert!(Instant::now() < deadline, "the upstream is let go");
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix::test]
async fn a_head_that_never_comes_is_a_timeout() {
    let upstream = Upstream::start(|_| Reply(vec![Step::AwaitClose]));
    let app =
        App::chat(&upstream.base_url(), json!({"headTimeoutMs": 200, "wholeTimeoutMs": 200})).await;
    for stream in [true, false] {
        let answer = app.post(&json!({"model": "m", "input": "x", "stream": stream})).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (504, "upstream_timeout"));
    }
    assert_eq!(upstream.asked().len(), 2, "a timeout may have been billed: it is not repeated");
}

#[actix::test]
async fn f01_an_upstream_that_cannot_be_reached_is_tried_again_and_then_told() {
    let app = App::chat("http://127.0.0.1:1/v1", json!({})).await;
    let answer = app.ask("m").await;
    assert_eq!((answer.status, answer.error_code().as_str()), (502, "upstream_error"));
    assert_eq!(app.metric("ocx_retries_total{cause=\"connect\",provider=\"chat\"}"), 2.0);
}

#[actix::test]
async fn a_stale_pooled_connection_costs_nothing_but_a_new_one() {
    // Answers once on each connection and closes it just when the next request arrives.
    let upstream = Upstream::start(|asked| {
        let reply = Reply::chat(&chat::end("stop"));
        if asked.number % 2 == 1 { Reply(vec![Step::Close(false)]) } else { reply }
    });
    let app = App::start(&{
        let mut config = crate::app::chat_config(&upstream.base_url());
        config["workers"] = json!(1);
        config
    })
    .await;
    assert_eq!(app.ask("m").await.terminal()["type"], "response.completed");
    let second = app.ask("m").await;
    assert_eq!(second.terminal()["type"], "response.completed");
    assert_eq!(second.header("x-ocx-attempts"), Some("2"));
    assert_eq!(app.metric("ocx_retries_total{cause=\"stale_connection\""), 1.0);
}

#[actix::test]
async fn l10_a_caller_that_leaves_closes_the_upstream_at_once() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let upstream = Upstream::start(|asked| match asked.json()["model"].as_str().unwrap() {
        "before-head" => Reply(vec![Step::AwaitClose]),
        "plain" => Reply(vec![Step::AwaitClose]),
        _ => Reply::stream().frames(&[chat::text("x")]).then(Step::AwaitClose),
    });
    let app = App::chat(&upstream.base_url(), json!({})).await;
    for (n, model) in ["before-head", "mid-stream", "plain"].into_iter().enumerate() {
        let body = json!({"model": model, "input": "x", "stream": model != "plain"}).to_string();
        let bytes = request(app.address, "POST /v1/responses", &[JSON], body.as_bytes());
        let mut socket = tokio::net::TcpStream::connect(app.address).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        if model == "mid-stream" {
            assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
        } else {
            while upstream.asked().len() <= n {
                actix_rt::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let left = Instant::now();
        drop(socket);
        let deadline = left + Duration::from_secs(1);
        while upstream.closed.lock().unwrap().len() <= n {
            assert!(Instant::now() < deadline, "{model}: not closed within a second");
            actix_rt::time::sleep(Duration::from_millis(2)).await;
        }
        let took = upstream.closed.lock().unwrap()[n].duration_since(left);
        assert!(took < Duration::from_millis(250), "{model}: {took:?}");
    }
    actix_rt::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(app.metric("ocx_requests_total{outcome=\"client_cancelled\""), 3.0);
    assert_eq!(app.metric("ocx_inflight_requests"), 0.0);
}

#[actix::test]
async fn a_token_limit_and_a_filter_end_as_codex_needs_it() {
    let upstream = Upstream::start(|asked| {
        let mut frames = vec![chat::text("some")];
        frames.extend(chat::end(asked.json()["model"].as_str().unwrap()));
        Reply::chat(&frames)
    });
    let app = App::chat(&upstream.base_url(), json!({})).await;
    let length = app.ask("length").await.terminal();
    assert_eq!(length["type"], "response.incomplete");
    assert_eq!(length["response"]["incomplete_details"]["reason"], "max_output_tokens");
    let filtered = app.ask("content_filter").await.terminal();
    assert_eq!(failed_code(&filtered), "invalid_prompt");
    let whole = app.post(&json!({"model": "content_filter", "input": "x", "stream": false})).await;
    assert_eq!((whole.status, whole.error_code().as_str()), (400, "invalid_prompt"));
}
