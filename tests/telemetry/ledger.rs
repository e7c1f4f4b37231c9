//! The ledger and the metrics against what an upstream knows that it told.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Caller, eventually, provider,
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Asked, Reply, Step, Upstream},
    },
};

/// What the upstream told, or would have: the truth.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    requests: u64,
    input: u64,
    cached: u64,
    output: u64,
}

/// Answers by the model's name, each time with other counts, and keeps the sums per model.
struct Known {
    upstream: Upstream,
    told: Arc<Mutex<BTreeMap<String, Told>>>,
}

impl Known {
    fn start() -> Self {
        let told: Arc<Mutex<BTreeMap<String, Told>>> = Arc::default();
        let sums = Arc::clone(&told);
        let upstream = Upstream::start(move |asked: &Asked| {
            let body = asked.json();
            let model = body["model"].as_str().unwrap().to_owned();
            let n = asked.number as u64;
            let usage = match model.as_str() {
                "steady" => (10, 0, 1),
                _ => (100 + n % 97, n % 89, 1 + n % 31),
            };
            let mut sums = sums.lock().unwrap();
            let sum = sums.entry(model.clone()).or_default();
            sum.requests += 1;
            let counted = match model.as_str() {
                "good" | "steady" => usage,
                // Anthropic tells of the prompt at once, and of the answer at its end.
                "left-late" => (usage.0, usage.1, 1),
                _ => (0, 0, 0),
            };
            sum.input += counted.0;
            sum.cached += counted.1;
            sum.output += counted.2;
            answer(&model, usage, body["stream"] == true)
        });
        Self { upstream, told }
    }

    fn of(&self, model: &str) -> Told {
        self.told.lock().unwrap().get(model).cloned().unwrap_or_default()
    }
}

fn answer(model: &str, (input, cached, output): (u64, u64, u64), stream: bool) -> Reply {
    let usage = json!({"prompt_tokens": input, "completion_tokens": output,
        "total_tokens": input + output, "prompt_tokens_details": {"cached_tokens": cached}});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let told = json!({"choices": [], "usage": usage});
    let word = chat::text("word");
    match model {
        "good" if stream => Reply::chat(&[word, end, told, json!("[DONE]")]),
        // Takes longer than a line waits to be written: whenever it is killed, some are written as begun.
        "steady" if stream => {
            Reply::stream().frames(&[word]).pause(20).frames(&[end, told, json!("[DONE]")]).end()
        }
        "good" | "steady" => Reply::json(
            200,
            &json!({"id": "c", "object": "chat.completion", "created": 1, "model": model,
                "choices": [{"index": 0, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "word"}}],
                "usage": usage}),
        ),
        "silent" => Reply::chat(&[word, end, json!("[DONE]")]),
        "broken" => Reply::json(400, &json!({"error": {"message": "no"}})),
        "cut" => Reply::stream().frames(&[word]).then(Step::Close(true)),
        "left" => Reply::stream().frames(&[word]).then(Step::AwaitClose),
        "left-late" => {
            let frames = [
                json!({"type": "message_start", "message": {"id": "m", "role": "assistant",
                    "content": [], "model": model, "usage": {"input_tokens": input - cached,
                    "cache_read_input_tokens": cached, "output_tokens": 1}}}),
                json!({"type": "content_block_start", "index": 0,
                    "content_block": {"type": "text", "text": ""}}),
                json!({"type": "content_block_delta", "index": 0,
                    "delta": {"type": "text_delta", "text": "word"}}),
            ];
            let reply = frames.iter().fold(Reply::stream(), |reply, frame| {
                let kind = frame["type"].as_str().unwrap();
                reply.chunk(format!("event: {kind}\ndata: {frame}\n\n").as_bytes())
            });
            reply.then(Step::AwaitClose)
        }
        other => panic!("{other}"),
    }
}

