//! Secrets on their way to an upstream. None of these types prints, serialises or compares by value.

mod capsule;
mod vault;

use std::{fmt, sync::Arc};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

pub use capsule::{CAPSULE_PREFIX, CapsuleKey, Sealer};
pub use vault::{
    Account, AccountLock, Accounts, Intent, Kept, Opened, Repair, Store, Tokens, Vault, VaultError,
    now_ms,
};

/// What a lease lends for one exchange.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing: a local server, or a provider whose key is not set.
    None,
    /// An API key.
    Key(SecretString),
    /// The caller's own login.
    Forwarded(CallerAuth),
    /// The access token of an account that is logged in.
    Account {
        /// The token.
        access: SecretString,
        /// Tells one token from another, whatever account it is of.
        id: TokenId,
        /// The account, for people.
        name: Arc<str>,
    },
}

/// Which access token: a part of its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenId(u64);

impl TokenId {
    /// Of a token.
    pub fn of(access: &SecretString) -> Self {
        let digest: [u8; 32] = Sha256::digest(access.expose_secret().as_bytes()).into();
        let mut part = [0; 8];
        part.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(part))
    }
}

impl Credential {
    /// Of an account's tokens.
    pub fn of_account(account: &Account) -> Self {
        let access = account.tokens.access.clone();
        let name = account.email.as_deref().unwrap_or(&account.id).into();
        Self::Account { id: TokenId::of(&access), access, name }
    }
}

/// Headers of the caller that may go to a forward provider, and nowhere else.
/// Source: what Codex CLI 0.169.0 sends to the ChatGPT backend.
pub const FORWARD_HEADERS: [&str; 19] = [
    "authorization",
    "chatgpt-account-id",
    "openai-beta",
    "originator",
    "session_id",
    "session-id",
    "thread-id",
    "version",
    "x-client-request-id",
    "x-codex-beta-features",
    "x-codex-installation-id",
    "x-codex-parent-thread-id",
    "x-codex-routing-hint",
    "x-codex-turn-metadata",
    "x-codex-turn-state",
    "x-codex-window-id",
    "x-oai-attestation",
    "x-openai-subagent",
    "x-responsesapi-include-timing-metrics",
];

/// The longest value of a forwarded header, in bytes.
pub const MAX_FORWARD_VALUE: usize = 8 * 1024;

