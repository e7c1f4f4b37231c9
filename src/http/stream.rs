//! An answer as the body of a response: upstream bytes in, frames out, and a clock beside them.
//!
//! actix polls the body when its write buffer has room; that polls the exchange, which polls awc.
//! So a slow reader slows the upstream, there is no queue to bound, and dropping the body, which is
//! what actix does when the caller leaves, cancels everything.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::Future as _,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_rt::time::{Instant, Sleep, sleep};
use actix_web::body::{BodySize, MessageBody};
use bytes::{Bytes, BytesMut};

use super::{gateway::Lifecycle, overhead::Overhead, record::CallRecord};
use crate::{
    adapters::DecodeError,
    callers::{Emit, Terminal},
    config::Limits,
    error::GatewayError,
    exchange::Exchange,
    model::Event,
    turn::Answer,
};

/// Frames are handed on when there are so many bytes of them, or when the upstream pauses.
const FLUSH: usize = 4 << 10;
/// How often the clocks are looked at. They bound seconds, so this need not be fine.
const TICK: Duration = Duration::from_secs(1);

/// The body.
pub struct AnswerBody {
    held: Held,
    /// When actix last asked for more.
    asked: Rc<Cell<Instant>>,
    /// Nothing more will be written.
    over: bool,
    emitter: Box<dyn Emit>,
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
    overhead: Overhead,
    /// Nothing has been handed on yet.
    untold: bool,
}

impl AnswerBody {
    /// Streams an answer that has begun.
    pub fn new(
        answer: Answer,
        emitter: Box<dyn Emit>,
        limits: &Limits,
        lifecycle: Arc<Lifecycle>,
        record: CallRecord,
    ) -> Self {
        let tick_every = TICK.min(limits.keepalive_interval).min(limits.timeouts.stall);
        let held: Held = Rc::new(RefCell::new(Some(answer.exchange)));
        let asked = Rc::new(Cell::new(Instant::now()));
        let overhead = record.overhead();
        let watch = watch_reader(Rc::downgrade(&held), Rc::clone(&asked), limits.client_write);
        actix_rt::spawn(watch);
        Self {
            held,
            asked,
            over: false,
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
            overhead,
            untold: true,
        }
    }

    /// Reads and writes until there is enough to hand on, nothing more to read, or the end.
    fn fill(&mut self, task: &mut Context<'_>) {
        self.emit();
        if let Some(error) = self.error.take() {
            self.fail(&error);
        }
        while self.out.len() < FLUSH && !self.over {
            let (read, upstream_over) = match self.held.borrow_mut().as_mut() {
                None => (Poll::Ready(Err(GatewayError::SlowReader)), false),
                Some(exchange) => {
                    let read = exchange.poll_events(task, &mut self.events);
                    (read, exchange.is_over())
                }
            };
            match read {
                Poll::Ready(read) => {
                    self.emit();
                    match read {
                        Err(error) => self.fail(&error),
                        Ok(()) if upstream_over => self.fail(&self.truncated()),
                        Ok(()) => {}
                    }
                }
                Poll::Pending if self.is_due(task) => self.tick(),
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
        self.over = true;
        self.held.take();
        self.events.clear();
        self.out.truncate(self.whole);
        self.record.failed(&GatewayError::Internal);
        let usage = catch_unwind(AssertUnwindSafe(|| self.emitter.usage())).ok().flatten();
        self.record.aborted(usage);
        let failure = GatewayError::Internal.failure();
        let told = catch_unwind(AssertUnwindSafe(|| self.emitter.fail(&failure, &mut self.out)));
        if told.is_err() {
            self.out.truncate(self.whole);
        }
    }

    fn emit(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.record.relays(&event);
            if is_token(&event) {
                self.record.token();
                self.record.trace().said(&event);
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
        if self.over {
            return;
        }
        self.record.failed(error);
        self.emitter.fail(&error.failure(), &mut self.out);
        self.end(Terminal::Failed);
    }

    /// The terminal event is written: the upstream is let go, and the call is accounted for, since
    /// callers hang up as soon as they have read it.
    fn end(&mut self, terminal: Terminal) {
        self.held.take();
        self.over = true;
        self.record.lost(&self.emitter.losses());
        self.record.ended(terminal, self.emitter.usage());
    }

    fn truncated(&self) -> GatewayError {
        let provider = self.record.provider().to_owned();
        GatewayError::Decode { provider, error: DecodeError::Truncated }
    }

    /// Whether the clocks are to be looked at. An upstream that is always ready uses up the budget
    /// that tokio gives a task, and its timers then say nothing: so the time itself is asked too.
    fn is_due(&mut self, task: &mut Context<'_>) -> bool {
        self.tick.as_mut().poll(task).is_ready() || Instant::now() >= self.tick.deadline()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.tick.as_mut().reset(now + self.tick_every);
        let overdue = self.held.borrow().as_ref().and_then(|exchange| exchange.overdue(now));
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

/// The exchange, until the answer is over or its reader is given up.
type Held = Rc<RefCell<Option<Exchange>>>;

/// Lets the upstream and the slot go when the caller has taken nothing for too long. All other
/// clocks of a stream tick when actix asks for more, which it does not while its buffer is full.
async fn watch_reader(
    held: Weak<RefCell<Option<Exchange>>>,
    asked: Rc<Cell<Instant>>,
    limit: Duration,
) {
    loop {
        sleep(limit.div_f32(4.0)).await;
        // Gone with the body, or empty because the answer is over.
        let Some(held) = held.upgrade() else { return };
        if held.borrow().is_none() {
            return;
        }
        if asked.get().elapsed() >= limit {
            held.take();
            return;
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if !self.over {
            self.record.aborted(self.emitter.usage());
        }
    }
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
        let asked = Instant::now();
        this.asked.set(asked);
        this.guarded(|this| this.fill(task));
        if !this.out.is_empty() {
            this.last_write = Instant::now();
            this.overhead.took(this.untold, this.last_write - asked);
            this.untold = false;
            this.whole = 0;
            return Poll::Ready(Some(Ok(this.out.split().freeze())));
        }
        if this.over { Poll::Ready(None) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        callers::{Delivery, EmitterSettings, Protocol},
        credentials::CapsuleKey,
        model::Ids,
        telemetry::{Metrics, Telemetry, TurnTrace},
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
            sealer: CapsuleKey::new([0; 32]).sealer("x", "y"),
            include_usage: false,
            compaction: false,
        };
        let telemetry = Arc::new(Telemetry::of(Arc::new(Metrics::new())));
        let metrics = &telemetry.metrics;
        let mut body = AnswerBody {
            held: Held::default(),
            asked: Rc::new(Cell::new(Instant::now())),
            over: false,
            emitter: Protocol::Responses.emitter(settings, Ids::new(1)),
            events: vec![Event::TextDelta("so far".into())],
            error: None,
            out: BytesMut::new(),
            whole: 0,
            tick: Box::pin(sleep(TICK)),
            tick_every: TICK,
            keepalive: TICK,
            last_write: Instant::now(),
            lifecycle: Arc::default(),
            overhead: Overhead::of(metrics),
            untold: true,
            record: CallRecord::new("responses", Arc::clone(&telemetry), TurnTrace::default()),
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
