//! A response as a program reads it, from a document or a stream.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{upstream::UpstreamResponse, wire::sse::SseParser};

/// Longest answer that is read, and longest event of a stream.
const MAX_ANSWER: usize = 4 << 20;

/// Why an answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// In words.
    pub message: String,
    /// Whether the model's server refused the request as such: asked again, it would again.
    pub refuses: bool,
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self { message, refuses: false }
    }
}

/// What came.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The response object.
    pub response: Value,
    /// Pieces of text that came by themselves.
    pub pieces: usize,
    /// When the first of them came, after the call.
    pub first: Option<Duration>,
    /// Terminal events.
    pub ends: usize,
}

impl Answer {
    /// Of a document.
    ///
    /// # Errors
    ///
    /// When it is none, or a failure.
    pub async fn whole(mut response: UpstreamResponse) -> Result<Self, Trouble> {
        let body = response.body.read_all(MAX_ANSWER).await.map_err(|error| error.to_string())?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !response.head.is_success() {
            return Err(refusal(response.head.status, &said));
        }
        match (said["output"].is_array(), said["error"]["message"].as_str()) {
            (true, None) => Ok(Self { response: said, ends: 1, ..Self::default() }),
            (_, Some(message)) => Err(message.to_owned().into()),
            (false, None) => Err("its answer is no response".to_owned().into()),
        }
    }

    /// Of a stream, as far as `enough` lets it come.
    ///
    /// # Errors
    ///
    /// When it is none, or tells of a failure.
    pub async fn stream(
        mut response: UpstreamResponse,
        began: Instant,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<Self, Trouble> {
        if !response.head.is_success() {
            let body = response.body.read_all(MAX_ANSWER).await.unwrap_or_default();
            let said = serde_json::from_slice(&body).unwrap_or_default();
            return Err(refusal(response.head.status, &said));
        }
        let (mut answer, mut parser) = (Self::default(), SseParser::new(MAX_ANSWER));
        while let Some(bytes) = response.body.next().await {
            parser.push(&bytes.map_err(|error| error.to_string())?);
            while let Some(frame) = parser.next_frame() {
                let frame = frame.map_err(|error| error.to_string())?;
                answer.take(frame.data, began);
            }
            if enough(&answer) {
                break;
            }
        }
        match answer.response["error"]["message"].as_str() {
            Some(message) => Err(message.to_owned().into()),
            None => Ok(answer),
        }
    }

    fn take(&mut self, data: &[u8], began: Instant) {
        let event: Value = serde_json::from_slice(data).unwrap_or_default();
        match event["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" | "response.reasoning_summary_text.delta" => {
                self.pieces += 1;
                self.first.get_or_insert_with(|| began.elapsed());
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                self.ends += 1;
                self.response = event["response"].clone();
            }
            _ => {}
        }
    }

    /// Its items, by type.
    pub fn items<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let items = self.response["output"].as_array().into_iter().flatten();
        items.filter(move |item| item["type"] == kind)
    }

    /// All text of it.
    pub fn text(&self) -> String {
        let messages = self.items("message");
        let parts = messages.flat_map(|item| item["content"].as_array().into_iter().flatten());
        parts.filter_map(|part| part["text"].as_str()).collect()
    }

    /// A count of its usage.
    pub fn count(&self, pointer: &str) -> u64 {
        self.response["usage"].pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }
}

/// What the gateway says of a call that failed. Only what the model's server said of the request itself
/// counts as its refusal: not a limit, not its failure, and not what we refuse by ourselves.
fn refusal(status: u16, said: &Value) -> Trouble {
    let Some(message) = said["error"]["message"].as_str() else {
        return format!("the gateway answered {status}").into();
    };
    let refuses = ["400", "404", "422"].iter().any(|status| {
        let told = message.split_once(" answered ").map(|(_, rest)| rest);
        told.is_some_and(|told| told.starts_with(status))
    });
    Trouble { message: message.to_owned(), refuses }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_server_says_of_the_request_is_its_refusal() {
        let of = |status, message: &str| refusal(status, &json!({"error": {"message": message}}));
        assert!(of(400, "some answered 400: no images").refuses);
        assert!(of(400, "some answered 422: unknown field").refuses);
        for message in ["some answered 429: slow", "the translation would lose hosted_tool"] {
            assert!(!of(400, message).refuses, "{message}");
        }
        assert!(!refusal(502, &Value::Null).refuses);
    }
}
