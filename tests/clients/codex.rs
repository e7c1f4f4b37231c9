//! The real Codex CLI. What these tests say of Chat Completions in detail, `adapters.rs` says of
//! every protocol.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    installed, run,
    support::{
        chat, chat_rules,
        ocx::Ocx,
        scratch,
        upstream::{Asked, Reply, Step, Upstream},
    },
};

/// The version these tests are written against; `tests/all.sh` installs it.
const CODEX_VERSION: &str = include_str!("codex-version.txt");

fn codex_binary() -> PathBuf {
    installed("node_modules/.bin/codex")
}

/// One scenario: an upstream, an ocx in front of it, and a home for Codex.
pub struct Bench {
    pub dir: PathBuf,
    pub ocx: Ocx,
    pub upstream: Upstream,
    pub violations: Arc<Mutex<Vec<String>>>,
    /// The model that Codex asks for.
    pub model: String,
    /// The name of the provider in Codex's config; `OpenAI` makes Codex behave in its own ways.
    pub provider_name: &'static str,
}

/// What a run of `codex exec --json` printed and left.
pub struct Run {
    pub events: Vec<Value>,
    pub ok: bool,
    took: Duration,
    pub stderr: String,
}

impl Bench {
    fn new(name: &str, script: impl Fn(&Asked, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let dir = scratch(&format!("codex-{name}"));
        let violations: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&violations);
        let upstream = Upstream::start(move |asked| {
            if asked.line.starts_with("GET /v1/models") {
                return Reply::json(
                    200,
                    &json!({"data": [{"id": "test", "context_length": 100_000}]}),
                );
            }
            let body = asked.json();
            let wrong = chat_rules::violations(&body);
            if wrong.is_empty() {
                return script(asked, &body);
            }
            noted.lock().unwrap().extend(wrong.clone());
            Reply::json(
                400,
                &json!({"error": {"message": wrong.join("; "), "type": "invalid_request_error"}}),
            )
        });
        let ocx = Ocx::serve(&dir, &config(&upstream));
        let model = "chat/test".to_owned();
        let bench = Self { dir, ocx, upstream, violations, model, provider_name: "ocx" };
        bench.set_up_codex("");
        bench
    }

    /// Points Codex at ocx: the three lines of the README, and the catalogue that ocx serves.
    pub fn set_up_codex(&self, more: &str) {
        self.set_up_codex_with("", "", more);
    }

    /// As [`set_up_codex`](Self::set_up_codex), with lines at the top and for the provider.
    pub fn set_up_codex_with(&self, first: &str, provider: &str, more: &str) {
        fs::create_dir_all(self.dir.join("codex")).unwrap();
        fs::create_dir_all(self.dir.join("work")).unwrap();
        let catalog = self.dir.join("catalog.json");
        fs::write(&catalog, self.ocx.get("/v1/models?client_version=0.169.0")).unwrap();
        let config = format!(
            "model = {:?}\nmodel_provider = \"ocx\"\nmodel_catalog_json = {catalog:?}\n{first}\n\
             [model_providers.ocx]\nname = {:?}\nbase_url = \"http://{}/v1\"\nwire_api = \"responses\"\n\
             {provider}\n[features]\nplugins = false\n{more}",
            self.model, self.provider_name, self.ocx.address
        );
        fs::write(self.dir.join("codex/config.toml"), config).unwrap();
    }

    pub fn work(&self, file: &str) -> PathBuf {
        self.dir.join("work").join(file)
    }

    pub fn codex(&self, prompt: &str) -> Run {
        let started = Instant::now();
        let mut command = Command::new(codex_binary());
        command
            .args(["exec", "--json", "--skip-git-repo-check"])
            .arg("--dangerously-bypass-approvals-and-sandbox")
            .arg("-C")
            .arg(self.dir.join("work"))
            .arg(prompt)
            .env("CODEX_HOME", self.dir.join("codex"));
        let ran = run(&mut command, &self.dir);
        Run {
            events: ran.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
            ok: ran.ok,
            took: started.elapsed(),
            stderr: ran.err,
        }
    }

    /// The bodies that the upstream got, without the model lists.
    fn bodies(&self) -> Vec<Value> {
        let asked = self.upstream.asked();
        asked.iter().filter(|asked| asked.line.starts_with("POST")).map(Asked::json).collect()
    }

    pub fn assert_rules_kept(&self) {
        assert_eq!(*self.violations.lock().unwrap(), Vec::<String>::new());
    }
}

fn config(upstream: &Upstream) -> Value {
    json!({"defaultProvider": "chat", "providers": {"chat": {
        "adapter": "openai-chat", "baseUrl": upstream.base_url(), "authMode": "local"}}})
}

impl Run {
    /// Completed items of a type.
    pub fn items(&self, kind: &str) -> Vec<&Value> {
        self.events
            .iter()
            .filter(|event| event["type"] == "item.completed" && event["item"]["type"] == kind)
            .map(|event| &event["item"])
            .collect()
    }

    pub fn said(&self) -> String {
        self.items("agent_message").iter().map(|item| item["text"].as_str().unwrap()).collect()
    }

