//! When to renew a leaf: pure arithmetic, and a small state machine for whoever has a clock.

use std::time::{Duration, SystemTime};

/// First wait after a failed renewal.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait between failed renewals.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// After the roots have changed, all leaves are renewed within this time, spread so that the CA is not stormed.
pub const ROTATION_SPREAD: Duration = Duration::from_secs(30);

/// When to renew a leaf: between 50 % and 70 % of its life. `jitter` is in `0.0..=1.0`, random for each leaf.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life.mul_f64(0.5 + 0.2 * clamp(jitter))
}

/// How long to wait after the given number of failures in a row (at least 1): doubling, halved at most by `jitter` in `0.0..=1.0`.
pub fn retry_after(failures: u32, jitter: f64) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(RETRY_MAX).mul_f64(0.5 + 0.5 * clamp(jitter))
}

/// When the leaf of one holder is next to be renewed. The caller has the clock, the randomness and the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewer {
    due: SystemTime,
    failures: u32,
}

impl Renewer {
    /// For a holder that has no leaf yet: due at once.
    pub fn new(now: SystemTime) -> Self {
        Renewer { due: now, failures: 0 }
    }

    /// For a holder that has a leaf (kept from before, perhaps).
    pub fn with_leaf(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> Self {
        Renewer { due: renew_at(not_before, not_after, jitter), failures: 0 }
    }

    /// When to renew next.
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// How many renewals have failed since the last one that did not.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A renewal has given this leaf.
    pub fn renewed(&mut self, not_before: SystemTime, not_after: SystemTime, jitter: f64) {
        *self = Renewer::with_leaf(not_before, not_after, jitter);
    }

    /// A renewal has failed; the old leaf goes on being used.
    pub fn failed(&mut self, now: SystemTime, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.due = now + retry_after(self.failures, jitter);
    }

    /// The roots have changed: renew soon, but not all at once, and never later than planned.
    pub fn roots_changed(&mut self, now: SystemTime, jitter: f64) {
        self.due = self.due.min(now + ROTATION_SPREAD.mul_f64(clamp(jitter)));
    }
}

/// Random numbers come from outside; a wrong one must not panic.
fn clamp(jitter: f64) -> f64 {
    if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const START: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_72_hour_leaf_is_renewed_after_36_to_50_hours() {
        assert_eq!(renew_at(START, START + 72 * HOUR, 0.0), START + 36 * HOUR);
        assert_eq!(renew_at(START, START + 100 * HOUR, 1.0), START + 70 * HOUR);
        assert_eq!(renew_at(START + HOUR, START, 0.5), START + HOUR, "a nonsensical validity is due at once");
    }

    #[test]
    fn failures_back_off_and_a_success_forgets_them() {
        let waits: Vec<u64> = (1..9).map(|failures| retry_after(failures, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let mut renewer = Renewer::new(START);
        assert_eq!(renewer.due(), START);
        renewer.failed(START, 1.0);
        renewer.failed(START, 1.0);
        assert_eq!((renewer.due(), renewer.failures()), (START + Duration::from_secs(2), 2));
        renewer.renewed(START, START + 72 * HOUR, 0.0);
        assert_eq!((renewer.due(), renewer.failures()), (START + 36 * HOUR, 0));
        renewer.roots_changed(START + HOUR, 1.0);
        assert_eq!(renewer.due(), START + HOUR + ROTATION_SPREAD);
        renewer.roots_changed(START + 2 * HOUR, 0.0);
        assert_eq!(renewer.due(), START + HOUR + ROTATION_SPREAD, "never later than planned");
    }

    proptest! {
        #[test]
        fn whatever_the_jitter_the_times_stay_in_bounds(life in 0..10_000_000u64, jitter in any::<f64>(), failures in any::<u32>()) {
            let end = START + Duration::from_secs(life);
            let at = renew_at(START, end, jitter);
            prop_assert!(at <= end && at.duration_since(START).expect("after") * 2 + Duration::from_nanos(2) >= Duration::from_secs(life));
            let wait = retry_after(failures, jitter);
            prop_assert!(RETRY_MIN / 2 <= wait && wait <= RETRY_MAX);
        }
    }
}
