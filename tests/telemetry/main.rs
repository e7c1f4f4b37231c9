//! What operators are told, held against what happened: a real Prometheus, the ledger against known
//! totals, traces at a receiver that decodes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[allow(dead_code, reason = "accounts look at more of it")]
#[path = "../accounts/authority.rs"]
mod authority;
#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod cardinality;
mod ledger;
mod logs;
mod prometheus;
mod traces;

use std::{
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// One of Debian's Prometheus programs: `tests/all.sh` unpacks them.
fn tool(name: &str) -> Command {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/usr/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { PathBuf::from(name) })
}

/// What a tool said; it must have succeeded.
fn succeeds(command: &mut Command) -> String {
    let hint = "`bash tests/all.sh` unpacks Prometheus; or install it";
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; {hint}"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// A file of the tree.
fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(path)
}

/// A caller that keeps its connections.
#[derive(Clone)]
struct Caller {
    agent: ureq::Agent,
    address: SocketAddr,
}

impl Caller {
    fn new(address: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .proxy(None)
            .build();
        Self { agent: config.into(), address }
    }

    fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Result<(u16, ureq::Body), ureq::Error> {
        let mut request = self.agent.post(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.content_type("application/json");
        let response = request.send(body.to_string())?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// Status and body of an answer.
    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let (status, mut body) = self.send(path, &[], body).unwrap();
        (status, body.read_to_string().unwrap())
    }

    /// A stream of the Responses API.
    fn ask(&self, model: &str) -> (u16, String) {
        self.post("/v1/responses", &json!({"model": model, "input": "hi", "stream": true}))
    }

    /// Leaves as soon as `word` has come.
    fn leave_after(&self, body: &Value, word: &str) {
        let (_, body) = self.send("/v1/responses", &[], body).unwrap();
        let (mut reader, mut text, mut piece) = (body.into_reader(), Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&text).contains(word) {
            match reader.read(&mut piece) {
                Ok(0) => panic!("it ended first: {}", String::from_utf8_lossy(&text)),
                Ok(read) => text.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn get(&self, path: &str) -> String {
        let response = self.agent.get(format!("http://{}{path}", self.address)).call().unwrap();
        response.into_body().read_to_string().unwrap()
    }
}

/// Waits until something is so.
fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "not in {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A provider of a config that asks no key and lists nothing.
fn provider(adapter: &str, base_url: &str) -> Value {
    json!({"adapter": adapter, "baseUrl": base_url, "authMode": "local", "liveModels": false})
}
