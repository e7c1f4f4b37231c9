//! One login of one account.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A login: who it is of, its tokens, and how often they were renewed.
#[derive(Clone, Debug)]
pub struct Account {
    /// The provider that it belongs to.
    pub provider: String,
    /// The vendor's id of the account.
    pub id: String,
    /// Its address, for people.
    pub email: Option<String>,
    /// What it authenticates with.
    pub tokens: Tokens,
    /// Grows with every refresh, in whatever process.
    pub generation: u64,
    /// Why a person must log in again, if so.
    pub needs_login: Option<String>,
    /// When it was logged in, in milliseconds since 1970.
    pub added_at: u64,
    /// Where its access token may go, such as `https://api.x.ai`; anywhere, if it was logged in before
    /// that was noted.
    pub origin: Option<String>,
    /// Where its refresh token may go, likewise.
    pub issuer: Option<String>,
}

/// The tokens of an account.
#[derive(Clone)]
pub struct Tokens {
    /// Sent to the provider.
    pub access: SecretString,
    /// Sent to the authorisation server, once.
    pub refresh: Option<SecretString>,
    /// When the access token ends, in milliseconds since 1970.
    pub expires: u64,
    /// How long the access token lived when it came, in milliseconds; 0 if that is not known.
    pub lifetime: u64,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The longest time before its end at which a token is renewed, in milliseconds.
const AHEAD: u64 = 5 * 60 * 1000;

impl Tokens {
    /// Whether the access token may still be sent.
    pub fn is_alive(&self, now: u64) -> bool {
        now < self.expires
    }

    /// When to renew it, in milliseconds since 1970: five minutes or a fifth of its life before its
    /// end, whichever is more, but never in the first half of its life.
    pub fn renew_at(&self) -> u64 {
        let ahead = AHEAD.max(self.lifetime / 5);
        let ahead = if self.lifetime == 0 { ahead } else { ahead.min(self.lifetime / 2) };
        self.expires.saturating_sub(ahead)
    }
}

/// An account as `auth.json` writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireAccount {
    pub id: String,
    pub credential: WireCredential,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_reauth: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reauth_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_at: Option<u64>,
    /// What others wrote there.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireCredential {
    pub access: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    #[serde(default)]
    pub expires: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lifetime: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl fmt::Debug for WireCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireCredential").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl WireAccount {
    pub fn account(&self, provider: &str) -> Account {
        let credential = &self.credential;
        let secret = |text: &String| SecretString::from(text.as_str());
        let refresh = credential.refresh.as_ref().filter(|text| !text.is_empty()).map(secret);
        let reason = || self.reauth_reason.clone().unwrap_or_else(|| "the login ended".to_owned());
        Account {
            provider: provider.to_owned(),
            id: self.id.clone(),
            email: credential.email.clone(),
            tokens: Tokens {
                access: secret(&credential.access),
                refresh,
                expires: credential.expires,
                lifetime: credential.lifetime,
            },
            generation: credential.generation,
            needs_login: (self.needs_reauth == Some(true)).then(reason),
            added_at: self.added_at.unwrap_or_default(),
            origin: credential.origin.clone(),
            issuer: credential.issuer.clone(),
        }
    }

    /// Takes over what we know; what others wrote stays.
    pub fn update(&mut self, account: &Account) {
        let tokens = &account.tokens;
        self.id.clone_from(&account.id);
        self.needs_reauth = account.needs_login.is_some().then_some(true);
        self.reauth_reason.clone_from(&account.needs_login);
        self.added_at = Some(account.added_at);
        let credential = &mut self.credential;
        tokens.access.expose_secret().clone_into(&mut credential.access);
        credential.refresh =
            tokens.refresh.as_ref().map(|refresh| refresh.expose_secret().to_owned());
        credential.expires = tokens.expires;
        credential.lifetime = tokens.lifetime;
        credential.generation = account.generation;
        credential.origin.clone_from(&account.origin);
        credential.issuer.clone_from(&account.issuer);
        credential.email.clone_from(&account.email);
        credential.account_id = Some(account.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_its_end_and_not_in_its_youth() {
        let at = |lifetime, expires| {
            let access = SecretString::from("a");
            Tokens { access, refresh: None, expires, lifetime }.renew_at()
        };
        let (minute, hour) = (60_000, 3_600_000);
        assert_eq!(at(hour, 10 * hour), 10 * hour - 12 * minute);
        assert_eq!(at(20 * minute, hour), hour - 5 * minute);
        assert_eq!(at(4 * minute, hour), hour - 2 * minute);
        assert_eq!(at(0, hour), hour - 5 * minute);
        assert_eq!(at(hour, 1), 0);
    }
}
