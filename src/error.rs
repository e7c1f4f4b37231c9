//! Every error of a call, and the one table that says what a class of errors means to a caller.
//!
//! What the table's statuses and codes do to Codex 0.169.0 was measured: it repeats 401, 403, 404,
//! 408, 409 and 413 six times and 5xx up to thirty times; 429 without `Retry-After` ends the turn,
//! with it Codex waits exactly that long; 400 ends the turn at once and shows the message.

use std::{borrow::Cow, time::Duration};

use crate::{
    actors::DispatchError,
    adapters::{DecodeError, EncodeError},
    callers::{Failure, ParseError},
    model::{Losses, UpstreamFailure},
    routing::RouteError,
    telemetry::metrics::CallOutcome,
    upstream::{Phase, UpstreamError},
};

/// Anything that ends a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// The body could not be taken in.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is no request.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// No provider serves the model.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The provider does not lend.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// The prompt cannot be said in the upstream's protocol.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The upstream has no answer.
    #[error("{provider}: {error}")]
    Upstream {
        /// The provider.
        provider: String,
        /// Why.
        error: UpstreamError,
    },
    /// The upstream's answer is broken.
    #[error("{provider}: {error}")]
    Decode {
        /// The provider.
        provider: String,
        /// How.
        error: DecodeError,
    },
    /// The upstream said "no".
    #[error("{provider} answered {status}: {}", .failure.message)]
    Refused {
        /// The provider.
        provider: String,
        /// The HTTP status of the refusal.
        status: u16,
        /// What it said, without secrets.
        failure: UpstreamFailure,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
        /// The caller's own login was used, so the caller can mend it.
        forwarded: bool,
    },
    /// The turn goes on from an answer that nobody has kept.
    #[error(
        "ocx keeps no answers, so `previous_response_id` cannot be resolved; send the whole \
         conversation in `input`"
    )]
    NoHistory,
    /// The provider is strict, and the translation would lose something.
    #[error(
        "{provider}: the translation would lose {losses}; `strict` in the provider's config \
         forbids that"
    )]
    Lossy {
        /// The provider.
        provider: String,
        /// What would be lost.
        losses: Losses,
    },
    /// A conversation was to be summarised, and there is no summary that could stand for it.
    #[error("{provider}: no summary came of the compaction: {reason}")]
    NoSummary {
        /// The provider.
        provider: String,
        /// What came instead.
        reason: &'static str,
    },
    /// The upstream's answer cannot be given on.
    #[error("{}", .0.message)]
    Answer(Failure),
    /// The caller asked for a stream and did not read it.
    #[error("the caller took nothing of the answer for too long (`clientWriteTimeoutMs`)")]
    SlowReader,
    /// The program is about to end.
    #[error("ocx is shutting down")]
    ShuttingDown,
    /// The provider left the config a while ago.
    #[error("the provider was removed from the config and its time to drain is over")]
    Drained,
    /// A defect of ours.
    #[error("an internal error; the log has the place")]
    Internal,
}

/// Why a body could not be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is over the limit, as sent or decompressed.
    #[error("the request body is larger than {0} bytes (`maxBodyBytes`)")]
    TooLarge(usize),
    /// It is compressed in a way we do not know.
    #[error("the content-encoding is not one of zstd, gzip, deflate, br, identity")]
    UnknownEncoding,
    /// It does not decompress.
    #[error("the request body does not decompress")]
    Corrupt,
    /// It came too slowly.
    #[error("the request body came too slowly")]
    TooSlow,
    /// The connection broke while it came.
    #[error("the request body did not come whole")]
    Incomplete,
}

