//! The HTTP that the `oauth2` crate wants, over [`Upstream`].

use std::{future::Future, pin::Pin, time::Duration};

use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse, http};
use serde_json::{Map, Value, json};

use crate::{
    adapters::{HeaderText, WireRequest},
    registry::TokenFormat,
    upstream::{Upstream, UpstreamError},
};

/// How long one call to an authorisation server may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why there is no answer to what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TransportError {
    /// The server has not seen the request.
    #[error("the authorisation server cannot be reached: {0}")]
    NotSent(UpstreamError),
    /// The server may have seen it, and may have done what it asks.
    #[error("the authorisation server gave no answer: {0}")]
    Unanswered(UpstreamError),
    /// The server answered with an error of its own; it may have done what was asked.
    #[error("the authorisation server answered with status {0}")]
    Failed(u16),
    /// The server wants fewer requests.
    #[error("the authorisation server wants fewer requests")]
    Throttled,
}

/// One server's way of being asked.
#[derive(Clone)]
pub(super) struct Http {
    pub upstream: Upstream,
    pub format: TokenFormat,
    pub headers: Vec<(String, String)>,
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, TransportError>> + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let (status, body) = self.send(self.translate(&request)).await?;
            let body =
                if (200..300).contains(&status) { tidy(body) } else { tidy_error(status, body) };
            // The crate knows one good status.
            let status = if (200..300).contains(&status) { 200 } else { status };
            let response = http::Response::builder()
                .status(status)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body);
            response.map_err(|_| TransportError::Failed(status))
        })
    }
}

impl Http {
    fn translate(&self, request: &HttpRequest) -> WireRequest {
        let url = request.uri().to_string();
        let (body, kind) = match self.format {
            TokenFormat::Form => (request.body().clone(), "application/x-www-form-urlencoded"),
            TokenFormat::Json => {
                let fields: Map<String, Value> = url::form_urlencoded::parse(request.body())
                    .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
                    .collect();
                (Value::from(fields).to_string().into_bytes(), "application/json")
            }
        };
        let mut wire = WireRequest::post(url, body);
        wire.set("content-type", HeaderText::Plain(kind.into()));
        wire.set("accept", HeaderText::Plain("application/json".into()));
        wire.set_static(&self.headers);
        wire
    }

    /// Sends a request and reads its answer.
    pub async fn send(&self, request: WireRequest) -> Result<(u16, Vec<u8>), TransportError> {
        let exchange = async {
            let mut response = self.upstream.open(request, TIMEOUT).await?;
            let body = response.body.read_all(MAX_ANSWER).await?;
            Ok((response.head.status, body))
        };
        let answer = actix_rt::time::timeout(TIMEOUT, exchange).await;
        let late = UpstreamError::Timeout(crate::upstream::Phase::Head);
        let (status, body) = answer.unwrap_or(Err(late)).map_err(|error: UpstreamError| {
            if error.nothing_was_sent() || matches!(error, UpstreamError::Tls(_)) {
                TransportError::NotSent(error)
            } else {
                TransportError::Unanswered(error)
            }
        })?;
        match status {
            429 => Err(TransportError::Throttled),
            500.. => Err(TransportError::Failed(status)),
            _ => Ok((status, body)),
        }
    }
}

/// What servers get wrong in good answers: `expires_in` as text or nonsense, no `token_type`.
fn tidy(body: Vec<u8>) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&body) else { return body };
    if let Some(expires) = fields.remove("expires_in") {
        let seconds = expires.as_f64().or_else(|| expires.as_str()?.trim().parse().ok());
        let sane = seconds.filter(|seconds| *seconds >= 1.0 && *seconds <= MAX_LIFETIME);
        if let Some(seconds) = sane {
            // Within the bounds of the line before.
            fields.insert("expires_in".into(), (seconds as u64).into());
        }
    }
    if fields.contains_key("access_token") && !fields.contains_key("token_type") {
        fields.insert("token_type".into(), "bearer".into());
    }
    Value::from(fields).to_string().into_bytes()
}

/// Longer than a year is nonsense, in seconds.
const MAX_LIFETIME: f64 = 366.0 * 24.0 * 3600.0;

/// Error documents as RFC 6749 has them, from whatever was sent: nothing of it but the code and, cut
/// short, the description is kept, since servers echo what they were sent.
fn tidy_error(status: u16, body: Vec<u8>) -> Vec<u8> {
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(|text| text.chars().take(64).collect::<String>());
    let code = text(&value["error"]).or_else(|| text(&value["error"]["type"]));
    let code = code.unwrap_or_else(|| format!("http_{status}"));
    json!({ "error": code }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f45_odd_answers_become_what_the_standard_says() {
        let lifetime = |expires: Value| {
            let body = json!({"access_token": "a", "expires_in": expires}).to_string();
            let tidied: Value = serde_json::from_slice(&tidy(body.into_bytes())).unwrap();
            assert_eq!(tidied["token_type"], "bearer");
            tidied["expires_in"].as_u64()
        };
        for (expires, expected) in [
            (json!(3600), Some(3600)),
            (json!("3600"), Some(3600)),
            (json!(3600.5), Some(3600)),
            (json!(0), None),
            (json!(-5), None),
            (json!("soon"), None),
            (json!(1e300), None),
            (json!(null), None),
        ] {
            assert_eq!(lifetime(expires.clone()), expected, "{expires}");
        }
        assert_eq!(tidy(b"<html>".to_vec()), b"<html>");
    }

    #[test]
    fn errors_keep_their_code_and_nothing_that_may_be_a_secret() {
        for (body, code) in [
            (json!({"error": "invalid_grant", "error_description": "rt-secret"}), "invalid_grant"),
            (json!({"error": {"type": "invalid_grant", "message": "rt-secret"}}), "invalid_grant"),
            (json!("<html>rt-secret"), "http_400"),
        ] {
            let tidied = String::from_utf8(tidy_error(400, body.to_string().into_bytes())).unwrap();
            assert_eq!(tidied, json!({ "error": code }).to_string());
        }
    }
}
