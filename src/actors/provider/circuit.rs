//! When an upstream that fails is left alone. Pure: time is told.

use std::time::Duration;

use actix_rt::time::Instant;

/// So many failures in a row open it.
const IN_A_ROW: u32 = 5;
/// Or more failures than successes among at least so many exchanges.
const AMONG: u32 = 20;
/// Within so long.
const WINDOW: Duration = Duration::from_secs(30);
/// How long it stays open at first; each further opening doubles it.
const FIRST_REST: Duration = Duration::from_secs(30);
/// At most.
const MAX_REST: Duration = Duration::from_secs(300);

/// The state of one upstream, for one credential.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circuit {
    in_a_row: u32,
    succeeded: u32,
    failed: u32,
    window: Option<Instant>,
    open_until: Option<Instant>,
    openings: u32,
}

impl Circuit {
    /// How long nothing is sent, if it is open.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.open_until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Lets an exchange through; after a rest one alone, to see. Tells whether its success is news.
    pub fn admit(&mut self, now: Instant) -> bool {
        if self.open_until.is_some() {
            self.open_until = Some(now + self.rest());
            return true;
        }
        self.in_a_row > 0 || self.failed > 0
    }

    pub fn succeeded(&mut self, now: Instant) {
        if self.open_until.take().is_some() {
            *self = Self::default();
            return;
        }
        self.in_a_row = 0;
        self.slide(now);
        self.succeeded += 1;
    }

    pub fn failed(&mut self, now: Instant) {
        self.slide(now);
        (self.in_a_row, self.failed) = (self.in_a_row + 1, self.failed + 1);
        let half = self.succeeded + self.failed >= AMONG && self.failed > self.succeeded;
        if self.open_until.is_some() || self.in_a_row >= IN_A_ROW || half {
            self.openings += 1;
            self.open_until = Some(now + self.rest());
            (self.in_a_row, self.succeeded, self.failed, self.window) = (0, 0, 0, None);
        }
    }

    fn rest(&self) -> Duration {
        FIRST_REST.saturating_mul(1 << self.openings.saturating_sub(1).min(8)).min(MAX_REST)
    }

    fn slide(&mut self, now: Instant) {
        if self.window.is_none_or(|since| now - since > WINDOW) {
            (self.window, self.succeeded, self.failed) = (Some(now), 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_success_closes_it() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..IN_A_ROW {
            assert_eq!(circuit.left(now), None);
            circuit.failed(now);
        }
        assert_eq!(circuit.left(now), Some(FIRST_REST));
        let later = now + FIRST_REST;
        assert_eq!(circuit.left(later), None);
        assert!(circuit.admit(later), "one may see");
        assert_eq!(circuit.left(later), Some(FIRST_REST), "and no other meanwhile");
        circuit.failed(later);
        assert_eq!(circuit.left(later), Some(2 * FIRST_REST));
        let much_later = later + 2 * FIRST_REST;
        circuit.admit(much_later);
        circuit.succeeded(much_later);
        assert_eq!((circuit.left(much_later), circuit.admit(much_later)), (None, false));
    }

    #[test]
    fn f13_an_upstream_that_fails_half_the_time_is_left_alone_and_a_hiccup_is_not() {
        let (mut flapping, now) = (Circuit::default(), Instant::now());
        for n in 0..AMONG {
            if n % 2 == 0 { flapping.failed(now) } else { flapping.succeeded(now) }
        }
        assert_eq!(flapping.left(now), None, "as many good as bad");
        flapping.failed(now);
        assert!(flapping.left(now).is_some());
        let mut hiccup = Circuit::default();
        for _ in 0..100 {
            hiccup.failed(now);
            for _ in 0..3 {
                hiccup.succeeded(now);
            }
        }
        assert_eq!(hiccup.left(now), None);
        let mut slow = Circuit::default();
        for n in 0..100 {
            let then = now + Duration::from_secs(31 * n);
            slow.failed(then);
            slow.succeeded(then);
        }
        assert_eq!(
            slow.left(now + Duration::from_secs(3100)),
            None,
            "what is long ago is forgotten"
        );
    }
}
