//! `ocx init` on a terminal, as a person uses it, and by flags.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use url::Url;

use crate::{
    account,
    authority::Authority,
    command, config, home,
    logins::{browse, visit},
    support::{certificates::CertificateAuthority, upstream::Upstream},
    together,
};

/// The program on a terminal, with what is typed when.
fn session(home: &Path, steps: &Value, args: &[&str]) -> Child {
    on_terminal(home, steps, &[&["init"], args].concat()).spawn().unwrap()
}

fn on_terminal(home: &Path, steps: &Value, args: &[&str]) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/accounts/terminal.py");
    let mut terminal = Command::new("python3");
    terminal.arg(script).arg(steps.to_string()).arg(env!("CARGO_BIN_EXE_ocx"));
    terminal.args(args).env("OPENCODEX_HOME", home).env_remove("RUST_LOG").env_remove("NO_COLOR");
    terminal.stdin(Stdio::null()).stdout(Stdio::piped());
    terminal
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

#[test]
fn a_server_of_ones_own_with_a_key_that_is_checked_first() {
    let _machine = together();
    let (server, home) = (Upstream::keyed("sk-right"), home("init-custom"));
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

/// A proxy that leads to one address, whatever host it is asked for, and notes which that was.
fn proxy_to(address: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (proxy, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for caller in listener.incoming() {
            let mut caller = caller.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                caller.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            seen.lock().unwrap().push(String::from_utf8(head).unwrap());
            caller.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
            let server = TcpStream::connect(address).unwrap();
            for (mut from, mut to) in
                [(caller.try_clone().unwrap(), server.try_clone().unwrap()), (server, caller)]
            {
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (proxy, asked)
}

/// The vendor is played by a server of ours, behind a proxy and with a certificate of an authority that
/// the config trusts: everything is as it would be, and nothing leaves this machine.
#[test]
fn a_provider_with_a_key_from_its_own_page() {
    let _machine = together();
    let home = home("init-page");
    let authority = CertificateAuthority::new("the company's");
    let (proxy, asked) = proxy_to(authority.serve_apart("api.groq.com"));
    let pem = home.join("ca.pem");
    fs::write(&pem, &authority.pem).unwrap();
    fs::write(home.join("config.json"), json!({"caFile": pem, "providers": {}}).to_string())
        .unwrap();
    // What a desktop opens pages with.
    let (bin, opened) = (home.join("bin"), home.join("opened"));
    fs::create_dir(&bin).unwrap();
    let program = bin.join(if cfg!(target_os = "macos") { "open" } else { "xdg-open" });
    fs::write(&program, format!("#!/bin/sh\nprintf '%s' \"$1\" > {}\n", opened.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let steps = json!([["Which provider", "groq\r"], ["The key", "gsk-typed-key\r"]]);
    let mut terminal = on_terminal(&home, &steps, &["init"]);
    terminal.env("PATH", path).env("HTTPS_PROXY", format!("http://{proxy}"));
    terminal.env_remove("GROQ_API_KEY").env_remove("NO_PROXY").env_remove("no_proxy");
    let (done, said) = told(terminal.spawn().unwrap());
    assert!(done, "{said}");
    for words in
        ["You get a key at https://console.groq.com/keys", "groq: key 1: valid", "Saved `groq`"]
    {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(!said.contains("gsk-typed-key"), "a key is not shown: {said}");
    assert_eq!(saved(&home)["providers"]["groq"], json!({"apiKey": "gsk-typed-key"}));
    assert_eq!(fs::read_to_string(opened).unwrap(), "https://console.groq.com/keys");
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().all(|head| head.starts_with("CONNECT api.groq.com:443 ")), "{asked:?}");
    assert_eq!(asked.len(), 1, "{asked:?}");
    // Without a key typed, its variable is what the config names.
    fs::write(home.join("config.json"), json!({"caFile": pem, "providers": {}}).to_string())
        .unwrap();
    let steps = json!([["Which provider", "groq\r"], ["empty: it will be in GROQ_API_KEY", "\r"]]);
    let mut terminal = on_terminal(&home, &steps, &["init"]);
    terminal.env("HTTPS_PROXY", format!("http://{proxy}")).env_remove("GROQ_API_KEY");
    let (done, said) = told(terminal.spawn().unwrap());
    assert!(done && said.contains("unknown: the variable GROQ_API_KEY is not set"), "{said}");
    assert_eq!(saved(&home)["providers"]["groq"], json!({"apiKey": "${GROQ_API_KEY}"}));
}

#[test]
fn who_is_interrupted_gets_the_terminal_back_and_nothing_is_saved() {
    let _machine = together();
    let home = home("init-interrupted");
    let steps = json!([["Which provider", "\u{3}"]]);
    let mut session = session(&home, &steps, &[]);
    let mut said = String::new();
    session.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(session.wait().unwrap().code(), Some(130), "{said:?}");
    let (hidden, shown) = (said.rfind("\u{1b}[?25l"), said.rfind("\u{1b}[?25h"));
    assert!(hidden.is_some() && shown > hidden, "the cursor is there again: {said:?}");
    assert!(!home.join("config.json").exists());
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let _machine = together();
    let home = home("colours");
    let doctor = ["doctor", "--offline"];
    let said = |command: &mut Command| String::from_utf8(command.output().unwrap().stdout).unwrap();
    let terminal = said(&mut on_terminal(&home, &json!([]), &doctor));
    assert!(terminal.contains("\u{1b}[32m✓"), "{terminal:?}");
    let plain = said(on_terminal(&home, &json!([]), &doctor).env("NO_COLOR", "1"));
    assert!(plain.contains('✓') && !plain.contains('\u{1b}'), "{plain:?}");
    let piped = said(command(&home).args(doctor));
    assert!(piped.contains('✓') && !piped.contains('\u{1b}'), "{piped:?}");
}

#[test]
fn a_local_server_that_ocx_knows() {
    let _machine = together();
    let home = home("init-local");
    let steps = json!([["Which provider", "lm-studio\r"]]);
    let (done, said) = told(session(&home, &steps, &[]));
    assert!(done && said.contains("ocx start"), "{said}");
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
    let (server, home) = (Upstream::keyed("sk-right"), home("init-flags"));
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
