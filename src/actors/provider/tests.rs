use std::{io::Write as _, path::Path};

use actix_rt::time::sleep;
use serde_json::json;

use super::*;
use crate::{
    actors::{Backoff, ProviderSupervisor, SnapshotCell, Start},
    config,
    credentials::{CallerAuth, Credential},
};

async fn providers(providers: serde_json::Value) -> (SnapshotCell, Arc<Metrics>) {
    let text = json!({ "providers": providers }).to_string();
    let config =
        config::check(text.as_bytes(), Path::new("c"), &config::process_env).unwrap().config;
    let metrics = Arc::new(Metrics::new());
    let start = Start {
        config: Arc::new(config),
        arbiter: Arbiter::current(),
        metrics: Arc::clone(&metrics),
        backoff: Backoff { first: Duration::from_millis(5), ..Backoff::default() },
        vault: Vault::new(Path::new("/nonexistent")),
        network: crate::upstream::Network::new(Duration::from_secs(5)),
    };
    (ProviderSupervisor::first_snapshot(&start).await.unwrap(), metrics)
}

fn chat(fields: serde_json::Value) -> serde_json::Value {
    let mut provider = json!({"adapter": "openai-chat", "baseUrl": "http://localhost:1"});
    provider.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    provider
}

fn caller(token: Option<&'static str>) -> CallerAuth {
    CallerAuth::pick(move |name| token.filter(|_| name == "authorization"), |_| false)
}

#[actix::test]
async fn each_way_to_authenticate_lends_its_credential_or_says_what_is_missing() {
    let (cell, _) = providers(json!({
        "keyed": chat(json!({"apiKey": "sk-1"})),
        "unset": chat(json!({"apiKey": "${OCX_TEST_SURELY_UNSET}"})),
        "none": chat(json!({})),
        "local": chat(json!({"authMode": "local"})),
        "header": chat(json!({"headers": {"x-api-key": "k"}})),
        "holes": chat(json!({"baseUrl": "https://{account}.example"})),
        "openai": {},
    }))
    .await;
    let snapshot = cell.load_full();
    let ask = async |id: &str, token| {
        snapshot.providers[id]
            .dispatch(caller(token), false)
            .await
            .map(|lease| lease.credential.clone())
    };
    assert!(matches!(ask("keyed", Some("Bearer x")).await, Ok(Credential::Key(_))));
    assert!(matches!(ask("local", None).await, Ok(Credential::None)));
    assert!(matches!(ask("header", None).await, Ok(Credential::None)));
    assert!(matches!(ask("openai", Some("Bearer x")).await, Ok(Credential::Forwarded(_))));
    for (id, word) in [
        ("unset", "OCX_TEST_SURELY_UNSET"),
        ("none", "apiKey"),
        ("openai", "codex login"),
        ("holes", "{account}"),
    ] {
        let error = ask(id, None).await.unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(id), "{error}");
    }
}

#[actix::test]
async fn slots_are_counted_across_a_panic() {
    let (cell, metrics) =
        providers(json!({"p": chat(json!({"authMode": "local", "maxConcurrency": 2}))})).await;
    let snapshot = cell.load_full();
    let provider = &snapshot.providers["p"];
    let first = provider.dispatch(caller(None), false).await.unwrap();
    assert!(provider.drill().await);
    let second = provider.dispatch(caller(None), false).await.unwrap();
    let saturated = provider.dispatch(caller(None), false).await.unwrap_err();
    assert_eq!(saturated, DispatchError::Saturated("p".into()));
    drop(first);
    assert!(provider.dispatch(caller(None), false).await.is_ok());
    drop(second);
    assert_eq!(metrics.actor_restarts.with_label_values(&["p", "panic"]).get(), 1);
}

#[actix::test]
async fn a_pause_the_upstream_asked_for_is_kept_and_ends() {
    let (cell, _) = providers(json!({"p": chat(json!({"authMode": "local"}))})).await;
    let snapshot = cell.load_full();
    let provider = &snapshot.providers["p"];
    let lease = provider.dispatch(caller(None), false).await.unwrap();
    lease.settle(LeaseOutcome::RateLimited { pause: Duration::from_millis(100) });
    let refused = provider.dispatch(caller(None), false).await.unwrap_err();
    assert!(matches!(refused, DispatchError::CoolingDown { .. }), "{refused}");
    sleep(Duration::from_millis(120)).await;
    assert!(provider.dispatch(caller(None), false).await.is_ok());
}

#[actix::test]
async fn many_who_ask_for_models_share_one_fetch_and_a_failure_falls_back() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        std::io::Read::read(&mut socket, &mut [0; 4096]).unwrap();
        let body = r#"{"data":[{"id":"live","context_length":9000}]}"#;
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        listener.accept().is_err()
    });
    let (cell, _) = providers(json!({
        "live": chat(json!({"baseUrl": format!("http://{address}/v1"), "authMode": "local", "models": ["own"], "contextWindow": 5000})),
        "dead": chat(json!({"baseUrl": "http://127.0.0.1:1/v1", "authMode": "local", "models": ["own"]})),
    }))
    .await;
    let snapshot = cell.load_full();
    let asked = (0..20).map(|_| snapshot.providers["live"].models());
    for list in futures_util::future::join_all(asked).await {
        let rows: Vec<_> = list.iter().map(|m| (m.id.as_str(), m.context_window)).collect();
        assert_eq!(rows, [("live", Some(5000)), ("own", Some(5000))]);
    }
    assert!(served.join().unwrap(), "no second connection");
    let ids: Vec<_> =
        snapshot.providers["dead"].models().await.iter().map(|m| m.id.clone()).collect();
    assert_eq!(ids, ["own"]);
}
