//! `Retry-After`, in both of its forms. Source: RFC 9110 section 10.2.3.

use std::time::{Duration, SystemTime};

use awc::http::header::HttpDate;

/// Longer waits mean "not today", whatever they say.
const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Seconds or a date; a date in the past is no wait at all, and nonsense is nothing.
pub(super) fn parse(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(MAX));
    }
    let date: SystemTime = value.parse::<HttpDate>().ok()?.into();
    Some(date.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO).min(MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f12_both_forms_and_nonsense() {
        assert_eq!(parse("0"), Some(Duration::ZERO));
        assert_eq!(parse(" 5 "), Some(Duration::from_secs(5)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("Sat, 06 Nov 2094 08:49:37 GMT"), Some(MAX));
        for nonsense in ["-1", "1e99", "0.5", "soon", ""] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn p16_total_and_bounded(text in "\\PC{0,40}") {
            prop_assert!(parse(&text).is_none_or(|wait| wait <= MAX));
        }
    }
}