fn config(known: &Known) -> Value {
    let mut chat = provider("openai-chat", &known.upstream.base_url());
    chat["models"] = json!(["good", "steady", "silent", "broken", "cut", "left"]);
    chat["prices"] = json!({"good": {"input": 3, "cachedInput": 0.3, "output": 15}});
    let mut claude = provider("anthropic", &known.upstream.base_url());
    claude["models"] = json!(["left-late"]);
    json!({"providers": {"chat": chat, "claude": claude}, "retryPosts": false})
}

/// One turn of a kind.
fn turn(caller: &Caller, n: usize) {
    let body = |model: &str, stream: bool| json!({"model": model, "input": "hi", "stream": stream});
    match n % 20 {
        0 => assert_eq!(caller.ask("chat/broken").0, 400),
        1 => drop(caller.ask("chat/cut")),
        2 => caller.leave_after(&body("chat/left", true), "word"),
        3 => caller.leave_after(&body("claude/left-late", true), "word"),
        4 | 5 => assert_eq!(caller.ask("chat/silent").0, 200),
        kind => {
            let asked = body("chat/good", kind % 2 == 0);
            assert_eq!(caller.post("/v1/responses", &asked).0, 200);
        }
    }
}

/// So many turns, by several callers.
fn turns(ocx: &Ocx, count: usize) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            let (caller, next) = (Caller::new(ocx.address), &next);
            scope.spawn(move || {
                loop {
                    match next.fetch_add(1, SeqCst) {
                        n if n < count => turn(&caller, n),
                        _ => return,
                    }
                }
            });
        }
    });
}

/// What `ocx usage` says.
fn usage(home: &Path, by: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_ocx"))
        .args(["usage", "--json", "--by", by])
        .env("OPENCODEX_HOME", home)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn row(report: &Value, key: &str) -> Value {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["key"] == key).cloned().unwrap_or_else(|| panic!("{key}: {report}"))
}

fn count(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap_or_else(|| panic!("{field}: {row}"))
}

/// Waits until nothing runs: what callers left is let go a moment later.
fn quiet(ocx: &Ocx) {
    let idle = || ocx.metric("ocx_inflight_requests") == 0.0;
    eventually("all turns are over", Duration::from_secs(20), idle);
    // And the ledger's thread has nothing left.
    thread::sleep(Duration::from_millis(300));
}

/// Ledger and metrics of one process say the same.
fn agree(ocx: &Ocx, report: &Value, before: &Value) {
    for provider in ["chat", "claude"] {
        let (now, then) = (row(report, provider), before["rows"].as_array());
        let then = then.and_then(|rows| rows.iter().find(|row| row["key"] == provider));
        let since = |field: &str| count(&now, field) - then.map_or(0, |then| count(then, field));
        let metric = |name: &str, labels: &[&str]| -> u64 {
            let all = ocx.get("/metrics");
            let of = all.lines().filter(|line| {
                line.starts_with(&format!("{name}{{"))
                    && line.contains(&format!("provider=\"{provider}\""))
                    && labels.iter().all(|label| line.contains(label))
            });
            of.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
        };
        assert_eq!(since("turns"), metric("ocx_requests_total", &[]), "{provider}");
        assert_eq!(since("ok"), metric("ocx_requests_total", &["outcome=\"ok\""]), "{provider}");
        let left = metric("ocx_requests_total", &["outcome=\"client_cancelled\""]);
        assert_eq!(since("cancelled"), left, "{provider}");
        for (field, kind) in
            [("input", "input"), ("cachedInput", "cached_input"), ("output", "output")]
        {
            let label = format!("type=\"{kind}\"");
            assert_eq!(since(field), metric("ocx_tokens_total", &[&label]), "{provider} {kind}");
        }
        assert_eq!(since("missing"), metric("ocx_usage_missing_total", &[]), "{provider}");
    }
    let cost = report["total"]["costUsd"].as_f64().unwrap()
        - before["total"]["costUsd"].as_f64().unwrap_or(0.0);
    assert!((cost - ocx.metric("ocx_cost_usd_total")).abs() < 1e-6, "{cost}");
}

