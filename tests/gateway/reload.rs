//! The config is edited while agents stream.

use std::{fs, os::unix::fs::symlink, time::Duration};

use actix_rt::time::{Instant, sleep};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    app::{App, anonymous, provider},
    supervision::paced,
    support::{
        chat,
        upstream::{Reply, Upstream},
    },
};

fn config(url: &str, n: usize) -> Value {
    let mut edited = provider(url);
    edited["models"] = json!([format!("edit-{n}")]);
    json!({"providers": {"kept": provider(url), "edited": edited}})
}

/// The three ways in which files change.
fn write(app: &App, n: usize, text: &str) {
    let path = &app.config;
    let beside = |name: String| path.with_file_name(name);
    match n % 3 {
        0 => {
            let _ = fs::read_link(path).map(|_| fs::remove_file(path));
            fs::write(path, text).unwrap();
        }
        1 => {
            fs::write(beside("new.tmp".into()), text).unwrap();
            fs::rename(beside("new.tmp".into()), path).unwrap();
        }
        _ => {
            fs::write(beside(format!("target-{n}")), text).unwrap();
            symlink(format!("target-{n}"), beside("link.tmp".into())).unwrap();
            fs::rename(beside("link.tmp".into()), path).unwrap();
        }
    }
}

async fn until(app: &App, n: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let wanted = format!("edit-{n}");
    while app.shared.cell.load().config.providers["edited"].models[0] != wanted {
        assert!(Instant::now() < deadline, "edit {n} was not noticed");
        sleep(Duration::from_millis(2)).await;
    }
}

#[actix::test]
async fn l05_two_hundred_reloads_under_a_hundred_streams() {
    let upstream = Upstream::start(|_| paced(250, 30));
    let url = upstream.base_url();
    let app = App::start(&config(&url, 0)).await;
    let kept = app.shared.cell.load_full().providers["kept"].is_alive();
    assert!(kept);
    let undisturbed = app.ask("kept/m").await;

    let streams = (0..100).map(|n| app.post_owned(if n % 2 == 0 { "kept/m" } else { "edited/m" }));
    let edits = async {
        sleep(Duration::from_millis(500)).await;
        let before = app.shared.cell.load_full();
        for n in 1..=200 {
            write(&app, n, &config(&url, n).to_string());
            // Most are asked for, some must be noticed.
            if n % 5 != 0 {
                app.reload().await;
            }
            until(&app, n).await;
            if n % 20 == 10 {
                write(&app, n, "{\"providers\": {\"edited\": ");
                let refused = app.reload().await;
                assert_eq!((refused.status, &refused.json()["result"]), (422, &json!("refused")));
                assert!(refused.json()["problems"][0]["line"].is_number());
                assert_eq!(app.metric("ocx_config_last_reload_successful"), 0.0);
                assert_eq!(app.metric("ocx_config_diverged"), 1.0);
                until(&app, n).await;
            }
        }
        let after = app.shared.cell.load_full();
        assert!(after.providers["kept"].is_same(&before.providers["kept"]), "the same actor");
        assert_eq!(app.metric("ocx_open_streams"), 100.0, "all of them still run");
        assert!(app.metric("ocx_config_draining_generations") >= 1.0);
    };
    let (answers, ()) = tokio::join!(join_all(streams), edits);
    let undisturbed = anonymous(&undisturbed.text());
    for (n, answer) in answers.iter().enumerate() {
        let model = if n % 2 == 0 { "kept/m" } else { "edited/m" };
        let expected = undisturbed.replace("kept/m", model);
        assert!(anonymous(&answer.text()) == expected, "stream {n} differs");
    }
    assert!(undisturbed.contains("word 249"), "the baseline is a whole answer");
    assert_eq!(app.metric("ocx_config_generation"), 201.0);
    assert!(app.metric("ocx_config_reloads_total{result=\"parse_error\"") >= 10.0);
    assert!(
        app.get("/metrics")
            .await
            .text()
            .contains("ocx_config_reloads_total{result=\"parse_error\"")
    );
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(app.metric("ocx_config_draining_generations"), 0.0, "nothing old is left");
}

#[actix::test]
async fn a_removed_provider_finishes_its_streams_and_is_gone_for_new_ones() {
    let upstream = Upstream::start(|_| paced(50, 20));
    let url = upstream.base_url();
    let app = App::start(
        &json!({"defaultProvider": "b", "providers": {"a": provider(&url), "b": provider(&url)}}),
    )
    .await;
    let remove = async {
        sleep(Duration::from_millis(200)).await;
        fs::write(&app.config, json!({"providers": {"b": provider(&url)}}).to_string()).unwrap();
        assert_eq!(app.reload().await.json()["result"], "applied");
        assert_eq!(app.metric("ocx_provider_up{provider=\"a\"}"), 0.0, "its series are gone");
        app.get("/v1/models").await
    };
    let (answer, _) = tokio::join!(app.ask("a/m"), remove);
    assert_eq!(answer.terminal()["type"], "response.completed");
    sleep(Duration::from_millis(2300)).await;
    let metrics = app.get("/metrics").await.text();
    assert!(!metrics.contains("provider=\"a\""), "what its last streams counted is gone too");
}

#[actix::test]
async fn streams_of_a_removed_provider_end_at_the_drain_deadline() {
    let upstream = Upstream::start(|_| paced(400, 20));
    let url = upstream.base_url();
    let both = json!({"providers": {"a": provider(&url), "b": provider(&url)}});
    let app = App::start(&both).await;
    let remove = async {
        sleep(Duration::from_millis(200)).await;
        let without = json!({"drainTimeoutSec": 0, "providers": {"b": provider(&url)}});
        fs::write(&app.config, without.to_string()).unwrap();
        app.reload().await;
    };
    let (answer, ()) = tokio::join!(app.ask("a/m"), remove);
    let terminal = answer.terminal();
    assert_eq!(terminal["type"], "response.failed");
    assert!(terminal["response"]["error"]["message"].as_str().unwrap().contains("removed"));
}

#[actix::test]
async fn what_needs_a_restart_is_refused_whole() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let url = upstream.base_url();
    let app = App::start(&config(&url, 0)).await;
    let mut changed = config(&url, 1);
    changed["port"] = json!(1);
    changed["shutdownTimeoutMs"] = json!(1);
    fs::write(&app.config, changed.to_string()).unwrap();
    let answer = app.reload().await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()["restart_required"], json!(["port", "shutdownTimeoutMs"]));
    assert_eq!(app.shared.cell.load().config.providers["edited"].models, ["edit-0"]);
}

#[actix::test]
async fn a_key_that_changes_is_used_by_the_next_call() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let keyed = |key: &str| json!({"providers": {"k": {"adapter": "openai-chat", "baseUrl": upstream.base_url(), "apiKey": key}}});
    let app = App::start(&keyed("sk-first")).await;
    app.ask("k/m").await;
    fs::write(&app.config, keyed("sk-second").to_string()).unwrap();
    app.reload().await;
    app.ask("k/m").await;
    let keys: Vec<_> = upstream
        .asked()
        .iter()
        .map(|asked| asked.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(keys, ["Bearer sk-first", "Bearer sk-second"]);
}
