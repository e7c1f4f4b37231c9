//! What `/metrics` tells of calls.

use serde_json::json;

use crate::{
    app::{App, provider},
    support::{
        chat,
        upstream::{Reply, Upstream},
    },
};

#[actix::test]
async fn tokens_are_counted_by_model_and_a_name_that_nobody_knows_is_no_label() {
    let upstream = Upstream::start(|_| {
        Reply::chat(&[vec![chat::text("one "), chat::text("two")], chat::end("stop")].concat())
    });
    let mut known = provider(&upstream.base_url());
    known["models"] = json!(["m"]);
    let app = App::start(&json!({"providers": {"p": known}})).await;
    for (model, stream) in [("p/m", false), ("p/m", true), ("p/forged", false)] {
        let answer = app.post(&json!({"model": model, "input": "x", "stream": stream})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let text = app.get("/metrics").await.text();
    assert!(!text.contains("forged"), "{text}");
    let requests = |model: &str| {
        format!("ocx_model_requests_total{{class=\"ok\",model=\"{model}\",provider=\"p\"}}")
    };
    assert_eq!((app.metric(&requests("m")), app.metric(&requests("other"))), (2.0, 1.0));
    let tokens = |model: &str, kind: &str| {
        let labels = format!("{{model=\"{model}\",provider=\"p\",type=\"{kind}\"}}");
        app.metric(&format!("ocx_tokens_total{labels}"))
    };
    for kind in ["input", "output"] {
        let one = tokens("other", kind);
        assert!(one > 0.0, "{kind}");
        assert_eq!(tokens("m", kind), 2.0 * one, "{kind}");
    }
    let first = "ocx_time_to_first_token_seconds_count{model=\"m\",provider=\"p\"}";
    assert_eq!(app.metric(first), 2.0);
    assert_eq!(app.metric("ocx_overhead_seconds_count{phase=\"request\"}"), 3.0);
    assert_eq!(app.metric("ocx_overhead_seconds_count{phase=\"first_chunk\"}"), 1.0);
    assert_eq!(app.metric("ocx_model_cache_models{provider=\"p\"}"), 1.0);
}

#[actix::test]
async fn what_is_left_of_limits_and_what_a_prompt_cache_should_know_is_told() {
    let upstream = Upstream::start(|asked| {
        let cached = if asked.number == 1 { 4000 } else { 0 };
        let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "x"}}],
            "usage": {"prompt_tokens": 5000, "completion_tokens": 2, "total_tokens": 5002,
                "prompt_tokens_details": {"cached_tokens": cached}}});
        let headers = [
            ("content-type", "application/json"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "250"),
        ];
        Reply::with_headers(200, &headers, answer.to_string().as_bytes())
    });
    let mut priced = provider(&upstream.base_url());
    (priced["models"], priced["prices"]) =
        (json!(["m"]), json!({"m": {"input": 2, "cachedInput": 1, "output": 10}}));
    let app = App::start(&json!({"providers": {"p": priced}})).await;
    let mut input = vec![json!({"role": "user", "content": "words ".repeat(4000)})];
    for (cached, expected, hit) in [(0, 0.0, 0.0), (4000, 1.0, 1.0), (0, 2.0, 1.0)] {
        let answer = app.post(&json!({"model": "p/m", "input": input})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["usage"]["input_tokens_details"]["cached_tokens"], cached);
        assert_eq!(app.metric("ocx_prompt_cache_expected_total"), expected);
        assert_eq!(app.metric("ocx_prompt_cache_hit_total"), hit);
        input.push(json!({"role": "assistant", "content": "x"}));
        input.push(json!({"role": "user", "content": "more"}));
    }
    let left = "ocx_rate_limit_remaining_ratio{provider=\"p\",window=\"tokens\"}";
    assert_eq!(app.metric(left), 0.25);
    let cost = 3.0 * 2.0 * 10.0 + (5000.0 + 1000.0 + 5000.0) * 2.0 + 4000.0;
    assert!(
        (app.metric("ocx_cost_usd_total{model=\"m\",provider=\"p\"}") - cost / 1e6).abs() < 1e-9
    );
}

