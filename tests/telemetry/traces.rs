//! Traces, as a receiver decodes them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    Caller, eventually, provider,
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Asked, Reply, Upstream},
    },
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// An OTLP receiver.
struct Receiver {
    server: Upstream,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Receiver {
    fn start() -> Self {
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let received = Arc::clone(&spans);
        let server = Upstream::start(move |asked: &Asked| {
            assert!(asked.line.starts_with("POST /v1/traces "), "{}", asked.line);
            let batch = ExportTraceServiceRequest::decode(asked.body.as_slice()).unwrap();
            for resource in batch.resource_spans {
                let named = attributes(&resource.resource.unwrap().attributes);
                assert_eq!(named["service.name"], "ocx");
                let scopes = resource.scope_spans.into_iter();
                received.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
            }
            Reply::body(200, "application/x-protobuf", b"")
        });
        Self { server, spans }
    }

    /// The spans of a trace, when its root is there.
    fn trace(&self, trace: &str) -> Vec<Span> {
        let of = |span: &&Span| hex::encode(&span.trace_id) == trace;
        let whole = || {
            let spans = self.spans.lock().unwrap();
            spans.iter().filter(of).any(|span| span.name.starts_with("chat "))
        };
        eventually("the trace arrives", Duration::from_secs(20), whole);
        self.spans.lock().unwrap().iter().filter(of).cloned().collect()
    }
}

fn attributes(list: &[KeyValue]) -> HashMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// Fails once, then answers.
fn flaky() -> Upstream {
    Upstream::start(|asked| match asked.number {
        0 => Reply::json(500, &json!({"error": {"message": "a hiccup"}})),
        _ => Reply::stream()
            .pause(30)
            .frames(&[chat::text("an answer nobody else may read")])
            .pause(30)
            .frames(&chat::end("stop"))
            .end(),
    })
}

fn serve(name: &str, model: &Upstream, otlp: Value) -> Ocx {
    let providers = json!({"p": provider("openai-chat", &model.base_url())});
    let config = json!({"providers": providers, "telemetry": {"otlp": otlp}});
    Ocx::serve(&scratch(name), &config)
}

fn question() -> Value {
    json!({"model": "p/m", "input": "a question nobody else may read", "stream": true})
}

#[test]
fn a_retried_streamed_turn_is_one_span_with_its_steps() {
    let (receiver, model) = (Receiver::start(), flaky());
    let endpoint = format!("http://{}", receiver.server.address);
    let headers = json!({"x-collector-key": "collector-secret"});
    let ocx = serve("traces-tree", &model, json!({"endpoint": endpoint, "headers": headers}));
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let caller = Caller::new(ocx.address);
    let sent = [("traceparent", parent.as_str()), ("tracestate", "vendor=private")];
    let (status, mut body) = caller.send("/v1/responses", &sent, &question()).unwrap();
    assert_eq!(status, 200);
    assert!(body.read_to_string().unwrap().contains("response.completed"));

    let spans = receiver.trace(TRACE);
    let root = spans.iter().find(|span| span.name == "chat m").unwrap();
    assert_eq!(hex::encode(&root.parent_span_id), PARENT);
    assert_eq!(root.kind, SpanKind::Server as i32);
    let told = attributes(&root.attributes);
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "p"),
        ("gen_ai.request.model", "m"),
        ("gen_ai.usage.input_tokens", "11"),
        ("gen_ai.usage.output_tokens", "7"),
        ("gen_ai.usage.cache_read.input_tokens", "5"),
        ("ocx.protocol", "responses"),
        ("ocx.attempts", "2"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}: {told:?}");
    }
    assert!(!told.contains_key("error.type"));
    assert_eq!(root.events.len(), 1);
    assert_eq!(root.events[0].name, "retry");
    assert_eq!(attributes(&root.events[0].attributes)["ocx.cause"], "server_error");

    let mut children: Vec<&Span> =
        spans.iter().filter(|span| span.parent_span_id == root.span_id).collect();
    assert_eq!(children.len() + 1, spans.len(), "nothing hangs elsewhere");
    children.sort_by_key(|span| (span.start_time_unix_nano, span.end_time_unix_nano));
    let steps: Vec<String> = children
        .iter()
        .map(|span| {
            let told = attributes(&span.attributes);
            let of = |name: &str| told.get(name).map_or("-", String::as_str).to_owned();
            format!("{} {} {}", span.name, of("ocx.attempt"), of("error.type"))
        })
        .collect();
    let expected = [
        "route - -",
        "acquire 1 -",
        "connect 1 -",
        "first_byte 1 failed",
        "acquire 2 -",
        "first_byte 2 -",
        "stream 2 -",
    ];
    // Whether the first connection could be used again is up to the two ends.
    let again = steps.iter().filter(|step| *step == "connect 2 -").count();
    let once: Vec<&String> = steps.iter().filter(|step| *step != "connect 2 -").collect();
    assert!(again <= 1 && once == expected.iter().collect::<Vec<_>>(), "{steps:#?}");
    for child in &children {
        assert!(child.start_time_unix_nano >= root.start_time_unix_nano, "{}", child.name);
        assert!(child.end_time_unix_nano <= root.end_time_unix_nano, "{}", child.name);
    }
    let stream = children.last().unwrap();
    assert!(stream.end_time_unix_nano - stream.start_time_unix_nano > 20_000_000, "30 ms of pause");

    let asked = model.asked();
    for attempt in &asked {
        let expected = format!("00-{TRACE}-{}-01", hex::encode(&root.span_id));
        assert_eq!(attempt.header("traceparent"), Some(expected.as_str()));
        assert_eq!(attempt.header("tracestate"), None, "is not for vendors of models");
    }
    let everything = format!("{spans:?}");
    assert!(!everything.contains("nobody else may read"), "{everything}");
    let batches = receiver.server.asked();
    assert!(batches.iter().all(|it| it.header("x-collector-key") == Some("collector-secret")));
}

