//! What may be tried again, and when. Pure. Nothing is ever tried again after the caller has been
//! given anything.

use std::time::Duration;

use crate::{actors::DispatchError, error::GatewayError, upstream::UpstreamError};

/// Attempts of one call, the first included.
pub const MAX_ATTEMPTS: u32 = 3;
/// A pooled connection that had gone stale fails at once; what fails later may have been billed.
const STALE_WITHIN: Duration = Duration::from_secs(1);
/// Pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(150);

/// Try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Label of `ocx_retries_total`.
    pub cause: &'static str,
    /// First wait so long.
    pub pause: Duration,
}

/// Whether a failed attempt (from 1) that took `took` is followed by another.
pub fn decide(attempt: u32, error: &GatewayError, took: Duration) -> Option<Again> {
    if attempt >= MAX_ATTEMPTS {
        return None;
    }
    match error {
        GatewayError::Upstream { error, .. } if error.nothing_was_sent() => {
            let pause = FIRST_PAUSE * 2u32.pow(attempt - 1);
            Some(Again { cause: "connect", pause })
        }
        GatewayError::Upstream { error: UpstreamError::Closed, .. }
            if attempt == 1 && took < STALE_WITHIN =>
        {
            Some(Again { cause: "stale_connection", pause: Duration::ZERO })
        }
        GatewayError::Dispatch(DispatchError::Restarted(_)) if attempt == 1 => {
            Some(Again { cause: "provider_restarted", pause: Duration::ZERO })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Phase;

    fn upstream(error: UpstreamError) -> GatewayError {
        GatewayError::Upstream { provider: "p".into(), error }
    }

    #[test]
    fn only_what_cannot_have_been_billed_is_tried_again() {
        let (soon, late) = (Duration::from_millis(5), Duration::from_secs(2));
        let refused = upstream(UpstreamError::Unreachable("x".into()));
        assert_eq!(decide(1, &refused, late).unwrap().pause, Duration::from_millis(150));
        assert_eq!(decide(2, &refused, late).unwrap().pause, Duration::from_millis(300));
        assert_eq!(decide(3, &refused, late), None);
        let closed = upstream(UpstreamError::Closed);
        assert!(decide(1, &closed, soon).is_some());
        assert_eq!(decide(2, &closed, soon), None, "once");
        assert_eq!(decide(1, &closed, late), None, "too late to be stale");
        for never in [
            upstream(UpstreamError::Timeout(Phase::Head)),
            upstream(UpstreamError::Tls("x".into())),
            upstream(UpstreamError::Redirected(302)),
            GatewayError::Internal,
        ] {
            assert_eq!(decide(1, &never, soon), None, "{never}");
        }
    }
}
