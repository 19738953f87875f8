//! How long to wait after a failure: doubling, with jitter.

use std::time::Duration;

/// Waits that double from a first to a longest one.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, failures: 0 }
    }

    /// The wait after one more failure: between half and the whole of its length.
    pub(crate) fn next(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.longest).mul_f64(rand::random_range(0.5..=1.0))
    }

    /// A success: the next failure is the first again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole_ms in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next().as_millis();
            assert!((whole_ms / 2..=whole_ms).contains(&wait), "{wait}");
        }
        backoff.reset();
        assert!(backoff.next().as_millis() <= 100);
    }
}
