//! Traces: a span for each turn, with a child for each of its steps, sent to an OpenTelemetry
//! collector by OTLP over HTTP.
//!
//! Names follow the semantic conventions for generative AI
//! (opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans). Trace context is W3C's
//! (w3.org/TR/trace-context): a caller's `traceparent` is continued, and upstreams get one of the
//! turn. `tracestate` stays here: it is between the caller and its vendor.

use std::{
    collections::HashMap,
    fmt,
    io::Read as _,
    rc::Rc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, Value,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::model::{AssistantPart, Message, Part, Prompt};

/// Spans that may wait to be sent; those beyond are dropped.
const QUEUE: usize = 8_192;
/// How often they are sent.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// How long a collector may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of a collector's answer, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// How much of a question or an answer goes into a trace, in bytes.
pub const MAX_CONTENT: usize = 32 << 10;

/// Where traces go, and what is in them.
#[derive(Clone, Debug)]
pub struct Collector {
    /// The address that takes them.
    pub traces: Url,
    /// Headers, names in lower case.
    pub headers: Vec<(String, SecretString)>,
    /// The share of turns that are traced, 0 to 1, where the caller has not decided.
    pub sample_ratio: f64,
    /// Whether questions and answers are in them.
    pub capture_content: bool,
}

/// Makes the traces of turns.
pub struct Tracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    capture_content: bool,
}

impl Tracer {
    /// Begins to send to a collector, from a thread of its own; it need not be there.
    ///
    /// # Errors
    ///
    /// When that cannot be set up, in words.
    pub fn start(collector: &Collector) -> Result<Self, String> {
        let headers = collector.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Http::new())
            .with_endpoint(collector.traces.as_str())
            .with_headers(headers.collect())
            .with_timeout(SEND_TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        let batch = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let ratio = Sampler::TraceIdRatioBased(collector.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(
                BatchSpanProcessor::builder(exporter).with_batch_config(batch).build(),
            )
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(
                Resource::builder()
                    .with_service_name("ocx")
                    .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                    .build(),
            )
            .build();
        let tracer = provider.tracer("ocx");
        Ok(Self { provider, tracer, capture_content: collector.capture_content })
    }

    /// Begins the trace of a turn; `header` reads those of its request.
    pub fn turn<'h>(
        &self,
        protocol: &'static str,
        header: impl Fn(&str) -> Option<&'h str>,
    ) -> TurnTrace {
        let parent = TraceContextPropagator::new().extract_with_context(
            &Context::new(),
            &Headers(["traceparent", "tracestate"].map(|name| (name, header(name)))),
        );
        let span = self
            .tracer
            .span_builder("turn")
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("gen_ai.operation.name", "chat"),
                KeyValue::new("ocx.protocol", protocol),
            ])
            .start_with_context(&self.tracer, &parent);
        TurnTrace(Some(Rc::new(Traced {
            context: parent.with_span(span),
            tracer: self.tracer.clone(),
            capture_content: self.capture_content,
        })))
    }

    /// Sends what waits, and ends.
    pub fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SEND_TIMEOUT) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// The trace of one turn; nothing where turns are not traced.
#[derive(Clone, Default)]
pub struct TurnTrace(Option<Rc<Traced>>);

struct Traced {
    context: Context,
    tracer: SdkTracer,
    capture_content: bool,
}

/// What a turn did for a while.
#[derive(Clone, Copy, Debug)]
pub struct TraceStep<'s> {
    /// `route`, `acquire`, `connect`, `first_byte` or `stream`.
    pub name: &'static str,
    /// When it began; without a time there is no step.
    pub from: Option<SystemTime>,
    /// When it was over; now, unless it was before.
    pub to: Option<SystemTime>,
    /// The attempt it belongs to, from 1.
    pub attempt: Option<u32>,
    /// What kind of failure ended it.
    pub error: Option<&'s str>,
}

/// How a turn went.
#[derive(Debug, Default)]
pub struct Outcome<'o> {
    /// The provider, as the config names it.
    pub provider: &'o str,
    /// The model, as the provider names it.
    pub model: &'o str,
    /// Requests that were made.
    pub attempts: u32,
    /// The outcome as metrics have it, unless all went well.
    pub error: Option<&'o str>,
    /// Tokens, where they were told.
    pub usage: Option<crate::model::Usage>,
    /// What was answered, where that is captured.
    pub said: &'o str,
}

impl TurnTrace {
    fn recording(&self) -> Option<&Traced> {
        self.0.as_deref().filter(|traced| traced.context.span().is_recording())
    }

    /// The time, if steps are noted.
    pub fn now(&self) -> Option<SystemTime> {
        self.recording().map(|_| SystemTime::now())
    }

