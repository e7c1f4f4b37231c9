//! Errors → HTTP answers.

use std::fmt;

use actix_web::{HttpResponse, ResponseError, http::StatusCode};

use crate::{callers::Protocol, error::GatewayError};

/// An error on its way out of a handler, in the words of the caller's protocol.
#[derive(Debug)]
pub struct HttpFailure {
    error: Box<GatewayError>,
    protocol: Protocol,
}

impl HttpFailure {
    /// For a caller of this protocol.
    pub fn new(error: GatewayError, protocol: Protocol) -> Self {
        Self { error: Box::new(error), protocol }
    }
}

impl fmt::Display for HttpFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: Into<GatewayError>> From<E> for HttpFailure {
    fn from(error: E) -> Self {
        Self::new(error.into(), Protocol::Responses)
    }
}

impl ResponseError for HttpFailure {
    fn status_code(&self) -> StatusCode {
        let status = self.error.class().status();
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let failure = self.error.failure();
        let mut response = HttpResponse::build(self.status_code());
        if let Some(seconds) = failure.retry_after {
            response.insert_header(("retry-after", seconds.to_string()));
        }
        let document = self.protocol.error_document(&failure, failure.status);
        response.content_type("application/json").body(document)
    }
}

/// An error object for what is no call: a wrong path, a refused request.
pub(super) fn plain(status: StatusCode, code: &'static str, message: &str) -> HttpResponse {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    HttpResponse::build(status).json(serde_json::json!({
        "error": {"message": message, "type": kind, "code": code, "param": null}
    }))
}
