//! OpenAI Responses: the caller's own protocol, relayed with as few changes as the upstream needs.
//! Source: Codex CLI 0.169.0 on the wire; platform.openai.com/docs/api-reference/responses.

use super::{
    Adapter, Decoder, EncodeError, Encoded, Expect, HeaderText, ResponseHead, Target, WireRequest,
    endpoint, frames, models,
};
use crate::{
    credentials::Credential,
    model::Prompt,
    wire::json::{Edit, edit_object},
};

mod compose;
pub(super) mod request;
mod stream;
mod translate;

pub use stream::document_usage;

/// The adapter.
pub(super) struct OpenAiResponses;

impl Adapter for OpenAiResponses {
    fn encode(&self, prompt: &Prompt, target: &Target<'_>) -> Result<Encoded, EncodeError> {
        let forwards = forwards(target);
        let url = if forwards {
            endpoint(target.base_url, &["/responses"], "/responses")?
        } else {
            responses_url(target)?
        };
        let (body, losses) = request::encode(prompt, target, forwards)?;
        let mut request = post(url, body, forwards || prompt.stream);
        // The caller's own login must win over static headers; a key may be overridden by them.
        if forwards {
            request.set_static(target.headers);
            request.set_bearer(target.credential);
        } else {
            request.set_bearer(target.credential);
            request.set_static(target.headers);
        }
        Ok(Encoded { request, losses })
    }

    fn decoder(&self, head: &ResponseHead, expect: Expect) -> Box<dyn Decoder> {
        decoder(head, expect)
    }

    fn relays(&self) -> bool {
        true
    }

    fn compact(
        &self,
        prompt: &Prompt,
        target: &Target<'_>,
    ) -> Option<Result<WireRequest, EncodeError>> {
        if target.quirks.native_compaction != Some(true) {
            return None;
        }
        Some(self.encode(prompt, target).and_then(|Encoded { mut request, .. }| {
            request.url.push_str("/compact");
            // It answers with a document, always.
            let edits = [("stream", Edit::Remove), ("store", Edit::Remove)];
            request.body = edit_object(&request.body, &edits)
                .map_err(|error| EncodeError::Body(error.to_string()))?;
            request.set("accept", HeaderText::Plain("application/json".into()));
            Ok(request)
        }))
    }

    fn list_models(&self, target: &Target<'_>) -> Option<WireRequest> {
        if forwards(target) {
            return None;
        }
        // A provider whose calls go to no version of ours lists its models beside them.
        let (pasted, usual): (&[&str], _) = match &target.quirks.responses_path {
            Some(_) => (&["/responses"], "/models"),
            None => (&["/responses", "/v1"], "/v1/models"),
        };
        let discovery = target.quirks.model_discovery.as_ref();
        let url = models::url(target.base_url, pasted, usual, discovery).ok()?;
        let mut request = WireRequest::get(url);
        request.set_bearer(target.credential);
        request.set_static(target.headers);
        Some(request)
    }
}

/// Whether the caller's own login is relayed.
fn forwards(target: &Target<'_>) -> bool {
    matches!(target.credential, Credential::Forwarded(_))
}

/// Where a key's calls go.
pub(super) fn responses_url(target: &Target<'_>) -> Result<String, EncodeError> {
    let path = target.quirks.responses_path.as_deref().unwrap_or("/v1/responses");
    let pasted: &[&str] = match &target.quirks.responses_path {
        Some(_) => &["/responses"],
        None => &["/responses", "/v1"],
    };
    endpoint(target.base_url, pasted, path)
}

/// A call without its credential.
pub(super) fn post(url: String, body: Vec<u8>, streams: bool) -> WireRequest {
    let mut request = WireRequest::post(url, body);
    let accept = if streams { "text/event-stream" } else { "application/json" };
    request.set("accept", HeaderText::Plain(accept.into()));
    request
}

/// Relays to callers of the same protocol, and translates for others.
pub(super) fn decoder(head: &ResponseHead, expect: Expect) -> Box<dyn Decoder> {
    if expect.relay {
        frames::decoder(head, expect, stream::Relay::new(expect.stream))
    } else {
        frames::decoder(head, expect, translate::Translation::default())
    }
}
