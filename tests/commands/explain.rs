//! `ocx explain`: what became of a call, by the ids that its caller knows.

use std::{io::Read as _, net::SocketAddr, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    free_port,
    support::{
        ocx::{self, Ocx},
        scratch,
        upstream::{Reply, Step, Upstream},
    },
    text,
};

/// Asks for an answer: its `x-request-id` and all of it.
fn ask(address: SocketAddr, model: &str, stream: bool) -> (String, String) {
    let tool = json!({"type": "web_search"});
    let body =
        json!({"model": model, "input": "a prompt-canary", "tools": [tool], "stream": stream});
    let mut answer = String::new();
    ocx::ask(address, &body).read_to_string(&mut answer).unwrap();
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    (id.to_owned(), answer)
}

fn explain(home: &Path, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
    let out = command.arg("explain").args(args).env("OPENCODEX_HOME", home).output().unwrap();
    (out.status.success(), text(&out))
}

#[test]
fn a_call_is_explained_with_what_was_tried_what_was_lost_and_why() {
    let busy = Upstream::start(|asked| match asked.header("authorization") {
        Some("Bearer sk-first-key") => {
            Reply::json(429, &json!({"error": {"message": "slow down, sk-first-key"}}))
        }
        _ => Reply::json(503, &json!({"error": {"message": "overloaded"}})),
    });
    let answer = json!({"id": "x", "choices": [{"index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "an answer-canary"}}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7}});
    let good = Upstream::start(move |_| Reply::json(200, &answer));
    let provider = |upstream: &Upstream, keys: Value| json!({"adapter": "openai-chat", "baseUrl": upstream.base_url(), "apiKeys": keys});
    let config = json!({
        "providers": {"busy": provider(&busy, json!(["sk-first-key", "sk-second-key"])),
            "good": provider(&good, json!(["sk-third-key"]))},
        "combos": {"best": {"targets": ["busy/a", "good/b"]}},
    });
    let home = scratch("explain");
    let ocx = Ocx::serve(&home, &config);
    let (id, answered) = ask(ocx.address, "best", false);
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    let (done, said) = explain(&home, &[&id]);
    assert!(done, "{said}");
    for words in [
        "asked     best (responses)",
        "first     busy/a: the name is a combo's, and this is its first target",
        "went to   good/b",
        "config    generation 1",
        "try 1     busy/a with key 1 of 2",
        "rate_limited",
        "then: the next key is tried",
        "busy/a with key 2 of 2",
        "failed over to `good`",
        "good/b with its key",
        "answered",
        "lost      1 × hosted_tool",
        "11 in (0 of them cached), 7 out",
        "outcome   ok",
    ] {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    let (_, document) = explain(&home, &[&id, "--json"]);
    let call: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((&call["provider"], &call["generation"]), (&json!("good"), &json!(1)), "{call}");
    assert!(call["steps"].as_array().unwrap().len() >= 3, "{call}");
    for secret in ["canary", "sk-first-key", "sk-second-key", "sk-third-key"] {
        assert!(!document.contains(secret), "{secret} in {document}");
    }
    // A call that failed has an id, too.
    let (id, answered) = ask(ocx.address, "busy/a", false);
    assert!(!answered.starts_with("HTTP/1.1 200"), "{answered}");
    let (done, said) = explain(&home, &[&id]);
    assert!(done && said.contains("the name begins with the provider's"), "{said}");
    let (id, _) = ask(ocx.address, "good/", false);
    let (done, said) = explain(&home, &[&id]);
    assert!(done && said.contains("no rule finds a provider for it"), "{said}");
    let (_, listed) = explain(&home, &[]);
    assert_eq!(listed.lines().filter(|line| line.contains(" ms ")).count(), 3, "{listed}");
    let (done, said) = explain(&home, &["resp_none"]);
    assert!(!done && said.contains("no call of this id"), "{said}");
}

#[test]
fn a_relayed_response_is_known_by_its_upstreams_id() {
    let response = json!({"id": "resp_of_upstream", "object": "response", "status": "completed",
        "model": "m", "output": [], "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}});
    let upstream = Upstream::start(move |asked| {
        if asked.json()["stream"] != true {
            let headers =
                [("content-type", "application/json"), ("x-request-id", "req_of_upstream")];
            return Reply::with_headers(200, &headers, response.to_string().as_bytes());
        }
        let frames = ["created", "completed"].map(|kind| {
            let kind = format!("response.{kind}");
            let data = json!({"type": kind, "sequence_number": 0, "response": response});
            format!("event: {kind}\ndata: {data}\n\n")
        });
        let head = Step::Raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req_of_upstream\r\n\
              transfer-encoding: chunked\r\n\r\n"
                .to_vec(),
        );
        frames.iter().fold(Reply(vec![head]), |reply, frame| reply.chunk(frame.as_bytes())).end()
    });
    let config = json!({"port": free_port(), "providers": {"relay": {"adapter": "openai-responses",
        "baseUrl": upstream.base_url(), "apiKey": "k"}}});
    let home = scratch("explain-relay");
    let ocx = Ocx::serve(&home, &config);
    for (stream, how) in [(false, "(responses)"), (true, "(responses, as a stream)")] {
        let (id, _) = ask(ocx.address, "relay/m", stream);
        assert_eq!(id, "req_of_upstream", "that of the vendor, whom one may have to ask");
        for id in ["resp_of_upstream", &id] {
            let (done, said) = explain(&home, &[id]);
            assert!(done && said.contains("relay/m with its key") && said.contains(how), "{said}");
        }
    }
}
