//! `POST /v1/responses`.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use actix_web::{
    HttpRequest, HttpResponse, ResponseError as _,
    http::header::{HeaderName, HeaderValue},
    web::{Data, Payload},
};
use bytes::BytesMut;

use super::{body, failure::HttpFailure, gateway::Gateway, record::CallRecord, stream::AnswerBody};
use crate::{
    error::GatewayError,
    model::Ids,
    responses::{self, Call, Delivery, Emitter, EmitterSettings},
    turn::{Answer, Turn},
};

/// Runs one turn.
///
/// # Errors
///
/// Before the answer begins: an HTTP status and an OpenAI error object. After that:
/// `response.failed` in the stream.
/// Source: platform.openai.com/docs/api-reference/responses.
pub async fn create(
    request: HttpRequest,
    mut payload: Payload,
    gateway: Data<Gateway>,
) -> Result<HttpResponse, HttpFailure> {
    let mut record = gateway.record("responses");
    let turn = gateway.begin(&request);
    let begun = async {
        if gateway.shared.lifecycle.is_draining() {
            return Err(GatewayError::ShuttingDown);
        }
        let limit = turn.snapshot.config.limits.max_body;
        let body = body::read(&request, &mut payload, limit).await?;
        let call = responses::parse(body)?;
        let route = turn.route(&call.model)?;
        record.routed(&route, call.prompt.stream, &turn.snapshot);
        // A relay passes on what a translation would have lost.
        if !turn.relays(&route) {
            record.lost(&call.prompt.losses);
        }
        let hold = turn.snapshot.config.limits.keepalive_interval;
        let answer = turn.start(&call.prompt, &route, hold).await?;
        Ok((call, answer))
    };
    match begun.await {
        Ok((call, answer)) => {
            record.answered(answer.attempts);
            record.lost(&answer.losses);
            deliver(call, answer, &turn, &gateway, record)
        }
        Err(error) => {
            record.failed(&error);
            let mut response = HttpFailure::from(error).error_response();
            let generation = HeaderValue::from(turn.snapshot.generation);
            response.headers_mut().insert(GENERATION, generation);
            Ok(response)
        }
    }
}

/// Names the config that an answer ran on.
const GENERATION: HeaderName = HeaderName::from_static("x-ocx-config-generation");

fn deliver(
    call: Call,
    answer: Answer,
    turn: &Turn,
    gateway: &Gateway,
    mut record: CallRecord,
) -> Result<HttpResponse, HttpFailure> {
    let delivery = if call.prompt.stream { Delivery::Stream } else { Delivery::Whole };
    let settings = EmitterSettings {
        delivery,
        model: call.model,
        created_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        show_reasoning: call.prompt.reasoning.show,
        relay: answer.relays,
        tools: call.prompt.tools,
        max_retained: turn.snapshot.config.limits.max_retained,
    };
    let emitter = Emitter::new(settings, Ids::new(rand::random()));

    let mut response = HttpResponse::Ok();
    response
        .insert_header(("x-request-id", emitter.response_id()))
        .insert_header((GENERATION, HeaderValue::from(turn.snapshot.generation)))
        .insert_header(("cache-control", "no-cache"));
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
    match delivery {
        Delivery::Stream => {
            record.streaming();
            response.insert_header(("x-accel-buffering", "no"));
            let lifecycle = Arc::clone(&gateway.shared.lifecycle);
            let limits = &turn.snapshot.config.limits;
            let body = AnswerBody::new(answer, emitter, limits, lifecycle, record);
            Ok(response.content_type("text/event-stream").body(body))
        }
        Delivery::Whole => match document(answer, emitter, &mut record) {
            Ok(document) => Ok(response.content_type("application/json").body(document)),
            Err(error) => Err(error.into()),
        },
    }
}

/// All events of an answer as one document.
fn document(
    answer: Answer,
    mut emitter: Emitter,
    record: &mut CallRecord,
) -> Result<bytes::Bytes, GatewayError> {
    let mut out = BytesMut::new();
    record.token();
    for event in answer.events {
        if let Err(failure) = emitter.push(event, &mut out) {
            record.untranslatable(&failure);
            return Err(GatewayError::Answer(failure));
        }
    }
    let Some(terminal) = emitter.terminal() else {
        return Err(GatewayError::Internal);
    };
    record.ended(terminal, emitter.usage());
    Ok(emitter.into_document())
}
