//! A call with a history of 200 KB: parsing it, and encoding it for an upstream.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should stop")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ocx::{
    adapters::{Target, adapter},
    callers::Protocol,
    credentials::Credential,
    registry::{AdapterKind, Quirks},
};
use serde_json::json;

fn call() -> Bytes {
    let mut input = vec![
        json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be good ".repeat(500)}]}),
    ];
    for n in 0..100 {
        let id = format!("call_{n}");
        input.push(json!({"type": "function_call", "id": format!("fc_{n}"), "call_id": id, "name": "exec_command",
            "arguments": json!({"cmd": format!("sed -n '1,{n}p' src/main.rs"), "workdir": "/work"}).to_string()}));
        input.push(json!({"type": "function_call_output", "call_id": id, "output": "let x = \"y\";\n".repeat(140)}));
    }
    let tools: Vec<_> = (0..20)
        .map(|n| json!({"type": "function", "name": format!("tool_{n}"), "description": "does a thing ".repeat(20),
            "parameters": {"type": "object", "properties": {"a": {"type": "string", "description": "x".repeat(80)}}}}))
        .collect();
    let body = json!({"model": "chat/m", "stream": true, "input": input, "tools": tools, "tool_choice": "auto"});
    Bytes::from(body.to_string())
}

fn benches(c: &mut Criterion) {
    let call = call();
    let prompt = Protocol::Responses.parse(call.clone()).unwrap().prompt;
    let quirks = Quirks::default();
    let target = Target {
        model: "m",
        base_url: "http://localhost/v1",
        quirks: &quirks,
        headers: &[],
        credential: &Credential::None,
        sealer: None,
    };
    let mut group = c.benchmark_group("200 KB call");
    group.throughput(Throughput::Bytes(call.len() as u64));
    group.bench_function("parse", |b| {
        b.iter(|| Protocol::Responses.parse(black_box(call.clone())).unwrap())
    });
    for kind in AdapterKind::ALL {
        group.bench_function(format!("encode {}", kind.name()), |b| {
            b.iter(|| adapter(kind).encode(black_box(&prompt), &target).unwrap());
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
