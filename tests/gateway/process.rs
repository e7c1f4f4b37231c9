//! `ocx` as a process: start, signals, the command line, and what it writes.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    app::{Answer, JSON, chat_config, parse_answer, request},
    supervision::paced,
    support::{
        chat, scratch,
        upstream::{Reply, Upstream},
    },
};

struct Process {
    child: Child,
    address: SocketAddr,
    home: PathBuf,
    started: Duration,
    announced: String,
}

fn ocx(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
    command.env("OPENCODEX_HOME", home).env_remove("RUST_LOG");
    command
}

impl Process {
    fn start(name: &str, config: Option<&Value>, env: &[(&str, &str)]) -> Self {
        let home = scratch(&format!("process-{name}"));
        if let Some(config) = config {
            fs::write(home.join("config.json"), config.to_string()).unwrap();
        }
        let before = Instant::now();
        let mut child = ocx(&home)
            .args(["serve", "--port", "0", "--log-format", "json"])
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut announced = String::new();
        out.read_line(&mut announced).unwrap();
        let started = before.elapsed();
        let address = announced.trim().rsplit("http://").next().unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let mut rest = vec![0; 4096];
        let read = out.read(&mut rest).unwrap();
        announced.push_str(&String::from_utf8_lossy(&rest[..read]));
        Self { child, address, home, started, announced }
    }

    fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn ask(&self, line: &str, body: &str) -> Answer {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.write_all(&request(self.address, line, &[JSON], body.as_bytes())).unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        parse_answer(&bytes)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn it_starts_without_any_file_and_says_where_it_is() {
    let process = Process::start("bare", None, &[]);
    assert!(process.started < Duration::from_millis(300), "{:?}", process.started);
    for words in [
        "dashboard  http://127.0.0.1:",
        "/metrics",
        "built-in defaults",
        "provider   openai: needs a caller",
    ] {
        assert!(process.announced.contains(words), "{}", process.announced);
    }
    assert_eq!(process.ask("GET /healthz", "").json()["status"], "ok");
    assert!(!process.home.join("config.json").exists(), "no file is made up");
}

#[test]
fn l06_sigterm_lets_streams_finish_and_tells_the_rest() {
    let upstream = Upstream::start(|asked| match asked.json()["model"].as_str() {
        Some("short") => paced(40, 25),
        _ => paced(2000, 25),
    });
    let mut config = chat_config(&upstream.base_url());
    config["shutdownTimeoutMs"] = json!(2500);
    let mut process = Process::start("sigterm", Some(&config), &[]);
    let address = process.address;
    let ask = move |model: &str| {
        let body = json!({"model": model, "input": "x", "stream": true}).to_string();
        std::thread::spawn(move || {
            let mut socket = TcpStream::connect(address).unwrap();
            socket
                .write_all(&request(address, "POST /v1/responses", &[JSON], body.as_bytes()))
                .unwrap();
            let mut bytes = Vec::new();
            socket.read_to_end(&mut bytes).unwrap();
            parse_answer(&bytes)
        })
    };
    let short: Vec<_> = (0..10).map(|_| ask("chat/short")).collect();
    let long: Vec<_> = (0..10).map(|_| ask("chat/long")).collect();
    std::thread::sleep(Duration::from_millis(400));
    let stopped = Instant::now();
    process.signal("-TERM");
    for answer in short {
        assert_eq!(answer.join().unwrap().terminal()["type"], "response.completed");
    }
    for answer in long {
        let terminal = answer.join().unwrap().terminal();
        assert_eq!(terminal["type"], "response.failed");
        assert!(
            terminal["response"]["error"]["message"].as_str().unwrap().contains("shutting down")
        );
    }
    let status = process.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(stopped.elapsed() < Duration::from_secs(7), "{:?}", stopped.elapsed());
}

#[test]
fn sighup_and_the_command_reload() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let process = Process::start("reload", Some(&chat_config(&upstream.base_url())), &[]);
    let reload = || {
        ocx(&process.home)
            .args(["reload", "--port", &process.address.port().to_string()])
            .output()
            .unwrap()
    };
    let unchanged = reload();
    assert!(
        unchanged.status.success() && text(&unchanged).contains("unchanged: generation 1"),
        "{}",
        text(&unchanged)
    );
    let mut config = chat_config(&upstream.base_url());
    config["disabledModels"] = json!(["x/y"]);
    fs::write(process.home.join("config.json"), config.to_string()).unwrap();
    let applied = reload();
    assert!(applied.status.success(), "{}", text(&applied));
    fs::write(process.home.join("config.json"), "{\n \"port\": \"x\"\n}").unwrap();
    let refused = reload();
    assert!(!refused.status.success());
    assert!(text(&refused).contains("line 2, column 10, at /port"), "{}", text(&refused));
    fs::write(process.home.join("config.json"), chat_config(&upstream.base_url()).to_string())
        .unwrap();
    process.signal("-HUP");
    let deadline = Instant::now() + Duration::from_secs(3);
    while process.ask("GET /readyz", "").json()["generation"] != 3 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(process.log().contains("\"message\":\"config refused"), "{}", process.log());
}

#[test]
fn t07_the_command_sends_no_token_to_whoever_took_the_port() {
    let home = scratch("process-squatter");
    fs::write(home.join("admin-token"), "the-token-canary").unwrap();
    let squatter = Upstream::start(|_| Reply::json(200, &json!({"status": "ok", "proof": "00"})));
    let output = ocx(&home)
        .args(["reload", "--port", &squatter.address.port().to_string()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("is not the ocx of this home"), "{}", text(&output));
    let seen = format!("{:?}", squatter.asked());
    assert!(!seen.contains("canary"), "{seen}");
}

#[test]
fn a_broken_config_does_not_start_and_is_not_touched() {
    let home = scratch("process-broken");
    let broken = "{\n  \"providers\": {\"x\": {\"adapter\": \"smoke\"}},\n}";
    fs::write(home.join("config.json"), broken).unwrap();
    let output = ocx(&home).args(["serve", "--port", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        text(&output).contains("config.json: line 3, column 1: not valid JSON"),
        "{}",
        text(&output)
    );
    assert_eq!(fs::read_to_string(home.join("config.json")).unwrap(), broken);
    let check = ocx(&home).args(["config", "check"]).output().unwrap();
    assert_eq!(check.status.code(), Some(1));
    let missing = ocx(&home).args(["serve", "--config", "/nonexistent.json"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(78));
}

#[test]
fn t10_no_listening_beyond_loopback_without_keys() {
    let home = scratch("process-open");
    let output = ocx(&home).args(["serve", "--host", "0.0.0.0", "--port", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("adminToken"), "{}", text(&output));
}

#[test]
fn f54_a_taken_port_is_said_plainly() {
    let process = Process::start("taken", None, &[]);
    let port = process.address.port().to_string();
    let output = ocx(&process.home).args(["serve", "--port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cannot listen on 127.0.0.1"), "{}", text(&output));
}

#[test]
fn t60_secrets_are_in_no_log_even_at_trace() {
    let upstream = Upstream::start(|asked| {
        let echo = format!("{:?}", asked.headers);
        match asked.json()["model"].as_str() {
            Some("refuse") => Reply::json(401, &json!({"error": {"message": echo}})),
            _ => Reply::chat(&[vec![chat::text("answer-canary")], chat::end("stop")].concat()),
        }
    });
    let origin = format!("http://{}", upstream.address);
    let config = json!({"providers": {
        "k": {"adapter": "openai-chat", "baseUrl": upstream.base_url(), "apiKey": "${OCX_CANARY}", "headers": {"x-extra": "header-canary-1"}},
        "openai": {"baseUrl": format!("{origin}/codex"), "forwardOrigin": origin},
    }});
    let process = Process::start(
        "secrets",
        Some(&config),
        &[("OCX_CANARY", "key-canary-12345"), ("RUST_LOG", "trace")],
    );
    for model in ["k/m", "k/refuse", "openai/refuse"] {
        let body = json!({"model": model, "input": "prompt-canary", "stream": true}).to_string();
        let bearer =
            [JSON, ("authorization", "Bearer login-canary-12345"), ("cookie", "cookie-canary")];
        let mut socket = TcpStream::connect(process.address).unwrap();
        socket
            .write_all(&request(process.address, "POST /v1/responses", &bearer, body.as_bytes()))
            .unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        let answer = String::from_utf8_lossy(&bytes).replace("answer-canary", "");
        assert!(!answer.contains("key-canary") && !answer.contains("login-canary"), "{answer}");
    }
    let log = process.log();
    assert!(log.contains("\"message\":\"turn\""), "{log}");
    let leaks: Vec<_> = log.lines().filter(|line| line.contains("canary")).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    let everywhere = process.ask("GET /metrics", "").text() + &process.ask("GET /", "").text();
    assert!(!everywhere.contains("canary"));
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    let print = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ocx")).args(args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let help = print(&["--help"]);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(commands.len() > 12 && commands.contains(&"usage"), "{help}");
    let (man, readme) = (print(&["man"]), include_str!("../../README.md"));
    for shell in ["bash", "zsh", "fish"] {
        let script = print(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    for command in commands.into_iter().filter(|command| *command != "help") {
        assert!(man.contains(&format!("ocx\\-{command}")), "{command}");
        assert!(readme.contains(&format!("`ocx {command}")), "the README names `ocx {command}`");
    }
}