/// What an error means, whoever it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The caller's request is wrong.
    InvalidRequest,
    /// The prompt is longer than the model takes.
    ContextTooLong,
    /// The model or its provider is not there.
    UnknownModel,
    /// A policy of the upstream forbids the request.
    Policy,
    /// A credential of ours is missing or refused.
    Unauthenticated,
    /// The caller's own login is missing or refused.
    CallerUnauthenticated,
    /// The account is used up.
    QuotaExhausted,
    /// Too many requests, for a short while.
    RateLimited,
    /// Too many requests, for longer than anybody wants to wait.
    UsageLimit,
    /// No slot is free, or the provider restarts.
    Saturated,
    /// The upstream cannot be reached or failed.
    UpstreamFailed,
    /// The upstream has no room.
    UpstreamOverloaded,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream fell silent in its answer.
    UpstreamStalled,
    /// The answer was cut short.
    UpstreamTruncated,
    /// The caller did not read its answer.
    SlowReader,
    /// We are going down.
    ShuttingDown,
    /// Our fault.
    Internal,
}

/// A row of the table.
struct Row {
    status: u16,
    kind: &'static str,
    /// `error.code` of an HTTP answer.
    code: &'static str,
    /// `error.code` inside a stream, where Codex decides by it alone.
    stream_code: &'static str,
    outcome: CallOutcome,
}

impl ErrorClass {
    fn row(self) -> Row {
        use CallOutcome as O;
        let row = |status, kind, code, stream_code, outcome| Row {
            status,
            kind,
            code,
            stream_code,
            outcome,
        };
        let (caller, ours, server) =
            ("invalid_request_error", "authentication_error", "server_error");
        match self {
            // Inside a stream, `invalid_prompt` is the code that ends a turn and shows the message.
            Self::InvalidRequest => row(400, caller, caller, "invalid_prompt", O::ClientError),
            Self::ContextTooLong => {
                let code = "context_length_exceeded";
                row(400, caller, code, code, O::ContextLength)
            }
            Self::UnknownModel => {
                row(400, caller, "model_not_found", "invalid_prompt", O::ClientError)
            }
            Self::Policy => row(400, caller, "cyber_policy", "cyber_policy", O::ClientError),
            Self::Unauthenticated => row(400, ours, "invalid_api_key", "invalid_prompt", O::Auth),
            // 401 makes Codex renew its own login.
            Self::CallerUnauthenticated => {
                row(401, ours, "invalid_api_key", "invalid_prompt", O::Auth)
            }
            Self::QuotaExhausted => {
                let code = "insufficient_quota";
                row(429, code, code, code, O::Quota)
            }
            Self::RateLimited => {
                let code = "rate_limit_exceeded";
                row(429, "rate_limit_error", code, code, O::RateLimited)
            }
            Self::UsageLimit => {
                let code = "usage_limit_reached";
                row(429, code, code, "insufficient_quota", O::RateLimited)
            }
            Self::Saturated => row(503, server, "saturated", "saturated", O::RateLimited),
            Self::UpstreamFailed => {
                row(502, server, "upstream_error", "upstream_error", O::UpstreamError)
            }
            // Not `server_is_overloaded`: that code makes Codex give up at once.
            Self::UpstreamOverloaded => {
                row(503, server, "upstream_overloaded", "upstream_overloaded", O::UpstreamError)
            }
            Self::UpstreamTimeout => {
                row(504, server, "upstream_timeout", "upstream_timeout", O::UpstreamTimeout)
            }
            Self::UpstreamStalled => {
                row(504, server, "upstream_stalled", "upstream_stalled", O::Stalled)
            }
            Self::UpstreamTruncated => {
                row(502, server, "upstream_truncated", "upstream_truncated", O::UpstreamError)
            }
            Self::SlowReader => row(408, server, "slow_reader", "slow_reader", O::ClientCancelled),
            Self::ShuttingDown => {
                row(503, server, "server_shutdown", "server_shutdown", O::Internal)
            }
            Self::Internal => row(500, server, "internal_error", "internal_error", O::Internal),
        }
    }

    /// Label of `ocx_requests_total`.
    pub fn outcome(self) -> CallOutcome {
        self.row().outcome
    }

