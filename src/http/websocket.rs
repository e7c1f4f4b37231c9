//! The Responses API over WebSocket: `GET /v1/responses` with an upgrade.
//! Source: Codex CLI 0.169.0 on the wire, section 7 of our protocol notes.
//!
//! Each `response.create` is a turn like any other, and its stream is the same [`AnswerBody`]; its
//! frames go out as messages. A turn may go on from the last answer of its connection, of which the
//! connection therefore keeps the history.

use std::{pin::pin, sync::Arc, time::Duration};

use actix_rt::time::{Instant, timeout};
use actix_web::{
    HttpRequest, HttpResponse,
    body::MessageBody as _,
    http::{StatusCode, header},
    web::{Data, Payload},
};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, Session};
use bytes::Bytes;
use futures_util::future::{Either, poll_fn, select};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    calls,
    failure::plain,
    gateway::{Gateway, trace_headers},
    routes::wrong_method,
    stream::AnswerBody,
};
use crate::{
    callers::{ParseError, Protocol},
    credentials::CallerAuth,
    error::{BodyError, GatewayError},
    telemetry::traces::TraceHeaders,
    wire::{
        json::{Edit, Str, edit_object},
        sse::SseParser,
    },
};

/// How long a connection may live; its caller then opens another, as OpenAI has it do.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How often a waiting connection looks whether we go down.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest frame that we write. An answer is bounded before (`max_retained`); every byte of it may
/// need an escape of six.
const MAX_FRAME: usize = 256 << 20;

/// Takes an upgrade, if the config serves WebSocket. Else it is answered with the one status that
/// makes Codex go on over HTTP at once; any other costs it five visible retries.
pub async fn open(request: HttpRequest, payload: Payload, gateway: Data<Gateway>) -> HttpResponse {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return wrong_method(request).await;
    }
    let config = Arc::clone(&gateway.shared.cell.load().config);
    if !config.websockets || gateway.shared.lifecycle.is_draining() {
        let message = "WebSocket is not served here (`websockets` in the config); use HTTP";
        return plain(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message);
    }
    let caller = gateway.caller(&request);
    match actix_ws::handle(&request, payload) {
        Ok((response, session, messages)) => {
            let limit = config.limits.max_body;
            let messages = messages
                .max_frame_size(limit)
                .aggregate_continuations()
                .max_continuation_size(limit);
            let trace = trace_headers(&request);
            let connection = Connection { gateway, caller, trace, session, last: None, limit };
            actix_rt::spawn(connection.serve(messages));
            response
        }
        Err(error) => plain(StatusCode::BAD_REQUEST, "bad_upgrade", &error.to_string()),
    }
}

struct Connection {
    gateway: Data<Gateway>,
    caller: CallerAuth,
    /// The trace that the upgrade belonged to, and so all turns.
    trace: TraceHeaders,
    session: Session,
    /// The last answer that was completed.
    last: Option<Remembered>,
    /// Most bytes of history that are kept.
    limit: usize,
}

/// A history: all items up to and with an answer, as JSON texts joined by commas.
struct Remembered {
    response_id: String,
    items: String,
}

/// What a message asks.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Create<'a> {
    #[serde(borrow, rename = "type")]
    kind: Str<'a>,
    generate: Option<bool>,
    #[serde(borrow)]
    previous_response_id: Str<'a>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// The connection is gone.
struct Gone;

impl Connection {
    async fn serve(mut self, mut messages: AggregatedMessageStream) {
        let opened = Instant::now();
        let mut next = None;
        loop {
            let text = match next.take() {
                Some(text) => text,
                None => match self.wait(&mut messages, opened).await {
                    Some(text) => text,
                    None => break,
                },
            };
            next = match self.turn(&text, &mut messages).await {
                Ok(next) => next,
                Err(Gone) => break,
            };
        }
        let _ = self.session.close(Some(CloseCode::Normal.into())).await;
    }

    /// Waits for the next request; nothing when the connection is over.
    async fn wait(
        &mut self,
        messages: &mut AggregatedMessageStream,
        opened: Instant,
    ) -> Option<String> {
        loop {
            if opened.elapsed() > LIFETIME || self.gateway.shared.lifecycle.is_draining() {
                return None;
            }
            let Ok(message) = timeout(LOOK_EVERY, messages.recv()).await else { continue };
            if let Some(text) = self.request(message?.ok()?).await.ok()? {
                return Some(text);
            }
        }
    }

