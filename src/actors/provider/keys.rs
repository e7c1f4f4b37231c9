//! Which of a provider's keys is lent next. Pure: time is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

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

#[derive(Debug, Default)]
struct Place {
    /// Not lent before.
    rests_until: Option<Instant>,
    /// Refusals in a row.
    refusals: u32,
    circuit: Circuit,
    /// Counted by leases: a message for each would cost more than it tells.
    successes: Arc<AtomicU64>,
}

/// A key to lend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    /// Which one.
    pub index: usize,
    /// The key was refused before, and this is to see whether it is taken now.
    pub trial: bool,
    /// The upstream failed before, and this is to see whether it answers now.
    pub probe: bool,
}

/// Why no key is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// All of them rest, for so long.
    Resting(Duration),
    /// The upstream failed too often and is left alone, for so long.
    Open(Duration),
}

/// Whether anything is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    /// Yes.
    Ready,
    /// One exchange, to see whether the upstream answers again.
    HalfOpen,
    /// Nothing for so long.
    Cooling(Duration),
}

impl KeyRing {
    /// A ring of so many keys; `breaks` if an upstream that fails is left alone.
    pub fn new(keys: usize, breaks: bool) -> Self {
        let places = std::iter::repeat_with(Place::default).take(keys.max(1)).collect();
        Self { places, next: 0, breaks }
    }

    /// The next key that `has` and that does not rest; else why there is none. A key that was refused is
    /// lent once per rest, to see. `forced`: also while the upstream is left alone.
    pub fn pick(
        &mut self,
        now: Instant,
        forced: bool,
        has: impl Fn(usize) -> bool,
    ) -> Result<Pick, NoKey> {
        let count = self.places.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            let place = &mut self.places[index];
            let rests = place.rests_until.is_some_and(|until| now < until);
            if !has(index) || rests || (!forced && place.circuit.left(now).is_some()) {
                continue;
            }
            // Who asks all the same is no probe: neither a burst nor one that leaves moves the rest.
            let probe = place.circuit.left(now).is_none() && place.circuit.admit(now);
            let trial = place.refusals > 0;
            if trial {
                place.rests_until = Some(now + rest(place.refusals));
            }
            self.next = index + 1;
            return Ok(Pick { index, trial, probe });
        }
        let open = self.present(&has).filter_map(|place| place.circuit.left(now)).min();
        Err(match (self.left(now, &has), open) {
            (None, Some(open)) => NoKey::Open(open),
            (left, _) => NoKey::Resting(left.unwrap_or_default()),
        })
    }

    fn present(&self, has: impl Fn(usize) -> bool) -> impl Iterator<Item = &Place> {
        let places = self.places.iter().enumerate();
        places.filter(move |(index, _)| has(*index)).map(|(_, place)| place)
    }

    /// A key for something beside calls: one that does not rest, if there is one.
    pub fn any(&self, now: Instant, has: impl Fn(usize) -> bool) -> Option<usize> {
        let rests = |place: &Place| place.rests_until.is_some_and(|until| now < until);
        let there = || (0..self.places.len()).filter(|index| has(*index));
        there().find(|index| !rests(&self.places[*index])).or_else(|| there().next())
    }

    /// How long all keys that `has` rest, if they do.
    pub fn left(&self, now: Instant, has: impl Fn(usize) -> bool) -> Option<Duration> {
        let left = |place: &Place| {
            place
                .rests_until
                .and_then(|until| until.checked_duration_since(now))
                .unwrap_or_default()
        };
        self.present(has).map(left).min().filter(|left| !left.is_zero())
    }

    /// Whether any key that `has` would be lent now, be it that keys rest or that the upstream is left
    /// alone.
    pub fn availability(&self, now: Instant, has: impl Fn(usize) -> bool) -> Availability {
        let of = |place: &Place| {
            let until = place.rests_until.and_then(|until| until.checked_duration_since(now));
            let rest = until.unwrap_or_default();
            match rest.max(place.circuit.left(now).unwrap_or_default()) {
                Duration::ZERO if place.circuit.is_half_open(now) => Availability::HalfOpen,
                Duration::ZERO => Availability::Ready,
                left => Availability::Cooling(left),
            }
        };
        let rank = |availability: &Availability| match availability {
            Availability::Ready => (0, Duration::ZERO),
            Availability::HalfOpen => (1, Duration::ZERO),
            Availability::Cooling(left) => (2, *left),
        };
        self.present(has).map(of).min_by_key(rank).unwrap_or(Availability::Ready)
    }

    /// Where the successes of a key are counted.
    pub fn successes(&self, index: usize) -> Arc<AtomicU64> {
        self.places.get(index).map(|place| Arc::clone(&place.successes)).unwrap_or_default()
    }

    /// The upstream wants fewer requests with this key. That is an answer, too.
    pub fn rate_limited(&mut self, pick: Pick, pause: Duration, now: Instant) {
        if let Some(place) = self.places.get_mut(pick.index) {
            place.rests_until = Some(now + pause.min(MAX_PAUSE));
            place.answered(pick);
        }
    }

    /// The upstream refused this key. A key that is alone goes on: its callers should read why.
    pub fn refused(&mut self, pick: Pick, now: Instant) {
        let alone = self.places.len() < 2;
        if let Some(place) = self.places.get_mut(pick.index) {
            place.answered(pick);
            // Exchanges that were on their way when it was refused first say nothing new.
            if !alone && (pick.trial || place.refusals == 0) {
                place.refusals += 1;
                place.rests_until = Some(now + rest(place.refusals));
            }
        }
    }

    /// The upstream took this key.
    pub fn accepted(&mut self, pick: Pick) {
        if let Some(place) = self.places.get_mut(pick.index) {
            if pick.trial {
                (place.rests_until, place.refusals) = (None, 0);
            }
            place.answered(pick);
        }
    }

    /// The upstream was not reached, or failed.
    pub fn failed(&mut self, pick: Pick, now: Instant) {
        if let Some(place) = self.places.get_mut(pick.index).filter(|_| self.breaks) {
            let successes = place.successes.load(Ordering::Relaxed);
            place.circuit.failed(now, pick.probe, successes);
        }
    }

    /// A trial or probe ended without saying anything.
    pub fn abandoned(&mut self, pick: Pick, now: Instant) {
        if let Some(place) = self.places.get_mut(pick.index) {
            if pick.probe {
                place.circuit.abandoned(now);
            }
            if pick.trial && place.refusals > 0 {
                place.rests_until = Some(now);
            }
        }
    }
}

