//! What a coding agent does, over every translated protocol: Codex must not be able to tell which
//! provider answered.

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    codex::Bench,
    support::{
        ocx::Ocx,
        scratch,
        scripted::{Question, Say, Scripted, Wire, call, text, think},
    },
};

impl Bench {
    /// Codex before ocx before a scripted model of this protocol, one whose thinking must come back.
    pub fn over(
        name: &str,
        wire: Wire,
        more: Value,
        script: impl Fn(&Question) -> Vec<Say> + Send + Sync + 'static,
    ) -> (Self, Scripted) {
        let dir = scratch(&format!("codex-{name}-{}", wire.adapter()));
        let scripted = Scripted::start(script);
        let mut config = json!({"providers": {"up": wire.provider(&scripted.upstream)}});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let bench = Self {
            ocx: Ocx::serve(&dir, &config),
            dir,
            upstream: scripted.upstream.clone(),
            violations: scripted.violations.clone(),
            model: format!("up/{}", wire.thinking_model()),
            provider_name: "ocx",
        };
        bench.set_up_codex("");
        (bench, scripted)
    }
}

/// Runs a scenario over each protocol, all at once.
fn over_all(scenario: impl Fn(Wire) + Copy + Send + 'static) {
    let threads = Wire::TRANSLATED.map(|wire| (wire, std::thread::spawn(move || scenario(wire))));
    for (wire, thread) in threads {
        assert!(thread.join().is_ok(), "{wire:?}");
    }
}

#[test]
fn text_reasoning_and_the_system_prompt() {
    over_all(|wire| {
        let (bench, scripted) = Bench::over("say", wire, json!({}), |_| {
            vec![think("Let me see."), text("Hello from the upstream.")]
        });
        let run = bench.codex("say hello");
        run.assert_ok();
        assert_eq!(run.said(), "Hello from the upstream.");
        assert_eq!(run.items("reasoning")[0]["text"], "Let me see.");
        let usage = &run.events.last().unwrap()["usage"];
        assert_eq!(
            (&usage["input_tokens"], &usage["cached_input_tokens"]),
            (&json!(11), &json!(5))
        );
        assert_eq!(usage["output_tokens"], 7);
        let question = &scripted.questions()[0];
        assert!(question.system.contains("coding agent"), "the base prompt is the system prompt");
        assert!(!question.said.iter().any(|said| said.contains("You are a coding agent")));
        bench.assert_rules_kept();
    });
}

#[test]
fn a_tool_loop_brings_the_thinking_back() {
    over_all(|wire| {
        let (bench, scripted) =
            Bench::over("loop", wire, json!({}), |question| match question.results.len() {
                0 => vec![
                    think("First I write."),
                    call(
                        "exec_command",
                        json!({"cmd": "printf '%s' marker-7 > out.txt && echo written"}),
                    ),
                ],
                1 => {
                    vec![think("Now I look."), call("exec_command", json!({"cmd": "cat out.txt"}))]
                }
                _ => vec![text("done")],
            });
        let run = bench.codex("write it");
        run.assert_ok();
        assert_eq!(fs::read_to_string(bench.work("out.txt")).unwrap(), "marker-7");
        let questions = scripted.questions();
        assert!(questions[1].results[0].contains("written"));
        assert!(questions[2].results[1].contains("marker-7"));
        let last = questions[2].body.to_string();
        let kept = match wire {
            Wire::Chat => [
                "\"reasoning_content\":\"First I write.\"",
                "\"reasoning_content\":\"Now I look.\"",
            ],
            Wire::Anthropic => ["sig-0-0", "sig-1-0"],
            _ => ["\"gsig-0\"", "\"gsig-1\""],
        };
        for kept in kept {
            assert!(last.contains(kept), "{kept} in {last}");
        }
        bench.assert_rules_kept();
    });
}

#[test]
fn a_freeform_patch_and_parallel_calls() {
    over_all(|wire| {
        let patch =
            "*** Begin Patch\n*** Add File: p.txt\n+first \"quoted\" \\ ünï\n*** End Patch\n";
        let (bench, scripted) =
            Bench::over("patch", wire, json!({}), move |question| match question.results.len() {
                0 => vec![
                    think("Three at once."),
                    call("apply_patch", json!({ "input": patch })),
                    call("exec_command", json!({"cmd": "echo a > a.txt"})),
                    call("exec_command", json!({"cmd": "echo b > b.txt"})),
                ],
                _ => vec![text("all done")],
            });
        let run = bench.codex("patch it");
        run.assert_ok();
        assert_eq!(fs::read_to_string(bench.work("p.txt")).unwrap(), "first \"quoted\" \\ ünï\n");
        assert_eq!(fs::read_to_string(bench.work("a.txt")).unwrap(), "a\n");
        assert_eq!(fs::read_to_string(bench.work("b.txt")).unwrap(), "b\n");
        assert_eq!(scripted.questions()[1].results.len(), 3);
        bench.assert_rules_kept();
    });
}

