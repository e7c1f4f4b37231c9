//! One upstream call: open, decode, and know when it takes too long.

use std::{
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use actix_rt::time::Instant;

use crate::{
    actors::{Lease, LeaseOutcome},
    adapters::{Adapter, DecodeError, Decoder, Expect, ResponseHead, Step, WireRequest},
    config::Timeouts,
    credentials::{Credential, blot_out},
    error::{ErrorClass, GatewayError},
    model::{Event, UpstreamFailure},
    telemetry::{Metrics, TurnTrace, traces::TraceStep},
    upstream::{Dialled, Phase, Upstream, UpstreamBody, UpstreamError, watched},
    wire::sse::FrameTooLong,
};

pub mod retry;

/// An exchange whose head has come and whose body is being read. Dropping it closes the connection
/// and frees the slot.
pub struct Exchange {
    lease: Lease,
    head: ResponseHead,
    body: UpstreamBody,
    decoder: Box<dyn Decoder>,
    timeouts: Timeouts,
    last_bytes: Instant,
    last_event: Instant,
    /// Bytes of the body so far.
    received: usize,
    over: bool,
    /// From when on it was waited for, if that is traced.
    asked: Option<SystemTime>,
}

/// How often the clocks of an answer that is no stream are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sends an encoded prompt and waits for the head of the answer.
///
/// # Errors
///
/// When there is no answer, or it is a refusal.
pub async fn open(
    means: Means<'_>,
    adapter: &'static dyn Adapter,
    lease: Lease,
    mut request: WireRequest,
    expect: Expect,
    timeouts: &Timeouts,
) -> Result<Exchange, GatewayError> {
    let Means { upstream, metrics, trace, .. } = means;
    let (started, asked) = (Instant::now(), trace.now());
    let provider = lease.spec.id.as_str();
    request.trace(trace.traceparent());
    let head_timeout = if expect.stream { timeouts.head } else { timeouts.whole };
    let counted = Counted::new(metrics, provider);
    let upstream = upstream.via(&lease.spec.reach);
    let call = upstream.open(request, head_timeout);
    let (opened, asked) = match asked {
        None => (call.await, None),
        Some(asked) => {
            let (opened, dialled) = watched(call).await;
            let unanswered = opened.as_ref().err().map(UpstreamError::label);
            (opened, Some(means.dialled(asked, dialled, unanswered)))
        }
    };
    let result = match &opened {
        Ok(response) => status_label(response.head.status),
        Err(error) => error.label(),
    };
    counted.ended(result);
    let mut response = opened.map_err(|error| {
        unanswered(&lease, &error);
        failed(&lease, error)
    })?;
    let waited = started.elapsed().as_secs_f64();
    metrics.time_to_headers.with_label_values(&[provider]).observe(waited);
    for (window, left) in &response.head.remaining {
        metrics.rate_limit_remaining.with_label_values(&[provider, *window]).set(*left);
    }
    if !response.head.is_success() {
        means.first_byte(asked, Some(result));
        let body = response.body.read_error().await;
        let error = refuse(&lease, &response.head, adapter.refusal(&response.head, &body));
        settle(&lease, &response.head, &error);
        return Err(error);
    }
    lease.succeeded();
    if response.head.content_type == "text/html" {
        let reason = "an HTML page instead of an answer; check the base URL".to_owned();
        return Err(broken(&lease, DecodeError::Malformed(reason)));
    }
    let now = Instant::now();
    Ok(Exchange {
        decoder: adapter.decoder(&response.head, expect),
        head: response.head,
        body: response.body,
        lease,
        timeouts: timeouts.clone(),
        last_bytes: now,
        last_event: now,
        received: 0,
        over: false,
        asked,
    })
}

/// Counts a request by how it ended, also if nobody waits for that any more.
struct Counted<'m> {
    metrics: &'m Metrics,
    provider: &'m str,
    result: &'static str,
}

impl<'m> Counted<'m> {
    fn new(metrics: &'m Metrics, provider: &'m str) -> Self {
        Self { metrics, provider, result: "cancelled" }
    }

    fn ended(mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.attempts.with_label_values(&[self.provider, self.result]).inc();
    }
}

/// What an exchange is made with and told to.
#[derive(Clone, Copy)]
pub struct Means<'m> {
    /// This thread's client.
    pub upstream: &'m Upstream,
    /// Counters.
    pub metrics: &'m Metrics,
    /// The trace of its turn.
    pub trace: &'m TurnTrace,
    /// The turn's attempt, from 1.
    pub attempt: u32,
}

