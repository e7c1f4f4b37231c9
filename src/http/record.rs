//! The account of one call: counted and logged once, when it is over, however it ends.

use std::{
    borrow::Cow,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use super::overhead::Overhead;
use crate::{
    actors::Snapshot,
    callers::{Failure, KeepaliveStyle, Terminal},
    error::{BodyError, ErrorClass, GatewayError},
    model::{Event, Losses, Price, Prompt, Usage},
    routing::Route,
    telemetry::{
        Metrics, Tally, Telemetry, TurnTrace,
        decisions::{CallIds, Decision, Noted},
        ledger::{Ended, model_name},
        metrics::{CallOutcome, Held, NO_MODEL, timestamp},
        millis,
        traces::{Outcome, TraceStep},
    },
};
use actix_rt::time::Instant;

/// The account. Dropping it closes it; a call that told no outcome was left by its caller.
pub struct CallRecord {
    telemetry: Arc<Telemetry>,
    /// What its caller may know it by.
    ids: CallIds,
    protocol: &'static str,
    started: Instant,
    provider: Option<String>,
    model: String,
    /// The model as a label.
    model_label: Arc<str>,
    stream: bool,
    /// When the body was read, from when on time is ours.
    read: Option<Instant>,
    first_token: Option<Duration>,
    usage: Option<Usage>,
    losses: Losses,
    /// Its requests, and what they used as far as its future knew.
    tally: Rc<Tally>,
    /// Whether a model is asked: not where tokens are only counted.
    is_turn: bool,
    /// Whether the upstream's prompt cache should know how the turn begins.
    cache_expected: bool,
    price: Option<Price>,
    error: Option<String>,
    outcome: Option<CallOutcome>,
    termination: Option<&'static str>,
    /// Pinned until the end, so that it can be seen which old configs still serve.
    snapshot: Option<Arc<Snapshot>>,
    trace: TurnTrace,
    /// When its stream began, if that is traced.
    streaming: Option<SystemTime>,
    /// From when on its first byte is waited for, if that is traced and it has not come.
    waiting: Option<SystemTime>,
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
            ids: CallIds::new(rand::random()),
            protocol,
            started: Instant::now(),
            provider: None,
            model: String::new(),
            model_label: NO_MODEL.into(),
            read: None,
            stream: false,
            first_token: None,
            usage: None,
            losses: Losses::default(),
            tally: Rc::new(Tally::new(Arc::clone(&telemetry))),
            is_turn: true,
            cache_expected: false,
            price: None,
            error: None,
            outcome: None,
            termination: None,
            snapshot: None,
            trace,
            streaming: None,
            waiting: None,
            inflight: None,
            open_stream: None,
            telemetry,
        }
    }

    /// Of a call that asks no model anything.
    pub fn beside_turns(protocol: &'static str, telemetry: Arc<Telemetry>) -> Self {
        let mut record = Self::new(protocol, telemetry, TurnTrace::default());
        record.is_turn = false;
        record
    }

    /// What a caller is told to ask for it by, until there is a response.
    pub fn id(&self) -> String {
        self.ids.request()
    }

    /// Its response has this id.
    pub fn named(&mut self, id: &str) {
        self.ids.add(id);
    }

    /// What is relayed has an id of its upstream's.
    pub fn relays(&mut self, event: &Event) {
        if let Event::Verbatim(_) | Event::Document(_) = event
            && let Some(id) = upstream_id(event)
        {
            self.named(&id);
        }
    }

    /// What its turn notes requests and usage in.
    pub fn tally(&self) -> Rc<Tally> {
        Rc::clone(&self.tally)
    }

    /// The caller's part is done: its body is here.
    pub fn read(&mut self) {
        self.read = Some(Instant::now());
    }

    /// When that was.
    pub fn read_at(&self) -> Instant {
        self.read.unwrap_or(self.started)
    }

    /// The call goes to this provider.
    pub fn routed(&mut self, route: &Route, stream: bool, snapshot: &Arc<Snapshot>) {
        self.provider = Some(route.provider.to_string());
        self.model = model_name(route.model.as_str());
        let (metrics, provider) = (self.metrics(), route.provider.as_str());
        let inflight = metrics.inflight.with_label_values(&[provider]);
        let model_label = metrics.models.label(provider, route.model.as_str());
        self.model_label = model_label;
        self.stream = stream;
        let of_provider = snapshot.provider(&route.provider);
        self.price = of_provider.and_then(|handle| handle.spec().price(route.model.as_str()));
        self.snapshot = Some(Arc::clone(snapshot));
        // A combo's call goes on to another provider: it is with one at a time.
        self.inflight = Some(Held::up(inflight));
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

    /// Nothing of the answer has come yet.
    pub fn awaits(&mut self, waiting: Option<SystemTime>) {
        self.waiting = waiting;
    }

    /// The upstream answered this.
    pub fn answered(&mut self, prompt: &Prompt) {
        let cache = &self.telemetry.prompt_cache;
        self.cache_expected =
            cache.expects(self.provider(), &self.model, prompt, std::time::Instant::now());
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
            self.end_waiting(None);
            let labels = [self.provider(), &*self.model_label];
            let first = self.metrics().time_to_first_token.with_label_values(&labels);
            first.observe(waited.as_secs_f64());
        }
    }

    fn end_waiting(&mut self, error: Option<&str>) {
        let (from, attempt) = (self.waiting.take(), Some(self.tally.requests()));
        self.trace.step(TraceStep { name: "first_byte", from, to: None, attempt, error });
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

    /// The provider that the call goes to; `none` before it is routed.
    pub fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or(NO_PROVIDER)
    }

    /// Tells the metrics.
    fn count(&self, outcome: CallOutcome, took: Duration) {
        let (metrics, provider, model) = (self.metrics(), self.provider(), &*self.model_label);
        metrics.requests.with_label_values(&[self.protocol, provider, outcome.label()]).inc();
        let stream = if self.stream { "true" } else { "false" };
        let duration = metrics.request_duration.with_label_values(&[provider, stream]);
        duration.observe(took.as_secs_f64());
        if self.stream {
            let reason = self.termination.unwrap_or("client_gone");
            metrics.terminations.with_label_values(&[self.protocol, reason]).inc();
        }
        if !self.is_turn {
            return;
        }
        metrics.model_requests.with_label_values(&[provider, model, outcome.class()]).inc();
        self.count_tokens(took);
        if let Some(otel) = &metrics.otel {
            let error = failure(outcome.label()).unwrap_or_default();
            otel.turn([provider, model], error, took, self.first_token, self.usage);
        }
    }

    /// Counts tokens, and how fast those of a stream came.
    fn count_tokens(&self, took: Duration) {
        let (metrics, provider, model) = (self.metrics(), self.provider(), &*self.model_label);
        let Some(usage) = self.usage else {
            if self.tally.is_open() {
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
            metrics.tokens.with_label_values(&[provider, model, kind]).inc_by(count);
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

    /// Tells the trace, and ends it.
    fn end_trace(&self, outcome: &str) {
        let error = failure(outcome);
        let (from, attempt) = (self.streaming, Some(self.tally.requests()));
        self.trace.step(TraceStep { name: "stream", from, to: None, attempt, error });
        self.trace.finish(&Outcome {
            provider: self.provider(),
            model: &self.model,
            attempts: self.tally.requests(),
            error,
            usage: self.usage,
        });
    }

    /// Tells the ledger, if the call went to an upstream.
    fn write_down(&self, outcome: &str, took: Duration) {
        let Some(turn) = self.tally.turn() else { return };
        self.telemetry.ledger.end(Ended {
            id: turn.clone(),
            at: timestamp(SystemTime::now()),
            protocol: self.protocol.to_owned(),
            provider: self.provider().to_owned(),
            model: self.model.clone(),
            outcome: outcome.to_owned(),
            missing: self.usage.is_none() && self.tally.is_open(),
            stream: self.stream,
            attempts: self.tally.requests(),
            duration_ms: millis(took),
            usage: self.usage.map(Into::into),
            cost_usd: self.price.zip(self.usage).map(|(price, usage)| price.of(&usage)),
        });
    }

    /// Remembers what was decided, for `ocx explain`.
    fn explain(&mut self, outcome: &'static str, took: Duration) {
        if !self.is_turn {
            return;
        }
        let Noted { asked, rule, steps, left_out } = self.tally.notes.taken();
        self.telemetry.decisions.keep(Decision {
            ids: std::mem::replace(&mut self.ids, CallIds::new(0)),
            at: timestamp(SystemTime::now()),
            protocol: self.protocol,
            asked,
            rule,
            provider: self.provider.take().unwrap_or_else(|| NO_PROVIDER.to_owned()),
            model: std::mem::take(&mut self.model),
            generation: self.snapshot.as_ref().map(|snapshot| snapshot.generation),
            steps,
            left_out,
            losses: self.losses.iter().map(|(kind, count)| (kind.label(), count)).collect(),
            outcome,
            termination: self.termination.filter(|_| self.stream),
            error: self.error.take(),
            stream: self.stream,
            // One that never came whole was waited for till the end.
            body_ms: self
                .read
                .map_or(millis(took), |read| millis(read.saturating_duration_since(self.started))),
            first_token_ms: self.first_token.map(millis),
            duration_ms: millis(took),
            usage: self.usage.map(Into::into),
        });
    }

    fn log(&self, outcome: &str, took: Duration) {
        let usage = self.usage.unwrap_or_default();
        tracing::info!(
            target: "ocx::call",
            protocol = self.protocol,
            provider = self.provider(),
            model = self.model,
            stream = self.stream,
            outcome,
            duration_ms = millis(took),
            first_token_ms = self.first_token.map(millis),
            input_tokens = usage.input,
            output_tokens = usage.output,
            attempts = self.tally.requests(),
            losses = %self.losses,
            generation = self.snapshot.as_ref().map(|snapshot| snapshot.generation),
            error = self.error,
            "turn"
        );
    }

    /// The call failed.
    pub fn failed(&mut self, error: &GatewayError) {
        if self.outcome.is_some() {
            return;
        }
        if let GatewayError::Body(BodyError::TooLarge(_)) = error {
            self.metrics().rejected.with_label_values(&["too_large"]).inc();
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
        // Of an answer that was given up before its future had told anybody.
        self.usage = self.usage.or(self.tally.usage());
        let outcome = self.outcome.unwrap_or(CallOutcome::ClientCancelled);
        self.end_waiting(failure(outcome.label()));
        let took = self.started.elapsed();
        self.count(outcome, took);
        self.write_down(outcome.label(), took);
        self.end_trace(outcome.label());
        self.log(outcome.label(), took);
        // Last: it takes what it keeps.
        self.explain(outcome.label(), took);
    }
}

/// The id that an upstream gave a response which is relayed.
fn upstream_id(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    #[derive(Deserialize)]
    struct Created<'a> {
        #[serde(borrow)]
        response: Response<'a>,
    }
    let response = match event {
        Event::Verbatim(frame) if frame.kind == "response.created" => {
            serde_json::from_slice::<Created<'_>>(&frame.data).ok()?.response
        }
        Event::Document(bytes) => serde_json::from_slice(bytes).ok()?,
        _ => return None,
    };
    Some(response.id.into_owned())
}

/// The outcome, if it is a failure.
fn failure(outcome: &str) -> Option<&str> {
    Some(outcome).filter(|outcome| !matches!(*outcome, "ok" | "incomplete"))
}
