//! Gemini's generateContent.
//! Source: ai.google.dev/api/generate-content, 2026-11.

use super::{
    Adapter, DecodeError, Decoder, EncodeError, Encoded, Expect, HeaderText, ModelInfo,
    ResponseHead, Target, WireRequest, endpoint, frames,
};
use crate::{
    credentials::Credential,
    model::Prompt,
    registry::{GoogleMode, Quirks},
};

mod contents;
mod models;
mod request;
mod schema;
mod stream;

/// The adapter.
pub(super) struct Google;

/// What users paste.
const PASTED: [&str; 3] = ["/models", "/v1beta", "/v1"];

impl Adapter for Google {
    fn encode(&self, prompt: &Prompt, target: &Target<'_>) -> Result<Encoded, EncodeError> {
        let model = target.quirks.wire_model(target.model);
        let model = model.strip_prefix("models/").unwrap_or(model);
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._@/".contains(c);
        if model.contains("..") || !model.chars().all(legal) {
            // It becomes part of the address.
            return Err(EncodeError::Model(model.to_owned()));
        }
        let method =
            if prompt.stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
        let models = match target.quirks.google_mode {
            None => "/v1beta/models",
            Some(GoogleMode::Vertex) => "/v1/publishers/google/models",
        };
        let path = format!("{models}/{model}:{method}");
        let url = endpoint(target.base_url, &PASTED, &path)?;
        let (body, losses) = request::encode(prompt, target);
        let mut request = WireRequest::post(url, body);
        let accept = if prompt.stream { "text/event-stream" } else { "application/json" };
        request.set("accept", HeaderText::Plain(accept.into()));
        authorize(&mut request, target);
        Ok(Encoded { request, losses })
    }

    fn decoder(&self, head: &ResponseHead, expect: Expect) -> Box<dyn Decoder> {
        frames::decoder(head, expect, stream::GoogleStream::default())
    }

    fn relays(&self) -> bool {
        false
    }

    fn list_models(&self, target: &Target<'_>) -> Option<WireRequest> {
        let url = endpoint(target.base_url, &PASTED, "/v1beta/models?pageSize=1000").ok()?;
        let mut request = WireRequest::get(url);
        authorize(&mut request, target);
        Some(request)
    }

    fn parse_models(&self, body: &[u8], _: &Quirks) -> Result<Vec<ModelInfo>, DecodeError> {
        models::parse(body)
    }
}

/// The key goes into a header, never into the address.
fn authorize(request: &mut WireRequest, target: &Target<'_>) {
    if let Credential::Key(key) = target.credential {
        request.set("x-goog-api-key", HeaderText::Secret(key.clone()));
    }
    request.set_static(target.headers);
}
