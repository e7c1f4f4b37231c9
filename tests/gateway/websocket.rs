//! The Responses API over WebSocket.

use std::time::{Duration, Instant};

use awc::ws::{Frame, Message};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};

use crate::{
    app::{App, provider},
    support::{
        chat,
        scripted::{Scripted, Wire, call, text},
        upstream::{Reply, Step, Upstream},
    },
};

struct Socket(actix_codec::Framed<awc::BoxedSocket, awc::ws::Codec>);

impl Socket {
    async fn open(app: &App) -> Self {
        let url = format!("ws://{}/v1/responses", app.address);
        let connected = client().ws(url).max_frame_size(16 << 20).connect().await;
        Self(connected.map_err(|error| error.to_string()).unwrap().1)
    }

    async fn create(&mut self, mut body: Value) {
        body["type"] = "response.create".into();
        self.0.send(Message::Text(body.to_string().into())).await.unwrap();
    }

    async fn event(&mut self) -> Value {
        let next = actix_rt::time::timeout(Duration::from_secs(20), self.0.next());
        match next.await.unwrap().unwrap().unwrap() {
            Frame::Text(text) => serde_json::from_slice(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Events up to the one that ends the turn.
    async fn turn(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            let kind = event["type"].as_str().unwrap().to_owned();
            events.push(event);
            if ["response.completed", "response.failed", "response.incomplete", "error"]
                .contains(&kind.as_str())
            {
                return events;
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is a client of its own")]
fn client() -> awc::Client {
    awc::Client::builder().disable_timeout().finish()
}

async fn app(scripted: &Scripted) -> App {
    App::start(
        &json!({"websockets": true, "providers": {"up": Wire::Chat.provider(&scripted.upstream)}}),
    )
    .await
}

#[actix::test]
async fn an_upgrade_is_426_unless_the_config_says_so_and_never_for_a_strange_page() {
    let upstream = Upstream::start(|_| Reply::chat(&chat::end("stop")));
    let upgrade = |origin: Option<&'static str>| {
        let mut headers = vec![
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        headers.extend(origin.map(|origin| ("origin", origin)));
        headers
    };
    for (on, status) in [(false, 426), (true, 101)] {
        let config = json!({"websockets": on, "providers": {"up": provider(&upstream.base_url())}});
        let app = App::start(&config).await;
        let ask = |origin| {
            let mut request = String::from("GET /v1/responses HTTP/1.1\r\n");
            request.push_str(&format!("host: {}\r\n", app.address));
            for (name, value) in upgrade(origin) {
                request.push_str(&format!("{name}: {value}\r\n"));
            }
            request.push_str("\r\n");
            let address = app.address;
            async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
                socket.write_all(request.as_bytes()).await.unwrap();
                let mut head = vec![0; 64];
                let read = socket.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                head.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
            }
        };
        assert_eq!(ask(None).await, status);
        assert_eq!(ask(Some("https://evil.example")).await, 403, "T-04");
        assert_eq!(app.get("/v1/responses").await.status, 405);
    }
}

#[actix::test]
async fn turns_go_on_from_the_last_answer_of_their_connection() {
    let scripted = Scripted::start(|question| match question.results.len() {
        0 => vec![call("f", json!({"n": 1}))],
        _ => vec![text("done")],
    });
    let app = app(&scripted).await;
    let mut socket = Socket::open(&app).await;
    let tools = json!([{"type": "function", "name": "f"}]);
    let base = json!([{"type": "message", "role": "developer", "content": "rules"}]);
    socket.create(json!({"model": "up/m", "generate": false, "input": base, "tools": tools})).await;
    let warm = socket.turn().await;
    assert_eq!((warm.len(), &warm[1]["response"]["output"]), (2, &json!([])));
    assert_eq!(scripted.questions().len(), 0, "nothing is asked upstream yet");
    let id = |events: &[Value]| events.last().unwrap()["response"]["id"].clone();

    let asked = json!([{"type": "message", "role": "user", "content": "do"}]);
    socket.create(json!({"model": "up/m", "previous_response_id": id(&warm), "input": asked, "tools": tools})).await;
    let first = socket.turn().await;
    assert!(first.iter().enumerate().all(|(n, event)| event["sequence_number"] == n));
    let call_id = first.last().unwrap()["response"]["output"][0]["call_id"].clone();
    let result = json!([{"type": "function_call_output", "call_id": call_id, "output": "r"}]);
    let next = json!({"model": "up/m", "previous_response_id": id(&first), "input": result, "tools": tools});
    socket.create(next.clone()).await;
    let second = socket.turn().await;
    assert_eq!(second.last().unwrap()["response"]["output"][0]["content"][0]["text"], "done");
    let question = &scripted.questions()[1];
    assert_eq!(
        (question.system.as_str(), &question.said, &question.results),
        ("rules", &vec!["do".to_owned()], &vec!["r".to_owned()])
    );
    scripted.assert_rules_kept();

    // An answer that is not the last of this connection is not known.
    socket.create(next).await;
    let refused = socket.turn().await;
    assert_eq!((&refused[0]["type"], &refused[0]["status"]), (&json!("error"), &json!(400)));
    assert_eq!(refused[0]["error"]["code"], "previous_response_not_found");
    // And the connection goes on.
    socket.create(json!({"model": "up/m", "input": asked, "tools": tools})).await;
    assert_eq!(socket.turn().await.last().unwrap()["type"], "response.completed");
}

#[actix::test]
async fn errors_are_frames_and_leave_the_connection_open() {
    let upstream = Upstream::start(|asked| match asked.json()["model"].as_str().unwrap() {
        "limited" => {
            Reply::with_headers(429, &[("retry-after", "3")], br#"{"error":{"message":"slow"}}"#)
        }
        "cut" => Reply::stream().frames(&[chat::text("half")]).end(),
        _ => Reply::chat(&[vec![chat::text("hi")], chat::end("stop")].concat()),
    });
    let app = App::chat(&upstream.base_url(), json!({"websockets": true})).await;
    let mut socket = Socket::open(&app).await;
    socket.0.send(Message::Text("no json".into())).await.unwrap();
    assert_eq!(socket.event().await["status"], 400);
    socket.create(json!({"model": "cut", "input": "x"})).await;
    assert_eq!(socket.turn().await.last().unwrap()["type"], "response.failed");
    socket.0.send(Message::Text(r#"{"type":"response.processed"}"#.into())).await.unwrap();
    socket.0.send(Message::Ping("p".into())).await.unwrap();
    assert!(matches!(socket.0.next().await, Some(Ok(Frame::Pong(_)))));
    socket.create(json!({"model": "m", "input": "x"})).await;
    assert_eq!(socket.turn().await.last().unwrap()["type"], "response.completed");
    socket.create(json!({"model": "limited", "input": "x"})).await;
    let limited = socket.event().await;
    assert_eq!(
        (&limited["status"], &limited["headers"]["retry-after"]),
        (&json!(429), &json!("3"))
    );
    assert_eq!(
        app.metric("ocx_requests_total{outcome=\"ok\",protocol=\"responses_websocket\""),
        1.0
    );
}

#[actix::test]
async fn a_new_request_or_a_closed_socket_ends_the_running_turn() {
    let upstream = Upstream::start(|asked| match asked.json()["model"].as_str().unwrap() {
        "endless" => Reply::stream().frames(&[chat::text("x")]).then(Step::AwaitClose),
        _ => Reply::chat(&[vec![chat::text("hi")], chat::end("stop")].concat()),
    });
    let app = App::chat(&upstream.base_url(), json!({"websockets": true})).await;
    let mut socket = Socket::open(&app).await;
    let closed = || upstream.closed.lock().unwrap().len();
    let wait = |count| async move {
        let started = Instant::now();
        while closed() < count {
            assert!(started.elapsed() < Duration::from_secs(5), "the upstream is let go");
            actix_rt::time::sleep(Duration::from_millis(10)).await;
        }
    };
    socket.create(json!({"model": "endless", "input": "x"})).await;
    while socket.event().await["type"] != "response.output_text.delta" {}
    socket.create(json!({"model": "m", "input": "x"})).await;
    assert_eq!(socket.turn().await.last().unwrap()["type"], "response.completed");
    wait(1).await;
    socket.create(json!({"model": "endless", "input": "x"})).await;
    while socket.event().await["type"] != "response.output_text.delta" {}
    drop(socket);
    wait(2).await;
    let gone = app.metric("ocx_requests_total{outcome=\"client_cancelled\"");
    assert_eq!(gone, 2.0);
}
