//! The account of one call: counted and logged once, when it is over, however it ends.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    actors::{DispatchError, Snapshot},
    callers::{Failure, KeepaliveStyle, Terminal},
    error::{BodyError, ErrorClass, GatewayError},
    model::{Event, Losses, Price, Prompt, Usage},
    routing::Route,
    telemetry::{
        Metrics, Telemetry, TurnTrace,
        ledger::{Ended, TurnId},
        metrics::{CallOutcome, Held, Histogram, NO_MODEL, timestamp},
        traces::{MAX_CONTENT, Outcome, TraceStep},
    },
};
use actix_rt::time::Instant;

/// The account. Dropping it closes it; a call that told no outcome was left by its caller.
pub struct CallRecord {
    telemetry: Arc<Telemetry>,
    protocol: &'static str,
    started: Instant,
    provider: Option<String>,
    model: String,
    /// The model as a label.
    model_label: Arc<str>,
    stream: bool,
    /// When the body was read, from when on time is ours.
    read: Instant,
    first_token: Option<Duration>,
    usage: Option<Usage>,
    losses: Losses,
    /// Requests that were made.
    attempts: u32,
    /// Whether an upstream began to answer.
    answered: bool,
    /// Whether the upstream's prompt cache should know how the turn begins.
    cache_expected: bool,
    /// What the ledger calls it, once it goes to an upstream.
    turn: Option<TurnId>,
    price: Option<Price>,
    error: Option<String>,
    outcome: Option<CallOutcome>,
    termination: Option<&'static str>,
    /// Pinned until the end, so that it can be seen which old configs still serve.
    snapshot: Option<Arc<Snapshot>>,
    trace: TurnTrace,
    /// When its stream began, if that is traced.
    streaming: Option<SystemTime>,
    /// What was answered, as far as it goes into the trace.
    said: String,
    /// One up while the call runs, with its provider.
    inflight: Option<Held>,
    /// And while its stream does.
    open_stream: Option<Held>,
}

/// Stands for the provider of a call that was never routed.
const NO_PROVIDER: &str = "none";

impl CallRecord {
    /// Begins the account.
    pub fn new(protocol: &'static str, telemetry: Arc<Telemetry>, trace: TurnTrace) -> Self {
        Self {
            telemetry,
            protocol,
            started: Instant::now(),
            provider: None,
            model: String::new(),
            model_label: NO_MODEL.into(),
            read: Instant::now(),
            stream: false,
            first_token: None,
            usage: None,
            losses: Losses::default(),
            attempts: 0,
            answered: false,
            cache_expected: false,
            turn: None,
            price: None,
            error: None,
            outcome: None,
            termination: None,
            snapshot: None,
            trace,
            streaming: None,
            said: String::new(),
            inflight: None,
            open_stream: None,
        }
    }

    /// The caller's part is done: its body is here.
    pub fn read(&mut self) {
        self.read = Instant::now();
    }

    /// When that was.
    pub fn read_at(&self) -> Instant {
        self.read
    }

    /// The call goes to this provider.
    pub fn routed(&mut self, route: &Route, stream: bool, snapshot: &Arc<Snapshot>) {
        self.provider = Some(route.provider.to_string());
        route.model.as_str().clone_into(&mut self.model);
        let (metrics, provider) = (self.metrics(), route.provider.as_str());
        let inflight = metrics.inflight.with_label_values(&[provider]);
        let model_label = metrics.models.label(provider, &self.model);
        self.model_label = model_label;
        self.stream = stream;
        let of_provider = snapshot.provider(&route.provider);
        self.price = of_provider.and_then(|handle| handle.spec().price(&self.model));
        self.snapshot = Some(Arc::clone(snapshot));
        // A combo's call goes on to another provider: it is with one at a time.
        self.inflight = Some(Held::up(inflight));
    }