#[test]
fn a_callers_decision_not_to_trace_holds_and_so_does_ours() {
    let (receiver, model) = (Receiver::start(), flaky());
    let endpoint = format!("http://{}", receiver.server.address);
    let ocx = serve("traces-unsampled", &model, json!({"endpoint": endpoint, "sampleRatio": 0}));
    let caller = Caller::new(ocx.address);
    let parent = format!("00-{TRACE}-{PARENT}-00");
    caller.send("/v1/responses", &[("traceparent", parent.as_str())], &question()).unwrap();
    caller.send("/v1/responses", &[], &question()).unwrap();
    // What the caller wants traced is traced, whatever our share is.
    let wanted = format!("00-{}-{PARENT}-01", TRACE.replace('4', "5"));
    caller.send("/v1/responses", &[("traceparent", wanted.as_str())], &question()).unwrap();
    receiver.trace(&TRACE.replace('4', "5"));
    let spans = receiver.spans.lock().unwrap();
    let traces: Vec<String> = spans.iter().map(|span| hex::encode(&span.trace_id)).collect();
    assert!(traces.iter().all(|trace| *trace == TRACE.replace('4', "5")), "{traces:?}");
    let told = model.asked()[0].header("traceparent").unwrap().to_owned();
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"), "{told}");
}

#[test]
fn questions_and_answers_are_in_traces_only_where_that_is_asked_for() {
    let (receiver, model) = (Receiver::start(), flaky());
    let endpoint = format!("http://{}", receiver.server.address);
    let ocx =
        serve("traces-content", &model, json!({"endpoint": endpoint, "captureContent": true}));
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let mut question = question();
    question["instructions"] = "rules ".repeat(20_000).into();
    let caller = Caller::new(ocx.address);
    let sent = [("traceparent", parent.as_str())];
    let (_, mut body) = caller.send("/v1/responses", &sent, &question).unwrap();
    body.read_to_string().unwrap();
    let spans = receiver.trace(TRACE);
    let root = spans.iter().find(|span| span.name == "chat m").unwrap();
    let told = attributes(&root.attributes);
    let read = |name: &str| serde_json::from_str::<Value>(&told[name]).unwrap();
    let asked = read("gen_ai.input.messages");
    assert_eq!(asked[0]["parts"][0]["content"], "a question nobody else may read");
    let said = read("gen_ai.output.messages");
    assert_eq!(said[0]["parts"][0]["content"], "an answer nobody else may read");
    let rules = read("gen_ai.system_instructions")[0]["content"].as_str().unwrap().len();
    assert_eq!(rules, 32 << 10, "bounded, and JSON all the same");
}

#[test]
fn a_collector_that_is_not_there_costs_no_call() {
    let model = flaky();
    let ocx = serve("traces-nowhere", &model, json!({"endpoint": "http://127.0.0.1:9"}));
    let caller = Caller::new(ocx.address);
    for _ in 0..20 {
        assert_eq!(caller.ask("p/m").0, 200);
    }
    let told = || ocx.metric("ocx_trace_export_errors_total") > 0.0;
    eventually("the lost traces are counted", Duration::from_secs(20), told);
    let log = std::fs::read_to_string(ocx.config.with_file_name("ocx.log")).unwrap();
    assert_eq!(log.matches("the collector takes no traces").count(), 1, "{log}");
    // And without any, upstreams are told nothing.
    let untraced = json!({"providers": {"p": provider("openai-chat", &model.base_url())}});
    let plain = Ocx::serve(&scratch("traces-off"), &untraced);
    Caller::new(plain.address).ask("p/m");
    assert_eq!(model.asked().last().unwrap().header("traceparent"), None);
    assert!(model.asked()[0].header("traceparent").is_some());
}
