//! The account of one call: counted and logged once, when it is over, however it ends.

use std::{sync::Arc, time::Duration};

use actix_rt::time::Instant;
use prometheus::IntGauge;

use crate::{
    actors::Snapshot,
    callers::{Failure, KeepaliveStyle, Terminal},
    error::{ErrorClass, GatewayError},
    model::{Losses, Usage},
    routing::Route,
    telemetry::{Metrics, metrics::CallOutcome},
};

/// The account. Dropping it closes it; a call that told no outcome was left by its caller.
pub struct CallRecord {
    metrics: Arc<Metrics>,
    protocol: &'static str,
    started: Instant,
    provider: Option<String>,
    model: String,
    stream: bool,
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

    /// The call goes to this provider.
    pub fn routed(&mut self, route: &Route, stream: bool, snapshot: &Arc<Snapshot>) {
        self.provider = Some(route.provider.to_string());
        route.model.as_str().clone_into(&mut self.model);
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
        let provider = self.provider.as_deref().unwrap_or(NO_PROVIDER);
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
            let provider = self.provider.as_deref().unwrap_or(NO_PROVIDER);
            let first = self.metrics.time_to_first_token.with_label_values(&[provider]);
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
        if self.outcome.is_some() {
            return;
        }
        self.usage = usage;
        let (outcome, termination) = match terminal {
            Terminal::Completed => (CallOutcome::Ok, "completed"),
            Terminal::Incomplete => (CallOutcome::Incomplete, "incomplete"),
            Terminal::Failed => (CallOutcome::UpstreamError, "failed"),
        };
        if usage.is_none() && terminal == Terminal::Completed {
            let provider = self.provider.as_deref().unwrap_or(NO_PROVIDER);
            self.metrics.usage_missing.with_label_values(&[provider]).inc();
        }
        self.outcome = Some(outcome);
        self.termination = Some(termination);
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
        let provider = self.provider.as_deref().unwrap_or(NO_PROVIDER);
        let outcome = self.outcome.unwrap_or(CallOutcome::ClientCancelled).label();
        let (metrics, took) = (&self.metrics, self.started.elapsed());
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
