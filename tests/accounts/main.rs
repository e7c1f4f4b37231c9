//! Account logins end to end: `ocx` as a process, an authorisation server as another (`authority.py`),
//! and an upstream that takes only tokens of the newest generation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod authority;
#[path = "../support/mod.rs"]
mod support;

mod faults;
mod init;
mod logins;
mod refreshes;

use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use authority::Authority;
use serde_json::{Value, json};
use support::{
    chat, scratch,
    upstream::{Asked, Reply, Upstream},
};

/// An upstream that refuses tokens older than `required`.
struct Model {
    upstream: Upstream,
    required: Arc<AtomicU64>,
}

impl Model {
    fn start() -> Self {
        let required = Arc::new(AtomicU64::new(0));
        let wanted = Arc::clone(&required);
        let upstream = Upstream::start(move |asked: &Asked| {
            let generation = asked.header("authorization").and_then(generation);
            if generation.is_some_and(|generation| generation >= wanted.load(SeqCst)) {
                Reply::chat(&[vec![chat::text("hello")], chat::end("stop")].concat())
            } else {
                Reply::json(401, &json!({"error": {"message": "the token is not valid"}}))
            }
        });
        Self { upstream, required }
    }
}

/// Of `Bearer at-<family>-<generation>-<noise>`.
fn generation(header: &str) -> Option<u64> {
    header.strip_prefix("Bearer at-")?.split('-').nth(1)?.parse().ok()
}

/// A config with one provider that logs in at the authority.
fn config(authority: &Authority, base_url: &str) -> Value {
    json!({"providers": {"acme": {
        "adapter": "openai-chat", "baseUrl": base_url, "authMode": "oauth", "models": ["m"],
        "liveModels": false, "login": authority.login(),
    }}})
}

/// `auth.json` with an account whose first tokens the authority made.
fn write_account(home: &Path, authority: &Authority, family: &str, expires_in: i64) {
    let tokens = authority.admin(&json!({ "mint": family }));
    let now = i64::try_from(ocx::credentials::now_ms()).unwrap();
    let credential = json!({"access": tokens["access_token"], "refresh": tokens["refresh_token"],
        "expires": now + expires_in * 1000, "lifetime": 3_600_000, "accountId": family, "generation": 1});
    let other = json!({"access": "other-access", "refresh": "other-refresh", "expires": 1});
    let text = json!({
        "acme": {"activeAccountId": family, "accounts": [{"id": family, "credential": credential}]},
        "other": other,
    });
    fs::create_dir_all(home).unwrap();
    fs::write(home.join("auth.json"), text.to_string()).unwrap();
}

/// The account of `acme` as the file has it.
fn account(home: &Path) -> Value {
    let text = fs::read_to_string(home.join("auth.json")).unwrap();
    let store: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    store["acme"]["accounts"][0].clone()
}

/// Asks for an answer over a socket of its own: status and body.
fn ask(address: SocketAddr) -> (u16, String) {
    ask_model(address, "acme/m")
}

fn ask_model(address: SocketAddr, model: &str) -> (u16, String) {
    let mut socket = support::ocx::ask(address, &json!({"model": model, "input": "hi"}));
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
    command.env("OPENCODEX_HOME", home).env_remove("RUST_LOG");
    command
}

/// Tests that need the machine for themselves take it whole, all others share it.
static MACHINE: std::sync::RwLock<()> = std::sync::RwLock::new(());

fn alone() -> impl Drop {
    MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn together() -> impl Drop {
    MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn home(name: &str) -> PathBuf {
    scratch(&format!("accounts-{name}"))
}
