//! A real Prometheus scrapes a gateway to which everything happens that the dashboards tell of.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use regex::Regex;
use serde_json::{Value, json};

use crate::{
    Caller,
    authority::Authority,
    eventually, provider, shipped, succeeds,
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Reply, Step, Upstream},
    },
    tool,
};

/// Prometheus. Ends with the test.
pub struct Prometheus {
    child: Child,
    caller: Caller,
}

impl Prometheus {
    /// Scrapes a gateway every second and evaluates rules.
    pub fn start(dir: &Path, scraped: std::net::SocketAddr, rules: &str) -> Self {
        fs::write(dir.join("rules.yml"), rules).unwrap();
        let shipped = fs::read_to_string(shipped("prometheus/prometheus.yml")).unwrap();
        let config = shipped
            .replace("alerts.yml", "rules.yml")
            .replace("127.0.0.1:10100", &scraped.to_string())
            .replace(": 15s", ": 1s");
        assert!(config.contains(&scraped.to_string()) && config.contains("rules.yml"));
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = fs::File::create(dir.join("prometheus.log")).unwrap();
        let child = tool("prometheus")
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{error}: `bash tests/all.sh` unpacks Prometheus"));
        let this = Self { child, caller: Caller::new(address) };
        let ready = || {
            let ready = this.caller.agent.get(format!("http://{address}/-/ready")).call();
            ready.is_ok_and(|answer| answer.status() == 200)
        };
        eventually("Prometheus is ready", Duration::from_secs(30), ready);
        this
    }

    /// The result of an instant query.
    ///
    /// # Errors
    ///
    /// What Prometheus says of the expression.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let address = self.caller.address;
        let answer = self
            .caller
            .agent
            .get(format!("http://{address}/api/v1/query"))
            .query("query", expression)
            .call()
            .unwrap();
        let text = answer.into_body().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        match answer["data"]["result"].as_array() {
            Some(result) if answer["status"] == "success" => Ok(result.clone()),
            _ => Err(format!("{expression}: {text}")),
        }
    }

    /// Whether an alert fires.
    pub fn fires(&self, alert: &str) -> bool {
        let of = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        !self.query(&of).unwrap().is_empty()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every expression of a dashboard, its panel with it, with its variables filled in.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let of = |panel: &Value| -> Vec<(String, String)> {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let fill = |target: &Value| {
            let expression = target["expr"].as_str().unwrap();
            let filled = expression
                .replace("$instance", ".*")
                .replace("$provider", ".*")
                .replace("$__rate_interval", "30s")
                .replace("$__range", "60s");
            assert!(!filled.contains('$'), "{filled}");
            (panel["title"].as_str().unwrap().to_owned(), filled)
        };
        targets.iter().map(fill).collect()
    };
    panels.flat_map(of).collect()
}

/// What an alert compares: it has data also while the alert does not fire.
fn compared(expression: &str) -> Vec<String> {
    let comparison = Regex::new(r" (==|<|>) (\d)").unwrap();
    let splits = Regex::new(r"\s(?:and|unless|or)\s(?:on \([^)]*\)\s)?").unwrap();
    let offset = Regex::new(r" offset \w+").unwrap();
    let parts = splits.split(expression);
    let told = |part: &str| {
        let part = comparison.replace_all(part, " $1 bool $2").into_owned();
        offset.replace_all(&part, "").into_owned()
    };
    parts.map(told).collect()
}

/// An upstream to whose models everything happens.
fn eventful() -> Upstream {
    Upstream::start(|asked| {
        if asked.line.contains("/models") {
            return Reply::json(200, &json!({"object": "list", "data": [{"id": "m"}]}));
        }
        let body = asked.json();
        match body["model"].as_str() {
            Some("flaky") if asked.number % 2 == 0 => {
                Reply::json(500, &json!({"error": {"message": "a hiccup"}}))
            }
            Some("hangs") => Reply::stream().frames(&[chat::text("x")]).then(Step::AwaitClose),
            Some("silent") => Reply::chat(&[chat::text("x"), json!("[DONE]")]),
            // Long enough for a sign of life.
            Some("m") if body["stream"] == true => {
                let mut reply = Reply::stream();
                let limits =
                    "x-ratelimit-limit-requests: 100\r\nx-ratelimit-remaining-requests: 40\r\n\r\n";
                if let Some(Step::Raw(head)) = reply.0.first_mut() {
                    head.truncate(head.len() - 2);
                    head.extend_from_slice(limits.as_bytes());
                }
                let reply = reply.frames(&[chat::text("x"), chat::text("y")]).pause(250);
                reply.frames(&chat::end("stop")).end()
            }
            Some("m") => Reply::json(
                200,
                &json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop",
                        "message": {"role": "assistant", "content": "x"}}],
                    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}),
            ),
            _ => Reply::chat(&[vec![chat::text("x")], chat::end("stop")].concat()),
        }
    })
}

/// An account of `acme` whose token ended.
pub fn log_in(home: &Path, authority: &Authority) {
    let tokens = authority.admin(&json!({"mint": "ann"}));
    let credential = json!({"access": tokens["access_token"], "refresh": tokens["refresh_token"],
        "expires": ocx::credentials::now_ms() - 60_000, "lifetime": 3_600_000,
        "accountId": "ann", "generation": 1});
    let text = json!({"acme": {"activeAccountId": "ann",
        "accounts": [{"id": "ann", "credential": credential}]}});
    fs::write(home.join("auth.json"), text.to_string()).unwrap();
}

