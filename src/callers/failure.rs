//! A failure as the caller reads it: an error object before the stream, `response.failed` in it.

use std::borrow::Cow;

use serde::Serialize;

/// What a caller is told. Which type and code belong to which class of error is decided once, in
/// [`crate::error`]; this only carries and renders them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// For a person. Never holds a secret.
    pub message: String,
    /// The HTTP status that would tell the same.
    #[serde(skip)]
    pub status: u16,
    /// OpenAI's `error.type`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// OpenAI's `error.code` of an HTTP answer.
    pub code: Cow<'static, str>,
    /// The code inside a stream; Codex decides by it whether to try again.
    #[serde(skip)]
    pub stream_code: &'static str,
    /// Seconds to wait before trying again.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

impl Failure {
    /// The answer itself is at fault; asking again may help.
    pub(super) fn answer(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: 502,
            kind: "server_error".into(),
            code: code.into(),
            stream_code: code,
            retry_after: None,
        }
    }

    /// An answer in the upstream's own Responses frames, which this caller does not speak. The
    /// upstream was asked to be translated, so this is a defect of ours.
    pub(super) fn unrelayable() -> Self {
        Self::answer("internal_error", "an untranslated frame")
    }

    /// `{"error": {…}}`.
    pub fn document(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Document<'a> {
            error: Body<'a>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            failure: &'a Failure,
            param: Option<()>,
        }
        let document = Document { error: Body { failure: self, param: None } };
        // Plain text fields cannot fail to serialise.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// The message, with the delay in the words that Codex reads out of a failed stream.
    pub(super) fn message_with_delay(&self) -> Cow<'_, str> {
        match self.retry_after {
            Some(seconds) if !self.message.contains("try again in") => {
                format!("{} (try again in {seconds}s)", self.message).into()
            }
            _ => self.message.as_str().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_what_clients_read() {
        let failure = Failure::answer("x", "went \"wrong\"");
        let json: serde_json::Value = serde_json::from_slice(&failure.document()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"error":
                {"message": "went \"wrong\"", "type": "server_error", "code": "x", "param": null}})
        );
    }
}
