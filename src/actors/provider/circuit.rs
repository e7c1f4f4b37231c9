//! When an upstream that fails is left alone. Pure: time is told.

use std::time::Duration;

use actix_rt::time::Instant;

/// So many failures in a row open it.
const IN_A_ROW: u32 = 5;
/// Or more failures than successes among at least so many exchanges.
const AMONG: u64 = 20;
/// Within so long.
const WINDOW: Duration = Duration::from_secs(30);
/// How long it stays open at first; each further opening doubles it.
const FIRST_REST: Duration = Duration::from_secs(30);
/// At most.
const MAX_REST: Duration = Duration::from_secs(300);

/// The state of one upstream, for one credential. Successes are counted elsewhere, by whoever has them;
/// it is told their number when something fails.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circuit {
    in_a_row: u32,
    failed: u64,
    window: Option<Instant>,
    /// Successes when something failed last, and when the window began.
    successes: u64,
    successes_before: u64,
    open_until: Option<Instant>,
    openings: u32,
}

impl Circuit {
    /// How long nothing is sent, if it is open.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.open_until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Whether it was open, and the next exchange is to see.
    pub fn is_half_open(&self, now: Instant) -> bool {
        self.open_until.is_some() && self.left(now).is_none()
    }

    /// Lets an exchange through, which after a rest is a probe: one alone, to see.
    pub fn admit(&mut self, now: Instant) -> bool {
        if self.open_until.is_none() {
            return false;
        }
        self.open_until = Some(now + self.rest());
        true
    }

    /// A probe came back with an answer.
    pub fn closed(&mut self) {
        *self = Self { successes: self.successes, ..Self::default() };
    }

    /// A probe ended without saying anything: another may see.
    pub fn abandoned(&mut self, now: Instant) {
        self.open_until = self.open_until.map(|_| now);
    }

    /// An exchange failed, after so many successes in all.
    pub fn failed(&mut self, now: Instant, probe: bool, successes: u64) {
        if self.open_until.is_some() {
            // Those that were on their way when it opened say nothing new.
            if probe {
                self.open(now);
            }
            return;
        }
        if successes != self.successes {
            (self.in_a_row, self.successes) = (0, successes);
        }
        if self.window.is_none_or(|since| now - since > WINDOW) {
            (self.window, self.failed, self.successes_before) = (Some(now), 0, successes);
        }
        (self.in_a_row, self.failed) = (self.in_a_row + 1, self.failed + 1);
        let succeeded = successes - self.successes_before;
        let mostly = succeeded + self.failed >= AMONG && self.failed > succeeded;
        if self.in_a_row >= IN_A_ROW || mostly {
            self.open(now);
        }
    }

    fn open(&mut self, now: Instant) {
        self.openings += 1;
        self.open_until = Some(now + self.rest());
        (self.in_a_row, self.failed, self.window) = (0, 0, None);
    }

    fn rest(&self) -> Duration {
        FIRST_REST.saturating_mul(1 << self.openings.saturating_sub(1).min(8)).min(MAX_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_closes_it() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..IN_A_ROW {
            assert_eq!(circuit.left(now), None);
            assert!(!circuit.admit(now));
            circuit.failed(now, false, 0);
        }
        assert_eq!(circuit.left(now), Some(FIRST_REST));
        for _ in 0..20 {
            circuit.failed(now, false, 0);
        }
        assert_eq!(circuit.left(now), Some(FIRST_REST), "those that were on their way");
        let later = now + FIRST_REST;
        assert_eq!(circuit.left(later), None);
        assert!(circuit.admit(later), "one may see");
        assert_eq!(circuit.left(later), Some(FIRST_REST), "and no other meanwhile");
        circuit.abandoned(later);
        assert!(circuit.left(later).is_none() && circuit.admit(later), "unless it says nothing");
        circuit.failed(later, true, 0);
        assert_eq!(circuit.left(later), Some(2 * FIRST_REST));
        let much_later = later + 2 * FIRST_REST;
        circuit.admit(much_later);
        circuit.closed();
        assert_eq!((circuit.left(much_later), circuit.admit(much_later)), (None, false));
    }

    #[test]
    fn f13_an_upstream_that_mostly_fails_is_left_alone_and_a_hiccup_is_not() {
        let now = Instant::now();
        let run = |pattern: &[bool]| {
            let (mut circuit, mut successes) = (Circuit::default(), 0);
            for good in pattern {
                if *good {
                    successes += 1;
                } else {
                    circuit.failed(now, false, successes);
                }
            }
            circuit.left(now).is_some()
        };
        assert!(run(&[false, true].repeat(50)), "every other one");
        assert!(run(&[false, false, true].repeat(10)));
        assert!(!run(&[false, true, true, true].repeat(50)));
        let mut burst = [true].repeat(95);
        burst.extend([false, true].repeat(5));
        assert!(!run(&burst), "few among many");
        let mut slow = Circuit::default();
        for n in 0..100_u64 {
            slow.failed(now + Duration::from_secs(31 * n), false, n);
        }
        assert_eq!(
            slow.left(now + Duration::from_secs(3100)),
            None,
            "what is long ago is forgotten"
        );
    }
}
