//! Which of a provider's keys is lent next. Pure: time is told.

use std::time::Duration;

use actix_rt::time::Instant;

use super::circuit::Circuit;

/// No upstream may silence a key for longer: its own limits may be gone sooner than it says.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long a refused key rests at first; each further refusal doubles it.
const FIRST_REST: Duration = Duration::from_secs(30);
/// At most.
const MAX_REST: Duration = Duration::from_secs(300);

/// The keys of a provider, in turn. A provider without keys has one place, for nothing.
#[derive(Debug)]
pub(super) struct KeyRing {
    places: Vec<Place>,
    next: usize,
    /// Whether an upstream that fails is left alone for a while.
    breaks: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Not lent before.
    rests_until: Option<Instant>,
    /// Refusals in a row.
    refusals: u32,
    circuit: Circuit,
}

/// A key to lend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    /// Which one.
    pub index: usize,
    /// It was refused, or the upstream failed, before: its success must be told.
    pub on_probation: bool,
}

/// Why no key is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// All of them rest, for so long.
    Resting(Duration),
    /// The upstream failed too often and is left alone, for so long.
    Open(Duration),
}

impl KeyRing {
    /// A ring of so many keys; `breaks` if an upstream that fails is left alone.
    pub fn new(keys: usize, breaks: bool) -> Self {
        Self { places: vec![Place::default(); keys.max(1)], next: 0, breaks }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The next key that `has` and that does not rest; else how long until one may be lent. A key that
    /// was refused is lent once per rest, to see.
    pub fn pick(&mut self, now: Instant, has: impl Fn(usize) -> bool) -> Result<Pick, NoKey> {
        let count = self.places.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            let place = &mut self.places[index];
            let rests = place.rests_until.is_some_and(|until| now < until);
            if !has(index) || rests || place.circuit.left(now).is_some() {
                continue;
            }
            let mut on_probation = place.circuit.admit(now);
            if place.refusals > 0 {
                on_probation = true;
                place.rests_until = Some(now + rest(place.refusals));
            }
            self.next = index + 1;
            return Ok(Pick { index, on_probation });
        }
        let open = self.places.iter().filter_map(|place| place.circuit.left(now)).min();
        Err(match (self.left(now), open) {
            (None, Some(open)) => NoKey::Open(open),
            (left, _) => NoKey::Resting(left.unwrap_or_default()),
        })
    }

    /// How long all of them rest, if they do.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let left = |place: &Place| {
            place
                .rests_until
                .and_then(|until| until.checked_duration_since(now))
                .unwrap_or_default()
        };
        self.places.iter().map(left).min().filter(|left| !left.is_zero())
    }

    /// The upstream wants fewer requests with this key.
    pub fn rate_limited(&mut self, index: usize, pause: Duration, now: Instant) {
        if let Some(place) = self.places.get_mut(index) {
            place.rests_until = Some(now + pause.min(MAX_PAUSE));
        }
    }

    /// The upstream refused this key. A key that is alone goes on: its callers should read why.
    pub fn refused(&mut self, index: usize, now: Instant) {
        if self.places.len() < 2 {
            return;
        }
        if let Some(place) = self.places.get_mut(index) {
            place.refusals += 1;
            place.rests_until = Some(now + rest(place.refusals));
        }
    }

    /// The upstream took this key, and answered.
    pub fn accepted(&mut self, index: usize, now: Instant) {
        if let Some(place) = self.places.get_mut(index) {
            (place.rests_until, place.refusals) = (None, 0);
            place.circuit.succeeded(now);
        }
    }

    /// The upstream was not reached, or failed.
    pub fn failed(&mut self, index: usize, now: Instant) {
        if let Some(place) = self.places.get_mut(index).filter(|_| self.breaks) {
            place.circuit.failed(now);
        }
    }
}

fn rest(refusals: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << refusals.saturating_sub(1).min(8)).min(MAX_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(ring: &mut KeyRing, now: Instant, count: usize) -> Vec<usize> {
        (0..count).filter_map(|_| ring.pick(now, |_| true).ok()).map(|pick| pick.index).collect()
    }

    #[test]
    fn keys_take_turns_and_rest_when_they_must() {
        let (mut ring, now) = (KeyRing::new(3, true), Instant::now());
        assert_eq!(picks(&mut ring, now, 4), [0, 1, 2, 0]);
        ring.rate_limited(1, Duration::from_secs(5), now);
        assert_eq!(picks(&mut ring, now, 3), [2, 0, 2]);
        assert_eq!(picks(&mut ring, now + Duration::from_secs(5), 3), [0, 1, 2]);
        assert_eq!(
            ring.pick(now, |index| index == 1),
            Err(NoKey::Resting(Duration::ZERO)),
            "none is there"
        );
        for index in 0..3 {
            ring.rate_limited(index, Duration::from_secs(3600), now);
        }
        assert_eq!(ring.pick(now, |_| true), Err(NoKey::Resting(MAX_PAUSE)), "no longer than that");
    }

    #[test]
    fn a_refused_key_is_tried_once_per_rest_and_comes_back_when_it_works() {
        let (mut ring, now) = (KeyRing::new(2, true), Instant::now());
        ring.refused(0, now);
        assert_eq!(picks(&mut ring, now, 5), [1; 5]);
        let later = now + FIRST_REST;
        let probe = Pick { index: 0, on_probation: true };
        assert_eq!(ring.pick(later, |_| true), Ok(probe));
        assert_eq!(picks(&mut ring, later, 5), [1; 5], "once");
        ring.refused(0, later);
        assert_eq!(picks(&mut ring, later + FIRST_REST, 3), [1; 3], "longer each time");
        let much_later = later + 2 * FIRST_REST;
        assert_eq!(ring.pick(much_later, |_| true), Ok(probe));
        ring.accepted(0, much_later);
        assert_eq!(picks(&mut ring, much_later, 3), [1, 0, 1]);
        let mut alone = KeyRing::new(1, true);
        alone.refused(0, now);
        assert_eq!(picks(&mut alone, now, 2), [0, 0]);
    }

    #[test]
    fn an_upstream_that_fails_is_left_alone_unless_it_is_local() {
        let now = Instant::now();
        for breaks in [true, false] {
            let mut ring = KeyRing::new(1, breaks);
            for _ in 0..5 {
                assert!(ring.pick(now, |_| true).is_ok());
                ring.failed(0, now);
            }
            let picked = ring.pick(now, |_| true);
            assert_eq!(matches!(picked, Err(NoKey::Open(_))), breaks, "{picked:?}");
        }
    }
}