    /// The call goes to an upstream, which may bill it from now on.
    pub fn begun(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(self.telemetry.ledger.begin(self.provider(), &self.model));
        }
    }

    /// The call's answer is a stream from now on.
    pub fn streaming(&mut self) {
        let open = self.metrics().open_streams.with_label_values(&[self.protocol]);
        self.open_stream = Some(Held::up(open));
        self.streaming = self.trace.now();
    }

    /// What is traced of the call.
    pub fn trace(&self) -> &TurnTrace {
        &self.trace
    }

    /// Keeps what was answered, if it goes into the trace.
    pub fn said(&mut self, event: &Event) {
        if let Event::TextDelta(text) = event
            && self.trace.captures()
        {
            let room = MAX_CONTENT.saturating_sub(self.said.len());
            self.said.extend(text.chars().take(room / 4));
        }
    }

    /// So many requests were made so far.
    pub fn attempted(&mut self, attempts: u32) {
        self.attempts = attempts;
    }

    /// The upstream answered this.
    pub fn answered(&mut self, prompt: &Prompt) {
        let cache = &self.telemetry.prompt_cache;
        self.cache_expected =
            cache.expects(self.provider(), &self.model, prompt, std::time::Instant::now());
        self.answered = true;
    }

    /// A stage of the translation could not carry this.
    pub fn lost(&mut self, losses: &Losses) {
        self.losses.merge(losses);
        let provider = self.provider();
        for (kind, count) in losses.iter() {
            let labels = [provider, kind.label()];
            self.metrics().translation_drops.with_label_values(&labels).inc_by(count.into());
        }
    }

    /// What could not be carried.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Something of the answer has come.
    pub fn token(&mut self) {
        if self.first_token.is_none() {
            let waited = self.started.elapsed();
            self.first_token = Some(waited);
            let labels = [self.provider(), &*self.model_label];
            let first = self.metrics().time_to_first_token.with_label_values(&labels);
            first.observe(waited.as_secs_f64());
        }
    }

    /// The caller got a sign of life.
    pub fn keepalive(&self, style: KeepaliveStyle) {
        let style = match style {
            KeepaliveStyle::Typed => "typed",
            KeepaliveStyle::Comment => "comment",
        };
        self.metrics().keepalives.with_label_values(&[style]).inc();
    }

    /// The call ended well, or as the upstream said.
    pub fn ended(&mut self, terminal: Terminal, usage: Option<Usage>) {
        // What was counted before a failure was used all the same.
        self.usage = self.usage.or(usage);
        if self.outcome.is_some() {
            return;
        }
        let (outcome, termination) = match terminal {
            Terminal::Completed => (CallOutcome::Ok, "completed"),
            Terminal::Incomplete => (CallOutcome::Incomplete, "incomplete"),
            Terminal::Failed => (CallOutcome::UpstreamError, "failed"),
        };
        self.outcome = Some(outcome);
        self.termination = Some(termination);
    }

    /// The answer is given up before its end; so much was counted till then.
    pub fn aborted(&mut self, usage: Option<Usage>) {
        self.usage = self.usage.or(usage);
    }

    /// What tells where the time of its answer goes.
    pub fn overhead(&self) -> Overhead {
        Overhead::of(self.metrics())
    }

    fn metrics(&self) -> &Metrics {
        &self.telemetry.metrics
    }

    fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or(NO_PROVIDER)
    }

    /// Counts tokens, and how fast those of a stream came.
    fn count_tokens(&self, took: Duration) {
        let (metrics, provider, model) = (self.metrics(), self.provider(), &*self.model_label);
        let Some(usage) = self.usage else {
            if self.answered {
                let completed = matches!(self.termination, Some("completed" | "incomplete"));
                let end = if completed { "completed" } else { "cut" };
                metrics.usage_missing.with_label_values(&[provider, end]).inc();
            }
            return;
        };
        if self.cache_expected {
            metrics.cache_expected.with_label_values(&[provider]).inc();
            let hit = u64::from(usage.cached > 0);
            metrics.cache_hit.with_label_values(&[provider]).inc_by(hit);
        }
        if let Some(price) = self.price {
            metrics.cost.with_label_values(&[provider, model]).inc_by(price.of(&usage));
        }
        for (kind, count) in [
            ("input", usage.input),
            ("cached_input", usage.cached),
            ("cache_write", usage.cache_write),
            ("output", usage.output),
            ("reasoning", usage.reasoning),
        ] {
            if count > 0 {
                metrics.tokens.with_label_values(&[provider, model, kind]).inc_by(count);
            }
        }
        if let (true, Some(first), Some(later)) = (
            self.stream && self.outcome == Some(CallOutcome::Ok),
            self.first_token,
            usage.output.checked_sub(1).filter(|later| *later > 0),
        ) {
            let pace = metrics.time_per_output_token.with_label_values(&[provider, model]);
            // Exact up to 2^53 tokens.
            #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
            pace.observe(took.saturating_sub(first).as_secs_f64() / later as f64);
        }
    }

    fn end_trace(&self, outcome: &str) {
        let error = Some(outcome).filter(|outcome| !matches!(*outcome, "ok" | "incomplete"));
        let (from, attempt) = (self.streaming, Some(self.attempts));
        self.trace.step(TraceStep { name: "stream", from, to: None, attempt, error });
        self.trace.finish(&Outcome {
            provider: self.provider(),
            model: &self.model,
            attempts: self.attempts,
            error,
            usage: self.usage,
            said: &self.said,
        });
    }

    /// Tells the ledger, if the call went to an upstream.
    fn write_down(&self, outcome: &str, took: Duration) {
        let Some(turn) = &self.turn else { return };
        self.telemetry.ledger.end(Ended {
            id: turn.clone(),
            at: timestamp(SystemTime::now()),
            protocol: self.protocol.to_owned(),
            provider: self.provider().to_owned(),
            model: self.model.clone(),
            outcome: outcome.to_owned(),
            answered: self.answered,
            stream: self.stream,
            attempts: self.attempts,
            duration_ms: millis(took),
            usage: self.usage.map(Into::into),
            cost_usd: self.price.zip(self.usage).map(|(price, usage)| price.of(&usage)),
        });
    }

    /// The call failed.
    pub fn failed(&mut self, error: &GatewayError) {
        if self.outcome.is_some() {
            return;
        }
        let rejected = match error {
            GatewayError::Dispatch(DispatchError::Saturated(_)) => Some("over_limit"),
            GatewayError::Body(BodyError::TooLarge(_)) => Some("too_large"),
            _ => None,
        };
        if let Some(reason) = rejected {
            self.metrics().rejected.with_label_values(&[reason]).inc();
        }
        let class = error.class();
        self.outcome = Some(class.outcome());
        self.termination = Some(match class {
            ErrorClass::UpstreamTruncated => "upstream_eof",
            ErrorClass::UpstreamStalled => "stalled",
            ErrorClass::ShuttingDown => "drain_deadline",
            ErrorClass::SlowReader => "client_gone",
            _ => "failed",
        });
        self.error = Some(error.to_string());
    }

    /// The answer could not be given on.
    pub fn untranslatable(&mut self, failure: &Failure) {
        if self.outcome.is_some() {
            return;
        }
        let overflow = failure.code == "answer_too_long";
        self.outcome = Some(CallOutcome::UpstreamError);
        self.termination = Some(if overflow { "overflow" } else { "translator_error" });
        self.error = Some(failure.message.clone());
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let (metrics, took) = (self.metrics(), self.started.elapsed());
        let (provider, outcome) =
            (self.provider(), self.outcome.unwrap_or(CallOutcome::ClientCancelled));
        let labels = [provider, &*self.model_label, outcome.class()];
        metrics.model_requests.with_label_values(&labels).inc();
        self.count_tokens(took);
        let outcome = outcome.label();
        metrics.requests.with_label_values(&[self.protocol, provider, outcome]).inc();
        let stream = if self.stream { "true" } else { "false" };
        let duration = metrics.request_duration.with_label_values(&[provider, stream]);
        duration.observe(took.as_secs_f64());
        if self.stream {
            let reason = self.termination.unwrap_or("client_gone");
            metrics.terminations.with_label_values(&[self.protocol, reason]).inc();
        }
        if let Some(otel) = &metrics.otel {
            let error = if matches!(outcome, "ok" | "incomplete") { "" } else { outcome };
            let labels = [provider, &*self.model_label];
            otel.turn(labels, error, took, self.first_token, self.usage);
        }
        self.write_down(outcome, took);
        self.end_trace(outcome);
        let usage = self.usage.unwrap_or_default();
        tracing::info!(
            target: "ocx::call",
            protocol = self.protocol,
            provider,
            model = self.model,
            stream = self.stream,
            outcome,
            duration_ms = millis(took),
            first_token_ms = self.first_token.map(millis),
            input_tokens = usage.input,
            output_tokens = usage.output,
            attempts = self.attempts,
            losses = %self.losses,
            generation = self.snapshot.as_ref().map(|snapshot| snapshot.generation),
            error = self.error,
            "turn"
        );
    }
}

/// Where the time goes that pieces of an answer take in us.
pub struct Overhead {
    first: Histogram,
    later: Histogram,
}

impl Overhead {
    /// Of a stream.
    pub fn of(metrics: &Metrics) -> Self {
        let phase = |phase| metrics.overhead.with_label_values(&[phase]);
        Self { first: phase("first_chunk"), later: phase("chunk") }
    }

    /// A piece took so long, the first or another.
    pub fn took(&self, first: bool, time: Duration) {
        let histogram = if first { &self.first } else { &self.later };
        histogram.observe(time.as_secs_f64());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