impl Place {
    fn answered(&mut self, pick: Pick) {
        if pick.probe {
            self.circuit.closed();
        }
    }
}

fn rest(refusals: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << refusals.saturating_sub(1).min(8)).min(MAX_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(ring: &mut KeyRing, now: Instant) -> Result<Pick, NoKey> {
        ring.pick(now, false, |_| true)
    }

    fn picks(ring: &mut KeyRing, now: Instant, count: usize) -> Vec<usize> {
        (0..count).filter_map(|_| picked(ring, now).ok()).map(|pick| pick.index).collect()
    }

    fn plain(index: usize) -> Pick {
        Pick { index, trial: false, probe: false }
    }

    #[test]
    fn keys_take_turns_and_rest_when_they_must() {
        let (mut ring, now) = (KeyRing::new(3, true), Instant::now());
        assert_eq!(picks(&mut ring, now, 4), [0, 1, 2, 0]);
        ring.rate_limited(plain(1), Duration::from_secs(5), now);
        ring.accepted(plain(1));
        assert_eq!(picks(&mut ring, now, 3), [2, 0, 2], "an older success ends no rest");
        assert_eq!(picks(&mut ring, now + Duration::from_secs(5), 3), [0, 1, 2]);
        let none = ring.pick(now, false, |index| index == 7);
        assert_eq!(none, Err(NoKey::Resting(Duration::ZERO)), "none is there");
        for index in 0..3 {
            ring.rate_limited(plain(index), Duration::from_secs(3600), now);
        }
        assert_eq!(picked(&mut ring, now), Err(NoKey::Resting(MAX_PAUSE)), "no longer than that");
        assert_eq!(ring.any(now, |index| index > 1), Some(2), "better than none");
    }

    #[test]
    fn a_refused_key_is_tried_once_per_rest_and_comes_back_when_it_works() {
        let (mut ring, now) = (KeyRing::new(2, true), Instant::now());
        for _ in 0..20 {
            ring.refused(plain(0), now);
        }
        assert_eq!(picks(&mut ring, now, 5), [1; 5]);
        let later = now + FIRST_REST;
        let trial = Pick { trial: true, ..plain(0) };
        assert_eq!(picked(&mut ring, later), Ok(trial), "a burst is one refusal");
        assert_eq!(picks(&mut ring, later, 5), [1; 5], "once");
        ring.abandoned(trial, later);
        assert_eq!(picked(&mut ring, later), Ok(trial), "unless it said nothing");
        ring.refused(trial, later);
        assert_eq!(picks(&mut ring, later + FIRST_REST, 3), [1; 3], "longer each time");
        let much_later = later + 2 * FIRST_REST;
        assert_eq!(picked(&mut ring, much_later), Ok(trial));
        ring.accepted(trial);
        assert_eq!(picks(&mut ring, much_later, 3), [1, 0, 1]);
        let mut alone = KeyRing::new(1, true);
        alone.refused(plain(0), now);
        assert_eq!(picks(&mut alone, now, 2), [0, 0]);
    }

    #[test]
    fn an_upstream_that_fails_is_left_alone_unless_it_is_local_or_there_is_no_other() {
        let now = Instant::now();
        for breaks in [true, false] {
            let mut ring = KeyRing::new(1, breaks);
            for _ in 0..5 {
                let pick = picked(&mut ring, now).unwrap();
                ring.failed(pick, now);
            }
            let next = picked(&mut ring, now);
            assert_eq!(matches!(next, Err(NoKey::Open(_))), breaks, "{next:?}");
            assert!(ring.pick(now, true, |_| true).is_ok(), "the last target is never ejected");
        }
    }

    #[test]
    fn who_asks_all_the_same_neither_lengthens_a_rest_nor_ends_it() {
        let (mut ring, now) = (KeyRing::new(1, true), Instant::now());
        (0..5).for_each(|_| ring.failed(plain(0), now));
        let open = picked(&mut ring, now);
        for _ in 0..10 {
            let forced = ring.pick(now, true, |_| true).unwrap();
            assert_eq!(forced, plain(0));
            ring.failed(forced, now);
            ring.abandoned(forced, now);
            assert_eq!(picked(&mut ring, now), open);
        }
        let probe = picked(&mut ring, now + FIRST_REST).unwrap();
        assert!(probe.probe, "its rest was not moved");
    }
}
