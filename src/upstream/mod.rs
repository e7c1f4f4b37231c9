//! The only module that opens sockets to providers.
//!
//! awc's defaults do not suit a streaming gateway, so there is one place that builds a client
//! ([`Upstream::new`]); clippy forbids any other. What awc reports wrongly (a cut body as a clean
//! end, 1xx as the answer) is put right here or by the decoders.

use std::{
    cell::RefCell,
    collections::HashMap,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use awc::{
    ClientResponse,
    http::{
        Method as HttpMethod,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
};
use bytes::Bytes;
use futures_core::Stream as _;

use crate::{
    adapters::{MAX_ERROR_BODY, Method, ResponseHead, WireRequest},
    config::Reach,
};

mod dial;
mod error;
mod network;
mod policy;
mod proxy;
mod rate_limit;
mod retry_after;

pub use dial::{Dialled, watched};
pub use error::{Phase, UpstreamError};
pub use network::{Network, NetworkError};

/// How we introduce ourselves.
pub const USER_AGENT: &str = concat!("opencodex/", env!("CARGO_PKG_VERSION"));

/// How long the body of an error answer may take.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle time after which a pooled connection is not used again.
const POOL_IDLE: Duration = Duration::from_secs(60);
const POOL_LIFETIME: Duration = Duration::from_secs(600);
/// How long, and for how many bytes, a connection whose answer is over is read on.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 64 << 10;

/// Ways to reach hosts for which a thread keeps clients; beyond that it begins anew.
const MAX_WAYS: usize = 64;

/// This thread's clients: connections are pooled per thread, and per way to reach a host.
#[derive(Clone)]
pub struct Upstream {
    network: Network,
    client: awc::Client,
    others: Rc<RefCell<HashMap<Reach, awc::Client>>>,
}

/// An answer whose head has come.
pub struct UpstreamResponse {
    /// Status and headers.
    pub head: ResponseHead,
    /// What follows.
    pub body: UpstreamBody,
}

/// The body of an answer. Dropping it closes the connection, which is how an exchange is cancelled.
pub struct UpstreamBody {
    /// Gone after the end: awc panics when it is asked again.
    response: Option<ClientResponse>,
    /// Bytes that `Content-Length` promised and that have not come.
    missing: Option<u64>,
}

impl Upstream {
    /// Clients for this thread.
    pub fn new(network: &Network) -> Self {
        let client = client(network, &Reach::default());
        Self { network: network.clone(), client, others: Rc::default() }
    }

    /// The client that reaches hosts in a way of their own.
    pub fn via(&self, reach: &Reach) -> Self {
        if *reach == Reach::default() {
            return self.clone();
        }
        let mut others = self.others.borrow_mut();
        if others.len() >= MAX_WAYS && !others.contains_key(reach) {
            others.clear();
        }
        let known = others.entry(reach.clone());
        let client = known.or_insert_with(|| client(&self.network, reach)).clone();
        Self { network: self.network.clone(), client, others: Rc::clone(&self.others) }
    }

    /// Sends a request and waits for the head of its answer, at most `timeout`.
    ///
    /// # Errors
    ///
    /// When no usable answer came.
    pub async fn open(
        &self,
        request: WireRequest,
        timeout: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let method = match request.method {
            Method::Get => HttpMethod::GET,
            Method::Post => HttpMethod::POST,
        };
        let mut call = self
            .client
            .request(method, request.url.as_str())
            .insert_header(("user-agent", USER_AGENT))
            // Compressors hold back streams, and decoding would need bounds of its own.
            .insert_header(("accept-encoding", "identity"));
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value.expose());
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return Err(UpstreamError::Unsendable("a header is not legal"));
            };
            value.set_sensitive(true);
            call = call.insert_header((name, value));
        }
        let sent = call.send_body(request.body);
        let response = match actix_rt::time::timeout(timeout, sent).await {
            Ok(sent) => sent.map_err(UpstreamError::from)?,
            Err(_) => return Err(UpstreamError::Timeout(Phase::Head)),
        };
        accept(response)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that builds a client")]
fn client(network: &Network, reach: &Reach) -> awc::Client {
    let connector = awc::Connector::new()
        .connector(dial::Dial::new(reach))
        .rustls_0_23(network.tls())
        // The default, 100 connections for all hosts together, would let one provider's streams
        // starve every other; slots are counted by the provider actors.
        .limit(0)
        .timeout(network.connect())
        .handshake_timeout(network.connect())
        .conn_keep_alive(POOL_IDLE)
        .conn_lifetime(POOL_LIFETIME);
    awc::Client::builder()
        .connector(connector)
        .disable_timeout()
        // awc would take `x-api-key` and the prompt along to another host.
        .disable_redirects()
        .no_default_headers()
        .finish()
}

impl UpstreamResponse {
    /// `Date`, by the clock of the server.
    pub fn date(&self) -> Option<&str> {
        text(self.body.response.as_ref()?.headers(), "date")
    }
}

/// Refuses what is no answer, and reads the head of what is one.
fn accept(response: ClientResponse) -> Result<UpstreamResponse, UpstreamError> {
    let status = response.status();
    if status.is_informational() {
        return Err(UpstreamError::Informational(status.as_u16()));
    }
    if status.is_redirection() {
        return Err(UpstreamError::Redirected(status.as_u16()));
    }
    let headers = response.headers();
    let encoding = text(headers, "content-encoding").filter(|value| *value != "identity");
    if let (Some(encoding), true) = (encoding, status.is_success()) {
        return Err(UpstreamError::Encoded(encoding.chars().take(32).collect()));
    }
    let unreadable = encoding.is_some();
    let head = ResponseHead {
        status: status.as_u16(),
        content_type: text(headers, "content-type")
            .and_then(|value| value.split(';').next())
            .map(|value| value.trim().to_ascii_lowercase())
            .unwrap_or_default(),
        retry_after: text(headers, "retry-after").and_then(retry_after::parse),
        relayed: relayed(headers),
        remaining: rate_limit::remaining(headers),
    };
    let missing = text(headers, "content-length").and_then(|value| value.parse().ok());
    // A refusal counts by its status; its words are lost if they are compressed.
    let response = (!unreadable).then_some(response);
    Ok(UpstreamResponse { head, body: UpstreamBody { response, missing } })
}

fn text<'h>(headers: &'h awc::http::header::HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Headers of a relayed answer that mean something to a caller. `openai-model` is left out: Codex
/// takes a name other than the one it asked for as a sign of a flagged account.
fn relayed(headers: &HeaderMap) -> Vec<(String, String)> {
    let wanted = |name: &str| {
        matches!(name, "x-request-id" | "x-models-etag" | "x-reasoning-included")
            || name.starts_with("x-ratelimit-")
            || name.starts_with("x-codex-")
            || (name.starts_with("openai-") && name != "openai-model")
    };
    headers
        .iter()
        .filter(|(name, _)| wanted(name.as_str()))
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect()
}

impl UpstreamBody {
    /// The next bytes; nothing after the end.
    ///
    /// # Errors
    ///
    /// When the connection broke, or closed before what `Content-Length` promised.
    pub fn poll_next(
        &mut self,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let Some(response) = &mut self.response else {
            return Poll::Ready(None);
        };
        match ready!(Pin::new(response).poll_next(task)) {
            Some(Ok(bytes)) => {
                if let Some(missing) = &mut self.missing {
                    *missing = missing.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Some(Err(error)) => {
                self.response = None;
                Poll::Ready(Some(Err(UpstreamError::Broken(error.to_string()))))
            }
            None => {
                self.response = None;
                let cut = self.missing.take().is_some_and(|missing| missing > 0);
                Poll::Ready(cut.then_some(Err(UpstreamError::Cut)))
            }
        }
    }

    /// Waits for the next bytes.
    ///
    /// # Errors
    ///
    /// As [`poll_next`](Self::poll_next).
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        std::future::poll_fn(|task| self.poll_next(task)).await
    }

    /// Reads on to the transport's own end, on the side and not for long: only a connection whose
    /// body ended can be used again, and most servers send that end in a packet of its own.
    pub fn linger(&mut self) {
        let mut rest = Self { response: self.response.take(), missing: None };
        if rest.response.is_none() {
            return;
        }
        let read = async move {
            let mut room = LINGER_BYTES;
            while let Some(Ok(bytes)) = rest.next().await
                && bytes.len() <= room
            {
                room -= bytes.len();
            }
        };
        actix_rt::spawn(actix_rt::time::timeout(LINGER, read));
    }

    /// The start of an error's body, as much as came in time.
    pub async fn read_error(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        let read = async {
            while body.len() < MAX_ERROR_BODY
                && let Some(Ok(bytes)) = self.next().await
            {
                let room = MAX_ERROR_BODY - body.len();
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        };
        let _ = actix_rt::time::timeout(ERROR_BODY_TIMEOUT, read).await;
        self.response = None;
        body
    }

    /// The whole body, at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// As [`poll_next`](Self::poll_next), or when there is more.
    pub async fn read_all(&mut self, limit: usize) -> Result<Vec<u8>, UpstreamError> {
        let mut body = Vec::new();
        while let Some(bytes) = self.next().await {
            body.extend_from_slice(&bytes?);
            if body.len() > limit {
                return Err(UpstreamError::Broken(format!("more than {limit} bytes")));
            }
        }
        Ok(body)
    }
}
