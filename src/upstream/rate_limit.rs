//! What upstreams say of what is left of their limits.

use awc::http::header::HeaderMap;

/// The windows that are told, and the headers that tell of them: what is left, and out of how much.
/// Sources: platform.openai.com/docs/guides/rate-limits, docs.anthropic.com/en/api/rate-limits.
const COUNTED: [(&str, &str, &str); 4] = [
    ("requests", "x-ratelimit-remaining-requests", "x-ratelimit-limit-requests"),
    ("tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens"),
    ("requests", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-limit"),
    ("tokens", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-limit"),
];

/// ChatGPT plans: percent used. Source: what Codex stores as the limits of a session.
const USED: [(&str, &str); 2] =
    [("primary", "x-codex-primary-used-percent"), ("secondary", "x-codex-secondary-used-percent")];

/// The share that is left, 0 to 1, of each window that the headers of an answer tell of.
pub(super) fn remaining(headers: &HeaderMap) -> Vec<(&'static str, f64)> {
    let number = |name: &str| -> Option<f64> {
        let number: f64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
        number.is_finite().then_some(number)
    };
    let counted = COUNTED.iter().filter_map(|(window, left, limit)| {
        let (left, limit) = (number(left)?, number(limit)?);
        (limit > 0.0).then(|| (*window, (left / limit).clamp(0.0, 1.0)))
    });
    let used = USED.iter().filter_map(|(window, used)| {
        Some((*window, (1.0 - number(used)? / 100.0).clamp(0.0, 1.0)))
    });
    counted.chain(used).collect()
}

#[cfg(test)]
mod tests {
    use awc::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Vec<(&'static str, f64)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        remaining(&map)
    }

    #[test]
    fn shares_are_told_and_nonsense_is_not() {
        let openai = of(&[
            ("x-ratelimit-remaining-requests", "50"),
            ("x-ratelimit-limit-requests", "200"),
            ("x-ratelimit-remaining-tokens", "many"),
            ("x-ratelimit-limit-tokens", "100"),
        ]);
        assert_eq!(openai, [("requests", 0.25)]);
        assert_eq!(
            of(&[
                ("anthropic-ratelimit-tokens-remaining", "9"),
                ("anthropic-ratelimit-tokens-limit", "0"),
                ("x-codex-primary-used-percent", "75.0"),
                ("x-codex-secondary-used-percent", "120"),
            ]),
            [("primary", 0.25), ("secondary", 0.0)]
        );
        assert_eq!(of(&[("x-ratelimit-remaining-requests", "5")]), [], "out of how much?");
    }
}
