//! A request to an upstream, and the head of its answer, as plain data.

use std::{borrow::Cow, fmt, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};

use crate::credentials::Credential;

/// What is sent. Its `Debug` shows neither body nor secrets.
pub struct WireRequest {
    /// The method.
    pub method: Method,
    /// The whole address. Never holds a secret.
    pub url: String,
    /// Headers, each name once.
    pub headers: Vec<(Cow<'static, str>, HeaderText)>,
    /// The body; empty for GET.
    pub body: Vec<u8>,
}

/// Source: w3.org/TR/trace-context.
const TRACEPARENT: &str = "traceparent";

/// The methods upstreams need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks.
    Get,
    /// Sends.
    Post,
}

/// A header's value.
#[derive(Clone)]
pub enum HeaderText {
    /// Anybody may read it.
    Plain(Cow<'static, str>),
    /// Nobody may.
    Secret(SecretString),
}

impl HeaderText {
    /// The value, for the socket only.
    pub fn expose(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(secret) => secret.expose_secret(),
        }
    }
}

impl fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => fmt::Debug::fmt(text, f),
            Self::Secret(_) => f.write_str("[redacted]"),
        }
    }
}

impl fmt::Debug for WireRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl WireRequest {
    /// A POST of JSON.
    pub fn post(url: String, body: Vec<u8>) -> Self {
        let mut request = Self { method: Method::Post, url, headers: Vec::with_capacity(8), body };
        request.set("content-type", HeaderText::Plain("application/json".into()));
        request
    }

    /// Tells the upstream of the trace that the request belongs to, unless the config has a header of
    /// its own for that.
    pub fn trace(&mut self, traceparent: Option<String>) {
        let taken = self.headers.iter().any(|(name, _)| name == TRACEPARENT);
        if let Some(traceparent) = traceparent.filter(|_| !taken) {
            self.set(TRACEPARENT, HeaderText::Plain(traceparent.into()));
        }
    }

    /// A GET.
    pub fn get(url: String) -> Self {
        Self { method: Method::Get, url, headers: Vec::with_capacity(4), body: Vec::new() }
    }

    /// Sets a header; the last value of a name wins.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: HeaderText) {
        let name = name.into();
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        self.headers.push((name, value));
    }

    /// Sets the headers that a provider's config adds.
    pub fn set_static(&mut self, headers: &[(String, String)]) {
        for (name, value) in headers {
            // A user may put a key into a header of its own, so none of them is shown.
            self.set(name.to_ascii_lowercase(), HeaderText::Secret(value.as_str().into()));
        }
    }

    /// Sets `Authorization: Bearer` if there is a key, or the caller's own headers if they are
    /// lent. The only place that writes credentials for OpenAI's protocols.
    pub fn set_bearer(&mut self, credential: &Credential) {
        match credential {
            Credential::None => {}
            Credential::Key(key) | Credential::Account { access: key, .. } => {
                let value = format!("Bearer {}", key.expose_secret());
                self.set("authorization", HeaderText::Secret(value.into()));
            }
            Credential::Forwarded(caller) => {
                for (name, value) in caller.headers() {
                    self.set(name, HeaderText::Secret(value.clone()));
                }
            }
        }
    }
}

/// The head of an upstream's answer.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`, lower case, without parameters.
    pub content_type: String,
    /// `Retry-After`, read, in either of its forms.
    pub retry_after: Option<Duration>,
    /// Headers that may be passed on to the caller of a relayed answer.
    pub relayed: Vec<(String, String)>,
    /// What is left of the upstream's limits: windows with a share from 0 to 1.
    pub remaining: Vec<(&'static str, f64)>,
}

impl ResponseHead {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether the body is a stream of events.
    pub fn is_event_stream(&self) -> bool {
        self.content_type == "text/event-stream"
    }

    /// Whether the body is one JSON document.
    pub fn is_json(&self) -> bool {
        self.content_type == "application/json" || self.content_type.ends_with("+json")
    }
}
