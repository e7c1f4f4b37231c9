//! `POST /v1/responses/compact`: the history that a conversation goes on with, shorter.
//!
//! A provider that compacts does it itself. For any other, its model writes a summary, and the answer
//! is the recent messages of the user and that summary.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Payload},
};
use bytes::Bytes;
use serde_json::json;

use super::{
    calls,
    gateway::{Gateway, trace_headers},
    record::CallRecord,
};
use crate::{
    adapters::responses_usage,
    callers::{Call, Protocol, Terminal},
    error::GatewayError,
    exchange::Quota,
    model::{Event, FinishReason, Message, Part, Prompt},
    turn::{Turn, compaction},
    wire,
};

/// How much of what the user said is kept beside the summary, in bytes.
const KEPT_USER_TEXT: usize = 80 << 10;

/// Compacts a conversation.
/// Source: platform.openai.com/docs/api-reference/responses/compact; what older Codex versions send.
pub async fn compact(
    request: HttpRequest,
    mut payload: Payload,
    gateway: Data<Gateway>,
) -> HttpResponse {
    let mut record = gateway.record("responses_compact", &trace_headers(&request));
    let turn = gateway.begin(&request, Protocol::Responses, &record);
    let run = async {
        let body = calls::read(&request, &mut payload, &turn, &gateway).await?;
        record.read();
        let call = Protocol::Responses.parse(body)?;
        answer(call, &turn, &mut record).await
    };
    let response = match run.await {
        Ok(document) => HttpResponse::Ok()
            .insert_header((calls::REQUEST_ID, record.id()))
            .content_type("application/json")
            .body(document),
        Err(error) => {
            record.failed(&error);
            calls::failed(error, Protocol::Responses, &record.id())
        }
    };
    calls::ran_on(&turn, response)
}

async fn answer(
    mut call: Call,
    turn: &Turn,
    record: &mut CallRecord,
) -> Result<Bytes, GatewayError> {
    let route = turn.route(&call.model)?;
    call.prompt.stream = false;
    call.prompt.compaction = false;
    if turn.compacts_natively(&route) {
        record.routed(&route, false, &turn.snapshot);
        let prompt = &call.prompt;
        let native = turn
            .fetch(
                &route,
                Quota::Calls,
                |adapter, target| adapter.compact(prompt, target),
                |_, body| Ok(body),
            )
            .await?
            // Every protocol that relays compacts.
            .ok_or(GatewayError::Internal)?;
        record.answered(prompt);
        record.ended(Terminal::Completed, responses_usage(&native));
        return Ok(native.into());
    }
    let kept = kept_messages(&call.prompt);
    compaction::summarise(&mut call.prompt);
    let (_, answer) = calls::begin(call, turn, record).await?;
    let provider = route.provider.to_string();
    let (mut summary, mut usage, mut finish) = (String::new(), None, None);
    for event in answer.events {
        match event {
            Event::TextDelta(text) => summary.push_str(&text),
            Event::Usage(counted) => usage = Some(counted),
            Event::Finished(reason) => finish = Some(reason),
            _ => {}
        }
    }
    // An empty or cut summary would erase the session.
    let reason = match finish {
        Some(FinishReason::Stop) if !summary.trim().is_empty() => {
            record.ended(Terminal::Completed, usage);
            return Ok(document(kept, &summary));
        }
        Some(FinishReason::Stop) => "the model wrote nothing",
        Some(FinishReason::Length) => "the token limit cut it",
        _ => "the answer was stopped",
    };
    record.aborted(usage);
    Err(GatewayError::NoSummary { provider, reason })
}

/// The newest texts of the user, oldest first, as many as fit, and of the newest at least its beginning.
/// Summaries of before are no such texts: the new one tells what they told.
fn kept_messages(prompt: &Prompt) -> Vec<String> {
    let mut room = KEPT_USER_TEXT;
    let texts = prompt.messages.iter().rev().filter_map(|message| match message {
        Message::User(parts) => Some(
            parts
                .iter()
                .filter_map(|part| match part {
                    Part::Text(text) => Some(text.as_str()),
                    Part::Image(_) => None,
                })
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        _ => None,
    });
    let mut kept: Vec<String> = Vec::new();
    for mut text in texts.filter(|text| !text.is_empty() && !wire::compaction::is_continued(text)) {
        if text.len() > room {
            if !kept.is_empty() {
                break;
            }
            let cut = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            text.truncate(cut);
        }
        room -= text.len();
        kept.push(text);
    }
    kept.reverse();
    kept
}

fn document(kept: Vec<String>, summary: &str) -> Bytes {
    let said = |text: &str| json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]});
    let mut output: Vec<_> = kept.iter().map(|text| said(text)).collect();
    output.push(said(&wire::compaction::continued(summary)));
    json!({ "output": output }).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(texts: &[&str]) -> Vec<String> {
        let said = |text: &&str| json!({"role": "user", "content": text});
        let input: Vec<_> = texts.iter().map(said).collect();
        let body = json!({"model": "m", "input": input}).to_string();
        kept_messages(&Protocol::Responses.parse(body.into()).expect("a body").prompt)
    }

    #[test]
    fn the_newest_texts_stay_and_old_summaries_go() {
        let summary = wire::compaction::continued("before");
        assert_eq!(kept(&["a", &summary, "b"]), ["a", "b"]);
        let half = "x".repeat(KEPT_USER_TEXT / 2 + 1);
        assert_eq!(kept(&[&half, "a", &half]), ["a", half.as_str()]);
        let long = "ü".repeat(KEPT_USER_TEXT);
        assert_eq!(kept(&["old", &long]), ["ü".repeat(KEPT_USER_TEXT / 2)]);
    }
}