    /// Whether another provider may succeed where this one did not.
    pub fn is_about_the_provider(self) -> bool {
        matches!(
            self,
            Self::UnknownModel
                | Self::Unauthenticated
                | Self::CallerUnauthenticated
                | Self::QuotaExhausted
                | Self::RateLimited
                | Self::UsageLimit
                | Self::Saturated
                | Self::UpstreamFailed
                | Self::UpstreamOverloaded
                | Self::UpstreamTimeout
                | Self::UpstreamStalled
                | Self::UpstreamTruncated
        )
    }

    /// HTTP status.
    pub fn status(self) -> u16 {
        self.row().status
    }
}

/// Waits up to this are told as they are; longer ones are another class of error, because Codex
/// would sit still for all of it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// What a caller is told to wait when the upstream did not say: without a figure Codex gives up.
const DEFAULT_RETRY_AFTER: u64 = 5;
/// For what passes by itself within moments.
const SHORT_RETRY_AFTER: u64 = 1;

impl GatewayError {
    /// What the error means.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Body(_) | Self::Parse(_) => ErrorClass::InvalidRequest,
            Self::Route(_) => ErrorClass::UnknownModel,
            Self::Encode(_) | Self::NoHistory | Self::Lossy { .. } => ErrorClass::InvalidRequest,
            Self::NoSummary { .. } => ErrorClass::UpstreamFailed,
            Self::Dispatch(error) => match error {
                DispatchError::Placeholder { .. } => ErrorClass::InvalidRequest,
                DispatchError::NoKey { .. } => ErrorClass::Unauthenticated,
                DispatchError::NotLoggedIn(_) => ErrorClass::CallerUnauthenticated,
                DispatchError::LoggedOut { .. } => ErrorClass::Unauthenticated,
                DispatchError::LoginStalled { .. } | DispatchError::CircuitOpen { .. } => {
                    ErrorClass::UpstreamOverloaded
                }
                DispatchError::CoolingDown { .. } => ErrorClass::RateLimited,
                DispatchError::Saturated(_)
                | DispatchError::Restarted(_)
                | DispatchError::Failed(_) => ErrorClass::Saturated,
            },
            Self::Upstream { error, .. } => match error {
                UpstreamError::Timeout(Phase::Stall | Phase::Progress) => {
                    ErrorClass::UpstreamStalled
                }
                UpstreamError::Timeout(_) => ErrorClass::UpstreamTimeout,
                UpstreamError::Cut | UpstreamError::Broken(_) => ErrorClass::UpstreamTruncated,
                UpstreamError::Redirected(_)
                | UpstreamError::Unsendable(_)
                | UpstreamError::Denied(_) => ErrorClass::InvalidRequest,
                _ => ErrorClass::UpstreamFailed,
            },
            Self::Decode { error, .. } => match error {
                DecodeError::Truncated => ErrorClass::UpstreamTruncated,
                DecodeError::Upstream(failure) => classify(failure, None, false),
                _ => ErrorClass::UpstreamFailed,
            },
            Self::Refused { failure, retry_after, forwarded, .. } => {
                classify(failure, *retry_after, *forwarded)
            }
            Self::Answer(failure) if failure.code == "invalid_prompt" => ErrorClass::InvalidRequest,
            Self::Answer(_) => ErrorClass::UpstreamFailed,
            Self::SlowReader => ErrorClass::SlowReader,
            Self::ShuttingDown | Self::Drained => ErrorClass::ShuttingDown,
            Self::Internal => ErrorClass::Internal,
        }
    }

    /// What the caller is told.
    pub fn failure(&self) -> Failure {
        if let Self::Answer(failure) = self {
            return failure.clone();
        }
        let class = self.class();
        let row = class.row();
        let code: Cow<'static, str> = match self {
            Self::Body(BodyError::TooLarge(_)) => "request_too_large".into(),
            Self::Upstream { error: UpstreamError::Redirected(_), .. } => {
                "upstream_redirect_refused".into()
            }
            Self::Decode { error: DecodeError::Empty, .. } => "upstream_empty_body".into(),
            // Codex answers this one by sending everything.
            Self::NoHistory => "previous_response_not_found".into(),
            Self::Lossy { .. } => "lossy_translation".into(),
            Self::NoSummary { .. } => "compaction_failed".into(),
            _ => row.code.into(),
        };
        Failure {
            message: self.to_string(),
            status: row.status,
            kind: row.kind.into(),
            code,
            stream_code: row.stream_code,
            retry_after: self.retry_after(class),
        }
    }

    fn retry_after(&self, class: ErrorClass) -> Option<u64> {
        let told = match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Dispatch(
                DispatchError::CoolingDown { left, .. }
                | DispatchError::LoginStalled { left, .. }
                | DispatchError::CircuitOpen { left, .. },
            ) => {
                // Whole seconds, and not a moment too early.
                Some(*left + Duration::from_millis(999))
            }
            _ => None,
        };
        let seconds = told.map(|wait| wait.min(MAX_RETRY_AFTER).as_secs());
        match class {
            ErrorClass::RateLimited => Some(seconds.unwrap_or(DEFAULT_RETRY_AFTER)),
            ErrorClass::Saturated | ErrorClass::ShuttingDown => Some(SHORT_RETRY_AFTER),
            ErrorClass::UpstreamFailed | ErrorClass::UpstreamOverloaded => seconds,
            _ => None,
        }
    }
}

