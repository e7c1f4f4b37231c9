//! OpenAI Responses as Azure serves it: the same bodies, another address and another header. The
//! model is the name of the deployment.
//! Source: learn.microsoft.com/azure/ai-foundry/openai/how-to/responses, 2026-11.

use super::{
    Adapter, Decoder, EncodeError, Encoded, Expect, HeaderText, ResponseHead, Target, WireRequest,
    endpoint,
    openai_responses::{decoder, post, request, responses_url},
};
use crate::{credentials::Credential, model::Prompt};

/// The adapter.
pub(super) struct AzureOpenAi;

/// Sent to addresses that are not of the `/v1/` form.
const DEFAULT_API_VERSION: &str = "2025-04-01-preview";
/// A header of the config that is a setting of the address.
const API_VERSION: &str = "api-version";

impl Adapter for AzureOpenAi {
    fn encode(&self, prompt: &Prompt, target: &Target<'_>) -> Result<Encoded, EncodeError> {
        let url = versioned(responses_url(target)?, target);
        let (body, losses) = request::encode(prompt, target, false)?;
        let mut request = post(url, body, prompt.stream);
        authorize(&mut request, target);
        Ok(Encoded { request, losses })
    }

    fn decoder(&self, head: &ResponseHead, expect: Expect) -> Box<dyn Decoder> {
        decoder(head, expect)
    }

    fn relays(&self) -> bool {
        true
    }

    fn list_models(&self, target: &Target<'_>) -> Option<WireRequest> {
        let url = endpoint(target.base_url, &["/responses", "/v1"], "/v1/models").ok()?;
        let mut request = WireRequest::get(versioned(url, target));
        authorize(&mut request, target);
        Some(request)
    }
}

fn versioned(url: String, target: &Target<'_>) -> String {
    if url.contains("/v1/") {
        return url;
    }
    let configured = target.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(API_VERSION));
    let version = configured.map_or(DEFAULT_API_VERSION, |(_, value)| value.as_str());
    format!("{url}?api-version={version}")
}

fn authorize(request: &mut WireRequest, target: &Target<'_>) {
    if let Credential::Key(key) = target.credential {
        request.set("api-key", HeaderText::Secret(key.clone()));
    }
    request.set_static(target.headers);
    request.headers.retain(|(name, _)| name != API_VERSION);
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::{callers::Protocol, registry::Quirks};

    #[test]
    fn the_key_has_its_own_header_and_the_version_is_no_header() {
        let prompt = Protocol::Responses.parse(r#"{"model":"m"}"#.into()).expect("a body").prompt;
        let headers = [("api-version".to_owned(), "2030-01-01".to_owned())];
        let encoded = |base_url: &str, path: Option<&str>| {
            let quirks = Quirks { responses_path: path.map(str::to_owned), ..Quirks::default() };
            let target = Target {
                model: "deployed",
                base_url,
                quirks: &quirks,
                headers: &headers,
                credential: &Credential::Key(SecretString::from("k-1")),
                sealer: None,
            };
            AzureOpenAi.encode(&prompt, &target).expect("a request").request
        };
        let request = encoded("https://r.openai.azure.com/openai", None);
        assert_eq!(request.url, "https://r.openai.azure.com/openai/v1/responses");
        let names: Vec<_> = request.headers.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["content-type", "accept", "api-key"]);
        assert_eq!(request.body, br#"{"model":"deployed"}"#);
        let old = encoded("https://r.openai.azure.com/openai", Some("/responses"));
        assert_eq!(old.url, "https://r.openai.azure.com/openai/responses?api-version=2030-01-01");
    }
}
