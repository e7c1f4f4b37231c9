//! A server that answers from a script, byte for byte if need be, and keeps what it was asked.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `POST /v1/chat/completions HTTP/1.1`.
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How many requests came before.
    pub number: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What to do on the socket, step by step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Write these bytes.
    Raw(Vec<u8>),
    /// Write nothing for a while.
    Pause(Duration),
    /// Wait until the other side closes, and note when.
    AwaitClose,
    /// Close, with a reset instead of a goodbye if `true`.
    Close(bool),
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Reply(pub Vec<Step>);

impl Reply {
    /// A document with a status.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::body(status, "application/json", body.to_string().as_bytes())
    }

    /// Any body with a status.
    pub fn body(status: u16, content_type: &str, body: &[u8]) -> Self {
        Self::with_headers(status, &[("content-type", content_type)], body)
    }

    pub fn with_headers(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Self(vec![Step::Raw(bytes)])
    }

    /// The head of a stream; frames and [`end`](Self::end) follow.
    pub fn stream() -> Self {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        Self(vec![Step::Raw(head.to_vec())])
    }

    /// Frames of a stream, a `data:` line each.
    pub fn frames<'v>(self, frames: impl IntoIterator<Item = &'v Value>) -> Self {
        frames.into_iter().fold(self, |reply, frame| {
            let data = frame.as_str().map_or_else(|| frame.to_string(), str::to_owned);
            reply.chunk(format!("data: {data}\n\n").as_bytes())
        })
    }

    /// One chunk of a chunked body.
    pub fn chunk(mut self, bytes: &[u8]) -> Self {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.0.push(Step::Raw(chunk));
        self
    }

    pub fn pause(mut self, millis: u64) -> Self {
        self.0.push(Step::Pause(Duration::from_millis(millis)));
        self
    }

    pub fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// The end of a chunked body.
    pub fn end(mut self) -> Self {
        self.0.push(Step::Raw(b"0\r\n\r\n".to_vec()));
        self
    }

    /// A whole chat stream.
    pub fn chat<'v>(frames: impl IntoIterator<Item = &'v Value>) -> Self {
        Self::stream().frames(frames).end()
    }
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The server. Ends with the test.
#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    pub connections: Arc<AtomicUsize>,
    /// When the other side closed, for each [`Step::AwaitClose`].
    pub closed: Arc<Mutex<Vec<std::time::Instant>>>,
}

impl Upstream {
    /// A server that knows one key, and tells who has it of one model.
    pub fn keyed(key: &str) -> Self {
        let expected = format!("Bearer {key}");
        Self::start(move |asked| match asked.header("authorization") {
            Some(sent) if sent == expected => {
                Reply::json(200, &serde_json::json!({"data": [{"id": "m"}]}))
            }
            _ => Reply::json(401, &serde_json::json!({"error": {"message": "no"}})),
        })
    }

    /// Starts a server on a thread of its own.
    pub fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            connections: Arc::default(),
            closed: Arc::default(),
        };
        let (own, script) = (upstream.clone(), Arc::new(script) as Arc<Script>);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    own.connections.fetch_add(1, SeqCst);
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "no actix System on this thread"
                    )]
                    tokio::spawn(own.clone().serve(socket, Arc::clone(&script)));
                }
            });
        });
        upstream
    }

    /// `http://127.0.0.1:port/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    async fn serve(self, mut socket: TcpStream, script: Arc<Script>) {
        let _ = socket.set_nodelay(true);
        let mut buffer = Vec::new();
        while let Some(mut asked) = read_request(&mut socket, &mut buffer).await {
            let reply = {
                let mut all = self.asked.lock().unwrap();
                asked.number = all.len();
                all.push(asked.clone());
                drop(all);
                script(&asked)
            };
            for step in reply.0 {
                match step {
                    Step::Raw(bytes) => {
                        if socket.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::AwaitClose => {
                        let _ = socket.read(&mut [0; 16]).await;
                        self.closed.lock().unwrap().push(std::time::Instant::now());
                        return;
                    }
                    Step::Close(reset) => {
                        if reset {
                            socket.set_zero_linger().unwrap();
                        }
                        return;
                    }
                }
            }
        }
    }
}

async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Asked> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    buffer.drain(..head_end + 4);
    let mut lines = head.split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    while buffer.len() < length {
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.drain(..length).collect();
    Some(Asked { line, headers, body, number: 0 })
}