impl Means<'_> {
    /// Notes the steps to an open connection; from when on an answer is waited for.
    fn dialled(
        &self,
        asked: SystemTime,
        dialled: Option<Dialled>,
        error: Option<&str>,
    ) -> SystemTime {
        let Some((from, to)) = dialled else {
            if error.is_some() {
                self.first_byte(Some(asked), error);
            }
            return asked;
        };
        let attempt = Some(self.attempt);
        // What came after an address was reached, TLS included, is the wait for the first byte.
        let unreached = error.filter(|error| matches!(*error, "connect" | "denied"));
        let (from, ended) = (Some(from), Some(to));
        self.trace.step(TraceStep { name: "connect", from, to: ended, attempt, error: unreached });
        if error.is_some() && unreached.is_none() {
            self.first_byte(Some(to), error);
        }
        to
    }

    /// Notes how long the first byte of an answer was waited for.
    pub fn first_byte(&self, from: Option<SystemTime>, error: Option<&str>) {
        let attempt = Some(self.attempt);
        self.trace.step(TraceStep { name: "first_byte", from, to: None, attempt, error });
    }
}

/// Whose limit a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// That of calls: a 429 says something about the next one.
    Calls,
    /// One of its own.
    Own,
}

/// Sends a request and reads the whole of its answer, at most `limit` bytes, within `timeout`.
///
/// # Errors
///
/// When there is no answer, it is a refusal, or it is too long.
pub async fn fetch(
    upstream: &Upstream,
    lease: &Lease,
    adapter: &dyn Adapter,
    request: WireRequest,
    quota: Quota,
    timeout: Duration,
    limit: usize,
) -> Result<Vec<u8>, GatewayError> {
    let fail = |error| failed(lease, error);
    let exchange = async {
        let upstream = upstream.via(&lease.spec.reach);
        let opened = upstream.open(request, timeout).await;
        let mut response = opened.map_err(|error| {
            unanswered(lease, &error);
            fail(error)
        })?;
        if !response.head.is_success() {
            let body = response.body.read_error().await;
            let error = refuse(lease, &response.head, adapter.refusal(&response.head, &body));
            match quota {
                Quota::Calls => settle(lease, &response.head, &error),
                Quota::Own if response.head.status >= 500 => lease.settle(LeaseOutcome::Failed),
                Quota::Own => lease.succeeded(),
            }
            return Err(error);
        }
        lease.succeeded();
        response.body.read_all(limit).await.map_err(fail)
    };
    actix_rt::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| Err(fail(UpstreamError::Timeout(Phase::Stall))))
}

/// A key of several that says no without saying for how long rests for so long.
const SHORT_REST: Duration = Duration::from_secs(5);

/// Tells the provider that nothing was answered.
fn unanswered(lease: &Lease, error: &UpstreamError) {
    // What we refuse ourselves says nothing about the upstream.
    if !matches!(error, UpstreamError::Denied(_) | UpstreamError::Unsendable(_)) {
        lease.settle(LeaseOutcome::Failed);
    }
}

/// Tells the provider what a refusal says about it and the credential.
fn settle(lease: &Lease, head: &ResponseHead, error: &GatewayError) {
    if head.status >= 500 {
        return lease.settle(LeaseOutcome::Failed);
    }
    if matches!(lease.credential, Credential::Forwarded(_)) {
        // A caller's own login is the caller's own limit; the provider goes on for others.
        return lease.succeeded();
    }
    let pause = head.retry_after.or(lease.has_others().then_some(SHORT_REST));
    match (error.class(), pause) {
        (ErrorClass::RateLimited, Some(pause)) => lease.settle(LeaseOutcome::RateLimited { pause }),
        // Not 403: one caller's forbidden model says nothing about the key.
        _ if head.status == 401 && lease.has_others() => lease.settle(LeaseOutcome::Refused),
        _ => lease.succeeded(),
    }
}

fn status_label(status: u16) -> &'static str {
    match status {
        200..=299 => "ok",
        429 => "rate_limited",
        400..=499 => "refused",
        _ => "failed",
    }
}

impl Exchange {
    /// The head of the answer.
    pub fn head(&self) -> &ResponseHead {
        &self.head
    }

    /// From when on the answer was waited for, if that is traced.
    pub fn asked(&self) -> Option<SystemTime> {
        self.asked
    }

