//! P-08: whichever comes first, or together, of a caller that leaves, an upstream that ends, breaks
//! or errs, and a provider that is removed: no stream hangs, every upstream is let go, and every slot
//! is given back once.

use std::time::{Duration, Instant};

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    app::{App, JSON, provider, read_answer, request},
    support::{
        chat,
        upstream::{Reply, Step, Upstream},
    },
};

/// What an upstream does after `words` pieces of text.
const ENDS: [&str; 5] = ["end", "cut", "reset", "error", "endless"];

#[derive(Clone, Debug)]
struct Case {
    end: usize,
    words: usize,
    /// After how many milliseconds the caller leaves, if it does.
    leaves: Option<u64>,
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    let case = (0..ENDS.len(), 0usize..6, proptest::option::of(0u64..120))
        .prop_map(|(end, words, leaves)| Case { end, words, leaves });
    proptest::collection::vec(case, 80)
}

fn upstream() -> Upstream {
    Upstream::start(|asked| {
        let body = asked.json();
        let (end, words) = body["model"].as_str().unwrap().split_once('-').unwrap();
        let mut reply = Reply::stream().frames(&[chat::text("first")]);
        for _ in 0..words.parse::<usize>().unwrap() {
            reply = reply.pause(7).frames(&[chat::text("word")]);
        }
        match end {
            "end" => reply.frames(&chat::end("stop")).end(),
            "cut" => reply.end(),
            "reset" => reply.then(Step::Close(true)),
            "error" => reply.frames(&[json!({"error": {"message": "boom"}})]).end(),
            _ => reply.then(Step::AwaitClose),
        }
    })
}

async fn run(cases: Vec<Case>) {
    let upstream = upstream();
    let config = |providers: Value| json!({"drainTimeoutSec": 1, "providers": providers});
    let app = App::start(&config(
        json!({"a": provider(&upstream.base_url()), "b": provider(&upstream.base_url())}),
    ))
    .await;
    let streams = cases.iter().map(|case| {
        let body = json!({"model": format!("a/{}-{}", ENDS[case.end], case.words), "input": "x", "stream": true});
        let bytes = request(app.address, "POST /v1/responses", &[JSON], body.to_string().as_bytes());
        let (address, leaves) = (app.address, case.leaves);
        async move {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
            let read = read_answer(&mut socket);
            match leaves {
                Some(after) => actix_rt::time::timeout(Duration::from_millis(after), read).await.ok(),
                None => Some(read.await),
            }
        }
    });
    let all = futures_util::future::join_all(streams);
    let remove = async {
        actix_rt::time::sleep(Duration::from_millis(60)).await;
        let rest = config(json!({"b": provider(&upstream.base_url())}));
        std::fs::write(&app.config, rest.to_string()).unwrap();
        app.reload().await;
    };
    let (answers, ()) = tokio::join!(all, remove);
    for (case, answer) in cases.iter().zip(answers) {
        if let (None, Some(answer)) = (case.leaves, answer) {
            // Exactly one terminal event, or a status where nothing had begun.
            let kind =
                if answer.status == 200 { answer.terminal()["type"].clone() } else { json!(null) };
            assert_eq!(kind == "response.completed", ENDS[case.end] == "end", "{case:?}: {kind}");
        }
    }
    // A caller that leaves early may close the upstream before its script gets to notice that.
    let endless =
        cases.iter().filter(|case| ENDS[case.end] == "endless" && case.leaves.is_none()).count();
    let waited = Instant::now();
    loop {
        let closed = upstream.closed.lock().unwrap().len();
        let (calls, streams) =
            (app.metric("ocx_inflight_requests"), app.metric("ocx_open_streams"));
        if (calls, streams) == (0.0, 0.0) && closed >= endless {
            return;
        }
        assert!(
            waited.elapsed() < Duration::from_secs(20),
            "{calls} calls and {streams} streams are held, {closed} of {endless} are closed"
        );
        actix_rt::time::sleep(Duration::from_millis(20)).await;
    }
}

#[actix::test]
async fn p08_whatever_comes_first_nothing_hangs_and_every_slot_comes_back() {
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..4 {
        run(cases().new_tree(&mut runner).unwrap().current()).await;
    }
}
