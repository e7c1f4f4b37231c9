//! A response as a program reads it, from a document or a stream.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{upstream::UpstreamResponse, wire::sse::SseParser};

/// Longest answer that is read, and longest event of a stream.
const MAX_ANSWER: usize = 4 << 20;

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
    /// When it is none, or tells of a failure, in words.
    pub async fn whole(mut response: UpstreamResponse) -> Result<Self, String> {
        let body = response.body.read_all(MAX_ANSWER).await.map_err(|error| error.to_string())?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !response.head.is_success() {
            return Err(refusal(response.head.status, &said));
        }
        Ok(Self { response: said, ends: 1, ..Self::default() })
    }

    /// Of a stream, as far as `enough` lets it come.
    ///
    /// # Errors
    ///
    /// When it is none, or tells of a failure, in words.
    pub async fn stream(
        mut response: UpstreamResponse,
        began: Instant,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<Self, String> {
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
            Some(message) => Err(message.to_owned()),
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

fn refusal(status: u16, said: &Value) -> String {
    match said["error"]["message"].as_str() {
        Some(message) => format!("{status}: {message}"),
        None => format!("{status}"),
    }
}