/// The allow-listed headers of one caller.
#[derive(Clone, Default)]
pub struct CallerAuth(Vec<(&'static str, SecretString)>);

impl CallerAuth {
    /// Picks the allow-listed headers out of what `header` knows; odd values are left behind.
    ///
    /// `is_ours` tells whether a value is one of our own admission keys, which never go upstream.
    pub fn pick<'h>(
        header: impl Fn(&str) -> Option<&'h str>,
        is_ours: impl Fn(&str) -> bool,
    ) -> Self {
        let legal = |value: &&str| {
            !value.is_empty()
                && value.len() <= MAX_FORWARD_VALUE
                && value.bytes().all(|byte| (0x20..0x7f).contains(&byte))
                && !is_ours(bearer_token(value).unwrap_or(value).trim())
        };
        Self(
            FORWARD_HEADERS
                .into_iter()
                .filter_map(|name| {
                    header(name).filter(legal).map(|value| (name, SecretString::from(value)))
                })
                .collect(),
        )
    }

    /// Whether the caller is logged in.
    pub fn is_authorized(&self) -> bool {
        self.0.iter().any(|(name, _)| *name == "authorization")
    }

    /// Names and values, for the one place that writes credential headers.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &SecretString)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

impl fmt::Debug for CallerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Credential {
    /// Blots this credential out of a text that an upstream sent: some echo keys in their errors.
    pub fn redact(&self, text: &str) -> String {
        match self {
            Self::None => text.to_owned(),
            Self::Key(key) | Self::Account { access: key, .. } => {
                blot_out(text, key.expose_secret())
            }
            Self::Forwarded(caller) => caller
                .headers()
                .filter(|(name, _)| matches!(*name, "authorization" | "chatgpt-account-id"))
                .fold(text.to_owned(), |text, (_, secret)| blot_out(&text, secret.expose_secret())),
        }
    }
}

/// Shorter secrets would blot out ordinary words.
const MIN_SECRET: usize = 8;

/// Blots a secret out of a text.
pub fn blot_out(text: &str, secret: &str) -> String {
    let secret = bearer_token(secret).unwrap_or(secret);
    if secret.len() < MIN_SECRET {
        return text.to_owned();
    }
    forms(secret).iter().fold(text.to_owned(), |text, form| text.replace(form, "[redacted]"))
}

/// A secret as it is and as upstreams quote it back: in JSON, in an address, in base64.
fn forms(secret: &str) -> Vec<String> {
    let json = serde_json::to_string(secret).unwrap_or_default();
    let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let base64 = BASE64_STANDARD.encode(secret);
    let url_safe = BASE64_URL_SAFE_NO_PAD.encode(secret);
    let mut forms = vec![
        secret.to_owned(),
        json.trim_matches('"').to_owned(),
        percent.replace('+', "%20"),
        percent,
        base64.trim_end_matches('=').to_owned(),
        base64,
        url_safe,
    ];
    // The longest first: none may be found inside another that is left.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms
}

/// The token of an `Authorization: Bearer` value; the scheme's case does not matter.
pub fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p11_only_listed_headers_are_picked_and_none_is_printed() {
        let header = |name: &str| match name {
            "authorization" => Some("Bearer chatgpt-token-1"),
            "cookie" | "x-api-key" | "user-agent" => Some("never"),
            "thread-id" => Some("t1"),
            "originator" => Some("bad\u{1}value"),
            "session_id" => Some(""),
            _ => None,
        };
        let caller = CallerAuth::pick(header, |_| false);
        let names: Vec<_> = caller.headers().map(|(name, _)| name).collect();
        assert_eq!(names, ["authorization", "thread-id"]);
        assert!(caller.is_authorized());
        assert!(!format!("{caller:?}").contains("chatgpt-token"));
    }

    #[test]
    fn our_own_keys_are_never_forwarded() {
        for value in ["Bearer ocx_data", "bearer ocx_data", "BEARER  ocx_data ", "ocx_data"] {
            let header = |name: &str| (name == "authorization").then_some(value);
            let picked = CallerAuth::pick(header, |value| value == "ocx_data");
            assert!(!picked.is_authorized(), "{value}");
        }
    }

    #[test]
    fn an_echoed_key_is_blotted_out() {
        let key = Credential::Key(SecretString::from("sk-1234567890"));
        assert_eq!(key.redact("bad key sk-1234567890!"), "bad key [redacted]!");
        assert!(!format!("{key:?}").contains("sk-12"));
    }

    proptest::proptest! {
        #[test]
        fn p10_a_secret_is_found_in_every_form_and_nothing_else_is_touched(
            secret in "[!-~]{10,40}",
            before in "[ a-z]{0,20}",
            after in "[ a-z]{0,20}",
        ) {
            use proptest::prelude::*;
            // A key that looks like the mark of a blotted one, or like prose, proves nothing.
            prop_assume!(!secret.to_ascii_lowercase().starts_with("bearer") && secret.bytes().any(|b| !b.is_ascii_lowercase()));
            for form in forms(&secret) {
                for text in [
                    format!("{before}{form}{after}"),
                    format!("{{\"error\":\"{form}\"}}"),
                    format!("https://h/?key={form}&x=1"),
                    format!("Bearer {form}"),
                    format!("{form}{form}"),
                ] {
                    let clean = blot_out(&text, &secret);
                    prop_assert!(!clean.contains(&form), "{} in {}", form, clean);
                    prop_assert!(!clean.contains(secret.as_str()));
                    prop_assert_eq!(blot_out(&clean, &secret), clean.clone());
                }
            }
            let innocent = format!("{before}{after}");
            prop_assert_eq!(blot_out(&innocent, &secret), innocent);
        }
    }
}
