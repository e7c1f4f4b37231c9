//! The whole gateway as a process of its own, between a load generator and an upstream, all on
//! loopback: what it adds to the direct way, in the same run.
//!
//! CPU time of the gateway's process is the figure to steer by; it hardly depends on what else the
//! machine does. The bench fails if it is over the bar. `-- --quick` measures for a shorter time.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should stop")]

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const CONNECTIONS: usize = 32;
const EVENTS: usize = 200;
/// Requests a second for latency, well below saturation.
const RATE: u32 = 200;

/// First bars, of the project's own: CPU µs per plain request and per stream event.
const BAR_REQUEST: f64 = 90.0;
const BAR_EVENT: f64 = 2.5;
/// Plain requests per second at [`CONNECTIONS`] connections.
const BAR_RATE: f64 = 10_000.0;

const PLAIN: &str = r#"{"id":"chatcmpl-BenchMark","object":"chat.completion","created":1760000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The stream of tokens \"flows\" over a gateway, naïve line.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":16,"total_tokens":35,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default","system_fingerprint":"fp_bench"}"#;

/// What the upstream answers, rendered once.
struct Mock {
    plain: Vec<u8>,
    stream: Vec<Vec<u8>>,
}

impl Mock {
    fn new() -> Self {
        let frame = |json: &str| {
            let data = format!("data: {json}\n\n");
            format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
        };
        let chunk = |delta: &str, finish: &str| {
            frame(&format!(
                r#"{{"id":"chatcmpl-BenchMark00000000000000000000","object":"chat.completion.chunk","created":1760000000,"model":"m","service_tier":"default","system_fingerprint":"fp_bench00000","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null}}"#
            ))
        };
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut stream = vec![head.to_vec()];
        stream.extend((0..EVENTS).map(|n| {
            chunk(&format!(r#"{{"content":" stream of \"tokens\" {n:04} naïve"}}"#), "null")
        }));
        stream.push(chunk("{}", "\"stop\""));
        stream.push(frame(
            r#"{"id":"c","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":200}}"#,
        ));
        stream.push(frame("[DONE]"));
        stream.push(b"0\r\n\r\n".to_vec());
        let plain = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{PLAIN}",
            PLAIN.len()
        );
        Self { plain: plain.into_bytes(), stream }
    }

    async fn serve(self: Arc<Self>, mut socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        let (mut buffer, whole) = (Vec::with_capacity(8192), self.stream.concat());
        while let Some(streams) = next_request(&mut socket, &mut buffer).await {
            let answer = if streams { &whole } else { &self.plain };
            if socket.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

/// Reads one request; tells whether it asks for a stream.
async fn next_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<bool> {
    loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..at]).to_ascii_lowercase();
            let length: usize =
                head.split("content-length: ").nth(1)?.split("\r\n").next()?.trim().parse().ok()?;
            while buffer.len() < at + 4 + length {
                if socket.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            let streams = find(&buffer[at..at + 4 + length], b"\"stream\":true").is_some();
            buffer.drain(..at + 4 + length);
            return Some(streams);
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn start_mock() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let (listener, mock) =
                (TcpListener::from_std(listener).unwrap(), Arc::new(Mock::new()));
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                #[expect(clippy::disallowed_methods, reason = "no actix System on this thread")]
                tokio::spawn(Arc::clone(&mock).serve(socket));
            }
        });
    });
    address
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

struct Ocx {
    child: Child,
    address: SocketAddr,
    home: tempfile::TempDir,
}

impl Ocx {
    fn start(upstream: SocketAddr) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            r#"{{"providers":{{"chat":{{"adapter":"openai-chat","baseUrl":"http://{upstream}/v1","authMode":"local"}}}}}}"#
        );
        std::fs::write(home.path().join("config.json"), config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ocx"))
            .args(["serve", "--port", "0", "--log-format", "json"])
            .env("OPENCODEX_HOME", home.path())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(home.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("http://").next().unwrap().parse().unwrap();
        Self { child, address, home }
    }

    /// CPU time so far, user and system.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Ocx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.home;
    }
}

/// One way to ask: where, and with which bytes.
#[derive(Clone)]
struct Way {
    to: SocketAddr,
    request: Arc<Vec<u8>>,
    marker: &'static [u8],
}

fn way(to: SocketAddr, path: &str, body: &str, marker: &'static [u8]) -> Way {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Way { to, request: Arc::new(request.into_bytes()), marker }
}

