//! What can go wrong between us and an upstream, as plain data: awc's own errors cannot leave their
//! thread.

use awc::error::{ConnectError, SendRequestError};

use super::policy::Denied;

/// Which wait was too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// For a connection.
    Connect,
    /// For the head of the answer.
    Head,
    /// For the next bytes.
    Stall,
    /// For the next event, while signs of life came.
    Progress,
}

/// Why an exchange has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Nobody was reached; nothing was sent.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(String),
    /// The certificate is not trusted, or TLS failed in another way.
    #[error("the TLS connection to the upstream failed: {0}")]
    Tls(String),
    /// The address may not be dialled.
    #[error("{0}")]
    Denied(String),
    /// The connection closed before the head of an answer.
    #[error("the upstream closed the connection without an answer")]
    Closed,
    /// A wait was too long.
    #[error("the upstream was silent for too long ({})", .0.words())]
    Timeout(Phase),
    /// What came is no HTTP answer.
    #[error("the upstream's answer is no HTTP: {0}")]
    NoHttp(String),
    /// The body broke off.
    #[error("the connection to the upstream broke: {0}")]
    Broken(String),
    /// The body is shorter than its head promised.
    #[error("the upstream's answer was cut short")]
    Cut,
    /// A redirect, which could take a credential elsewhere.
    #[error(
        "the upstream answered with a redirect ({0}), which is never followed; check the base URL"
    )]
    Redirected(u16),
    /// An interim answer where the answer should be.
    #[error("the upstream answered with an interim status ({0})")]
    Informational(u16),
    /// Compressed although we asked for plain.
    #[error("the upstream compressed its answer ({0}) although it was asked not to")]
    Encoded(String),
    /// The request could not even be written.
    #[error("the request cannot be sent: {0}")]
    Unsendable(&'static str),
}

impl Phase {
    fn words(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::Head => "waiting for the head of the answer",
            Self::Stall => "no bytes",
            Self::Progress => "no events",
        }
    }
}

impl UpstreamError {
    /// Whether the upstream cannot have begun to work on the request.
    pub fn nothing_was_sent(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(Phase::Connect))
    }

    /// The label of the attempts metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "connect",
            Self::Denied(_) => "denied",
            Self::Tls(_) => "tls",
            Self::Closed | Self::Broken(_) | Self::Cut => "closed",
            Self::Timeout(_) => "timeout",
            Self::NoHttp(_) | Self::Informational(_) | Self::Encoded(_) => "protocol",
            Self::Redirected(_) => "redirect",
            Self::Unsendable(_) => "unsendable",
        }
    }
}

impl From<SendRequestError> for UpstreamError {
    fn from(error: SendRequestError) -> Self {
        match error {
            SendRequestError::Connect(error) => connect(error),
            SendRequestError::Timeout => Self::Timeout(Phase::Head),
            // awc loses an early answer when the peer closes while the body is being sent.
            SendRequestError::Send(_) | SendRequestError::H2(_) => Self::Closed,
            SendRequestError::Response(error) => Self::NoHttp(error.to_string()),
            SendRequestError::Url(_) | SendRequestError::Http(_) => {
                Self::Unsendable("the address or a header is not legal")
            }
            other => Self::Broken(other.to_string()),
        }
    }
}

fn io(error: &std::io::Error) -> UpstreamError {
    let Some(inner) = error.get_ref() else {
        return UpstreamError::Unreachable(error.to_string());
    };
    if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let hint = if *tls == unknown {
            "; if an authority of your own signed it, name its certificate in `caFile`"
        } else {
            ""
        };
        return UpstreamError::Tls(format!("{tls}{hint}"));
    }
    if let Some(denied) = inner.downcast_ref::<Denied>() {
        return UpstreamError::Denied(denied.to_string());
    }
    UpstreamError::Unreachable(error.to_string())
}

fn connect(error: ConnectError) -> UpstreamError {
    match error {
        ConnectError::Timeout => UpstreamError::Timeout(Phase::Connect),
        ConnectError::Disconnected => UpstreamError::Closed,
        ConnectError::Io(error) => io(&error),
        ConnectError::Resolver(error) => UpstreamError::Unreachable(error.to_string()),
        other => UpstreamError::Unreachable(other.to_string()),
    }
}
