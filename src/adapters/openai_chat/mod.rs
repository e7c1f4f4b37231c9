//! OpenAI Chat Completions, and everything compatible with it.
//! Source: platform.openai.com/docs/api-reference/chat; deviations are named in `Quirks`.

use super::{
    Adapter, Decoder, EncodeError, Encoded, Expect, HeaderText, ResponseHead, Target, WireRequest,
    endpoint, frames, models,
};
use crate::model::Prompt;

mod history;
mod request;
mod stream;

/// The adapter.
pub(super) struct OpenAiChat;

impl Adapter for OpenAiChat {
    fn encode(&self, prompt: &Prompt, target: &Target<'_>) -> Result<Encoded, EncodeError> {
        let url = endpoint(target.base_url, &["/chat/completions"], "/chat/completions")?;
        let (body, losses) = request::encode(prompt, target);
        let mut request = WireRequest::post(url, body);
        let accept = if prompt.stream { "text/event-stream" } else { "application/json" };
        request.set("accept", HeaderText::Plain(accept.into()));
        request.set_bearer(target.credential);
        request.set_static(target.headers);
        Ok(Encoded { request, losses })
    }

    fn decoder(&self, head: &ResponseHead, expect: Expect) -> Box<dyn Decoder> {
        let chat = stream::ChatStream::new(expect.eof_tolerant, expect.keeps_reasoning);
        frames::decoder(head, expect, chat)
    }

    fn relays(&self) -> bool {
        false
    }

    fn list_models(&self, target: &Target<'_>) -> Option<WireRequest> {
        let discovery = target.quirks.model_discovery.as_ref();
        let url =
            models::url(target.base_url, &["/chat/completions"], "/models", discovery).ok()?;
        let mut request = WireRequest::get(url);
        request.set_bearer(target.credential);
        request.set_static(target.headers);
        Some(request)
    }
}
