//! `POST /v1/messages/count_tokens`: how long a prompt is for the model it is meant for.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError as _,
    web::{Data, Payload},
};
use serde_json::json;

use super::{calls, failure::HttpFailure, gateway::Gateway, record::CallRecord};
use crate::{
    callers::{Call, Protocol, Terminal},
    error::GatewayError,
    exchange::Quota,
    model::{AssistantPart, Message, Part, Prompt},
    turn::Turn,
};

/// Says that no tokenizer counted.
const ESTIMATED: &str = "x-ocx-estimated";

/// Counts a prompt's tokens.
/// Source: docs.anthropic.com/en/api/messages-count-tokens.
pub async fn count_tokens(
    request: HttpRequest,
    mut payload: Payload,
    gateway: Data<Gateway>,
) -> HttpResponse {
    let mut record = gateway.record_beside_turns("count_tokens");
    let turn = gateway.begin(&request, Protocol::Messages, &record);
    let run = async {
        let body = calls::read(&request, &mut payload, &turn, &gateway).await?;
        let call = Protocol::Messages.parse(body)?;
        count(&call, &turn, &mut record).await
    };
    let response = match run.await {
        Ok((tokens, estimated)) => {
            let mut response = HttpResponse::Ok();
            if estimated {
                response.insert_header((ESTIMATED, "true"));
            }
            response.json(json!({ "input_tokens": tokens }))
        }
        Err(error) => {
            record.failed(&error);
            HttpFailure::new(error, Protocol::Messages).error_response()
        }
    };
    calls::ran_on(&turn, response)
}

/// The count of the provider, or an estimate where its protocol counts nothing.
async fn count(
    call: &Call,
    turn: &Turn,
    record: &mut CallRecord,
) -> Result<(u64, bool), GatewayError> {
    let route = turn.route(&call.model)?;
    record.routed(&route, false, &turn.snapshot);
    let prompt = &call.prompt;
    let counted = turn
        .fetch(
            &route,
            Quota::Own,
            |adapter, target| adapter.count_tokens(prompt, target),
            |adapter, body| adapter.parse_count(&body),
        )
        .await;
    let counted = match counted {
        // Many servers that speak the protocol count nothing.
        Err(GatewayError::Refused { status: 404 | 405 | 501, .. }) => None,
        counted => counted?,
    };
    record.ended(Terminal::Completed, None);
    Ok(counted.map_or_else(|| (estimate(prompt), true), |tokens| (tokens, false)))
}

/// Bytes of text per token, fewer than most text has: who plans with an estimate must not run over.
const BYTES_PER_TOKEN: usize = 3;
/// What an image costs at most in Claude's counting.
const TOKENS_PER_IMAGE: usize = 1_600;
/// Roles and separators of a message or tool.
const TOKENS_PER_MESSAGE: usize = 4;

fn estimate(prompt: &Prompt) -> u64 {
    let parts = |parts: &[Part]| -> usize {
        parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => tokens(text),
                Part::Image(_) => TOKENS_PER_IMAGE,
            })
            .sum()
    };
    let messages = prompt.messages.iter().map(|message| {
        TOKENS_PER_MESSAGE
            + match message {
                Message::User(said) | Message::Developer(said) => parts(said),
                Message::ToolResult(result) => parts(&result.content),
                Message::Assistant(said) => said
                    .iter()
                    .map(|part| match part {
                        AssistantPart::Text(text) => tokens(text),
                        AssistantPart::Reasoning { text, .. } => tokens(text),
                        AssistantPart::Call(call) => {
                            tokens(&call.arguments) + tokens(&call.name.name)
                        }
                    })
                    .sum(),
            }
    });
    let tools = prompt
        .tools
        .iter()
        .map(|tool| TOKENS_PER_MESSAGE + tokens(&tool.description) + tokens(tool.parameters.get()));
    let system = prompt.system.iter().map(|text| tokens(text));
    system.chain(messages).chain(tools).sum::<usize>() as u64
}

fn tokens(text: &str) -> usize {
    text.len().div_ceil(BYTES_PER_TOKEN)
}
