//! P-20: how an upstream's bytes are cut, how late they come, and what signs of life lie between them
//! changes nothing that a caller reads.

use serde_json::json;

use crate::{
    app::{App, JSON, anonymous},
    support::{
        scripted::{Question, Scripted, Wire, call, render, text, think},
        upstream::{Reply, Step},
    },
};

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % sides as u64).unwrap()
    }
}

fn answer(question: &Question) -> Reply {
    let says = [
        think("Ünïcödé thoughts"),
        text("Some words, 漢字 and more words"),
        call("f", json!({"a": "x\ny", "b": [1, 2]})),
        call("f", json!({})),
    ];
    render(question, &says)
}

/// The frames of a reply: the payload of its chunks.
fn frames(reply: &Reply) -> Vec<Vec<u8>> {
    let raw = reply.0.iter().filter_map(|step| match step {
        Step::Raw(bytes) => Some(bytes.as_slice()),
        _ => None,
    });
    raw.filter_map(|bytes| {
        let at = bytes.windows(6).position(|window| window == b"data: ")?;
        Some(bytes[at..bytes.len() - 2].to_vec())
    })
    .collect()
}

/// The same frames in pieces of any size, with pauses, comments and other line ends.
fn disturbed(reply: &Reply, seed: u64) -> Reply {
    let mut dice = Dice(seed);
    let mut body = Vec::new();
    let crlf = dice.roll(2) == 0;
    for frame in frames(reply) {
        if dice.roll(3) == 0 {
            body.extend_from_slice(b": still here\n\n");
        }
        for byte in frame {
            if byte == b'\n' && crlf {
                body.push(b'\r');
            }
            body.push(byte);
        }
    }
    let mut out = Reply::stream();
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + dice.roll(120)).min(rest.len()));
        out = out.chunk(piece);
        if dice.roll(12) == 0 {
            out = out.pause(1 + dice.roll(3) as u64);
        }
        rest = after;
    }
    out.end()
}

#[actix::test]
async fn p20_cuts_delays_and_heartbeats_change_nothing() {
    for wire in Wire::ALL {
        let scripted = Scripted::with(|question, asked| {
            let reply = answer(question);
            if asked.number < 3 { reply } else { disturbed(&reply, asked.number as u64) }
        });
        let app =
            App::start(&json!({"providers": {"up": wire.provider(&scripted.upstream)}})).await;
        let model = format!("up/{}", wire.thinking_model());
        let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        let bodies = [
            (
                "POST /v1/responses",
                json!({"model": model, "stream": true, "input": "hi",
                "reasoning": {"effort": "low", "summary": "auto"},
                "tools": [{"type": "function", "name": "f", "parameters": schema}]}),
            ),
            (
                "POST /v1/chat/completions",
                json!({"model": model, "stream": true,
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}),
            ),
            (
                "POST /v1/messages",
                json!({"model": model, "stream": true, "max_tokens": 20_000,
                "thinking": {"type": "enabled", "budget_tokens": 4096},
                "messages": [{"role": "user", "content": "hi"}],
                "tools": [{"name": "f", "input_schema": schema}]}),
            ),
        ];
        let ask = |n: usize| {
            let (line, body) = &bodies[n % bodies.len()];
            app.send(line, &[JSON], body.to_string().as_bytes().to_vec().leak())
        };
        let mut calm = Vec::new();
        for n in 0..bodies.len() {
            calm.push(anonymous(&ask(n).await.text()));
        }
        for n in 0..bodies.len() * 6 {
            let disturbed = anonymous(&ask(n).await.text());
            assert_eq!(disturbed, calm[n % bodies.len()], "{wire:?}, request {n}");
        }
        scripted.assert_rules_kept();
    }
}