    /// The request in a message, if it is one.
    async fn request(&mut self, message: AggregatedMessage) -> Result<Option<String>, Gone> {
        match message {
            AggregatedMessage::Text(text) => Ok(Some(text.to_string())),
            AggregatedMessage::Ping(payload) => {
                self.session.pong(&payload).await.map(|()| None).map_err(|_| Gone)
            }
            AggregatedMessage::Close(_) => Err(Gone),
            AggregatedMessage::Binary(_) | AggregatedMessage::Pong(_) => Ok(None),
        }
    }

    /// Runs a turn. A new request takes its place, and a caller that leaves ends it.
    async fn turn(
        &mut self,
        text: &str,
        messages: &mut AggregatedMessageStream,
    ) -> Result<Option<String>, Gone> {
        let Ok(create) = serde_json::from_str::<Create<'_>>(text) else {
            let error = ParseError::NotJson("a message is one JSON object".to_owned());
            return self.refuse(&error.into(), None).await.map(|()| None);
        };
        if create.kind.get() != Some("response.create") {
            // `response.processed`, and what is to come.
            return Ok(None);
        }
        let mut other = self.session.clone();
        let mut answer = pin!(self.answer(text, &create));
        loop {
            let message = match select(answer.as_mut(), pin!(messages.recv())).await {
                Either::Left((done, _)) => return done.map(|()| None),
                Either::Right((message, _)) => message,
            };
            match message {
                Some(Ok(AggregatedMessage::Text(text))) => {
                    let kind = serde_json::from_str::<Create<'_>>(&text).map(|create| create.kind);
                    if kind.is_ok_and(|kind| kind.get() == Some("response.create")) {
                        return Ok(Some(text.to_string()));
                    }
                }
                Some(Ok(AggregatedMessage::Ping(payload))) => {
                    other.pong(&payload).await.map_err(|_| Gone)?;
                }
                Some(Ok(AggregatedMessage::Binary(_) | AggregatedMessage::Pong(_))) => {}
                Some(Ok(AggregatedMessage::Close(_)) | Err(_)) | None => return Err(Gone),
            }
        }
    }

    async fn answer(&mut self, text: &str, create: &Create<'_>) -> Result<(), Gone> {
        let items = match self.items(create) {
            Ok(items) => items,
            Err(error) => return self.refuse(&error, None).await,
        };
        if create.generate == Some(false) {
            return self.warm_up(items).await;
        }
        let mut record = self.gateway.record("responses_websocket", &self.trace);
        let turn = self.gateway.turn(self.caller.clone(), Some(&record));
        let begun = async {
            if self.gateway.shared.lifecycle.is_draining() {
                return Err(GatewayError::ShuttingDown);
            }
            let call = Protocol::Responses.parse(body(text, &items)?)?;
            calls::begin(call, &turn, &mut record).await
        };
        let (call, answer) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                record.failed(&error);
                return self.refuse(&error, Some(&record.id())).await;
            }
        };
        let emitter = calls::emitter(Protocol::Responses, call, &answer, &turn);
        record.named(emitter.id());
        record.streaming();
        record.awaits(answer.waiting);
        let lifecycle = Arc::clone(&self.gateway.shared.lifecycle);
        let limits = &turn.snapshot.config.limits;
        let body = AnswerBody::new(answer, emitter, limits, lifecycle, record);
        self.send(body, items).await
    }

    /// All items that a request is about: those of the answer it goes on from, and its own.
    fn items(&self, create: &Create<'_>) -> Result<String, GatewayError> {
        let own = match create.input {
            None => String::new(),
            Some(input) => inner_items(input)?,
        };
        let Some(previous) = create.previous_response_id.non_empty() else {
            return Ok(own);
        };
        let last = self.last.as_ref().filter(|last| last.response_id == previous);
        let last = last.ok_or(GatewayError::NoHistory)?;
        if last.items.len() + own.len() > self.limit {
            // What one request over HTTP could not carry either.
            return Err(BodyError::TooLarge(self.limit).into());
        }
        Ok(joined(&last.items, &own))
    }

    /// Codex sends what will not change before the first question; nothing is asked upstream yet.
    async fn warm_up(&mut self, items: String) -> Result<(), Gone> {
        let response_id = format!("resp_{:032x}", rand::random::<u128>());
        for (kind, status) in
            [("response.created", "in_progress"), ("response.completed", "completed")]
        {
            let response = json!({"id": response_id, "object": "response", "status": status,
                "output": [], "usage": null});
            let sequence_number = u8::from(status == "completed");
            let event =
                json!({"type": kind, "sequence_number": sequence_number, "response": response});
            self.session.text(event.to_string()).await.map_err(|_| Gone)?;
        }
        self.keep(response_id, items);
        Ok(())
    }

    /// Sends the frames of an answer, and remembers it if it is completed.
    async fn send(&mut self, body: AnswerBody, mut items: String) -> Result<(), Gone> {
        let mut body = pin!(body);
        let mut parser = SseParser::new(MAX_FRAME);
        while let Some(Ok(bytes)) = poll_fn(|task| body.as_mut().poll_next(task)).await {
            parser.push(&bytes);
            // Our own frames are well-formed and within the limit.
            while let Some(Ok(frame)) = parser.next_frame() {
                let Ok(data) = std::str::from_utf8(frame.data) else { continue };
                if data == "[DONE]" {
                    continue;
                }
                self.remember(frame.event, data, &mut items);
                self.session.text(data.to_owned()).await.map_err(|_| Gone)?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, kind: &str, data: &str, items: &mut String) {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Frame<'a> {
            #[serde(borrow)]
            item: Option<&'a RawValue>,
            #[serde(borrow)]
            response: Option<Identified<'a>>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Identified<'a> {
            #[serde(borrow)]
            id: Str<'a>,
        }
        if !matches!(kind, "response.output_item.done" | "response.completed") {
            return;
        }
        let frame: Frame<'_> = serde_json::from_str(data).unwrap_or_default();
        if let ("response.output_item.done", Some(item)) = (kind, frame.item) {
            *items = joined(items, item.get());
        } else if let ("response.completed", Some(response)) = (kind, frame.response) {
            self.keep(response.id.or_empty().to_owned(), std::mem::take(items));
        }
    }

    /// What is too much to keep is not kept: the caller then sends everything again.
    fn keep(&mut self, response_id: String, items: String) {
        self.last = (items.len() <= self.limit).then_some(Remembered { response_id, items });
    }

    async fn refuse(&mut self, error: &GatewayError, id: Option<&str>) -> Result<(), Gone> {
        let failure = error.failure();
        let mut headers = json!({});
        if let Some(id) = id {
            headers["x-request-id"] = id.into();
        }
        if let Some(seconds) = failure.retry_after {
            headers["retry-after"] = seconds.to_string().into();
        }
        let event = json!({"type": "error", "status": failure.status, "headers": headers,
            "error": {"type": failure.kind, "code": failure.code, "message": failure.message, "param": null}});
        self.session.text(event.to_string()).await.map_err(|_| Gone)
    }
}

/// The elements of `input`, without the brackets; a text becomes a message.
fn inner_items(input: &RawValue) -> Result<String, GatewayError> {
    let text = input.get().trim();
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return Ok(inner.trim().to_owned());
    }
    match serde_json::from_str::<String>(text) {
        Ok(said) => Ok(json!({"type": "message", "role": "user", "content": said}).to_string()),
        Err(_) => Err(ParseError::Invalid {
            pointer: "/input".to_owned(),
            reason: "a list of items or a text is expected".to_owned(),
        }
        .into()),
    }
}

fn joined(first: &str, second: &str) -> String {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second.to_owned(),
        (_, true) => first.to_owned(),
        _ => format!("{first},{second}"),
    }
}

/// The body that the same request has over HTTP.
fn body(text: &str, items: &str) -> Result<Bytes, GatewayError> {
    let edits = [
        ("type", Edit::Remove),
        ("generate", Edit::Remove),
        ("previous_response_id", Edit::Remove),
        ("stream", Edit::Set("true".to_owned())),
        ("input", Edit::Set(format!("[{items}]"))),
    ];
    let edited = edit_object(text.as_bytes(), &edits);
    Ok(edited.map_err(|error| ParseError::NotJson(error.to_string()))?.into())
}
