//! `ocx init` on a terminal, as a person uses it, and by flags.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use url::Url;

use crate::{
    account,
    authority::Authority,
    command, config, home,
    logins::{browse, visit},
    support::upstream::{Reply, Upstream},
    together,
};

/// The program on a terminal, with what is typed when.
fn session(home: &Path, steps: &Value, args: &[&str]) -> Child {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/accounts/terminal.py");
    let mut terminal = Command::new("python3");
    terminal.arg(script).arg(steps.to_string()).arg(env!("CARGO_BIN_EXE_ocx")).arg("init");
    terminal.args(args).env("OPENCODEX_HOME", home).env_remove("RUST_LOG");
    terminal.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

fn told(mut session: Child) -> (bool, String) {
    let mut said = String::new();
    session.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    (session.wait().unwrap().success(), said)
}

fn saved(home: &Path) -> Value {
    let text = fs::read_to_string(home.join("config.json")).unwrap_or_else(|_| "{}".to_owned());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A server that knows one key.
fn keyed() -> Upstream {
    Upstream::start(|asked| match asked.header("authorization") {
        Some("Bearer sk-right") => Reply::json(200, &json!({"data": [{"id": "m"}]})),
        _ => Reply::json(401, &json!({"error": {"message": "no"}})),
    })
}

#[test]
fn a_server_of_ones_own_with_a_key_that_is_checked_first() {
    let _machine = together();
    let (server, home) = (keyed(), home("init-custom"));
    fs::write(home.join("config.json"), "{\n  \"providers\": { \"ollama\": {} }\n}\n").unwrap();
    fs::set_permissions(home.join("config.json"), fs::Permissions::from_mode(0o644)).unwrap();
    let steps = |key: &str| {
        json!([
            ["Which provider", "another server\r"],
            ["A name for it", "mine\r"],
            ["Its address", format!("{}\r", server.base_url())],
            ["Does it want a key?", "y"],
            ["The key", format!("{key}\r")],
        ])
    };
    let (done, said) = told(session(&home, &steps("sk-wrong"), &[]));
    assert!(!done && said.contains("nothing was saved"), "{said}");
    assert!(saved(&home)["providers"].get("mine").is_none());
    let (done, said) = told(session(&home, &steps("sk-right"), &[]));
    assert!(done && said.contains("valid") && said.contains("Saved `mine`"), "{said}");
    assert!(!said.contains("sk-right"), "a key is not shown: {said}");
    let config = saved(&home);
    let expected =
        json!({"adapter": "openai-chat", "baseUrl": server.base_url(), "apiKey": "sk-right"});
    assert_eq!(config["providers"]["mine"], expected);
    assert_eq!(config["providers"]["ollama"], json!({}), "what was there stays");
    let names: Vec<&String> = config["providers"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["ollama", "mine"], "and first: order decides where models go");
    let mode = fs::metadata(home.join("config.json")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "it holds a key now");
}

#[test]
fn a_local_server_that_ocx_knows() {
    let _machine = together();
    let home = home("init-local");
    let steps = json!([["Which provider", "lm-studio\r"]]);
    let (done, said) = told(session(&home, &steps, &[]));
    assert!(done && said.contains("ocx serve"), "{said}");
    assert_eq!(saved(&home)["providers"]["lm-studio"], json!({}));
    assert!(saved(&home)["providers"].get("openai").is_some(), "the built-in one is not lost");
}

#[test]
fn a_provider_with_keys_whose_variable_is_set() {
    let _machine = together();
    let home = home("init-key");
    // Without a model list there is nobody to ask, and nothing leaves this machine.
    let steps = json!([["Its address", "http://127.0.0.1:9/v1\r"], ["Does it want a key?", "n"]]);
    let (done, said) = told(session(&home, &steps, &["--provider", "nowhere"]));
    assert!(done && said.contains("unknown"), "{said}");
    assert_eq!(saved(&home)["providers"]["nowhere"]["authMode"], "local");
    let mut by_flags = command(&home);
    by_flags.args([
        "init",
        "--yes",
        "--provider",
        "flagged",
        "--base-url",
        "http://127.0.0.1:9/v1",
    ]);
    by_flags.args(["--key-env", "MY_KEY", "--model", "m"]).env("MY_KEY", "k");
    assert!(by_flags.output().unwrap().status.success());
    let expected = json!({"adapter": "openai-chat", "baseUrl": "http://127.0.0.1:9/v1",
        "apiKey": "${MY_KEY}", "defaultModel": "m"});
    assert_eq!(saved(&home)["providers"]["flagged"], expected);
}

#[test]
fn an_account_of_the_config_is_logged_in_to() {
    let _machine = together();
    let (authority, home) = (Authority::start(), home("init-account"));
    fs::write(home.join("config.json"), config(&authority, "http://127.0.0.1:9/v1").to_string())
        .unwrap();
    let mut session = session(&home, &json!([]), &["--provider", "acme", "--no-browser"]);
    let mut lines = BufReader::new(session.stdout.take().unwrap()).lines();
    let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
        let address = line.trim().strip_prefix("Open ")?.to_owned();
        Some(Url::parse(&address).unwrap())
    });
    assert!(visit(&browse(&address.unwrap())).contains("You are logged in"));
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(session.wait().unwrap().success(), "{rest:?}");
    assert_eq!(account(&home)["id"], "user1");
}

#[test]
fn without_a_terminal_flags_must_say_all() {
    let _machine = together();
    let (server, home) = (keyed(), home("init-flags"));
    let output = command(&home).arg("init").stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("--provider"), "what to do is said");
    for (key, saves) in [("sk-wrong", false), ("sk-right", true)] {
        let mut init = command(&home);
        init.args(["init", "--yes", "--provider", "mine", "--key-stdin", "--base-url"]);
        let mut child = init
            .arg(server.base_url())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{key}").unwrap();
        assert_eq!(child.wait().unwrap().success(), saves, "{key}");
    }
    assert_eq!(saved(&home)["providers"]["mine"]["apiKey"], "sk-right");
    for wrong in [
        &["--provider", "mine", "--no-key"][..],
        &["--provider", "a/b", "--base-url", "http://h/v1"],
        &["--provider", "x", "--base-url", "notaurl"],
        &["--provider", "x", "--base-url", "http://h/v1", "--key-env", "${KEY}"],
        &["--provider", "x", "--base-url", &server.base_url()],
    ] {
        let before = saved(&home);
        let output = command(&home).args(["init", "--yes"]).args(wrong).output().unwrap();
        assert!(!output.status.success(), "{wrong:?}");
        assert_eq!(saved(&home), before, "{wrong:?}");
    }
}
