//! What may be tried again, and when. Pure. Nothing is ever tried again after the caller has been
//! given anything.

use std::time::Duration;

use crate::{
    actors::DispatchError,
    config::Retries,
    error::{ErrorClass, GatewayError},
    upstream::UpstreamError,
};

/// A pooled connection that had gone stale fails at once; what fails later may have been billed.
const STALE_WITHIN: Duration = Duration::from_secs(1);
/// Pause before the second attempt, at most; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
/// At most.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// An upstream that asks for a longer wait is not waited for: the caller knows better what it is worth.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// Try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Label of `ocx_retries_total`.
    pub cause: &'static str,
    /// First wait so long.
    pub pause: Duration,
}

impl Again {
    /// In words, for a person who asks what was done.
    pub fn words(&self) -> String {
        let what = match self.cause {
            "key" => return "the next key is tried".to_owned(),
            "token" => return "the account's token was renewed, and it is asked again".to_owned(),
            "connect" => "it was not reached",
            "stale_connection" => "the connection had gone stale",
            "provider_restarted" => "its actor was restarted",
            "asked_to_wait" => "it asked to wait",
            _ => "the server failed",
        };
        format!("asked again after {} ms: {what}", self.pause.as_millis())
    }
}

/// Whether a failed attempt (from 1) that took `took` is followed by another. `jitter`, from 0 to 1,
/// spreads those that failed together.
pub fn decide(
    attempt: u32,
    error: &GatewayError,
    took: Duration,
    retries: Retries,
    jitter: f64,
) -> Option<Again> {
    if attempt > retries.max {
        return None;
    }
    let backoff = || {
        let most = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(8)).min(MAX_PAUSE);
        most.mul_f64(jitter.clamp(0.0, 1.0))
    };
    match error {
        GatewayError::Upstream { error, .. } if error.nothing_was_sent() => {
            Some(Again { cause: "connect", pause: backoff() })
        }
        GatewayError::Upstream { error: UpstreamError::Closed, .. }
            if attempt == 1 && took < STALE_WITHIN && retries.posts =>
        {
            Some(Again { cause: "stale_connection", pause: Duration::ZERO })
        }
        GatewayError::Dispatch(DispatchError::Restarted(_)) if attempt == 1 => {
            Some(Again { cause: "provider_restarted", pause: Duration::ZERO })
        }
        GatewayError::Refused { status, retry_after, .. } if retries.posts => {
            refused(*status, *retry_after, error.class(), backoff())
        }
        _ => None,
    }
}

/// An upstream that said no, without having begun.
fn refused(
    status: u16,
    retry_after: Option<Duration>,
    class: ErrorClass,
    backoff: Duration,
) -> Option<Again> {
    match (status, retry_after) {
        (429 | 503, Some(wait))
            if wait <= MAX_WAIT
                && matches!(class, ErrorClass::RateLimited | ErrorClass::UpstreamOverloaded) =>
        {
            Some(Again { cause: "asked_to_wait", pause: wait.max(backoff) })
        }
        (500 | 502 | 504 | 520..=522 | 529, _)
            if matches!(
                class,
                ErrorClass::UpstreamFailed
                    | ErrorClass::UpstreamOverloaded
                    | ErrorClass::UpstreamTimeout
            ) =>
        {
            Some(Again { cause: "server_error", pause: backoff })
        }
        _ => None,
    }
}

/// Whether an upstream may have begun to work on a call that failed, and may bill it.
pub fn may_be_billed(error: &GatewayError) -> bool {
    match error {
        GatewayError::Dispatch(_) | GatewayError::Encode(_) => false,
        GatewayError::Upstream { error, .. } => !error.nothing_was_sent(),
        GatewayError::Refused { status, .. } => *status >= 500,
        _ => true,
    }
}

/// Whether a request that failed used no tokens: it did not arrive, or was refused.
pub fn used_nothing(error: &GatewayError) -> bool {
    matches!(error, GatewayError::Refused { .. }) || !may_be_billed(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::UpstreamFailure, upstream::Phase};

    fn upstream(error: UpstreamError) -> GatewayError {
        GatewayError::Upstream { provider: "p".into(), error }
    }

    const TWO: Retries = Retries { max: 2, posts: true };

    fn decide(attempt: u32, error: &GatewayError, took: Duration) -> Option<Again> {
        super::decide(attempt, error, took, TWO, 1.0)
    }

    fn refused(status: u16, retry_after: Option<u64>) -> GatewayError {
        GatewayError::Refused {
            provider: "p".into(),
            status,
            failure: UpstreamFailure { status: Some(status), ..UpstreamFailure::default() },
            retry_after: retry_after.map(Duration::from_secs),
            forwarded: false,
        }
    }

    #[test]
    fn what_cannot_have_been_billed_is_tried_again() {
        let (soon, late) = (Duration::from_millis(5), Duration::from_secs(2));
        let unreachable = upstream(UpstreamError::Unreachable("x".into()));
        assert_eq!(decide(1, &unreachable, late).unwrap().pause, Duration::from_millis(150));
        assert_eq!(decide(2, &unreachable, late).unwrap().pause, Duration::from_millis(300));
        assert_eq!(
            super::decide(1, &unreachable, late, TWO, 0.5).unwrap().pause,
            Duration::from_millis(75)
        );
        assert_eq!(decide(3, &unreachable, late), None);
        let closed = upstream(UpstreamError::Closed);
        assert!(decide(1, &closed, soon).is_some());
        assert_eq!(decide(2, &closed, soon), None, "once");
        assert_eq!(decide(1, &closed, late), None, "too late to be stale");
        for never in [
            upstream(UpstreamError::Timeout(Phase::Head)),
            upstream(UpstreamError::Tls("x".into())),
            upstream(UpstreamError::Denied("x".into())),
            upstream(UpstreamError::Redirected(302)),
            GatewayError::Internal,
        ] {
            assert_eq!(decide(1, &never, soon), None, "{never}");
        }
    }

    #[test]
    fn f12_a_server_error_or_a_short_wait_is_tried_again_and_nothing_else_is() {
        let now = Duration::ZERO;
        for (status, wait, again) in [
            (500, None, true),
            (502, None, true),
            (504, None, true),
            (529, None, true),
            (503, Some(1), true),
            (503, Some(30), false),
            (503, None, false),
            (429, Some(1), true),
            (429, Some(60), false),
            (429, None, false),
            (501, None, false),
            (400, None, false),
            (401, None, false),
            (404, None, false),
        ] {
            let error = refused(status, wait);
            assert_eq!(decide(1, &error, now).is_some(), again, "{status} {wait:?}");
            let never = Retries { posts: false, ..TWO };
            assert_eq!(super::decide(1, &error, now, never, 1.0), None, "{status} {wait:?}");
        }
        assert!(decide(1, &refused(429, Some(1)), now).unwrap().pause >= Duration::from_secs(1));
    }
}
