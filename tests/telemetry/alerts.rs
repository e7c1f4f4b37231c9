//! The shipped alerts: checked and unit-tested by promtool, and some of them set off by real faults.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use regex::Regex;
use serde_json::{Value, json};

use crate::{
    Caller,
    authority::Authority,
    eventually,
    prometheus::{Prometheus, acme, log_in},
    provider, shipped, succeeds,
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Reply, Step, Upstream},
    },
    tool,
};

#[test]
fn promtool_takes_the_rules_and_fires_and_clears_each_of_them() {
    let rules = shipped("prometheus/alerts.yml");
    let said = succeeds(tool("promtool").args(["check", "rules"]).arg(&rules));
    assert!(said.contains("22 rules found"), "{said}");
    let config = shipped("prometheus/prometheus.yml");
    succeeds(tool("promtool").args(["check", "config"]).arg(config));
    let tests = shipped("prometheus/alerts_test.yml");
    let said = succeeds(tool("promtool").args(["test", "rules"]).arg(&tests));
    assert!(said.contains("SUCCESS"), "{said}");

    // Each alert is seen to fire and to clear, and tells what to do.
    let (rules, tests) = (fs::read_to_string(rules).unwrap(), fs::read_to_string(tests).unwrap());
    let sample =
        Regex::new(r#"alertname="(\w+)"[^\n]*\n[^\n]*\n\s+exp_samples: [^\n]*value: ([01])"#);
    let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let sample = sample.unwrap();
    for found in sample.captures_iter(&tests) {
        seen.entry(found.get(1).unwrap().as_str())
            .or_default()
            .push(found.get(2).unwrap().as_str());
    }
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let values = seen.get(name).unwrap_or_else(|| panic!("{name} has no test"));
        assert!(values.contains(&"1") && values.contains(&"0"), "{name}: {values:?}");
        for part in ["runbook: ", "summary: ", "severity: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
    }
}

/// The shipped rules with seconds for minutes and hours, so that a test can wait for them.
fn quick() -> String {
    let rules = fs::read_to_string(shipped("prometheus/alerts.yml")).unwrap();
    let windows = Regex::new(r"\[\d+[mh]\]").unwrap().replace_all(&rules, "[8s]").into_owned();
    Regex::new(r"for: \d+[mh]").unwrap().replace_all(&windows, "for: 1s").into_owned()
}

/// What goes wrong upstream now.
#[derive(Clone, Default)]
struct Fault(Arc<Mutex<&'static str>>);

impl Fault {
    fn set(&self, fault: &'static str) {
        *self.0.lock().unwrap() = fault;
    }

    fn upstream(&self) -> Upstream {
        let fault = self.clone();
        Upstream::start(move |asked| {
            let fault = *fault.0.lock().unwrap();
            let good = || Reply::chat(&[vec![chat::text("x")], chat::end("stop")].concat());
            match fault {
                "fails" => Reply::json(500, &json!({"error": {"message": "no"}})),
                "tells no usage" => Reply::chat(&[chat::text("x"), json!("[DONE]")]),
                // Every fourth, so that the others go on.
                "falls silent" if asked.number % 4 == 0 => {
                    Reply::stream().frames(&[chat::text("x")]).then(Step::AwaitClose)
                }
                _ => good(),
            }
        })
    }
}

struct Stage {
    prometheus: Prometheus,
    ocx: Ocx,
    config: Value,
}

impl Stage {
    fn write(&self, config: &str) {
        fs::write(&self.ocx.config, config).unwrap();
    }

    /// A fault sets these alerts off; when it is over, they clear.
    fn sets_off(&self, alerts: &[&str], fault: impl FnOnce(&Self), over: impl FnOnce(&Self)) {
        for alert in alerts {
            assert!(!self.prometheus.fires(alert), "{alert} fires before its fault");
        }
        fault(self);
        let limit = Duration::from_secs(40);
        for alert in alerts {
            eventually(&format!("{alert} fires"), limit, || self.prometheus.fires(alert));
        }
        over(self);
        for alert in alerts {
            eventually(&format!("{alert} clears"), limit, || !self.prometheus.fires(alert));
        }
        println!("fired and cleared: {alerts:?}");
    }

    /// Renews the tokens of `acme`, and has its actor begin anew, which reads them.
    fn log_in_for(&self, seconds: u64, authority: &Authority, home: &Path) {
        authority.set(json!({ "expires_in": seconds }));
        let mut refresh = Command::new(env!("CARGO_BIN_EXE_ocx"));
        succeeds(refresh.args(["accounts", "refresh", "acme"]).env("OPENCODEX_HOME", home));
        let mut config = self.config.clone();
        config["providers"]["acme"]["maxConcurrency"] = seconds.into();
        self.write(&config.to_string());
    }

    fn signal(&self, signal: &str) {
        succeeds(Command::new("kill").arg(signal).arg(self.ocx.id().to_string()));
    }
}

#[test]
fn real_faults_set_alerts_off_and_their_end_clears_them() {
    let (home, authority, fault) = (scratch("alerts"), Authority::start(), Fault::default());
    let upstream = fault.upstream();
    authority.set(json!({"expires_in": 36_000}));
    log_in(&home, &authority);
    let mut p = provider("openai-chat", &upstream.base_url());
    p["models"] = json!(["m"]);
    let config = json!({
        "providers": {"p": p, "acme": acme(&authority, &upstream.base_url())},
        "stallTimeoutSec": 1,
    });
    let ocx = Ocx::serve(&home, &config);
    let prometheus = Prometheus::start(&home, ocx.address, &quick());
    let stage = Stage { prometheus, ocx, config };
    let stop = Arc::new(AtomicBool::new(false));
    let odd_tools = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = (0..4)
        .map(|_| {
            let (stop, odd) = (Arc::clone(&stop), Arc::clone(&odd_tools));
            let caller = Caller::new(stage.ocx.address);
            thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let mut body = json!({"model": "p/m", "input": "hi", "stream": true});
                    if odd.load(SeqCst) {
                        body["tools"] = json!([{"type": "file_search", "vector_store_ids": ["v"]}]);
                    }
                    drop(caller.post("/v1/responses", &body));
                    thread::sleep(Duration::from_millis(50));
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(4));

    stage.sets_off(
        // Not OcxAmplification: the retry budget sees to that.
        &["OcxNoSuccess", "OcxErrorBudgetFast", "OcxErrorBudgetSlow"],
        |_| fault.set("fails"),
        |_| fault.set(""),
    );
    stage.sets_off(&["OcxUsageMissing"], |_| fault.set("tells no usage"), |_| fault.set(""));
    stage.sets_off(&["OcxStreamsStalling"], |_| fault.set("falls silent"), |_| fault.set(""));
    stage.sets_off(
        &["OcxTranslationLoss"],
        |_| odd_tools.store(true, SeqCst),
        |_| odd_tools.store(false, SeqCst),
    );
    stage.sets_off(
        &["OcxConfigReloadFailed", "OcxConfigDiverged"],
        |stage| stage.write("{\"providers\": "),
        |stage| stage.write(&stage.config.to_string()),
    );
    stage.sets_off(
        &["OcxNeedsLogin"],
        |stage| {
            let mut config = stage.config.clone();
            config["providers"]["keyless"] = json!({"adapter": "openai-chat",
                "baseUrl": "http://127.0.0.1:9/v1", "liveModels": false});
            stage.write(&config.to_string());
        },
        |stage| stage.write(&stage.config.to_string()),
    );
    stage.sets_off(
        &["OcxTokenExpiringSoon"],
        |stage| stage.log_in_for(250, &authority, &home),
        |stage| stage.log_in_for(36_000, &authority, &home),
    );
    stop.store(true, SeqCst);
    users.into_iter().for_each(|user| user.join().unwrap());
    stage.sets_off(&["OcxDown"], |stage| stage.signal("-STOP"), |stage| stage.signal("-CONT"));
}
