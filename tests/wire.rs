//! Goldens: what each transcript makes of a call, of an answer, and of what the caller reads. The
//! snapshots lie beside their inputs; check a new one against the provider's documentation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/mod.rs"]
mod support;

use bytes::BytesMut;
use ocx::{
    adapters::{Decoder, Step, adapter},
    callers::{Delivery, Emit as _, EmitterSettings, responses::Emitter},
    error::GatewayError,
    model::{Event, Ids},
};
use support::{
    chat_rules,
    transcripts::{Transcript, all},
};

/// The events of a transcript, and the error that ended it.
fn decode(case: &Transcript) -> (Vec<Event>, Option<GatewayError>) {
    let mut decoder: Box<dyn Decoder> = adapter(case.kind).decoder(&case.head, case.expect());
    let mut events = Vec::new();
    let end = match decoder.push(&case.body, &mut events) {
        Ok(Step::Done) => Ok(()),
        Ok(Step::More) => decoder.finish(&mut events),
        Err(error) => Err(error),
    };
    (events, end.err().map(|error| GatewayError::Decode { provider: "up".into(), error }))
}

/// What the caller reads.
fn reply(case: &Transcript, events: Vec<Event>, error: Option<&GatewayError>) -> String {
    let prompt = case.prompt();
    let settings = EmitterSettings {
        delivery: if case.stream { Delivery::Stream } else { Delivery::Whole },
        model: "up/m".into(),
        created_at: 1_760_000_000,
        show_reasoning: prompt.reasoning.show,
        relay: adapter(case.kind).relays(),
        tools: prompt.tools,
        max_retained: 1 << 20,
        sealer: case.sealer(),
        include_usage: false,
        compaction: false,
    };
    let (mut emitter, mut out) = (Emitter::new(settings, Ids::new(1)), BytesMut::new());
    for event in events {
        if let Err(failure) = emitter.push(event, &mut out) {
            emitter.fail(&failure, &mut out);
        }
    }
    if let Some(error) = error {
        emitter.fail(&error.failure(), &mut out);
    }
    assert!(emitter.terminal().is_some(), "{}: no terminal event", case.name);
    if case.stream {
        return String::from_utf8(out.to_vec()).unwrap();
    }
    let document: serde_json::Value =
        serde_json::from_slice(&Box::new(emitter).into_document()).unwrap();
    format!("{document:#}\n")
}

#[test]
fn every_transcript_gives_what_it_gave() {
    for case in all() {
        let (url, body) = case.encode();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let (events, error) = decode(&case);
        let mut listed: String = events.iter().map(|event| format!("{event:?}\n")).collect();
        if let Some(error) = &error {
            listed.push_str(&format!("Err({:?}: {error})\n", error.class()));
        }
        let reply = reply(&case, events, error.as_ref());
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(&case.dir);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| {
            insta::assert_snapshot!("request", format!("POST {url}\n{body:#}"));
            insta::assert_snapshot!("events", listed);
            insta::assert_snapshot!("reply", reply);
        });
    }
}

#[test]
fn chat_requests_keep_the_published_rules() {
    for case in all().iter().filter(|case| case.name.starts_with("openai-chat/")) {
        let body = serde_json::from_slice(&case.encode().1).unwrap();
        assert_eq!(chat_rules::violations(&body), Vec::<String>::new(), "{}", case.name);
    }
}