/// Words by which upstreams say that a prompt is too long: OpenAI, vLLM, Anthropic, xAI, Gemini,
/// Bedrock, Kimi and llama.cpp, in this order.
const TOO_LONG: [&str; 12] = [
    "context_length_exceeded",
    "context window",
    "context length",
    "maximum context",
    "too many tokens",
    "prompt is too long",
    "exceed context limit",
    "maximum prompt length",
    "exceeds the maximum number of tokens",
    "input is too long",
    "exceeded model token limit",
    "available context size",
];

/// The class of an upstream's "no". Status and codes go before words: a 401 that mentions "context"
/// is still a 401.
fn classify(
    failure: &UpstreamFailure,
    retry_after: Option<Duration>,
    forwarded: bool,
) -> ErrorClass {
    let code = failure.code.as_deref().unwrap_or_default();
    let kind = failure.kind.as_deref().unwrap_or_default();
    let named = |name: &str| code == name || kind == name;
    let message = failure.message.to_lowercase();
    let status = failure.status.unwrap_or_default();

    if named("insufficient_quota")
        || status == 402
        || message.contains("exceeded your current quota")
    {
        return ErrorClass::QuotaExhausted;
    }
    if named("usage_limit_reached") || named("usage_not_included") {
        return ErrorClass::UsageLimit;
    }
    if status == 429
        || named("slow_down")
        || named("rate_limit_exceeded")
        || named("rate_limit_error")
    {
        return match retry_after {
            Some(wait) if wait > MAX_RETRY_AFTER => ErrorClass::UsageLimit,
            _ => ErrorClass::RateLimited,
        };
    }
    if matches!(status, 401 | 403) || named("authentication_error") || named("invalid_api_key") {
        return if forwarded {
            ErrorClass::CallerUnauthenticated
        } else {
            ErrorClass::Unauthenticated
        };
    }
    if named("cyber_policy") {
        return ErrorClass::Policy;
    }
    if named("context_length_exceeded") || TOO_LONG.iter().any(|words| message.contains(words)) {
        return ErrorClass::ContextTooLong;
    }
    if named("model_not_found") || (status == 404 && message.contains("model")) {
        return ErrorClass::UnknownModel;
    }
    match status {
        408 => ErrorClass::UpstreamTimeout,
        503 | 529 => ErrorClass::UpstreamOverloaded,
        400..=499 => ErrorClass::InvalidRequest,
        _ if named("overloaded_error") || message.contains("overloaded") => {
            ErrorClass::UpstreamOverloaded
        }
        0 if named("invalid_request_error") || named("invalid_prompt") => {
            ErrorClass::InvalidRequest
        }
        _ => ErrorClass::UpstreamFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str, message: &str, retry_after: Option<u64>) -> GatewayError {
        GatewayError::Refused {
            provider: "p".into(),
            status,
            failure: UpstreamFailure {
                status: Some(status),
                kind: None,
                code: Some(code.into()),
                message: message.into(),
            },
            retry_after: retry_after.map(Duration::from_secs),
            forwarded: false,
        }
    }

    #[test]
    fn t28_upstream_refusals_by_status_code_and_words() {
        use ErrorClass as C;
        for (status, code, message, class) in [
            (400, "", "bad field", C::InvalidRequest),
            (400, "", "This model's maximum context length is 8192 tokens", C::ContextTooLong),
            (413, "", "prompt is too long: 210000 tokens", C::ContextTooLong),
            (
                400,
                "",
                "input length and `max_tokens` exceed context limit: 1 + 2 > 3",
                C::ContextTooLong,
            ),
            (
                400,
                "",
                "The input token count (9) exceeds the maximum number of tokens allowed (8).",
                C::ContextTooLong,
            ),
            (400, "", "Input is too long for requested model.", C::ContextTooLong),
            (400, "", "Your request exceeded model token limit: 262144", C::ContextTooLong),
            (
                400,
                "",
                "the request exceeds the available context size, try increasing it",
                C::ContextTooLong,
            ),
            (401, "", "no context window for you", C::Unauthenticated),
            (403, "", "x", C::Unauthenticated),
            (404, "", "The model `x` does not exist", C::UnknownModel),
            (404, "", "no such path", C::InvalidRequest),
            (402, "", "pay", C::QuotaExhausted),
            (429, "insufficient_quota", "x", C::QuotaExhausted),
            (429, "", "slow down", C::RateLimited),
            (429, "usage_limit_reached", "x", C::UsageLimit),
            (500, "", "x", C::UpstreamFailed),
            (500, "", "Overloaded", C::UpstreamOverloaded),
            (503, "", "x", C::UpstreamOverloaded),
            (529, "", "x", C::UpstreamOverloaded),
            (400, "cyber_policy", "x", C::Policy),
            (422, "", "unknown field", C::InvalidRequest),
            (408, "", "x", C::UpstreamTimeout),
        ] {
            assert_eq!(
                refused(status, code, message, None).class(),
                class,
                "{status} {code} {message}"
            );
        }
    }

    #[test]
    fn a_rate_limit_always_tells_a_wait_that_codex_understands() {
        let wait = |retry_after| {
            let error = refused(429, "", "x", retry_after);
            (error.class().status(), error.failure().retry_after)
        };
        assert_eq!(wait(None), (429, Some(5)));
        assert_eq!(wait(Some(0)), (429, Some(0)));
        assert_eq!(wait(Some(60)), (429, Some(60)));
        let long = refused(429, "", "x", Some(3600));
        assert_eq!(long.class(), ErrorClass::UsageLimit);
        let failure = long.failure();
        assert_eq!((failure.kind.as_ref(), failure.retry_after), ("usage_limit_reached", None));
    }

    #[test]
    fn nothing_permanent_leaves_with_a_status_that_codex_repeats() {
        let permanent = [
            ErrorClass::InvalidRequest,
            ErrorClass::ContextTooLong,
            ErrorClass::UnknownModel,
            ErrorClass::Policy,
            ErrorClass::Unauthenticated,
        ];
        assert!(permanent.iter().all(|class| class.status() == 400));
    }

    #[test]
    fn a_callers_own_login_is_answered_with_401_so_that_it_is_renewed() {
        let mut error = refused(401, "", "expired", None);
        if let GatewayError::Refused { forwarded, .. } = &mut error {
            *forwarded = true;
        }
        assert_eq!(error.class().status(), 401);
    }
}
