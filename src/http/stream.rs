//! An answer as the body of a response: upstream bytes in, frames out, and a clock beside them.
//!
//! actix polls the body when its write buffer has room; that polls the exchange, which polls awc.
//! So a slow reader slows the upstream, there is no queue to bound, and dropping the body, which is
//! what actix does when the caller leaves, cancels everything.

use std::{
    convert::Infallible,
    future::Future as _,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_rt::time::{Instant, Sleep, sleep};
use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};

use super::{gateway::Lifecycle, record::CallRecord};
use crate::{
    adapters::DecodeError,
    config::Limits,
    error::GatewayError,
    exchange::Exchange,
    model::Event,
    responses::{Emitter, Terminal},
    turn::Answer,
};

/// Frames are handed on when there are so many bytes of them, or when the upstream pauses.
const FLUSH: usize = 4 << 10;
/// How often the clocks are looked at. They bound seconds, so this need not be fine.
const TICK: Duration = Duration::from_secs(1);

/// The body.
pub struct AnswerBody {
    /// Gone when the answer is over.
    exchange: Option<Exchange>,
    emitter: Emitter,
    events: Vec<Event>,
    error: Option<GatewayError>,
    out: BytesMut,
    /// How much of `out` is whole frames, should a panic leave half of one.
    whole: usize,
    tick: Pin<Box<Sleep>>,
    tick_every: Duration,
    keepalive: Duration,
    last_write: Instant,
    lifecycle: Arc<Lifecycle>,
    record: CallRecord,
}

impl AnswerBody {
    /// Streams an answer that has begun.
    pub fn new(
        answer: Answer,
        emitter: Emitter,
        limits: &Limits,
        lifecycle: Arc<Lifecycle>,
        record: CallRecord,
    ) -> Self {
        let tick_every = TICK.min(limits.keepalive_interval).min(limits.timeouts.stall);
        Self {
            exchange: Some(answer.exchange),
            emitter,
            events: answer.events,
            error: answer.error,
            out: BytesMut::with_capacity(2 * FLUSH),
            whole: 0,
            tick: Box::pin(sleep(tick_every)),
            tick_every,
            keepalive: limits.keepalive_interval,
            last_write: Instant::now(),
            lifecycle,
            record,
        }
    }

    /// Reads and writes until there is enough to hand on, nothing more to read, or the end.
    fn fill(&mut self, task: &mut Context<'_>) {
        self.emit();
        if let Some(error) = self.error.take() {
            self.fail(&error);
        }
        while self.out.len() < FLUSH
            && let Some(exchange) = &mut self.exchange
        {
            match exchange.poll_events(task, &mut self.events) {
                Poll::Ready(read) => {
                    let over = exchange.is_over();
                    self.emit();
                    if let Err(error) = read {
                        self.fail(&error);
                    } else if over && self.exchange.is_some() {
                        self.fail(&truncated());
                    }
                }
                Poll::Pending if self.tick.as_mut().poll(task).is_ready() => self.tick(),
                Poll::Pending => break,
            }
        }
    }

    /// Runs a step that may panic. Without this a panic would cut the stream without a word; this
    /// way it ends as any other failure.
    fn guarded(&mut self, step: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| step(self))).is_ok() {
            return;
        }
        self.exchange = None;
        self.events.clear();
        self.out.truncate(self.whole);
        self.record.failed(&GatewayError::Internal);
        let failure = GatewayError::Internal.failure();
        let told = catch_unwind(AssertUnwindSafe(|| self.emitter.fail(&failure, &mut self.out)));
        if told.is_err() {
            self.out.truncate(self.whole);
        }
    }

    fn emit(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            if is_token(&event) {
                self.record.token();
            }
            if let Err(failure) = self.emitter.push(event, &mut self.out) {
                self.record.untranslatable(&failure);
                self.emitter.fail(&failure, &mut self.out);
            }
            self.whole = self.out.len();
        }
        self.events = events;
        if let Some(terminal) = self.emitter.terminal() {
            self.end(terminal);
        }
    }

    fn fail(&mut self, error: &GatewayError) {
        if self.exchange.is_none() {
            return;
        }
        self.record.failed(error);
        self.emitter.fail(&error.failure(), &mut self.out);
        self.end(Terminal::Failed);
    }

    /// The terminal event is written: the upstream is let go, and the call is accounted for, since
    /// callers hang up as soon as they have read it.
    fn end(&mut self, terminal: Terminal) {
        if self.exchange.take().is_some() {
            self.record.ended(terminal, self.emitter.usage());
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.tick.as_mut().reset(now + self.tick_every);
        let overdue = self.exchange.as_ref().and_then(|exchange| exchange.overdue(now));
        if let Some(error) = overdue {
            self.fail(&error);
        } else if self.lifecycle.is_ending() {
            self.fail(&GatewayError::ShuttingDown);
        } else if now - self.last_write >= self.keepalive
            && let Some(style) = self.emitter.keepalive(&mut self.out)
        {
            self.record.keepalive(style);
        }
    }
}

fn truncated() -> GatewayError {
    GatewayError::Decode { provider: "upstream".to_owned(), error: DecodeError::Truncated }
}

/// Whether an event is something that a person or program waits for.
fn is_token(event: &Event) -> bool {
    match event {
        Event::TextDelta(_) | Event::ReasoningDelta(_) | Event::CallStarted { .. } => true,
        Event::Verbatim(frame) => frame.kind.ends_with(".delta"),
        _ => false,
    }
}

impl MessageBody for AnswerBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        this.guarded(|this| this.fill(task));
        if !this.out.is_empty() {
            this.last_write = Instant::now();
            this.whole = 0;
            return Poll::Ready(Some(Ok(this.out.split().freeze())));
        }
        if this.exchange.is_none() { Poll::Ready(None) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        model::Ids,
        responses::{Delivery, EmitterSettings},
        telemetry::Metrics,
    };

    use super::*;

    #[actix::test]
    async fn x09_a_panic_in_the_middle_ends_the_stream_with_its_one_terminal_event() {
        let settings = EmitterSettings {
            delivery: Delivery::Stream,
            model: "m".into(),
            created_at: 0,
            show_reasoning: true,
            relay: false,
            tools: Vec::new(),
            max_retained: 1000,
        };
        let metrics = Arc::new(Metrics::new());
        let mut body = AnswerBody {
            exchange: None,
            emitter: Emitter::new(settings, Ids::new(1)),
            events: vec![Event::TextDelta("so far".into())],
            error: None,
            out: BytesMut::new(),
            whole: 0,
            tick: Box::pin(sleep(TICK)),
            tick_every: TICK,
            keepalive: TICK,
            last_write: Instant::now(),
            lifecycle: Arc::default(),
            record: CallRecord::new("responses", Arc::clone(&metrics)),
        };
        body.guarded(AnswerBody::emit);
        body.guarded(|body| {
            body.out.extend_from_slice(b"event: half a fra");
            panic!("a defect");
        });
        let told = std::future::poll_fn(|task| Pin::new(&mut body).poll_next(task)).await;
        let text = String::from_utf8(told.unwrap().unwrap().to_vec()).unwrap();
        assert!(text.contains("so far") && !text.contains("half a fra"), "{text}");
        assert_eq!(text.matches("event: response.failed\n").count(), 1, "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        let end = std::future::poll_fn(|task| Pin::new(&mut body).poll_next(task)).await;
        assert!(end.is_none());
        drop(body);
        let outcome = metrics.requests.with_label_values(&["responses", "none", "internal"]);
        assert_eq!(outcome.get(), 1);
    }
}
