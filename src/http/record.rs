//! The account of one call: counted and logged once, when it is over, however it ends.

use std::{sync::Arc, time::Duration};

use actix_rt::time::Instant;
use prometheus::{Histogram, IntGauge};

use crate::{
    actors::Snapshot,
    callers::{Failure, KeepaliveStyle, Terminal},
    error::{ErrorClass, GatewayError},
    model::{Losses, Usage},
    routing::Route,
    telemetry::{
        Metrics,
        metrics::{CallOutcome, NO_MODEL},
    },
};

/// The account. Dropping it closes it; a call that told no outcome was left by its caller.
pub struct CallRecord {
    metrics: Arc<Metrics>,
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
    attempts: u32,
    error: Option<String>,
    outcome: Option<CallOutcome>,
    termination: Option<&'static str>,
    /// Pinned until the end, so that it can be seen which old configs still serve.
    snapshot: Option<Arc<Snapshot>>,
    gauges: Vec<IntGauge>,
}

/// Stands for the provider of a call that was never routed.
const NO_PROVIDER: &str = "none";

impl CallRecord {
    /// Begins the account.
    pub fn new(protocol: &'static str, metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
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
            error: None,
            outcome: None,
            termination: None,
            snapshot: None,
            gauges: Vec::new(),
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
        self.model_label = self.metrics.models.label(route.provider.as_str(), &self.model);
        self.stream = stream;
        self.snapshot = Some(Arc::clone(snapshot));
        // A combo's call goes on to another provider: it is with one at a time.
        for gauge in self.gauges.drain(..) {
            gauge.dec();
        }
        let inflight = self.metrics.inflight.with_label_values(&[route.provider.as_str()]);
        self.hold(inflight);
    }

    /// The call's answer is a stream from now on.
    pub fn streaming(&mut self) {
        let open = self.metrics.open_streams.with_label_values(&[self.protocol]);
        self.hold(open);
    }

    /// A gauge that is one up while the call runs. The handle is kept: its series may be dropped
    /// meanwhile, with the provider.
    fn hold(&mut self, gauge: IntGauge) {
        gauge.inc();
        self.gauges.push(gauge);
    }

    /// The upstream answered at this attempt.
    pub fn answered(&mut self, attempts: u32) {
        self.attempts = attempts;
    }

    /// A stage of the translation could not carry this.
    pub fn lost(&mut self, losses: &Losses) {
        self.losses.merge(losses);
        let provider = self.provider();
        for (kind, count) in losses.iter() {
            let labels = [provider, kind.label()];
            self.metrics.translation_drops.with_label_values(&labels).inc_by(count.into());
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
            let first = self.metrics.time_to_first_token.with_label_values(&labels);
            first.observe(waited.as_secs_f64());
        }
    }

    /// The caller got a sign of life.
    pub fn keepalive(&self, style: KeepaliveStyle) {
        let style = match style {
            KeepaliveStyle::Typed => "typed",
            KeepaliveStyle::Comment => "comment",
        };
        self.metrics.keepalives.with_label_values(&[style]).inc();
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
        if usage.is_none() && terminal != Terminal::Failed {
            self.metrics.usage_missing.with_label_values(&[self.provider()]).inc();
        }
        self.outcome = Some(outcome);
        self.termination = Some(termination);
    }

    /// The answer is given up before its end; so much was counted till then.
    pub fn aborted(&mut self, usage: Option<Usage>) {
        self.usage = self.usage.or(usage);
    }

    /// What tells where the time of its answer goes.
    pub fn overhead(&self) -> Overhead {
        Overhead::of(&self.metrics)
    }

    fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or(NO_PROVIDER)
    }

    /// Counts tokens, and how fast those of a stream came.
    fn count_tokens(&self, took: Duration) {
        let Some(usage) = self.usage else { return };
        let (provider, model) = (self.provider(), &*self.model_label);
        for (kind, count) in [
            ("input", usage.input),
            ("cached_input", usage.cached),
            ("cache_write", usage.cache_write),
            ("output", usage.output),
            ("reasoning", usage.reasoning),
        ] {
            if count > 0 {
                self.metrics.tokens.with_label_values(&[provider, model, kind]).inc_by(count);
            }
        }
        if let (true, Some(first), Some(later)) = (
            self.stream && self.outcome == Some(CallOutcome::Ok),
            self.first_token,
            usage.output.checked_sub(1).filter(|later| *later > 0),
        ) {
            let pace = self.metrics.time_per_output_token.with_label_values(&[provider, model]);
            // Exact up to 2^53 tokens.
            #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
            pace.observe(took.saturating_sub(first).as_secs_f64() / later as f64);
        }
    }

    /// The call failed.
    pub fn failed(&mut self, error: &GatewayError) {
        if self.outcome.is_some() {
            return;
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
        for gauge in &self.gauges {
            gauge.dec();
        }
        let (metrics, took) = (&self.metrics, self.started.elapsed());
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
