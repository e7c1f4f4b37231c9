//! A thousand events: framing, decoding and writing, without a socket.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on should stop")]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ocx::{
    adapters::{Expect, ResponseHead, adapter},
    callers::{Delivery, Emit as _, EmitterSettings, responses::Emitter},
    credentials::CapsuleKey,
    model::{Event, Ids},
    registry::AdapterKind,
    wire::sse::SseParser,
};

const EVENTS: usize = 1000;

fn chat_wire() -> Vec<u8> {
    let mut wire = String::new();
    for n in 0..EVENTS {
        wire.push_str(&format!(
            "data: {{\"id\":\"chatcmpl-Ab3dEf6hIjKlMnOpQrStUvWxYz012\",\"object\":\"chat.completion.chunk\",\
             \"created\":1760000000,\"model\":\"gpt-5.1\",\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":\
             [{{\"index\":0,\"delta\":{{\"content\":\" token \\\"{n}\\\" of the stream\\n\"}},\"logprobs\":null,\
             \"finish_reason\":null}}]}}\n\n"
        ));
    }
    wire.push_str("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n");
    wire.into_bytes()
}

fn responses_wire() -> Vec<u8> {
    let mut wire = String::new();
    for n in 0..EVENTS {
        wire.push_str(&format!(
            "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\
             \"sequence_number\":{n},\"item_id\":\"msg_0123456789abcdef0123456789abcdef\",\"output_index\":0,\
             \"content_index\":0,\"delta\":\" token of the stream\",\"logprobs\":[]}}\n\n"
        ));
    }
    wire.push_str("data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[]}}\n\n");
    wire.into_bytes()
}

fn decode(kind: AdapterKind, wire: &[u8]) -> Vec<Event> {
    let head = ResponseHead { content_type: "text/event-stream".into(), ..ResponseHead::default() };
    let mut decoder = adapter(kind).decoder(
        &head,
        Expect { stream: true, relay: adapter(kind).relays(), ..Expect::default() },
    );
    let mut events = Vec::with_capacity(EVENTS + 4);
    for chunk in wire.chunks(4096) {
        decoder.push(chunk, &mut events).unwrap();
    }
    events
}

fn emitter(relay: bool) -> Emitter {
    let settings = EmitterSettings {
        delivery: Delivery::Stream,
        model: "chat/m".into(),
        created_at: 0,
        show_reasoning: true,
        relay,
        tools: Vec::new(),
        max_retained: 32 << 20,
        sealer: CapsuleKey::new([0; 32]).sealer("x", "y"),
        include_usage: false,
        compaction: false,
    };
    Emitter::new(settings, Ids::new(1))
}

fn benches(c: &mut Criterion) {
    let (chat, responses) = (chat_wire(), responses_wire());
    let mut group = c.benchmark_group("1000 events");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("frames", |b| {
        b.iter(|| {
            let mut parser = SseParser::new(1 << 20);
            let mut bytes = 0;
            for chunk in chat.chunks(4096) {
                parser.push(chunk);
                while let Some(frame) = parser.next_frame() {
                    bytes += frame.unwrap().data.len();
                }
            }
            black_box(bytes)
        });
    });
    for (name, kind, wire) in [
        ("openai-chat", AdapterKind::OpenAiChat, &chat),
        ("openai-responses", AdapterKind::OpenAiResponses, &responses),
    ] {
        group
            .bench_function(format!("decode {name}"), |b| b.iter(|| decode(kind, black_box(wire))));
        let events = decode(kind, wire);
        group.bench_function(format!("emit {name}"), |b| {
            b.iter(|| {
                let mut emitter = emitter(kind == AdapterKind::OpenAiResponses);
                let mut out = BytesMut::with_capacity(1 << 20);
                for event in &events {
                    emitter.push(event.clone(), &mut out).unwrap();
                }
                out
            });
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
