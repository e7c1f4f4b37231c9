//! The gateway in the background: start, stop, restart, status, logs.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    free_port,
    support::{
        chat, ocx, scratch,
        upstream::{Reply, Upstream},
    },
    text,
};

/// A home of its own, whose gateways end with the test.
struct House {
    home: PathBuf,
    port: u16,
}

impl House {
    fn new(name: &str, config: Value) -> Self {
        let house = Self { home: scratch(&format!("lifecycle-{name}")), port: free_port() };
        house.writes(config);
        house
    }

    fn writes(&self, mut config: Value) {
        config["port"] = json!(self.port);
        fs::write(self.home.join("config.json"), config.to_string()).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
        command.env("OPENCODEX_HOME", &self.home).env("CODEX_HOME", self.home.join("codex-home"));
        command.env_remove("RUST_LOG").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn status(&self) -> (i32, Value) {
        let out = self.run(&["status", "--json"]);
        (out.status.code().unwrap(), serde_json::from_slice(&out.stdout).unwrap())
    }

    fn pid(&self) -> u64 {
        self.status().1["gateways"][0]["pid"].as_u64().unwrap()
    }

    fn ask(&self, stream: bool) -> TcpStream {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port);
        ocx::ask(address, &json!({"model": "chat/m", "input": "x", "stream": stream}))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.run(&["stop", "--now"]);
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// What has come of a stream when its first words have.
fn begun(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("word ") {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..read]);
    }
    String::from_utf8(answer).unwrap()
}

fn chatty(pauses: u64) -> (Upstream, Value) {
    let upstream = Upstream::start(move |_| {
        let said = (0..10)
            .fold(Reply::stream(), |reply, _| reply.frames(&[chat::text("word ")]).pause(pauses));
        said.frames(&chat::end("stop")).end()
    });
    let config = json!({"providers": {"chat": {"adapter": "openai-chat",
        "baseUrl": upstream.base_url(), "authMode": "local"}}});
    (upstream, config)
}

