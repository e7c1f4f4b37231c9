//! The gateway under test, and a client that sees every byte.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ocx::{
    actors::WatchSettings,
    cli::Program,
    config::{self, DataKey, process_env},
    credentials::{CapsuleKey, Vault},
    http::Shared,
};
use regex::Regex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub const ADMIN: &str = "test-admin-token";

/// An answer, as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The body ended as its framing says, not by a broken connection.
    pub whole: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The events of a stream.
    pub fn events(&self) -> Vec<Value> {
        self.text()
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    /// The last event of a stream: its terminal one.
    pub fn terminal(&self) -> Value {
        let events = self.events();
        let is_terminal = |event: &&Value| {
            ["response.completed", "response.failed", "response.incomplete"]
                .contains(&event["type"].as_str().unwrap())
        };
        assert_eq!(events.iter().filter(is_terminal).count(), 1, "{}", self.text());
        assert!(self.whole, "the body ends in good order");
        assert!(self.text().ends_with("data: [DONE]\n\n"));
        events.last().unwrap().clone()
    }

    pub fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// The gateway.
pub struct App {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
    pub config: PathBuf,
    _dir: tempfile::TempDir,
}

/// At test speed.
pub fn watch() -> WatchSettings {
    WatchSettings {
        quiet: Duration::from_millis(20),
        second_look: Duration::from_millis(20),
        ..WatchSettings::default()
    }
}

impl App {
    /// Starts it with a config; the server runs on threads of its own.
    pub async fn start(config: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let loaded = config::check_file(&path, &process_env).unwrap().unwrap();
        let host = loaded.config.listen.host;
        let program = Program {
            path: path.clone(),
            loaded,
            listener: TcpListener::bind((host, 0)).unwrap(),
            admin: DataKey::new(ADMIN),
            capsules: CapsuleKey::new([7; 32]),
            vault: Vault::new(dir.path()),
            usage: dir.path().join("usage"),
            watch: watch(),
        };
        let running = program.start().await.unwrap();
        let shared = Arc::clone(&running.shared);
        actix_rt::spawn(running.run());
        let address = SocketAddr::from(([127, 0, 0, 1], shared.address.port()));
        Self { shared, address, config: path, _dir: dir }
    }

    /// With one provider `chat` at this address.
    pub async fn chat(base_url: &str, more: Value) -> Self {
        let mut config = chat_config(base_url);
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Self::start(&config).await
    }

    /// Sends bytes and reads until the other side is done.
    pub async fn raw(&self, request: &[u8]) -> Answer {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // An early refusal may close the connection while we write.
        let _ = socket.write_all(request).await;
        read_answer(&mut socket).await
    }

    pub async fn send(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.raw(&request(self.address, line, headers, body)).await
    }

    pub async fn post(&self, body: &Value) -> Answer {
        self.send("POST /v1/responses", &[JSON], body.to_string().as_bytes()).await
    }

    /// Asks for a stream with the text `hi`.
    pub async fn ask(&self, model: &str) -> Answer {
        self.post(&json!({"model": model, "input": "hi", "stream": true})).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], b"").await
    }

    /// Sum of a metric's series that begin with `name`.
    pub fn metric(&self, name: &str) -> f64 {
        String::from_utf8(self.shared.telemetry.metrics.render())
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }

    pub async fn reload(&self) -> Answer {
        let bearer = format!("Bearer {ADMIN}");
        self.send("POST /api/config/reload", &[JSON, ("authorization", &bearer)], b"").await
    }
}

pub const JSON: (&str, &str) = ("content-type", "application/json");

pub fn chat_config(base_url: &str) -> Value {
    json!({"defaultProvider": "chat", "providers": {"chat": provider(base_url)}})
}

pub fn provider(base_url: &str) -> Value {
    json!({"adapter": "openai-chat", "baseUrl": base_url, "authMode": "local", "liveModels": false})
}

pub fn request(to: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text =
        format!("{line} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if headers.iter().all(|(name, _)| *name != "host") {
        text.push_str(&format!("host: {to}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub async fn read_answer(socket: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let read = socket.read_to_end(&mut bytes);
    let _ =
        actix_rt::time::timeout(Duration::from_secs(60), read).await.expect("an answer in time");
    parse_answer(&bytes)
}

pub fn parse_answer(bytes: &[u8]) -> Answer {
    let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Answer::default();
    };
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: Vec::new(), whole: false };
    let rest = &bytes[at + 4..];
    if answer.header("transfer-encoding") == Some("chunked") {
        (answer.body, answer.whole) = dechunk(rest);
    } else {
        let length: usize = answer.header("content-length").unwrap_or("0").parse().unwrap();
        answer.whole = rest.len() == length;
        answer.body = rest.to_vec();
    }
    answer
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = rest.get(at + 2..at + 2 + size) else {
            break;
        };
        body.extend_from_slice(chunk);
        rest = rest.get(at + 4 + size..).unwrap_or_default();
    }
    (body, false)
}

/// A stream without what differs from turn to turn: ids and times.
pub fn anonymous(text: &str) -> String {
    let ids = Regex::new("(resp|msg|rs|fc|ctc|call|toolu|chatcmpl)_[0-9a-f]{32}").unwrap();
    let times = Regex::new(r#""created(_at)?":\d+"#).unwrap();
    times.replace_all(&ids.replace_all(text, "${1}_"), "\"created_at\":0").into_owned()
}

impl App {
    /// As [`ask`](Self::ask), for many at once.
    pub fn post_owned(&self, model: &str) -> impl Future<Output = Answer> + use<> {
        let body = json!({"model": model, "input": "hi", "stream": true}).to_string();
        let bytes = request(self.address, "POST /v1/responses", &[JSON], body.as_bytes());
        let address = self.address;
        async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
            read_answer(&mut socket).await
        }
    }
}