    /// Whether the upstream ended the answer.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Reads until something can be told, and appends it to `events`.
    ///
    /// # Errors
    ///
    /// When the answer is broken, which ends it. What came before is in `events` all the same.
    pub fn poll_events(
        &mut self,
        task: &mut Context<'_>,
        events: &mut Vec<Event>,
    ) -> Poll<Result<(), GatewayError>> {
        while !self.over {
            let Poll::Ready(next) = self.body.poll_next(task) else {
                return Poll::Pending;
            };
            let before = events.len();
            match next {
                Some(Ok(bytes)) => {
                    self.last_bytes = Instant::now();
                    self.received += bytes.len();
                    match self.decoder.push(&bytes, events) {
                        Ok(Step::More) => {}
                        Ok(Step::Done) => {
                            self.over = true;
                            self.body.linger();
                        }
                        Err(error) => {
                            self.over = true;
                            return Poll::Ready(Err(broken(&self.lease, error)));
                        }
                    }
                }
                Some(Err(error)) => {
                    self.over = true;
                    return Poll::Ready(Err(failed(&self.lease, error)));
                }
                None => {
                    self.over = true;
                    let end = self.decoder.finish(events);
                    return Poll::Ready(end.map_err(|error| broken(&self.lease, error)));
                }
            }
            if events.len() > before {
                self.last_event = self.last_bytes;
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the whole answer, whose body may have `limit` bytes; `look` sees the events as they come.
    ///
    /// # Errors
    ///
    /// As [`poll_events`](Self::poll_events), or when it takes too long or is too long.
    pub async fn collect(
        &mut self,
        events: &mut Vec<Event>,
        limit: usize,
        mut look: impl FnMut(&[Event]),
    ) -> Result<(), GatewayError> {
        while !self.over {
            let known = events.len();
            let next = std::future::poll_fn(|task| self.poll_events(task, events));
            let read = actix_rt::time::timeout(LOOK_EVERY, next).await;
            look(events.get(known..).unwrap_or_default());
            match read {
                Ok(read) => read?,
                Err(_) => self.overdue(Instant::now()).map_or(Ok(()), Err)?,
            }
            if self.received > limit {
                return Err(broken(&self.lease, FrameTooLong { limit }.into()));
            }
        }
        Ok(())
    }

    /// Whether it has been silent for too long, or must end for another reason.
    pub fn overdue(&self, now: Instant) -> Option<GatewayError> {
        if self.over {
            return None;
        }
        if self.lease.must_end() {
            return Some(GatewayError::Drained);
        }
        let phase = if now - self.last_bytes >= self.timeouts.stall {
            Phase::Stall
        } else if now - self.last_event >= self.timeouts.progress {
            Phase::Progress
        } else {
            return None;
        };
        Some(failed(&self.lease, UpstreamError::Timeout(phase)))
    }
}

/// An exchange that the transport ended.
pub fn failed(lease: &Lease, error: UpstreamError) -> GatewayError {
    GatewayError::Upstream { provider: lease.spec.id.to_string(), error }
}

/// How much of an upstream's text a caller gets to read, in characters.
const MAX_MESSAGE: usize = 500;

/// An upstream's text may hold what it was sent: our secrets are blotted out before anybody sees it.
/// Headers of the config count as secrets, since keys are put there too.
fn redact(lease: &Lease, text: &str) -> String {
    let text = lease.credential.redact(text);
    lease.spec.headers.iter().fold(text, |text, (_, value)| blot_out(&text, value))
}

fn redacted(lease: &Lease, mut failure: UpstreamFailure) -> UpstreamFailure {
    // In this order: half a secret at the cut would not be found.
    failure.message = redact(lease, &failure.message).chars().take(MAX_MESSAGE).collect();
    failure
}

/// An exchange whose answer is not what its protocol says.
pub fn broken(lease: &Lease, error: DecodeError) -> GatewayError {
    let provider = lease.spec.id.to_string();
    match error {
        DecodeError::Upstream(failure) => {
            let failure = redacted(lease, failure);
            GatewayError::Decode { provider, error: DecodeError::Upstream(failure) }
        }
        DecodeError::Malformed(text) => {
            let text = redact(lease, &text);
            GatewayError::Decode { provider, error: DecodeError::Malformed(text) }
        }
        error => GatewayError::Decode { provider, error },
    }
}

/// An exchange that the upstream refused: its own words without our secrets.
pub fn refuse(lease: &Lease, head: &ResponseHead, failure: UpstreamFailure) -> GatewayError {
    let failure = redacted(lease, failure);
    GatewayError::Refused {
        provider: lease.spec.id.to_string(),
        status: head.status,
        failure,
        retry_after: head.retry_after,
        forwarded: matches!(lease.credential, Credential::Forwarded(_)),
    }
}