#[actix::test]
async fn a_provider_that_is_left_alone_says_so_and_until_when() {
    let upstream = Upstream::start(|_| Reply::json(503, &json!({"error": {"message": "down"}})));
    let mut failing = provider(&upstream.base_url());
    failing["circuit"] = true.into();
    let app = App::start(&json!({"providers": {"p": failing}, "maxRetries": 0})).await;
    let state = |state: &str| {
        app.metric(&format!("ocx_provider_state{{provider=\"p\",state=\"{state}\"}}"))
    };
    assert_eq!((state("ready"), state("cooling")), (1.0, 0.0));
    for _ in 0..6 {
        app.ask("p/m").await;
    }
    assert_eq!((state("ready"), state("cooling"), state("half_open")), (0.0, 1.0, 0.0));
    let until = app.metric("ocx_provider_cooldown_until_timestamp_seconds{provider=\"p\"}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left = until - now.as_secs_f64();
    assert!((20.0..=31.0).contains(&left), "{left}");
    assert_eq!(upstream.asked().len(), 5, "the sixth was not sent");
    assert_eq!(app.metric("ocx_upstream_attempts_total{provider=\"p\",result=\"failed\"}"), 5.0);
}

#[actix::test]
async fn what_is_over_a_bound_is_refused_and_counted() {
    let upstream = Upstream::start(|_| {
        Reply::stream().frames(&[chat::text("x")]).then(crate::support::upstream::Step::AwaitClose)
    });
    let mut narrow = provider(&upstream.base_url());
    narrow["maxConcurrency"] = 1.into();
    let app = App::start(&json!({"providers": {"p": narrow}, "maxBodyBytes": 2048})).await;
    let first = actix_rt::spawn(app.post_owned("p/m"));
    while app.metric("ocx_open_streams") == 0.0 {
        actix_rt::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let over = app.ask("p/m").await;
    assert_eq!(over.status, 503, "{}", over.text());
    let long = json!({"model": "p/m", "input": "x".repeat(4096)});
    assert_eq!(app.post(&long).await.status, 400, "Codex would repeat a 413");
    let rejected = |reason: &str| app.metric(&format!("ocx_rejected_total{{reason=\"{reason}\"}}"));
    assert_eq!((rejected("over_limit"), rejected("too_large")), (1.0, 1.0));
    assert_eq!(app.metric("ocx_actor_mailbox_capacity{actor=\"p\"}"), 1024.0);
    assert_eq!(app.metric("ocx_actor_mailbox_depth{actor=\"p\"}"), 0.0);
    assert_eq!(app.metric("ocx_actor_message_seconds_count{actor_kind=\"provider\"}"), 2.0);
    first.abort();
}

#[actix::test]
async fn opentelemetrys_names_are_there_if_wanted() {
    let upstream =
        Upstream::start(|_| Reply::chat(&[vec![chat::text("one")], chat::end("stop")].concat()));
    let mut known = provider(&upstream.base_url());
    known["models"] = json!(["m"]);
    let config = json!({"providers": {"p": known}, "telemetry": {"otelNames": true}});
    let app = App::start(&config).await;
    app.ask("p/m").await;
    let labels = "gen_ai_operation_name=\"chat\"";
    for (name, rest, value) in [
        ("gen_ai_client_token_usage_sum", "gen_ai_token_type=\"input\"}", 11.0),
        ("gen_ai_client_token_usage_sum", "gen_ai_token_type=\"output\"}", 7.0),
        ("gen_ai_client_operation_duration_seconds_count", "gen_ai_request_model=\"m\"}", 1.0),
        ("gen_ai_server_time_to_first_token_seconds_count", "gen_ai_request_model=\"m\"}", 1.0),
    ] {
        let text = app.get("/metrics").await.text();
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && line.contains(labels) && line.contains(rest));
        let told = line.unwrap_or_else(|| panic!("{name}: {text}")).rsplit_once(' ').unwrap().1;
        assert_eq!(told.parse::<f64>().unwrap(), value, "{name}");
    }
}

/// What the ledger of a gateway says of a provider.
fn usage(app: &App) -> ocx::telemetry::ledger::Row {
    assert!(app.shared.telemetry.ledger.flush(std::time::Duration::from_secs(5)));
    let by = ocx::telemetry::ledger::By::Provider;
    let dir = app.config.parent().unwrap().join("usage");
    ocx::telemetry::ledger::read(&dir, by, None).unwrap().total
}

#[actix::test]
async fn a_call_that_is_left_before_anything_came_is_missing_and_one_that_was_refused_is_not() {
    let upstream = Upstream::start(|asked| match asked.json()["model"].as_str() {
        Some("hangs") => Reply(vec![crate::support::upstream::Step::AwaitClose]),
        _ => Reply::json(400, &json!({"error": {"message": "no"}})),
    });
    let app = App::start(&json!({"providers": {"p": provider(&upstream.base_url())}})).await;
    for (n, stream) in [(1, true), (2, false)] {
        let body = json!({"model": "p/hangs", "input": "x", "stream": stream}).to_string();
        let line = "POST /v1/responses";
        let sent = crate::app::request(app.address, line, &[crate::app::JSON], body.as_bytes());
        let mut socket = tokio::net::TcpStream::connect(app.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, &sent).await.unwrap();
        while upstream.asked().len() < n {
            actix_rt::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        drop(socket);
        while app.metric("ocx_inflight_requests") > 0.0 {
            actix_rt::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    assert_eq!(app.ask("p/refused").await.status, 400);
    let attempts = |result: &str| {
        let labels = format!("{{provider=\"p\",result=\"{result}\"}}");
        app.metric(&format!("ocx_upstream_attempts_total{labels}"))
    };
    assert_eq!((attempts("cancelled"), attempts("refused")), (2.0, 1.0));
    assert_eq!(app.metric("ocx_usage_missing_total{end=\"cut\",provider=\"p\"}"), 2.0);
    let row = usage(&app);
    assert_eq!((row.turns, row.cancelled, row.failed, row.missing), (3, 2, 1, 2));
}

#[actix::test]
async fn what_was_never_sent_is_in_no_ledger_and_what_only_counts_is_no_turn() {
    let upstream = Upstream::start(|_| Reply::json(404, &json!({})));
    let mut keyless = provider(&upstream.base_url());
    keyless["authMode"] = "key".into();
    let anthropic = json!({"adapter": "openai-chat", "baseUrl": upstream.base_url(),
        "authMode": "local", "liveModels": false});
    let config = json!({"providers": {"keyless": keyless, "counts": anthropic}});
    let app = App::start(&config).await;
    for _ in 0..3 {
        assert_eq!(app.ask("keyless/m").await.status, 400);
    }
    let question = json!({"model": "counts/m", "messages": [{"role": "user", "content": "x"}]});
    let path = "POST /v1/messages/count_tokens";
    let counted = app.send(path, &[crate::app::JSON], question.to_string().as_bytes()).await;
    assert_eq!(counted.status, 200, "{}", counted.text());
    assert_eq!(counted.header("x-ocx-config-generation"), Some("1"));
    assert_eq!(usage(&app).turns, 0);
    assert_eq!(app.metric("ocx_requests_total{outcome=\"ok\",protocol=\"count_tokens\""), 1.0);
    assert_eq!(app.metric("ocx_model_requests_total{class=\"ok\""), 0.0);
}

#[actix::test]
async fn usage_of_a_summary_that_is_refused_is_counted_all_the_same() {
    let upstream = Upstream::start(|_| {
        let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "length",
                "message": {"role": "assistant", "content": "half a summ"}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 5, "total_tokens": 1005}});
        Reply::json(200, &answer)
    });
    let app = App::start(&json!({"providers": {"p": provider(&upstream.base_url())}})).await;
    let question = json!({"model": "p/m", "input": [{"role": "user", "content": "x"}]});
    let path = "POST /v1/responses/compact";
    let answer = app.send(path, &[crate::app::JSON], question.to_string().as_bytes()).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.header("x-ocx-config-generation"), Some("1"));
    let row = usage(&app);
    assert_eq!((row.failed, row.missing, row.tokens.input), (1, 0, 1000));
}
