//! The envelope of a conversation summary that we made ourselves: it travels as the opaque
//! `encrypted_content` of a `compaction` item and comes back with every later turn.

use base64::{Engine as _, prelude::BASE64_STANDARD};

const PREFIX: &str = "ocx1:";

/// Wraps a summary.
pub fn seal(summary: &str) -> String {
    format!("{PREFIX}{}", BASE64_STANDARD.encode(summary))
}

/// Unwraps a summary; nothing if it is not one of ours.
pub fn open(content: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(content.strip_prefix(PREFIX)?).ok()?;
    String::from_utf8(bytes).ok()
}

const LEAD_IN: &str = "The conversation up to here was replaced by this summary, which an assistant \
    wrote. Go on from it; do not repeat what it says was done.";

/// A summary as the model that goes on from it reads it.
pub fn continued(summary: &str) -> String {
    format!("{LEAD_IN}\n\n{summary}")
}

/// Whether a text is a summary, as [`continued`] writes it.
pub fn is_continued(text: &str) -> bool {
    text.starts_with(LEAD_IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_envelopes_open() {
        assert_eq!(open(&seal("Größe")).as_deref(), Some("Größe"));
        assert_eq!(open("gAAAAAB"), None);
        assert_eq!(open("ocx1:%%%"), None);
    }
}