#[test]
fn a_namespaced_mcp_tool_over_each() {
    over_all(|wire| {
        let (bench, scripted) =
            Bench::over("mcp", wire, json!({}), |question| match question.results.len() {
                0 => vec![call("mcp__srv__echo_marker", json!({"marker": "mk1"}))],
                _ => vec![text("echoed")],
            });
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mcp_server.js");
        bench
            .set_up_codex(&format!("[mcp_servers.srv]\ncommand = \"node\"\nargs = [{server:?}]\n"));
        let run = bench.codex("echo it");
        run.assert_ok();
        assert!(scripted.questions()[1].results[0].contains("echo:mk1"));
        assert_eq!(run.items("mcp_tool_call")[0]["status"], "completed");
        bench.assert_rules_kept();
    });
}

/// One red pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC";

#[test]
fn an_image_that_a_tool_looks_at() {
    over_all(|wire| {
        let (bench, scripted) =
            Bench::over("image", wire, json!({}), |question| match question.results.len() {
                0 => vec![call("view_image", json!({"path": "pic.png"}))],
                _ => vec![text("it is red")],
            });
        fs::write(bench.work("pic.png"), BASE64_STANDARD.decode(PNG).unwrap()).unwrap();
        let run = bench.codex("look at pic.png");
        run.assert_ok();
        let question = &scripted.questions()[1];
        assert!(question.images >= 1, "{}", question.body);
        bench.assert_rules_kept();
    });
}

/// Codex compacts in the middle of a turn, since the first answer is over its limit.
fn compacts(wire: Wire, provider_name: &'static str) {
    let name = format!("compact-{provider_name}");
    let (mut bench, scripted) = Bench::over(&name, wire, json!({}), |question| {
        let said = |words: &str| question.said.iter().any(|said| said.contains(words));
        let last = question.said.last().cloned().unwrap_or_default();
        if last.contains("CHECKPOINT COMPACTION")
            || last.contains("replaced by a summary") && last.contains("Write that summary")
        {
            vec![text("SUMMARY-7: the file was asked for.")]
        } else if said("SUMMARY-7") {
            vec![text("finished after the summary")]
        } else {
            vec![think("hm"), call("exec_command", json!({"cmd": "echo once >> count.txt"}))]
        }
    });
    bench.provider_name = provider_name;
    bench.set_up_codex_with("model_auto_compact_token_limit = 12", "", "");
    let run = bench.codex("write the file");
    run.assert_ok();
    assert!(run.said().contains("finished after the summary"), "{}", run.said());
    assert_eq!(fs::read_to_string(bench.work("count.txt")).unwrap(), "once\n");
    let questions = scripted.questions();
    let after = questions.last().unwrap();
    assert!(after.said.iter().any(|said| said.contains("SUMMARY-7")), "{:?}", after.said);
    bench.assert_rules_kept();
}

#[test]
fn a_compaction_by_a_turn_of_its_own() {
    over_all(|wire| compacts(wire, "ocx"));
}

#[test]
fn a_compaction_by_a_trigger() {
    over_all(|wire| compacts(wire, "OpenAI"));
}

#[test]
fn the_whole_loop_over_websocket() {
    over_all(|wire| {
        let (bench, scripted) =
            Bench::over("socket", wire, json!({"websockets": true}), |question| {
                match question.results.len() {
                    0 => {
                        vec![think("hm"), call("exec_command", json!({"cmd": "echo ws > ws.txt"}))]
                    }
                    1 => vec![think("hm2"), call("exec_command", json!({"cmd": "cat ws.txt"}))],
                    _ => vec![text("over the socket")],
                }
            });
        bench.set_up_codex_with("", "supports_websockets = true", "");
        let run = bench.codex("write it");
        run.assert_ok();
        assert_eq!(run.said(), "over the socket");
        assert_eq!(fs::read_to_string(bench.work("ws.txt")).unwrap(), "ws\n");
        let over_socket =
            bench.ocx.metric("ocx_requests_total{outcome=\"ok\",protocol=\"responses_websocket\"");
        assert_eq!(over_socket, 3.0, "{}", bench.ocx.get("/metrics"));
        assert!(scripted.questions()[2].system.contains("coding agent"), "the history is whole");
        bench.assert_rules_kept();
    });
}
