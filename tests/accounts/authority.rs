//! The authorisation server, as a process.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdin, Command, Stdio},
};

use serde_json::{Value, json};

pub struct Authority {
    child: Child,
    /// It ends when this is closed.
    _stdin: ChildStdin,
    pub port: u16,
}

impl Authority {
    pub fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/accounts/authority.py");
        let mut child = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, _stdin: stdin, port: line.trim().parse().unwrap() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The `login` of a provider's config.
    pub fn login(&self) -> Value {
        json!({"clientId": "test-client", "scopes": ["a", "b"],
            "discoveryUrl": self.url("/.well-known/openid-configuration"),
            "redirectUri": "http://127.0.0.1:0/callback"})
    }

    /// Changes settings, or mints; answers with what was minted.
    pub fn admin(&self, body: &Value) -> Value {
        self.http("POST", "/admin", &body.to_string())
    }

    pub fn set(&self, settings: Value) {
        self.admin(&json!({ "set": settings }));
    }

    /// What it has seen.
    pub fn seen(&self) -> Value {
        self.http("GET", "/admin", "")
    }

    fn http(&self, method: &str, path: &str, body: &str) -> Value {
        let text = get(self.port, method, path, body);
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole answer, head and body.
pub fn get(port: u16, method: &str, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}
