//! What an authorisation server grants.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use oauth2::{ExtraTokenFields, StandardTokenResponse, TokenResponse as _, basic::BasicTokenType};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::credentials::{Account, Tokens};

/// Tokens, fresh from the server.
#[derive(Clone)]
pub struct Grant {
    access: SecretString,
    refresh: Option<SecretString>,
    /// Seconds.
    lifetime: u64,
    /// Whose they are.
    pub identity: Identity,
}

/// Whose a login is, as far as the server tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The vendor's id of the account.
    pub id: Option<String>,
    /// Its address.
    pub email: Option<String>,
}

/// What vendors send beside the standard's fields.
#[derive(Clone, Default, Deserialize, Serialize)]
pub(super) struct Extra {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<Value>,
}

impl std::fmt::Debug for Extra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Extra")
    }
}

impl ExtraTokenFields for Extra {}

pub(super) type TokenResponse = StandardTokenResponse<Extra, BasicTokenType>;

/// Assumed where the server tells none, in seconds.
const DEFAULT_LIFETIME: u64 = 3600;
/// The id of an account whose vendor tells none.
const NAMELESS: &str = "default";

impl Grant {
    pub(super) fn new(response: &TokenResponse) -> Self {
        let secret = |text: &str| SecretString::from(text);
        let access = response.access_token().secret();
        Self {
            access: secret(access),
            refresh: response.refresh_token().map(|token| secret(token.secret())),
            lifetime: response.expires_in().map_or(DEFAULT_LIFETIME, |time| time.as_secs()),
            identity: identity(response.extra_fields(), access),
        }
    }

    /// Whether the login can be renewed.
    pub fn renews(&self) -> bool {
        self.refresh.is_some()
    }

    /// The tokens as they are kept; `now` in milliseconds since 1970. A server that sends no new refresh
    /// token means that the former one stays good.
    fn tokens(&self, former: Option<&Tokens>, now: u64) -> Tokens {
        let kept = || former.and_then(|former| former.refresh.clone());
        Tokens {
            access: self.access.clone(),
            refresh: self.refresh.clone().or_else(kept),
            expires: now.saturating_add(self.lifetime * 1000),
            lifetime: self.lifetime * 1000,
        }
    }

    /// A new login of a provider, whose access token may go to `origin` alone, and whose refresh token to
    /// `issuer`.
    pub fn into_account(
        self,
        provider: &str,
        origin: Option<String>,
        issuer: Option<String>,
        now: u64,
    ) -> Account {
        Account {
            provider: provider.to_owned(),
            tokens: self.tokens(None, now),
            id: self.identity.id.unwrap_or_else(|| NAMELESS.to_owned()),
            email: self.identity.email,
            generation: 1,
            needs_login: None,
            added_at: now,
            origin,
            issuer,
        }
    }

    /// The same account, renewed.
    pub(super) fn renew(&self, former: &Account, now: u64) -> Account {
        Account {
            tokens: self.tokens(Some(&former.tokens), now),
            generation: former.generation + 1,
            needs_login: None,
            email: former.email.clone().or_else(|| self.identity.email.clone()),
            ..former.clone()
        }
    }
}

/// Anthropic tells the account in the answer; xAI and Kimi in the claims of a token. The claims are for
/// people to read: nothing is decided by them, so no signature is checked.
fn identity(extra: &Extra, access: &str) -> Identity {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    if let Some(account) = &extra.account {
        return Identity {
            id: text(account.get("uuid")).or_else(|| text(account.get("id"))),
            email: text(account.get("email_address")).or_else(|| text(account.get("email"))),
        };
    }
    let claims = extra.id_token.as_deref().and_then(claims).or_else(|| claims(access));
    let claims = claims.unwrap_or_default();
    Identity {
        id: text(claims.get("sub")).or_else(|| text(claims.get("user_id"))),
        email: text(claims.get("email")).map(|email| email.to_lowercase()),
    }
}

fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;

    fn grant(body: Value) -> Grant {
        Grant::new(&serde_json::from_value(body).unwrap())
    }

    #[test]
    fn accounts_are_told_in_three_ways() {
        let jwt = |claims: Value| {
            let payload = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
            format!("h.{payload}.s")
        };
        let plain = || json!({"access_token": "a", "token_type": "bearer"});
        let with = |field: &str, value: Value| {
            let mut body = plain();
            body[field] = value;
            let identity = grant(body).identity;
            (identity.id.unwrap_or_default(), identity.email.unwrap_or_default())
        };
        let anthropic = json!({"uuid": "u", "email_address": "a@b.c"});
        assert_eq!(with("account", anthropic), ("u".into(), "a@b.c".into()));
        let xai = jwt(json!({"sub": "s", "email": "A@B.c"}));
        assert_eq!(with("id_token", xai.into()), ("s".into(), "a@b.c".into()));
        let kimi = jwt(json!({"user_id": "k"}));
        assert_eq!(with("access_token", kimi.into()), ("k".into(), String::new()));
        assert_eq!(grant(plain()).into_account("p", None, None, 0).id, "default");
    }

    #[test]
    fn a_renewed_account_keeps_what_the_server_does_not_tell_again() {
        let first = grant(
            json!({"access_token": "a1", "refresh_token": "r1", "expires_in": 3600, "token_type": "bearer"}),
        );
        let account = first.into_account("p", None, None, 1_000_000);
        assert_eq!(account.tokens.expires, 1_000_000 + 3_600_000);
        let second = grant(json!({"access_token": "a2", "token_type": "bearer", "expires_in": 8}));
        let renewed = second.renew(&account, 2_000_000);
        assert_eq!(renewed.tokens.refresh.as_ref().unwrap().expose_secret(), "r1");
        assert_eq!((renewed.generation, renewed.tokens.expires), (2, 2_008_000));
    }
}