#[test]
fn it_starts_once_answers_and_stops_and_each_says_so() {
    let (_upstream, config) = chatty(0);
    let house = House::new("once", config);
    let (code, status) = house.status();
    assert_eq!((code, &status["gateways"]), (3, &json!([])), "nothing runs");
    let started = house.run(&["start"]);
    let said = text(&started);
    assert!(
        started.status.success() && said.contains("listens on") && said.contains("ocx logs"),
        "{said}"
    );
    // It proved who it is before `start` came back.
    let mut answer = String::new();
    house.ask(false).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (code, status) = house.status();
    assert_eq!(code, 0, "{status}");
    let row = &status["gateways"][0];
    assert_eq!(
        (&row["detached"], &row["answers"]["generation"]),
        (&json!(true), &json!(1)),
        "{row}"
    );
    assert_eq!(row["answers"]["providers"][0]["state"], "ready");
    let again = house.run(&["start"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("runs already"), "{}", text(&again));
    // Other commands find it without being told of its port.
    assert!(text(&house.run(&["reload"])).contains("unchanged: generation 1"));
    let logs = text(&house.run(&["logs"]));
    assert!(logs.contains("protocol=\"responses\"") && logs.contains("outcome=\"ok\""), "{logs}");
    assert_eq!(text(&house.run(&["logs", "-n", "1"])).lines().count(), 1);
    for file in ["logs", "run"] {
        let mode = fs::metadata(house.home.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{file}");
    }
    let stopped = house.run(&["stop"]);
    assert!(stopped.status.success() && text(&stopped).contains("has ended"), "{}", text(&stopped));
    assert!(TcpStream::connect(("127.0.0.1", house.port)).is_err());
    let stopped = house.run(&["stop"]);
    assert!(
        stopped.status.success() && text(&stopped).contains("No gateway"),
        "{}",
        text(&stopped)
    );
}

#[test]
fn a_gateway_that_does_not_come_up_says_why_with_its_own_exit_code() {
    let house = House::new("fails", json!({"providers": {"mine": {"adapter": "none"}}}));
    let out = house.run(&["start"]);
    assert_eq!(out.status.code(), Some(78), "{}", text(&out));
    assert!(text(&out).contains("/providers/mine/adapter"), "{}", text(&out));
    house.writes(json!({"providers": {}}));
    let _taken = TcpListener::bind(("127.0.0.1", house.port)).unwrap();
    let out = house.run(&["start"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("cannot listen on"), "{}", text(&out));
}

#[test]
fn a_stop_lets_streams_end_and_a_stop_at_once_does_not() {
    let (_upstream, config) = chatty(100);
    let house = House::new("streams", config);
    assert!(house.run(&["start"]).status.success());
    let mut stream = house.ask(true);
    let mut answer = begun(&mut stream);
    let asked = Instant::now();
    assert!(house.run(&["stop"]).status.success());
    assert!(asked.elapsed() > Duration::from_millis(500), "the stream had a second to go");
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("event: response.completed"), "{answer}");
    let (_upstream, config) = chatty(10_000);
    house.writes(config);
    assert!(house.run(&["start"]).status.success());
    let mut stream = house.ask(true);
    begun(&mut stream);
    let asked = Instant::now();
    assert!(house.run(&["stop", "--now"]).status.success());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn who_stops_it_again_waits_with_the_first_and_others_are_told_what_it_does() {
    let (_upstream, config) = chatty(700);
    let house = House::new("twice", config);
    assert!(house.run(&["start"]).status.success());
    let mut stream = house.ask(true);
    let mut answer = begun(&mut stream);
    let mut stops: Vec<_> = (0..2).map(|_| house.command(&["stop"]).spawn().unwrap()).collect();
    let asked = Instant::now();
    let stopping = loop {
        let (code, status) = house.status();
        let row = &status["gateways"][0];
        assert!(asked.elapsed() < PATIENCE, "{status}");
        match row["problem"].as_str() {
            Some(problem) => break (code, row["stopping"].clone(), problem.to_owned()),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!((stopping.0, &stopping.1), (1, &json!(true)), "{stopping:?}");
    assert!(stopping.2.contains("its streams have 30 s to end"), "{stopping:?}");
    let start = house.run(&["start"]);
    assert!(!start.status.success() && text(&start).contains("is stopping"), "{}", text(&start));
    let doctor = text(&house.run(&["doctor", "--offline"]));
    assert!(doctor.contains("it is stopping, and lets its streams end"), "{doctor}");
    // A third, later on, is no second signal either.
    assert!(house.run(&["stop"]).status.success());
    stops.iter_mut().for_each(|stop| assert!(stop.wait().unwrap().success()));
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("event: response.completed"), "{answer}");
    let nowhere = house.run(&["stop", "--port", "1"]);
    assert!(!nowhere.status.success(), "a port that was mistyped: {}", text(&nowhere));
}

#[test]
fn a_byte_order_mark_hides_nothing_of_a_config() {
    let (_upstream, mut config) = chatty(0);
    config["adminToken"] = json!("an-admin-token");
    let house = House::new("bom", config);
    let path = house.home.join("config.json");
    fs::write(&path, format!("\u{feff}{}", fs::read_to_string(&path).unwrap())).unwrap();
    let out = house.run(&["start"]);
    assert!(out.status.success(), "{}", text(&out));
    assert!(text(&out).contains(&format!("listens on http://127.0.0.1:{}", house.port)));
    assert!(house.run(&["reload"]).status.success());
    assert_eq!(house.status().0, 0);
}

#[test]
fn of_two_starts_one_wins_and_each_says_what_became_of_itself() {
    let (_upstream, config) = chatty(0);
    let house = House::new("race", config);
    let start = || {
        let mut start = house.command(&["start"]);
        start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()].map(|start| start.wait_with_output().unwrap());
    let (won, lost): (Vec<_>, Vec<_>) = both.iter().partition(|output| output.status.success());
    assert_eq!((won.len(), lost.len()), (1, 1), "{both:?}");
    let (won, lost) = (text(won[0]), text(lost[0]));
    assert!(won.contains("listens on") && !won.contains("cannot listen"), "{won}");
    let why = lost.contains("cannot listen on") || lost.contains("runs already");
    assert!(why && !lost.contains("listens on"), "{lost}");
}

#[test]
fn a_run_file_that_cannot_be_written_is_a_reason_not_to_start() {
    let (_upstream, config) = chatty(0);
    let house = House::new("unwritable", config);
    let in_the_way = house.home.join("run").join(format!("{}.json", house.port));
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    let asked = Instant::now();
    let out = house.run(&["start"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("run: ") && asked.elapsed() < PATIENCE, "{}", text(&out));
    assert!(TcpStream::connect(("127.0.0.1", house.port)).is_err(), "and nothing is left behind");
}

#[test]
fn the_dashboard_is_opened_and_the_gateway_started_for_it() {
    let (_upstream, config) = chatty(0);
    let house = House::new("open", config);
    let page = format!("http://127.0.0.1:{}/", house.port);
    for starts in [true, false] {
        let out = house.run(&["open"]);
        let said = text(&out);
        assert!(out.status.success() && said.lines().last() == Some(&page), "{said}");
        assert_eq!(said.contains("listens on"), starts, "{said}");
    }
    assert_eq!(house.status().0, 0);
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let (_upstream, config) = chatty(0);
    let house = House::new("full", config);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = house.command(&["provider", "list", "--json"]).stdout(full).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("cannot be written"), "{}", text(&out));
    assert!(house.run(&["start"]).status.success());
    house.ask(false).read_to_string(&mut String::new()).unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = house.command(&["logs"]).stdout(full).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
}

#[test]
fn a_restart_keeps_port_and_flags_and_refuses_what_would_not_start() {
    let (_upstream, config) = chatty(0);
    let house = House::new("restart", config.clone());
    assert!(house.run(&["start", "--log-format", "json"]).status.success());
    let before = house.pid();
    house.writes(json!({"providers": {"mine": {"adapter": "none"}}}));
    let refused = house.run(&["restart"]);
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused));
    assert_eq!(house.pid(), before, "it goes on");
    house.writes(config);
    assert!(house.run(&["restart"]).status.success());
    assert_ne!(house.pid(), before);
    let (_, status) = house.status();
    let row = &status["gateways"][0];
    assert_eq!(row["args"], json!(["--log-format", "json"]), "{row}");
    assert_eq!(row["address"], format!("127.0.0.1:{}", house.port));
    // A port that the config names is taken from there again.
    let old = house.port;
    let mut moved: Value =
        serde_json::from_str(&fs::read_to_string(house.home.join("config.json")).unwrap()).unwrap();
    moved["port"] = json!(free_port());
    fs::write(house.home.join("config.json"), moved.to_string()).unwrap();
    let out = house.run(&["restart"]);
    assert!(out.status.success(), "{}", text(&out));
    let address = house.status().1["gateways"][0]["address"].clone();
    assert_eq!(address, format!("127.0.0.1:{}", moved["port"]), "not {old}");
    // One that somebody else has is no reason to end what runs.
    let runs = house.pid();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut to_taken = moved.clone();
    to_taken["port"] = json!(taken.local_addr().unwrap().port());
    fs::write(house.home.join("config.json"), to_taken.to_string()).unwrap();
    let refused = house.run(&["restart"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("what runs goes on"), "{}", text(&refused));
    assert_eq!(house.pid(), runs);
    let out = house.run(&["logs", "-n", "1", "--port", &moved["port"].to_string()]);
    assert!(out.status.success(), "{}", text(&out));
    moved["port"] = json!(old);
    fs::write(house.home.join("config.json"), moved.to_string()).unwrap();
    // One that a person or a service manager runs is theirs to start again.
    assert!(house.run(&["stop"]).status.success());
    let mut own = house.command(&["serve"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    own.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let refused = house.run(&["restart"]);
    assert!(
        !refused.status.success() && text(&refused).contains("was not started by"),
        "{}",
        text(&refused)
    );
    assert!(house.run(&["stop"]).status.success(), "but it can be stopped");
    assert!(own.wait().unwrap().success());
}

#[test]
fn a_gateway_that_was_killed_is_no_obstacle_and_its_process_id_no_target() {
    let (_upstream, config) = chatty(0);
    let house = House::new("killed", config);
    assert!(house.run(&["start"]).status.success());
    let pid = house.pid();
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
    let left = house.home.join("run").join(format!("{}.json", house.port));
    let killed = Instant::now();
    while house.status().0 != 3 {
        assert!(killed.elapsed() < PATIENCE, "it still counts as running");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(left.exists(), "the file is still there");
    // As if the number were somebody else's by now: ours.
    let mut text = fs::read_to_string(&left).unwrap();
    text = text.replace(&format!("\"pid\":{pid}"), &format!("\"pid\":{}", std::process::id()));
    fs::write(&left, text).unwrap();
    assert!(house.run(&["stop"]).status.success(), "and nobody is ended: this test goes on");
    assert!(house.run(&["start"]).status.success());
    assert_ne!(house.pid(), pid);
}

#[test]
fn codex_is_led_there_by_start_kept_by_restart_and_given_back_by_stop() {
    let (_upstream, mut config) = chatty(0);
    config["providers"]["chat"]["models"] = json!(["m"]);
    let house = House::new("codex", config);
    let codex = house.home.join("codex-home");
    let own = "# mine\r\nmodel = \"gpt-5.5\"\r\n";
    fs::create_dir(&codex).unwrap();
    fs::write(codex.join("config.toml"), own).unwrap();
    let wired = || {
        let text = fs::read_to_string(codex.join("config.toml")).unwrap();
        text.contains(&format!("base_url = \"http://127.0.0.1:{}/v1\"", house.port))
    };
    let out = house.run(&["start", "--codex"]);
    assert!(out.status.success() && wired(), "{}", text(&out));
    assert_eq!(house.status().1["codex"]["installed"], true);
    assert!(house.run(&["restart"]).status.success() && wired());
    // The gateway moves, and Codex with it.
    let at_first = fs::read_to_string(house.home.join("config.json")).unwrap();
    let new = free_port();
    fs::write(
        house.home.join("config.json"),
        at_first.replace(&house.port.to_string(), &new.to_string()),
    )
    .unwrap();
    assert!(house.run(&["restart"]).status.success());
    let led = fs::read_to_string(codex.join("config.toml")).unwrap();
    assert!(led.contains(&format!("http://127.0.0.1:{new}/v1")), "{led}");
    fs::write(house.home.join("config.json"), at_first).unwrap();
    assert!(house.run(&["restart"]).status.success() && wired());
    let out = house.run(&["stop", "--keep-codex"]);
    assert!(out.status.success() && wired(), "{}", text(&out));
    let out = house.run(&["start"]);
    assert!(out.status.success() && wired(), "{}", text(&out));
    assert!(
        text(&out).contains("Codex uses ocx"),
        "it is told of the models of now: {}",
        text(&out)
    );
    let out = house.run(&["stop"]);
    assert!(text(&out).contains("Codex is as it was before"), "{}", text(&out));
    assert_eq!(fs::read_to_string(codex.join("config.toml")).unwrap(), own);
    let left: Vec<_> =
        fs::read_dir(&codex).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["config.toml"]);
}

#[test]
fn a_log_that_is_followed_goes_on() {
    let (_upstream, config) = chatty(0);
    let house = House::new("logs", config);
    assert!(!house.run(&["logs"]).status.success(), "there is none yet");
    assert!(house.run(&["start"]).status.success());
    let mut follow =
        house.command(&["logs", "-f", "-n", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let (told, line) = std::sync::mpsc::channel();
    let out = BufReader::new(follow.stdout.take().unwrap());
    std::thread::spawn(move || told.send(out.lines().next().unwrap().unwrap()));
    // It may not look yet when the first call ends.
    let asked = Instant::now();
    let line = loop {
        house.ask(false).read_to_string(&mut String::new()).unwrap();
        match line.recv_timeout(Duration::from_millis(300)) {
            Ok(line) => break line,
            Err(_) => assert!(asked.elapsed() < PATIENCE, "no line came"),
        }
    };
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert!(line.contains("outcome=\"ok\""), "{line}");
}
