//! What a provider wants back on the next turn, on its way through the caller.
//!
//! A caller keeps the history and sends all of it with every turn, reasoning items with their opaque
//! `encrypted_content` included. So signatures travel there instead of in a cache of ours: they
//! outlive a restart, reach a second replica that has the same key, and are still there when a
//! conversation returns to the provider that made them.
//!
//! A capsule is `ocxr1:` and, in base64, an authentication tag before the JSON of a
//! [`ReasoningState`]. The tag's key is derived from the local key and the upstream, so one
//! upstream's signatures are never sent to another. It is authenticated, not encrypted: what it
//! holds, the upstream has given to this caller.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use url::Url;

use crate::model::ReasoningState;

/// Begins every capsule.
pub const CAPSULE_PREFIX: &str = "ocxr1:";
/// Bytes of the tag; 128 bits are beyond guessing.
const TAG: usize = 16;

/// The key of this installation. Replicas that share it open each other's capsules.
#[derive(Clone)]
pub struct CapsuleKey([u8; 32]);

/// Seals and opens the capsules of one upstream.
#[derive(Clone)]
pub struct Sealer(Hmac<Sha256>);

impl CapsuleKey {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// From 64 hexadecimal digits, as the key file has it.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The sealer of an upstream, which its protocol and origin name: models and paths may change
    /// within a conversation, and a vendor's signatures stay good.
    pub fn sealer(&self, protocol: &str, base_url: &str) -> Sealer {
        let origin = Url::parse(base_url).map(|url| url.origin().ascii_serialization());
        let mut derive = mac(&self.0);
        for part in [protocol, "\0", origin.as_deref().unwrap_or(base_url)] {
            derive.update(part.as_bytes());
        }
        Sealer(mac(&derive.finalize().into_bytes()))
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl Sealer {
    /// Packs a state. The same state gives the same text, as prompt caches need.
    pub fn seal(&self, state: &ReasoningState) -> String {
        // Three optional strings serialise.
        let json = serde_json::to_vec(state).unwrap_or_default();
        let mut bytes = self.tag(&json).to_vec();
        bytes.extend_from_slice(&json);
        let mut text = CAPSULE_PREFIX.to_owned();
        BASE64_URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        text
    }

    /// Unpacks a state; nothing if the text is no capsule, was changed, or is another upstream's.
    pub fn open(&self, text: &str) -> Option<ReasoningState> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(CAPSULE_PREFIX)?).ok()?;
        let (tag, json) = bytes.split_at_checked(TAG)?;
        let genuine = subtle::ConstantTimeEq::ct_eq(&self.tag(json)[..], tag);
        if !bool::from(genuine) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }

    fn tag(&self, json: &[u8]) -> [u8; TAG] {
        let mut mac = self.0.clone();
        mac.update(json);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG];
        tag.copy_from_slice(&full[..TAG]);
        tag
    }
}

impl fmt::Debug for CapsuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapsuleKey")
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(key: u8, base_url: &str) -> Sealer {
        CapsuleKey::new([key; 32]).sealer("anthropic", base_url)
    }

    fn state() -> ReasoningState {
        ReasoningState {
            text: "thought".into(),
            signature: Some("sig==".into()),
            redacted: Some("blob".into()),
        }
    }

    #[test]
    fn a_capsule_opens_where_it_was_sealed_and_nowhere_else() {
        let here = sealer(1, "https://api.anthropic.com/v1");
        let text = here.seal(&state());
        assert_eq!(here.seal(&state()), text, "deterministic");
        assert_eq!(here.open(&text), Some(state()));
        assert_eq!(sealer(1, "https://api.anthropic.com/").open(&text), Some(state()));
        assert_eq!(sealer(1, "https://api.minimax.io").open(&text), None);
        assert_eq!(sealer(2, "https://api.anthropic.com").open(&text), None);
        let google = CapsuleKey::new([1; 32]).sealer("google", "https://api.anthropic.com");
        assert_eq!(google.open(&text), None);
        for foreign in ["", "gAAAAA", "ocxr1:", "ocxr1:%%", "ocxr1:AAAA", "ocx1:AAAA"] {
            assert_eq!(here.open(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        assert!(CapsuleKey::from_hex(&format!("{}\n", "0a".repeat(32))).is_some());
        assert!(CapsuleKey::from_hex("0a").is_none());
        assert!(!format!("{:?}", CapsuleKey::new([7; 32])).contains('7'));
    }

    proptest! {
        #[test]
        fn a_changed_capsule_never_opens(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
            let here = sealer(1, "https://a.example");
            let text = here.seal(&state());
            let at = CAPSULE_PREFIX.len() + at.index(text.len() - CAPSULE_PREFIX.len());
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            // The last character may hold bits that mean nothing; base64 refuses those.
            prop_assert!(changed == text || here.open(&changed).is_none());
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(ocxr1:)?\\PC{0,80}") {
            prop_assert_eq!(sealer(1, "x").open(&text), None);
        }
    }
}
