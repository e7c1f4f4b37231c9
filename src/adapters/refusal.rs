//! An upstream's error, in any of the shapes that servers use, as plain facts.

use serde_json::Value;

use super::ResponseHead;
use crate::model::UpstreamFailure;

/// Explains a non-2xx answer.
pub(super) fn explain(head: &ResponseHead, body: &[u8]) -> UpstreamFailure {
    let mut failure = match serde_json::from_slice::<Value>(body) {
        Ok(value) => from_json(&value),
        Err(_) => UpstreamFailure { message: plain_text(body), ..UpstreamFailure::default() },
    };
    failure.status = Some(head.status);
    if failure.message.is_empty() {
        failure.message = "no explanation was given".to_owned();
    }
    failure
}

/// Reads `{"error": {"message", "type", "code"}}`, `{"error": "…"}`, `{"message": "…"}`,
/// `{"detail": …}`, or a list of one of these.
pub(super) fn from_json(value: &Value) -> UpstreamFailure {
    let value = match value {
        Value::Array(list) => list.first().unwrap_or(value),
        other => other,
    };
    let error = value.get("error").filter(|error| !error.is_null()).unwrap_or(value);
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let field = |name: &str| error.get(name).and_then(text);
    let message = text(error)
        .or_else(|| field("message"))
        .or_else(|| error.get("detail").map(|detail| text(detail).unwrap_or(detail.to_string())))
        .unwrap_or_else(|| error.to_string());
    // OpenRouter and others put the HTTP status into `code`.
    let status = |name: &str| {
        let number = error.get(name)?.as_u64().filter(|n| (400..600).contains(n))?;
        u16::try_from(number).ok()
    };
    UpstreamFailure {
        status: status("status").or_else(|| status("code")),
        kind: field("type"),
        code: field("code"),
        message: clean(&message),
    }
}

fn plain_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.starts_with('<') {
        return "the upstream answered with an HTML page".to_owned();
    }
    clean(text)
}

/// A text without control characters, which could trick a terminal or a log. Its length is bounded
/// by that of the body; whoever tells it blots secrets out first and then clips it.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_gives_a_message() {
        let head = ResponseHead { status: 418, ..ResponseHead::default() };
        for (body, message) in [
            (r#"{"error":{"message":"m","type":"t","code":7}}"#, "m"),
            (r#"{"error":"m"}"#, "m"),
            (r#"[{"error":{"message":"m"}}]"#, "m"),
            (r#"{"message":"m"}"#, "m"),
            (r#"{"detail":"m"}"#, "m"),
            (r#"{"detail":[{"loc":["body"]}]}"#, r#"[{"loc":["body"]}]"#),
            ("<html>x</html>", "the upstream answered with an HTML page"),
            ("plain\u{1b}[31m", "plain [31m"),
            ("", "no explanation was given"),
        ] {
            let failure = explain(&head, body.as_bytes());
            assert_eq!((failure.message.as_str(), failure.status), (message, Some(418)), "{body}");
        }
        let failure = explain(&head, br#"{"error":{"message":"m","type":"t","code":7}}"#);
        assert_eq!((failure.kind.as_deref(), failure.code.as_deref()), (Some("t"), Some("7")));
    }
}
