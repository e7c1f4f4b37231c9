//! The calls: `POST /v1/responses`, `/v1/chat/completions` and `/v1/messages`. One path for all of
//! them; the protocol decides how a body is read and an answer written.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError as _,
    http::header::{HeaderName, HeaderValue},
    web::{Data, Payload},
};
use bytes::{Bytes, BytesMut};

use super::{
    body,
    failure::HttpFailure,
    gateway::{Gateway, trace_headers},
    record::CallRecord,
    stream::AnswerBody,
};
use crate::{
    actors::DispatchError,
    callers::{Call, Delivery, Emit, EmitterSettings, Protocol},
    error::GatewayError,
    exchange::retry,
    model::{Ids, Prompt},
    routing::Route,
    turn::{Answer, Attempts, Turn, compaction},
};

/// `POST /v1/responses`.
/// Source: platform.openai.com/docs/api-reference/responses.
pub async fn responses(
    request: HttpRequest,
    payload: Payload,
    gateway: Data<Gateway>,
) -> HttpResponse {
    run(Protocol::Responses, &request, payload, &gateway).await
}

/// `POST /v1/chat/completions`.
/// Source: platform.openai.com/docs/api-reference/chat.
pub async fn chat_completions(
    request: HttpRequest,
    payload: Payload,
    gateway: Data<Gateway>,
) -> HttpResponse {
    run(Protocol::ChatCompletions, &request, payload, &gateway).await
}

/// `POST /v1/messages`.
/// Source: docs.anthropic.com/en/api/messages.
pub async fn messages(
    request: HttpRequest,
    payload: Payload,
    gateway: Data<Gateway>,
) -> HttpResponse {
    run(Protocol::Messages, &request, payload, &gateway).await
}

/// Runs one call. What goes wrong before the answer begins is an HTTP status and the protocol's
/// error object; after that, the protocol's failure in the stream.
async fn run(
    protocol: Protocol,
    request: &HttpRequest,
    mut payload: Payload,
    gateway: &Gateway,
) -> HttpResponse {
    let mut record = gateway.record(protocol.label(), &trace_headers(request));
    let turn = gateway.begin(request, protocol, &record);
    let id = record.id();
    let begun = async {
        let body = read(request, &mut payload, &turn, gateway).await?;
        record.read();
        begin(protocol.parse(body)?, &turn, &mut record).await
    };
    let delivered = match begun.await {
        Ok((call, answer)) => deliver(protocol, call, answer, &turn, gateway, record),
        Err(error) => {
            record.failed(&error);
            Err(error)
        }
    };
    ran_on(&turn, delivered.unwrap_or_else(|error| failed(error, protocol, &id)))
}

