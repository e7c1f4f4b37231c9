//! How much of a provider's traffic may be retries: beyond a share they make a bad time worse.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Over so many seconds.
const SECONDS: usize = 10;
/// Retries among requests, in percent.
const SHARE: u64 = 20;
/// However little traffic there is.
const AT_LEAST: u64 = 3;

/// Counts a provider's requests and retries of the last seconds.
#[derive(Debug)]
pub struct RetryBudget {
    began: Instant,
    buckets: Mutex<[Bucket; SECONDS]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    requests: u64,
    retries: u64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { began: Instant::now(), buckets: Mutex::default() }
    }
}

impl RetryBudget {
    /// Counts a request.
    pub fn request(&self) {
        self.request_at(self.began.elapsed());
    }

    /// Takes one retry out of the budget, if there is one.
    pub fn take(&self) -> bool {
        self.take_at(self.began.elapsed())
    }

    fn request_at(&self, now: Duration) {
        let mut buckets = self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        bucket(&mut buckets, now.as_secs()).requests += 1;
    }

    fn take_at(&self, now: Duration) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let second = now.as_secs();
        let recent =
            buckets.iter().filter(|bucket| second - bucket.second.min(second) < SECONDS as u64);
        let (requests, retries) = recent.fold((0, 0), |(requests, retries), bucket| {
            (requests + bucket.requests, retries + bucket.retries)
        });
        let allowed = retries < (requests * SHARE / 100).max(AT_LEAST);
        if allowed {
            bucket(&mut buckets, second).retries += 1;
        }
        allowed
    }
}

fn bucket(buckets: &mut [Bucket; SECONDS], second: u64) -> &mut Bucket {
    // Within the array: it is a remainder.
    let bucket = &mut buckets[(second % SECONDS as u64) as usize];
    if bucket.second != second {
        *bucket = Bucket { second, ..Bucket::default() };
    }
    bucket
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_recent_requests_and_never_none() {
        let budget = RetryBudget::default();
        let at = Duration::from_secs;
        let taken = |now| (0..1000).filter(|_| budget.take_at(now)).count();
        assert_eq!(taken(at(0)), 3);
        for _ in 0..100 {
            budget.request_at(at(5));
        }
        assert_eq!(taken(at(5)), 17, "a fifth of a hundred, less those of before");
        assert_eq!(taken(at(9)), 0);
        assert_eq!(taken(at(30)), 3, "what is long ago does not count");
    }
}
