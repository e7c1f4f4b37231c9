//! The connection to a collector. It blocks: spans are sent from a thread that does nothing else.

use std::{
    io::Read as _,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use prometheus::IntCounter;
use secrecy::ExposeSecret as _;

use super::{Collector, SEND_TIMEOUT};

/// What is read of a collector's answer, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// Sends batches, and tells of those that did not arrive.
#[derive(Debug)]
pub(super) struct Sender {
    agent: ureq::Agent,
    headers: Vec<(HeaderName, HeaderValue)>,
    lost: IntCounter,
    failing: AtomicBool,
}

impl Sender {
    /// `lost` counts batches that did not arrive.
    pub fn new(collector: &Collector, lost: IntCounter) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(SEND_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            // What variables say of proxies is meant for vendors; a collector is near.
            .proxy(None)
            .user_agent(concat!("opencodex/", env!("CARGO_PKG_VERSION")))
            .build();
        let headers = collector.headers.iter().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value.expose_secret()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        Self {
            agent: config.into(),
            headers: headers.collect(),
            lost,
            failing: AtomicBool::new(false),
        }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        head.headers.extend(self.headers.iter().cloned());
        let response = self.agent.run(Request::from_parts(head, body.to_vec()))?;
        let (head, body) = response.into_parts();
        let mut answer = Vec::new();
        body.into_reader().take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(Response::from_parts(head, answer.into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.send(request);
        let problem = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status().as_u16())),
            Err(error) => Some(error.to_string()),
        };
        let before = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        if let Some(problem) = problem {
            self.lost.inc();
            // Once per outage, not every other second.
            if !before {
                tracing::warn!(problem, "the collector takes no traces; those of now are lost");
            }
        } else if before {
            tracing::info!("the collector takes traces again");
        }
        sent
    }
}
