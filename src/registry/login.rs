//! How accounts log in, as data. `config.json` and `providers.toml` write it alike; what the user
//! writes wins.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The authorisation server of a provider, and the client that we are to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Login {
    /// The id of the OAuth client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// An OpenID configuration that names the endpoints; they must be on its host's domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery_url: Option<String>,
    /// Where a browser is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorize_url: Option<String>,
    /// Where codes and refresh tokens are exchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
    /// Where a device code is had; a provider with one of these logs in by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_url: Option<String>,
    /// The loopback address that the browser comes back to; port 0 picks a free one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
    /// Whether another port may be picked if that of `redirectUri` is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any_port: Option<bool>,
    /// More parameters of the address that the browser is sent to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorize_params: Option<BTreeMap<String, String>>,
    /// How requests to `tokenUrl` are written: `form` (the standard) or `json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_format: Option<TokenFormat>,
    /// Headers of all requests to the authorisation server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
}

/// How a request for a token is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenFormat {
    /// `application/x-www-form-urlencoded`, as RFC 6749 has it.
    #[default]
    Form,
    /// `application/json` (Anthropic).
    Json,
}

impl Login {
    /// This login with every field that is set in `over` taken from there.
    pub fn overlaid(&self, over: &Self) -> Self {
        super::overlay(self, over)
    }

    /// Every address that we send something to, with the name of its field.
    pub fn endpoints(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("discoveryUrl", &self.discovery_url),
            ("authorizeUrl", &self.authorize_url),
            ("tokenUrl", &self.token_url),
            ("deviceUrl", &self.device_url),
        ]
        .into_iter()
        .filter_map(|(field, url)| Some((field, url.as_deref()?)))
    }
}