/// A provider that the authority logs in to.
pub fn acme(authority: &Authority, base_url: &str) -> Value {
    json!({"adapter": "openai-chat", "baseUrl": base_url, "authMode": "oauth", "models": ["a"],
        "liveModels": false, "login": authority.login()})
}

fn config(upstream: &Upstream, authority: &Authority) -> Value {
    let mut good = provider("openai-chat", &upstream.base_url());
    good["liveModels"] = true.into();
    good["models"] = json!(["flaky", "silent", "hangs"]);
    good["prices"] = json!({"*": {"input": 3, "output": 15}});
    let dead = provider("openai-chat", "http://127.0.0.1:9/v1");
    json!({
        "providers": {"good": good, "dead": dead, "acme": acme(authority, &upstream.base_url())},
        "combos": {"fallback": {"targets": ["dead/m", "good/m"]}},
        "keepaliveIntervalMs": 100,
        "stallTimeoutSec": 1,
    })
}

/// One round of everything.
fn round(caller: &Caller, round: usize) {
    let say = |model: &str, more: Value| {
        let mut body = json!({"model": model, "input": "hi", "stream": true});
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        caller.post("/v1/responses", &body)
    };
    // A conversation that goes on, so long that caches keep it.
    let begun = json!({"role": "user", "content": "words ".repeat(4000)});
    let mut input = vec![begun];
    for n in 0..round % 5 {
        input.push(json!({"role": "assistant", "content": format!("answer {n}")}));
        input.push(json!({"role": "user", "content": format!("more {n}")}));
    }
    say("good/m", json!({ "input": input }));
    say("good/m", json!({"stream": false}));
    say("good/m", json!({"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}));
    say("good/flaky", json!({}));
    say("good/silent", json!({}));
    say("acme/a", json!({}));
    if round.is_multiple_of(8) {
        say("good/hangs", json!({}));
    }
    say("fallback", json!({}));
    say("good/m", json!({"input": 7}));
    caller.get("/v1/models");
    let mut socket = std::net::TcpStream::connect(caller.address).unwrap();
    socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: evil.example\r\n\r\n").unwrap();
}

/// Whether a query has data that says something.
fn has_data(result: &[Value]) -> bool {
    result.iter().any(|series| series["value"][1] != "NaN")
}

#[test]
fn every_panel_and_every_alert_has_data_of_a_gateway_in_use() {
    let (home, authority, upstream) = (scratch("prometheus"), Authority::start(), eventful());
    authority.set(json!({"expires_in": 4, "delay": 0.2}));
    log_in(&home, &authority);
    let ocx = Ocx::serve(&home, &config(&upstream, &authority));
    let alerts = fs::read_to_string(shipped("prometheus/alerts.yml")).unwrap();
    let prometheus = Prometheus::start(&home, ocx.address, &alerts);

    let stop = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = (0..3)
        .map(|_| {
            let (stop, caller) = (Arc::clone(&stop), Caller::new(ocx.address));
            thread::spawn(move || {
                for n in 0.. {
                    if stop.load(SeqCst) {
                        return;
                    }
                    round(&caller, n);
                    thread::sleep(Duration::from_millis(100));
                }
            })
        })
        .collect();
    let mut wanted = Vec::new();
    for name in ["overview", "provider", "runtime"] {
        let text = fs::read_to_string(shipped(&format!("grafana/{name}.json"))).unwrap();
        let panels = expressions(&serde_json::from_str(&text).unwrap());
        assert!(panels.len() > 10, "{name}");
        wanted.extend(panels.into_iter().map(|(title, expr)| (format!("{name}: {title}"), expr)));
    }
    let panels = wanted.len();
    for (alert, expression) in loaded_alerts(&prometheus) {
        let parts = compared(&expression);
        wanted.extend(parts.into_iter().map(|part| (format!("alert {alert}"), part)));
    }
    println!("{panels} expressions of panels, {} of alerts", wanted.len() - panels);
    let started = Instant::now();
    while !wanted.is_empty() && started.elapsed() < Duration::from_secs(90) {
        thread::sleep(Duration::from_secs(1));
        // Changes while it runs, for the metrics of reloads.
        let mut changed = config(&upstream, &authority);
        changed["maxRetries"] = (started.elapsed().as_secs() / 5 % 3).into();
        fs::write(&ocx.config, changed.to_string()).unwrap();
        wanted.retain(|(_, expression)| {
            // An expression that does not parse will not do so later.
            !has_data(&prometheus.query(expression).unwrap())
        });
    }
    println!("all of them had data after {:?}", started.elapsed());
    stop.store(true, SeqCst);
    users.into_iter().for_each(|user| user.join().unwrap());
    assert!(wanted.is_empty(), "without data: {wanted:#?}");

    let scrape = home.join("scrape.txt");
    fs::write(&scrape, ocx.get("/metrics")).unwrap();
    let said = succeeds(
        tool("promtool").args(["check", "metrics"]).stdin(fs::File::open(scrape).unwrap()),
    );
    assert_eq!(said, "", "promtool has nothing to say");
}

/// The alerts as Prometheus read them: names and expressions.
fn loaded_alerts(prometheus: &Prometheus) -> Vec<(String, String)> {
    let text = prometheus.caller.get("/api/v1/rules?type=alert");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let groups = answer["data"]["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let text = |rule: &Value, field: &str| rule[field].as_str().unwrap().to_owned();
    let alerts: Vec<_> = rules.map(|rule| (text(rule, "name"), text(rule, "query"))).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    alerts
}