impl Way {
    async fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.to).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// Asks once and reads the whole answer, which must hold the marker.
    async fn ask(&self, socket: &mut TcpStream, buffer: &mut Vec<u8>) {
        buffer.clear();
        socket.write_all(&self.request).await.unwrap();
        loop {
            let read = socket.read_buf(buffer).await.unwrap();
            assert!(read > 0, "closed early: {}", String::from_utf8_lossy(buffer));
            let Some(at) = find(buffer, b"\r\n\r\n") else {
                continue;
            };
            let head = &buffer[..at];
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(buffer));
            let over = match find(head, b"content-length: ") {
                Some(from) => {
                    let text = String::from_utf8_lossy(&head[from + 16..]);
                    let length: usize = text.split("\r\n").next().unwrap().parse().unwrap();
                    buffer.len() == at + 4 + length
                }
                None => buffer.ends_with(b"\r\n0\r\n\r\n"),
            };
            if over {
                let tail = buffer.len().saturating_sub(64 << 10);
                assert!(find(&buffer[tail..], self.marker).is_some(), "the marker is missing");
                return;
            }
        }
    }

    /// Closed loop: answers in a window.
    fn saturate(&self, window: Duration) -> u64 {
        runtime().block_on(async {
            let until = Instant::now() + window;
            let workers = (0..CONNECTIONS).map(|_| async {
                let (mut socket, mut buffer) =
                    (self.connect().await, Vec::with_capacity(128 << 10));
                let mut count = 0;
                while Instant::now() < until {
                    self.ask(&mut socket, &mut buffer).await;
                    count += 1;
                }
                count
            });
            futures_util::future::join_all(workers).await.into_iter().sum()
        })
    }

    /// Open loop: latencies at a steady rate, from when each request was due.
    fn latencies(&self, window: Duration) -> Vec<Duration> {
        runtime().block_on(async {
            let (start, gap) = (Instant::now(), Duration::from_secs(1) / RATE);
            let count = (window.as_secs_f64() * f64::from(RATE)) as u32;
            let workers = (0..8u32).map(|worker| async move {
                let (mut socket, mut buffer) = (self.connect().await, Vec::with_capacity(64 << 10));
                self.ask(&mut socket, &mut buffer).await;
                let mut seen = Vec::new();
                for n in (worker..count).step_by(8) {
                    let due = start + Duration::from_millis(50) + gap * n;
                    tokio::time::sleep_until(due.into()).await;
                    // The timer's own lateness, up to a millisecond, is not the gateway's.
                    let sent = Instant::now();
                    self.ask(&mut socket, &mut buffer).await;
                    seen.push(
                        sent.elapsed()
                            + sent.saturating_duration_since(due + Duration::from_millis(2)),
                    );
                }
                seen
            });
            let mut all: Vec<_> = futures_util::future::join_all(workers).await.concat();
            all.sort_unstable();
            all
        })
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let window = Duration::from_secs(if quick { 1 } else { 4 });
    let upstream = start_mock();
    let ocx = Ocx::start(upstream);
    let question = "Why is the sky blue? ".repeat(48);
    let chat = |stream| {
        format!(
            r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"{question}"}}]}}"#
        )
    };
    let call = |stream| format!(r#"{{"model":"chat/m","stream":{stream},"input":"{question}"}}"#);
    let direct_plain = way(upstream, "/v1/chat/completions", &chat(false), b"total_tokens");
    let plain = way(ocx.address, "/v1/responses", &call(false), b"total_tokens");
    let direct_stream = way(upstream, "/v1/chat/completions", &chat(true), b"[DONE]");
    let stream = way(ocx.address, "/v1/responses", &call(true), b"response.completed");

    plain.saturate(window / 4);
    stream.saturate(window / 4);

    let direct_rate = direct_plain.saturate(window) as f64 / window.as_secs_f64();
    let before = ocx.cpu();
    let answers = plain.saturate(window);
    let cpu_request = (ocx.cpu() - before).as_secs_f64() * 1e6 / answers as f64;
    let rate = answers as f64 / window.as_secs_f64();

    let direct_streams = direct_stream.saturate(window) as f64 / window.as_secs_f64();
    let before = ocx.cpu();
    let answers = stream.saturate(window);
    let cpu_event = (ocx.cpu() - before).as_secs_f64() * 1e6 / (answers * EVENTS as u64) as f64;
    let streams = answers as f64 / window.as_secs_f64();

    let direct = direct_plain.latencies(window);
    let through = plain.latencies(window);
    let added = |percent| percentile(&through, percent) - percentile(&direct, percent);

    println!(
        "upstream, gateway and generator share {} cores",
        std::thread::available_parallelism().unwrap()
    );
    println!(
        "plain    {rate:>8.0} requests/s   direct {direct_rate:>8.0}   ratio {:.2}",
        rate / direct_rate
    );
    println!("         {cpu_request:>8.1} µs CPU per request (bar {BAR_REQUEST})");
    println!(
        "streams  {streams:>8.0} streams/s    direct {direct_streams:>8.0}   ratio {:.2}",
        streams / direct_streams
    );
    println!(
        "         {cpu_event:>8.2} µs CPU per event (bar {BAR_EVENT}), {EVENTS} events a stream"
    );
    println!(
        "latency  added p50 {:.0} µs, p99 {:.0} µs at {RATE} requests/s (direct {:.0}, {:.0}; ratio {:.2}, {:.2})",
        added(50),
        added(99),
        percentile(&direct, 50),
        percentile(&direct, 99),
        percentile(&through, 50) / percentile(&direct, 50),
        percentile(&through, 99) / percentile(&direct, 99),
    );
    println!("memory   {:.1} MiB", ocx.rss_mib());
    let bars = [
        ("CPU per request", cpu_request <= BAR_REQUEST),
        ("CPU per event", cpu_event <= BAR_EVENT),
        ("requests/s", rate >= BAR_RATE),
    ];
    let missed: Vec<_> = bars.iter().filter(|(_, kept)| !kept).map(|(name, _)| *name).collect();
    if missed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("over the bar: {}", missed.join(", "));
    ExitCode::FAILURE
}
