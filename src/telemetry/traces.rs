//! Traces: a span for each turn, with a child for each of its steps, sent to an OpenTelemetry
//! collector by OTLP over HTTP.
//!
//! Names follow the semantic conventions for generative AI
//! (opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans). Trace context is W3C's
//! (w3.org/TR/trace-context): a caller's `traceparent` is continued, and upstreams get one of the
//! turn. `tracestate` stays here: it is between the caller and its vendor.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::HashMap,
    fmt,
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
use prometheus::IntCounter;
use secrecy::SecretString;
use url::Url;

use crate::model::{Event, Prompt, Usage};

mod content;
mod sender;

use sender::Sender;

/// Spans that may wait to be sent; those beyond are dropped.
const QUEUE: usize = 8_192;
/// How often they are sent.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// How long a collector may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// Begins to send to a collector, from a thread of its own; it need not be there. `lost` counts
    /// batches that did not arrive.
    ///
    /// # Errors
    ///
    /// When that cannot be set up, in words.
    pub fn start(collector: &Collector, lost: IntCounter) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Sender::new(collector, lost))
            .with_endpoint(collector.traces.as_str())
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

    /// Begins the trace of a turn.
    pub fn turn(&self, protocol: &'static str, caller: &TraceHeaders) -> TurnTrace {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), caller);
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
            said: self.capture_content.then(RefCell::default),
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
    /// What was answered, where that is captured.
    said: Option<RefCell<Said>>,
}

/// The beginning of an answer.
#[derive(Default)]
struct Said {
    text: String,
    /// Something did not fit: nothing more is taken, so that there are no holes.
    full: bool,
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
    pub usage: Option<Usage>,
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

    /// Puts a question into the trace, if they are captured: of a long conversation the newest messages.
    pub fn asked(&self, prompt: &Prompt) {
        let Some(traced) = self.recording().filter(|traced| traced.said.is_some()) else { return };
        let span = traced.context.span();
        let (mut room, mut newest) = (MAX_CONTENT, Vec::new());
        for message in prompt.messages.iter().rev() {
            let told = content::message(message).to_string();
            match room.checked_sub(told.len()) {
                Some(left) => room = left,
                None if newest.is_empty() => {
                    newest.push(content::beginning(message, MAX_CONTENT).to_string());
                    break;
                }
                None => break,
            }
            newest.push(told);
        }
        newest.reverse();
        let system = content::text(bounded(&prompt.system.join("\n"), MAX_CONTENT));
        let left_out = prompt.messages.len() - newest.len();
        span.set_attributes([
            KeyValue::new("gen_ai.system_instructions", format!("[{system}]")),
            KeyValue::new("gen_ai.input.messages", format!("[{}]", newest.join(","))),
            KeyValue::new(
                "ocx.input.messages_left_out",
                i64::try_from(left_out).unwrap_or(i64::MAX),
            ),
        ]);
    }

    /// Keeps what is answered, if that is captured.
    pub fn said(&self, event: &Event) {
        let Some(said) = self.recording().and_then(|traced| traced.said.as_ref()) else { return };
        let text = match event {
            Event::TextDelta(text) => Cow::Borrowed(text.as_str()),
            Event::Verbatim(frame) if frame.kind == "response.output_text.delta" => {
                match content::delta(&frame.data) {
                    Some(text) => text,
                    None => return,
                }
            }
            _ => return,
        };
        let mut said = said.borrow_mut();
        if !said.full {
            let fits = bounded(&text, MAX_CONTENT - said.text.len());
            said.full = fits.len() < text.len();
            said.text.push_str(fits);
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
        let said = traced.said.as_ref().map(RefCell::take).unwrap_or_default();
        if !said.text.is_empty() {
            set("gen_ai.output.messages", content::answer(&said.text).to_string().into());
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

/// The beginning of a text, of at most `limit` bytes.
fn bounded(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The headers of a caller that tell of its trace.
#[derive(Clone, Debug, Default)]
pub struct TraceHeaders([(&'static str, Option<String>); 2]);

impl TraceHeaders {
    /// Reads them.
    pub fn read<'h>(header: impl Fn(&str) -> Option<&'h str>) -> Self {
        Self(["traceparent", "tracestate"].map(|name| (name, header(name).map(str::to_owned))))
    }
}

impl Extractor for TraceHeaders {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key)?.1.as_deref()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}