    pub fn assert_ok(&self) {
        assert!(self.ok, "{:#?}\n{}", self.events, self.stderr);
    }
}

/// The number of tool results in a body tells how far the conversation is.
fn results(body: &Value) -> Vec<&Value> {
    body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["role"] == "tool")
        .collect()
}

fn say(text: &str) -> Reply {
    let mut frames = vec![chat::delta(json!({"role": "assistant", "content": ""}))];
    frames.extend(text.split_inclusive(' ').map(chat::text));
    frames.extend(chat::end("stop"));
    Reply::chat(&frames)
}

fn call_tools(calls: &[(&str, Value)]) -> Reply {
    let mut frames: Vec<Value> = calls
        .iter()
        .zip(0..)
        .map(|((name, arguments), n)| chat::call(n, &format!("call_{n}"), name, arguments))
        .collect();
    frames.extend(chat::end("tool_calls"));
    Reply::chat(&frames)
}

#[test]
fn the_pinned_codex_is_what_runs() {
    let out = Command::new(codex_binary()).arg("--version").output().unwrap();
    let version = String::from_utf8(out.stdout).unwrap();
    assert!(version.trim().ends_with(CODEX_VERSION.trim()), "{version}");
}

#[test]
fn a_text_turn() {
    let bench = Bench::new("text", |_, _| say("Hello from the upstream."));
    let run = bench.codex("say hello");
    run.assert_ok();
    assert_eq!(run.said(), "Hello from the upstream.");
    let usage = &run.events.last().unwrap()["usage"];
    assert_eq!((&usage["input_tokens"], &usage["cached_input_tokens"]), (&json!(11), &json!(5)));
    let body = &bench.bodies()[0];
    assert_eq!(body["model"], "test");
    assert_eq!(body["messages"][0]["role"], "system");
    assert_eq!(bench.ocx.metric("ocx_requests_total{outcome=\"ok\""), 1.0);
    bench.assert_rules_kept();
    assert!(!run.stderr.contains("Model metadata"), "the catalogue is read: {}", run.stderr);
}

#[test]
fn a_shell_tool_writes_a_file() {
    let bench = Bench::new("shell", |_, body| match results(body).len() {
        0 => call_tools(&[(
            "exec_command",
            json!({"cmd": "printf '%s' marker-7 > out.txt && echo written"}),
        )]),
        _ => say("done"),
    });
    let run = bench.codex("write it");
    run.assert_ok();
    assert_eq!(fs::read_to_string(bench.work("out.txt")).unwrap(), "marker-7");
    assert!(results(&bench.bodies()[1])[0]["content"].as_str().unwrap().contains("written"));
    bench.assert_rules_kept();
}