/// Ledger and upstream say the same of every model.
fn is_true(home: &Path, known: &Known) {
    let report = usage(home, "model");
    for model in ["good", "silent", "broken", "cut", "left", "left-late"] {
        let provider = if model == "left-late" { "claude" } else { "chat" };
        let (row, told) = (row(&report, &format!("{provider}/{model}")), known.of(model));
        let counted = Told {
            requests: count(&row, "turns"),
            input: count(&row, "input"),
            cached: count(&row, "cachedInput"),
            output: count(&row, "output"),
        };
        assert_eq!(counted, told, "{model}");
        let missing = match model {
            "silent" | "cut" | "left" => told.requests,
            _ => 0,
        };
        assert_eq!(count(&row, "missing"), missing, "{model}");
        assert_eq!(count(&row, "unfinished"), 0, "{model}");
    }
    let good = known.of("good");
    let cost = (good.input - good.cached) as f64 * 3.0
        + good.cached as f64 * 0.3
        + good.output as f64 * 15.0;
    let told = row(&report, "chat/good")["costUsd"].as_f64().unwrap();
    assert!((told - cost / 1e6).abs() < 1e-6, "{told}");
}

/// Kills the gateway while turns run; how many the upstream was asked meanwhile.
fn kill_amid(ocx: Ocx, known: &Known) {
    let (address, stop) = (ocx.address, Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (caller, stop) = (Caller::new(address), Arc::clone(&stop));
            thread::spawn(move || {
                let body = json!({"model": "chat/steady", "input": "hi", "stream": true});
                while !stop.load(SeqCst) {
                    // From the kill on nobody answers.
                    match caller.send("/v1/responses", &[], &body) {
                        Ok((_, mut body)) => drop(body.read_to_string()),
                        Err(_) => return,
                    }
                }
            })
        })
        .collect();
    eventually("turns run", Duration::from_secs(60), || known.of("steady").requests > 950);
    // As SIGKILL: `Child::kill`.
    drop(ocx);
    stop.store(true, SeqCst);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
}

const CALLERS: u64 = 6;

#[test]
fn ten_thousand_turns_are_accounted_for_over_aborts_and_a_kill() {
    let known = Known::start();
    let home: PathBuf = scratch("ledger");
    let config = config(&known);

    let ocx = Ocx::serve(&home, &config);
    turns(&ocx, 5_000);
    quiet(&ocx);
    agree(&ocx, &usage(&home, "provider"), &Value::Null);
    is_true(&home, &known);

    kill_amid(ocx, &known);
    let killed = usage(&home, "model");
    let (steady, told) = (row(&killed, "chat/steady"), known.of("steady"));
    let ended = count(&steady, "turns");
    assert_eq!(count(&steady, "input"), count(&steady, "ok") * 10, "of each turn that ended");
    let unfinished = count(&steady, "unfinished");
    // Turns begin a moment before they are sent, and the ledger's queue holds some for a moment: no
    // more can be wrong than were on their way.
    let unknown = told.requests.abs_diff(ended + unfinished);
    println!("killed amid {} turns: {ended} ended, {unfinished} cut, {unknown} off", told.requests);
    assert!(unfinished > 0 && unfinished + unknown <= 2 * CALLERS, "{steady} of {told:?}");
    assert_eq!(killed["damagedLines"], 0);

    let before = usage(&home, "provider");
    let ocx = Ocx::serve(&home, &config);
    turns(&ocx, 5_000);
    quiet(&ocx);
    agree(&ocx, &usage(&home, "provider"), &before);
    is_true(&home, &known);

    let total = &usage(&home, "day")["total"];
    println!("{total}");
    assert!(count(total, "turns") > 10_900);
}
