//! Facts of actix, actix-web and awc that the design rests on: an upgrade that changes one fails
//! here, by name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(clippy::disallowed_methods, reason = "the facts are about what we do not use")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix::prelude::*;
use actix_rt::time::{sleep, timeout};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

struct Fragile {
    starts: Arc<AtomicUsize>,
    count: usize,
}

impl Actor for Fragile {
    type Context = Context<Self>;
    fn started(&mut self, _: &mut Self::Context) {
        self.starts.fetch_add(1, SeqCst);
    }
}

impl Supervised for Fragile {}

#[derive(Message)]
#[rtype(result = "usize")]
enum Do {
    Count,
    Panic,
    Stop,
}

impl Handler<Do> for Fragile {
    type Result = usize;
    fn handle(&mut self, what: Do, ctx: &mut Self::Context) -> usize {
        match what {
            Do::Count => self.count += 1,
            Do::Panic => panic!("asked to"),
            Do::Stop => ctx.stop(),
        }
        self.count
    }
}

fn supervised() -> (Addr<Fragile>, Arc<AtomicUsize>) {
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&starts);
    (Supervisor::start(move |_| Fragile { starts: counted, count: 0 }), starts)
}

#[actix::test]
async fn x01_the_stock_supervisor_does_not_survive_a_panic() {
    let (addr, starts) = supervised();
    assert!(addr.send(Do::Panic).await.is_err());
    assert!(addr.send(Do::Count).await.is_err());
    assert_eq!(starts.load(SeqCst), 1);
    assert!(!addr.connected());
}

#[actix::test]
async fn a_stopped_actor_is_restarted_with_its_fields() {
    let (addr, starts) = supervised();
    addr.send(Do::Count).await.unwrap();
    addr.do_send(Do::Stop);
    assert_eq!(addr.send(Do::Count).await, Ok(2), "the same value goes on");
    assert_eq!(starts.load(SeqCst), 2);
}

#[actix::test]
async fn a_panic_leaves_the_arbiter_and_its_other_actors_alone() {
    let ((victim, _), (neighbour, _)) = (supervised(), supervised());
    assert!(victim.send(Do::Panic).await.is_err());
    assert_eq!(neighbour.send(Do::Count).await, Ok(1));
}

#[actix::test]
async fn send_never_waits_for_room_in_a_mailbox() {
    let (addr, _) = supervised();
    let sent = (0..500).map(|_| addr.send(Do::Count));
    let answers = futures_util::future::join_all(sent).await;
    assert_eq!(answers.last().unwrap(), &Ok(500), "with a mailbox of 16");
}

/// A server that answers each connection with these bytes and closes it.
async fn peer(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    actix_rt::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            actix_rt::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(bytes).await;
            });
        }
    });
    url
}

/// What awc makes of a body: bytes, and whether it ended without an error.
async fn body(url: &str) -> (usize, bool) {
    let mut response = awc::Client::new().get(url).send().await.unwrap();
    let mut bytes = 0;
    while let Some(chunk) = response.next().await {
        match chunk {
            Ok(chunk) => bytes += chunk.len(),
            Err(_) => return (bytes, false),
        }
    }
    (bytes, true)
}

#[actix::test]
async fn x02_awc_reports_a_cut_body_as_a_clean_end() {
    for cut in [
        &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello",
    ] {
        assert_eq!(body(&peer(cut).await).await, (5, true), "{}", String::from_utf8_lossy(cut));
    }
}

#[actix::test]
async fn x03_awc_finds_nothing_in_a_close_delimited_body() {
    let url = peer(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello").await;
    assert_eq!(body(&url).await, (0, true));
}

#[actix::test]
async fn x06_awc_takes_an_interim_answer_for_the_answer() {
    let url =
        peer(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(awc::Client::new().get(url).send().await.unwrap().status(), 103);
}

#[actix::test]
async fn awc_panics_when_a_finished_body_is_polled_again() {
    use futures_util::FutureExt as _;
    let url =
        peer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").await;
    let mut response = awc::Client::new().get(url).send().await.unwrap();
    while response.next().await.is_some() {}
    let again = std::panic::AssertUnwindSafe(response.next()).catch_unwind().await;
    assert!(again.is_err());
}

#[actix::test]
async fn x04_awc_follows_redirects_and_takes_x_api_key_along() {
    let thief = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to: &'static str = format!(
        "HTTP/1.1 307 X\r\nlocation: http://localhost:{}/\r\ncontent-length: 0\r\n\r\n",
        thief.local_addr().unwrap().port()
    )
    .leak();
    let url = peer(to.as_bytes()).await;
    let stolen = async {
        let (mut socket, _) = thief.accept().await.unwrap();
        let mut seen = vec![0; 4096];
        let read = socket.read(&mut seen).await.unwrap();
        String::from_utf8_lossy(&seen[..read]).into_owned()
    };
    let asked = awc::Client::new().get(url).insert_header(("x-api-key", "k")).send();
    let (seen, _) = tokio::join!(
        timeout(Duration::from_secs(3), stolen),
        timeout(Duration::from_secs(3), asked)
    );
    assert!(seen.unwrap().to_lowercase().contains("x-api-key: k"));
}

#[actix::test]
async fn awc_gives_up_on_a_head_after_five_seconds_by_default() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    actix_rt::spawn(async move {
        let _held = listener.accept().await;
        sleep(Duration::from_secs(30)).await;
    });
    let started = std::time::Instant::now();
    assert!(awc::Client::new().get(url).send().await.is_err());
    assert!((4..7).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}