#[test]
fn a_freeform_apply_patch() {
    let patch =
        "*** Begin Patch\n*** Add File: p.txt\n+first\n+a \"quoted\" \\ line\n*** End Patch\n";
    let bench = Bench::new("patch", move |_, body| match results(body).len() {
        0 => {
            let offered = body["tools"].as_array().unwrap();
            let tool = offered.iter().find(|tool| tool["function"]["name"] == "apply_patch");
            assert!(tool.is_some(), "the catalogue of ocx gives Codex the tool");
            // In pieces, as models write it.
            let json = json!({"input": patch}).to_string();
            let (a, b) = json.split_at(json.len() / 2);
            let mut frames = vec![chat::delta(
                json!({"tool_calls": [{"index": 0, "id": "c1", "type": "function",
                "function": {"name": "apply_patch", "arguments": ""}}]}),
            )];
            frames.extend([chat::more(0, a), chat::more(0, b)]);
            frames.extend(chat::end("tool_calls"));
            Reply::chat(&frames)
        }
        _ => say("patched"),
    });
    let run = bench.codex("patch it");
    run.assert_ok();
    assert_eq!(fs::read_to_string(bench.work("p.txt")).unwrap(), "first\na \"quoted\" \\ line\n");
    let replayed = &bench.bodies()[1]["messages"];
    let call =
        replayed.as_array().unwrap().iter().find(|message| message.get("tool_calls").is_some());
    let arguments = call.unwrap()["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), json!({"input": patch}));
    bench.assert_rules_kept();
}

#[test]
fn two_parallel_tool_calls() {
    let bench = Bench::new("parallel", |_, body| match results(body).len() {
        0 => {
            // Their arguments interleave.
            let start = |n: u32, id: &str| {
                chat::delta(json!({"tool_calls": [{"index": n, "id": id, "type": "function",
                    "function": {"name": "exec_command", "arguments": "{\"cmd\":"}}]}))
            };
            let mut frames = vec![start(0, "one"), start(1, "two")];
            frames.push(chat::more(1, "\"echo second > b.txt\"}"));
            frames.push(chat::more(0, "\"echo first > a.txt\"}"));
            frames.extend(chat::end("tool_calls"));
            Reply::chat(&frames)
        }
        _ => say("both done"),
    });
    let run = bench.codex("do both");
    run.assert_ok();
    assert_eq!(fs::read_to_string(bench.work("a.txt")).unwrap(), "first\n");
    assert_eq!(fs::read_to_string(bench.work("b.txt")).unwrap(), "second\n");
    let ids: Vec<_> =
        results(&bench.bodies()[1]).iter().map(|m| m["tool_call_id"].clone()).collect();
    assert_eq!(ids, ["one", "two"]);
    bench.assert_rules_kept();
}

#[test]
fn reasoning_is_shown() {
    let bench = Bench::new("reasoning", |_, _| {
        let mut frames = vec![
            chat::delta(json!({"reasoning_content": "Let me think "})),
            chat::delta(json!({"reasoning_content": "about that."})),
            chat::text("Thought."),
        ];
        frames.extend(chat::end("stop"));
        Reply::chat(&frames)
    });
    let run = bench.codex("think");
    run.assert_ok();
    assert_eq!(run.items("reasoning")[0]["text"], "Let me think about that.");
    assert_eq!(run.said(), "Thought.");
    bench.assert_rules_kept();
}

#[test]
fn a_namespaced_mcp_tool() {
    let bench = Bench::new("mcp", |_, body| match results(body).len() {
        0 => call_tools(&[("mcp__srv__echo_marker", json!({"marker": "mk1"}))]),
        _ => say("echoed"),
    });
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mcp_server.js");
    bench.set_up_codex(&format!("[mcp_servers.srv]\ncommand = \"node\"\nargs = [{server:?}]\n"));
    let run = bench.codex("echo it");
    run.assert_ok();
    let result = results(&bench.bodies()[1])[0]["content"].as_str().unwrap().to_owned();
    assert!(result.contains("echo:mk1"), "{result}");
    assert_eq!(run.items("mcp_tool_call")[0]["status"], "completed");
    bench.assert_rules_kept();
}

#[test]
fn a_rate_limit_with_retry_after_is_waited_for() {
    let bench = Bench::new("rate-limit", |_, body| {
        // The model lists are counted too, so the conversation says whether this is the first.
        static SEEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let _ = body;
        if SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            let error = json!({"error": {"message": "slow down", "type": "rate_limit_error"}});
            return Reply::with_headers(
                429,
                &[("content-type", "application/json"), ("retry-after", "2")],
                error.to_string().as_bytes(),
            );
        }
        say("after the pause")
    });
    let run = bench.codex("go");
    run.assert_ok();
    assert_eq!(run.said(), "after the pause");
    assert!(run.took >= Duration::from_secs(2), "{:?}", run.took);
    assert_eq!(bench.bodies().len(), 2, "one refusal, one answer, no storm");
    bench.assert_rules_kept();
}

#[test]
fn a_stream_cut_in_the_middle_is_repeated_and_no_half_call_is_run() {
    let bench = Bench::new("cut", |_, body| {
        static SEEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        match (SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst), results(body).len()) {
            (0, _) => {
                let call = chat::delta(
                    json!({"tool_calls": [{"index": 0, "id": "cut", "type": "function",
                    "function": {"name": "exec_command", "arguments": "{\"cmd\":\"touch half.txt\"}"}}]}),
                );
                Reply::stream().frames(&[chat::text("Half a "), call]).then(Step::Close(false))
            }
            _ => say("the whole answer"),
        }
    });
    let run = bench.codex("go");
    run.assert_ok();
    assert!(run.said().contains("the whole answer"), "{}", run.said());
    assert!(!bench.work("half.txt").exists(), "a call that was never finished is never run");
    assert_eq!(
        bench
            .ocx
            .metric("ocx_stream_terminations_total{protocol=\"responses\",reason=\"upstream_eof\""),
        1.0
    );
    let bodies = bench.bodies();
    assert_eq!(bodies.len(), 2);
    assert!(results(&bodies[1]).is_empty(), "the half call was not even tried");
    bench.assert_rules_kept();
}

#[test]
fn the_config_is_edited_between_two_turns_of_one_ocx() {
    let bench = Bench::new("reload", |_, _| say("from the first upstream"));
    let second = Upstream::start(|asked| {
        let wrong = chat_rules::violations(&asked.json());
        if wrong.is_empty() {
            say("from the second upstream")
        } else {
            Reply::json(400, &json!({"error": wrong}))
        }
    });
    let first = bench.codex("one");
    first.assert_ok();
    assert_eq!(first.said(), "from the first upstream");
    fs::write(&bench.ocx.config, config(&second).to_string()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.ocx.metric("ocx_config_generation") < 2.0 {
        assert!(Instant::now() < deadline, "the edit was not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = bench.codex("two");
    second.assert_ok();
    assert_eq!(second.said(), "from the second upstream");
    bench.assert_rules_kept();
}

#[test]
fn an_unknown_model_is_one_clear_message_and_one_send() {
    let bench = Bench::new("unknown-model", |_, _| {
        Reply::json(
            404,
            &json!({"error": {"message": "The model `test` does not exist", "code": "model_not_found"}}),
        )
    });
    let run = bench.codex("go");
    assert!(!run.ok);
    let text = format!("{:?}", run.events);
    assert!(text.contains("does not exist"), "{text}");
    assert_eq!(bench.bodies().len(), 1, "Codex repeats a 404 six times, a 400 never");
}