    /// Notes a step.
    pub fn step(&self, step: TraceStep<'_>) {
        let (Some(traced), Some(from)) = (self.recording(), step.from) else { return };
        let kind = match step.name {
            "connect" | "first_byte" | "stream" => SpanKind::Client,
            _ => SpanKind::Internal,
        };
        let attempt = step.attempt.map(|attempt| KeyValue::new("ocx.attempt", i64::from(attempt)));
        let error = step.error.map(|error| KeyValue::new("error.type", error.to_owned()));
        let mut span = traced
            .tracer
            .span_builder(step.name)
            .with_kind(kind)
            .with_start_time(from)
            .with_attributes(attempt.into_iter().chain(error))
            .start_with_context(&traced.tracer, &traced.context);
        use opentelemetry::trace::Span as _;
        if step.error.is_some() {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(step.to.unwrap_or_else(SystemTime::now));
    }

    /// Notes that an attempt is made again, and why.
    pub fn retry(&self, cause: &'static str) {
        if let Some(traced) = self.recording() {
            traced.context.span().add_event("retry", vec![KeyValue::new("ocx.cause", cause)]);
        }
    }

    /// What an upstream is told of the trace.
    pub fn traceparent(&self) -> Option<String> {
        let traced = self.0.as_deref()?;
        let mut told = HashMap::new();
        TraceContextPropagator::new().inject_context(&traced.context, &mut told);
        told.remove("traceparent")
    }

    /// Whether questions and answers go into the trace.
    pub fn captures(&self) -> bool {
        self.recording().is_some_and(|traced| traced.capture_content)
    }

    /// Puts a question into the trace, if they are captured.
    pub fn asked(&self, prompt: &Prompt) {
        let Some(traced) = self.recording().filter(|traced| traced.capture_content) else { return };
        let span = traced.context.span();
        let system: Vec<_> = prompt.system.iter().map(|text| text_part(text)).collect();
        for (name, told) in [
            ("gen_ai.system_instructions", serde_json::Value::from(system)),
            ("gen_ai.input.messages", prompt.messages.iter().map(message).collect()),
        ] {
            span.set_attribute(KeyValue::new(name, bounded(&told.to_string()).to_owned()));
        }
    }

    /// Ends the trace.
    pub fn finish(&self, outcome: &Outcome<'_>) {
        let Some(traced) = self.recording() else { return };
        let span = traced.context.span();
        span.update_name(format!("chat {}", outcome.model));
        let set = |name: &'static str, value: Value| span.set_attribute(KeyValue::new(name, value));
        set("gen_ai.provider.name", outcome.provider.to_owned().into());
        set("gen_ai.request.model", outcome.model.to_owned().into());
        set("ocx.attempts", i64::from(outcome.attempts).into());
        if let Some(usage) = outcome.usage {
            for (name, count) in [
                ("gen_ai.usage.input_tokens", usage.input),
                ("gen_ai.usage.output_tokens", usage.output),
                ("gen_ai.usage.cache_read.input_tokens", usage.cached),
                ("gen_ai.usage.cache_creation.input_tokens", usage.cache_write),
            ] {
                set(name, i64::try_from(count).unwrap_or(i64::MAX).into());
            }
        }
        if !outcome.said.is_empty() {
            let said =
                serde_json::json!([{"role": "assistant", "parts": [text_part(outcome.said)]}]);
            set("gen_ai.output.messages", said.to_string().into());
        }
        if let Some(error) = outcome.error {
            set("error.type", error.to_owned().into());
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

impl fmt::Debug for TurnTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TurnTrace({:?})", self.traceparent())
    }
}

fn text_part(text: &str) -> serde_json::Value {
    serde_json::json!({"type": "text", "content": text})
}

/// A message in the form of the semantic conventions; pictures without their bytes.
fn message(message: &Message) -> serde_json::Value {
    let parts = |parts: &[Part]| -> Vec<serde_json::Value> {
        let of = |part: &Part| match part {
            Part::Text(text) => text_part(text),
            Part::Image(_) => serde_json::json!({"type": "image"}),
        };
        parts.iter().map(of).collect()
    };
    let (role, parts) = match message {
        Message::User(said) => ("user", parts(said)),
        Message::Developer(said) => ("system", parts(said)),
        Message::Assistant(said) => ("assistant", said.iter().map(assistant_part).collect()),
        Message::ToolResult(result) => {
            let told: String = result
                .content
                .iter()
                .filter_map(|part| match part {
                    Part::Text(text) => Some(text.as_str()),
                    Part::Image(_) => None,
                })
                .collect();
            let part = serde_json::json!({"type": "tool_call_response", "id": result.call_id,
                "response": told});
            ("tool", vec![part])
        }
    };
    serde_json::json!({"role": role, "parts": parts})
}

fn assistant_part(part: &AssistantPart) -> serde_json::Value {
    match part {
        AssistantPart::Text(text) => text_part(text),
        AssistantPart::Reasoning { text, .. } => {
            serde_json::json!({"type": "reasoning", "content": text})
        }
        AssistantPart::Call(call) => serde_json::json!({"type": "tool_call", "id": call.call_id,
            "name": call.name.wire(), "arguments": call.arguments}),
    }
}

/// The beginning of a text, of at most [`MAX_CONTENT`] bytes.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_CONTENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Headers that carry trace context.
struct Headers<'h>([(&'static str, Option<&'h str>); 2]);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key)?.1
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

/// A client that blocks: spans are sent from a thread that does nothing else.
#[derive(Debug)]
struct Http(ureq::Agent);

impl Http {
    fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(SEND_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("opencodex/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(config.into())
    }
}

#[async_trait::async_trait]
impl opentelemetry_http::HttpClient for Http {
    async fn send_bytes(
        &self,
        request: http::Request<bytes::Bytes>,
    ) -> Result<http::Response<bytes::Bytes>, opentelemetry_http::HttpError> {
        let (head, body) = request.into_parts();
        let response = self.0.run(http::Request::from_parts(head, body.to_vec()))?;
        let (head, body) = response.into_parts();
        let mut answer = Vec::new();
        body.into_reader().take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(http::Response::from_parts(head, answer.into()))
    }
}
