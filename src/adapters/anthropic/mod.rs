//! Anthropic Messages, and what is compatible with it.
//! Source: docs.anthropic.com/en/api/messages, 2026-11; deviations are named in `Quirks`.

use super::{
    Adapter, DecodeError, Decoder, EncodeError, Encoded, Expect, HeaderText, ResponseHead, Target,
    WireRequest, endpoint, frames,
};
use crate::{credentials::Credential, model::Prompt, registry::KeyTransport};

mod ids;
mod images;
mod messages;
mod request;
mod stream;
mod thinking;

/// The adapter.
pub(super) struct Anthropic;

/// What users paste.
const PASTED: [&str; 2] = ["/messages", "/v1"];
const VERSION: &str = "2023-06-01";

impl Adapter for Anthropic {
    fn encode(&self, prompt: &Prompt, target: &Target<'_>) -> Result<Encoded, EncodeError> {
        let url = endpoint(target.base_url, &PASTED, "/v1/messages")?;
        let (body, losses) = request::encode(prompt, target);
        let mut request = WireRequest::post(url, body);
        let accept = if prompt.stream { "text/event-stream" } else { "application/json" };
        request.set("accept", HeaderText::Plain(accept.into()));
        authorize(&mut request, target);
        Ok(Encoded { request, losses })
    }

    fn decoder(&self, head: &ResponseHead, expect: Expect) -> Box<dyn Decoder> {
        frames::decoder(head, expect, stream::AnthropicStream::new(expect.escapes_tool_names))
    }

    fn relays(&self) -> bool {
        false
    }

    fn list_models(&self, target: &Target<'_>) -> Option<WireRequest> {
        let url = endpoint(target.base_url, &PASTED, "/v1/models?limit=1000").ok()?;
        let mut request = WireRequest::get(url);
        authorize(&mut request, target);
        Some(request)
    }

    fn count_tokens(
        &self,
        prompt: &Prompt,
        target: &Target<'_>,
    ) -> Option<Result<WireRequest, EncodeError>> {
        let url = endpoint(target.base_url, &PASTED, "/v1/messages/count_tokens");
        Some(url.map(|url| {
            let mut request = WireRequest::post(url, request::countable(prompt, target));
            authorize(&mut request, target);
            request
        }))
    }

    fn parse_count(&self, body: &[u8]) -> Result<u64, DecodeError> {
        let value: serde_json::Value = serde_json::from_slice(body).map_err(frames::json_error)?;
        value["input_tokens"]
            .as_u64()
            .ok_or_else(|| DecodeError::Malformed("no token count".to_owned()))
    }
}

/// Demanded of tokens that a login brought.
const OAUTH_BETA: &str = "oauth-2025-04-20";
const BETA: &str = "anthropic-beta";

fn authorize(request: &mut WireRequest, target: &Target<'_>) {
    request.set("anthropic-version", HeaderText::Plain(VERSION.into()));
    match (target.credential, target.quirks.api_key_transport) {
        (Credential::Key(key), transport) if transport != Some(KeyTransport::Bearer) => {
            request.set("x-api-key", HeaderText::Secret(key.clone()));
        }
        _ => request.set_bearer(target.credential),
    }
    request.set_static(target.headers);
    if let Credential::Account { .. } = target.credential {
        // Beside the flags of the config, not in their place.
        let own = target.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(BETA));
        let flags = own.map_or(OAUTH_BETA.to_owned(), |(_, own)| format!("{own},{OAUTH_BETA}"));
        request.set(BETA, HeaderText::Plain(flags.into()));
    }
}