/// What a failed call is told, with the id by which `ocx explain` knows it.
pub(super) fn failed(error: GatewayError, protocol: Protocol, id: &str) -> HttpResponse {
    let mut response = HttpFailure::new(error, protocol).error_response();
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Names the config that an answer ran on.
pub(super) fn ran_on(turn: &Turn, mut response: HttpResponse) -> HttpResponse {
    response.headers_mut().insert(GENERATION, HeaderValue::from(turn.snapshot.generation));
    response
}

/// Reads a call's body, unless we are on the way out.
///
/// # Errors
///
/// When we are, or the body cannot be taken in.
pub(super) async fn read(
    request: &HttpRequest,
    payload: &mut Payload,
    turn: &Turn,
    gateway: &Gateway,
) -> Result<Bytes, GatewayError> {
    if gateway.shared.lifecycle.is_draining() {
        return Err(GatewayError::ShuttingDown);
    }
    let limit = turn.snapshot.config.limits.max_body;
    Ok(body::read(request, payload, limit).await?)
}

/// Routes a call and waits for the beginning of its answer.
///
/// # Errors
///
/// When there is no route or no answer.
pub(super) async fn begin(
    mut call: Call,
    turn: &Turn,
    record: &mut CallRecord,
) -> Result<(Call, Answer), GatewayError> {
    let plan = turn.plan(&call.model, &call.prompt)?;
    turn.trace.asked(&call.prompt);
    let mut attempts = Attempts::since(record.read_at());
    let first = match go_through(&plan, &mut call, turn, record, &mut attempts).await {
        // Every target is left alone: better ask the first than nobody.
        Err(_) if plan.len() > 1 && attempts.left_alone == plan.len() && attempts.made == 0 => {
            attempts.forced = true;
            turn.tally.notes.then("every target is left alone, so the first is asked");
            go_through(&plan[..1], &mut call, turn, record, &mut attempts).await
        }
        first => first,
    };
    first.map(|answer| (call, answer))
}

/// Asks one route after the other, as long as nothing has been told to the caller.
async fn go_through(
    plan: &[Route],
    call: &mut Call,
    turn: &Turn,
    record: &mut CallRecord,
    attempts: &mut Attempts,
) -> Result<Answer, GatewayError> {
    let hold = turn.snapshot.config.limits.keepalive_interval;
    let retries = turn.snapshot.config.retries;
    for (n, route) in (1..).zip(plan) {
        record.routed(route, call.prompt.stream, &turn.snapshot);
        let prompt = asked(&call.prompt, route, turn);
        let error = match turn.start(&prompt, route, hold, attempts).await {
            Ok(answer) => {
                record.answered(&prompt);
                record.lost(&answer.losses);
                turn.answered(&call.model, &call.prompt, route);
                if let Cow::Owned(prompt) = prompt {
                    call.prompt = prompt;
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        if matches!(error, GatewayError::Dispatch(DispatchError::CircuitOpen { .. })) {
            attempts.left_alone += 1;
        }
        let next = plan.get(n).filter(|_| {
            attempts.are_left()
                && error.class().is_about_the_provider()
                && (retries.posts || !retry::may_be_billed(&error))
        });
        let Some(next) = next else { return Err(error) };
        let labels = [route.provider.as_str(), next.provider.as_str()];
        turn.metrics.failovers.with_label_values(&labels).inc();
        turn.tally.notes.then(format!("failed over to `{}`", next.provider));
        tracing::warn!(provider = %route.provider, combo = call.model, %error, "failover");
    }
    Err(GatewayError::Internal)
}

/// What a route is asked: the caller's question, or for a summary where it asks for a compaction that
/// the provider does not know.
fn asked<'p>(prompt: &'p Prompt, route: &Route, turn: &Turn) -> Cow<'p, Prompt> {
    if !prompt.compaction {
        return Cow::Borrowed(prompt);
    }
    let mut prompt = prompt.clone();
    if turn.compacts_natively(route) {
        prompt.compaction = false;
    } else {
        compaction::summarise(&mut prompt);
    }
    Cow::Owned(prompt)
}

/// The writer of an answer.
pub(super) fn emitter(
    protocol: Protocol,
    call: Call,
    answer: &Answer,
    turn: &Turn,
) -> Box<dyn Emit> {
    let settings = EmitterSettings {
        delivery: if call.prompt.stream { Delivery::Stream } else { Delivery::Whole },
        model: call.model,
        created_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        show_reasoning: call.prompt.reasoning.show,
        relay: answer.relays,
        tools: call.prompt.tools,
        max_retained: turn.snapshot.config.limits.max_retained,
        sealer: answer.sealer.clone(),
        include_usage: call.include_usage,
        compaction: call.prompt.compaction,
    };
    protocol.emitter(settings, Ids::new(rand::random()))
}

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GENERATION: HeaderName = HeaderName::from_static("x-ocx-config-generation");

fn deliver(
    protocol: Protocol,
    call: Call,
    mut answer: Answer,
    turn: &Turn,
    gateway: &Gateway,
    mut record: CallRecord,
) -> Result<HttpResponse, GatewayError> {
    let stream = call.prompt.stream;
    let emitter = emitter(protocol, call, &answer, turn);
    let id = emitter.id().to_owned();
    record.named(&id);
    // The one that the head of a relayed answer has.
    let relayed = answer.exchange.head().relayed.iter().filter(|_| answer.relays);
    relayed.filter(|(name, _)| REQUEST_ID == **name).for_each(|(_, id)| record.named(id));
    if !stream {
        // First, so that the head tells what its writer could not carry either.
        let document = document(&mut answer, emitter, &mut record)?;
        let mut response = head(&answer, &record, &id);
        return Ok(response.content_type("application/json").body(document));
    }
    let mut response = head(&answer, &record, &id);
    record.streaming();
    record.awaits(answer.waiting);
    response.insert_header(("x-accel-buffering", "no"));
    let lifecycle = Arc::clone(&gateway.shared.lifecycle);
    let limits = &turn.snapshot.config.limits;
    let body = AnswerBody::new(answer, emitter, limits, lifecycle, record);
    Ok(response.content_type("text/event-stream").body(body))
}

/// The headers of an answer: what a person needs to find out what happened to a call.
fn head(answer: &Answer, record: &CallRecord, id: &str) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response.insert_header((REQUEST_ID, id)).insert_header(("cache-control", "no-cache"));
    if record.losses().iter().next().is_some() {
        response.insert_header(("x-ocx-losses", record.losses().to_string()));
    }
    if answer.attempts > 1 {
        response.insert_header(("x-ocx-attempts", answer.attempts.to_string()));
    }
    if answer.relays {
        for (name, value) in &answer.exchange.head().relayed {
            response.insert_header((name.as_str(), value.as_str()));
        }
    }
    response
}

/// All events of an answer as one document.
///
/// # Errors
///
/// When they cannot be given on.
fn document(
    answer: &mut Answer,
    mut emitter: Box<dyn Emit>,
    record: &mut CallRecord,
) -> Result<Bytes, GatewayError> {
    let mut out = BytesMut::new();
    record.token();
    for event in std::mem::take(&mut answer.events) {
        record.trace().said(&event);
        record.relays(&event);
        if let Err(failure) = emitter.push(event, &mut out) {
            record.untranslatable(&failure);
            return Err(GatewayError::Answer(failure));
        }
    }
    let Some(terminal) = emitter.terminal() else {
        return Err(GatewayError::Internal);
    };
    record.lost(&emitter.losses());
    record.ended(terminal, emitter.usage());
    Ok(emitter.into_document())
}
