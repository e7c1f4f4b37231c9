//! How many series there can be.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::{
    Caller, provider,
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Reply, Upstream},
    },
};

const PROVIDERS: usize = 20;
const MODELS: usize = 5_000;
const SESSIONS: usize = 10_000;

#[test]
fn thousands_of_models_and_sessions_stay_within_the_bounds() {
    let upstream =
        Upstream::start(|_| Reply::chat(&[vec![chat::text("x")], chat::end("stop")].concat()));
    let mut providers = Map::new();
    for n in 0..PROVIDERS {
        let mut provider = provider("openai-chat", &upstream.base_url());
        // A quarter of the names are known, the rest are a caller's inventions.
        let known = (0..MODELS / 4).filter(|model| model % PROVIDERS == n);
        provider["models"] = known.map(|model| Value::from(format!("model-{model}"))).collect();
        provider["prices"] = json!({"*": {"input": 1, "output": 2}});
        providers.insert(format!("provider-{n}"), provider);
    }
    let ocx = Ocx::serve(&scratch("cardinality"), &json!({ "providers": providers }));
    let ask = |session: usize, caller: &Caller| {
        let model = session % MODELS;
        let body = json!({
            "model": format!("provider-{}/model-{model}", model % PROVIDERS),
            "input": "hi", "stream": session.is_multiple_of(2),
            "prompt_cache_key": format!("session-{session}"),
            "metadata": {"user": format!("user-{session}")},
        });
        assert_eq!(caller.post("/v1/responses", &body).0, 200);
    };
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let caller = Caller::new(ocx.address);
            scope.spawn(move || (worker..SESSIONS).step_by(8).for_each(|n| ask(n, &caller)));
        }
    });
    let caller = Caller::new(ocx.address);
    let text = caller.get("/metrics");
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let mut scrapes: Vec<Duration> = (0..9)
        .map(|_| {
            let started = Instant::now();
            caller.get("/metrics");
            started.elapsed()
        })
        .collect();
    scrapes.sort();
    println!("{series} series, {} bytes, scraped in {:?}", text.len(), scrapes[4]);
    assert!(series < 12_000, "{series} series");
    assert!(text.len() < 2 << 20, "{} bytes", text.len());
    // The bar is 20 ms, of a release build; this one is not optimised.
    let bar = if cfg!(debug_assertions) { 200 } else { 20 };
    assert!(scrapes[4] < Duration::from_millis(bar), "{scrapes:?}");
    for word in ["session-", "user-"] {
        assert!(!text.contains(word), "{word} is no label");
    }
    assert!(ocx.metric("ocx_requests_total") >= SESSIONS as f64, "all of them are counted");
    let told = text.lines().filter(|line| line.starts_with("ocx_model_requests_total{")).count();
    assert!((256..=256 + PROVIDERS).contains(&told), "{told} models are told apart");
}
