//! Errors → HTTP answers.

use std::fmt;

use actix_web::{HttpResponse, ResponseError, http::StatusCode};

use crate::error::GatewayError;

/// An error on its way out of a handler.
#[derive(Debug)]
pub struct HttpFailure(pub Box<GatewayError>);

impl fmt::Display for HttpFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: Into<GatewayError>> From<E> for HttpFailure {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

impl ResponseError for HttpFailure {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.class().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let failure = self.0.failure();
        let mut response = HttpResponse::build(self.status_code());
        if let Some(seconds) = failure.retry_after {
            response.insert_header(("retry-after", seconds.to_string()));
        }
        response.content_type("application/json").body(failure.document())
    }
}

/// An error object for what is no call: a wrong path, a refused request.
pub(super) fn plain(status: StatusCode, code: &'static str, message: &str) -> HttpResponse {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    HttpResponse::build(status).json(serde_json::json!({
        "error": {"message": message, "type": kind, "code": code, "param": null}
    }))
}
