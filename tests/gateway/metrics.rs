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
