//! When to renew a leaf: pure arithmetic, and a small state machine for whoever has a clock.

use std::time::{Duration, SystemTime};

/// First wait after a failed renewal.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait between failed renewals.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// After the roots have changed, all leaves are renewed within this time, spread so that the CA is not stormed.
pub const ROTATION_SPREAD: Duration = Duration::from_secs(30);
/// The longest time until the clock is looked at again: a sleep does not notice that the clock has been set.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);

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
    /// A clock that shows less has been set back since: what was planned by it means nothing.
    since: SystemTime,
    due: SystemTime,
    failures: u32,
}

impl Renewer {
    /// For a holder that has no leaf yet: due at once.
    pub fn new(now: SystemTime) -> Self {
        Renewer { since: now, due: now, failures: 0 }
    }

    /// For a holder that has a leaf (kept from before, perhaps).
    pub fn with_leaf(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> Self {
        Renewer { since: not_before, due: renew_at(not_before, not_after, jitter), failures: 0 }
    }

    /// When to renew next, if the clock is not set until then.
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// Whether to renew now: the time has come, or it has not yet come for the leaf to begin, because it was signed by a clock
    /// that was ahead.
    pub fn is_due(&self, now: SystemTime) -> bool {
        now < self.since || now >= self.due
    }

    /// How long to wait before [`Renewer::is_due`] is asked again; at most [`LOOK_AGAIN`].
    pub fn wait(&self, now: SystemTime) -> Duration {
        if self.is_due(now) {
            return Duration::ZERO;
        }
        self.due.duration_since(now).unwrap_or_default().min(LOOK_AGAIN)
    }

    /// How many renewals have failed since the last one that did not.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A renewal has given this leaf. One that is due already (our clock or the signer's is far off, or the CA is about to end)
    /// counts as a failure, so that the CA is not asked without a pause.
    pub fn renewed(&mut self, now: SystemTime, not_before: SystemTime, not_after: SystemTime, jitter: f64) {
        let next = Renewer::with_leaf(not_before, not_after, jitter);
        if next.is_due(now) {
            self.failed(now, jitter);
        } else {
            *self = next;
        }
    }

    /// A renewal has failed; the old leaf goes on being used.
    pub fn failed(&mut self, now: SystemTime, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.since = now;
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
        renewer.renewed(START, START, START + 72 * HOUR, 0.0);
        assert_eq!((renewer.due(), renewer.failures()), (START + 36 * HOUR, 0));
        renewer.roots_changed(START + HOUR, 1.0);
        assert_eq!(renewer.due(), START + HOUR + ROTATION_SPREAD);
        renewer.roots_changed(START + 2 * HOUR, 0.0);
        assert_eq!(renewer.due(), START + HOUR + ROTATION_SPREAD, "never later than planned");
    }

    #[test]
    fn a_leaf_that_has_not_begun_or_is_over_is_renewed_at_once_after_the_clock_was_set() {
        let now = START + 1_000 * HOUR;
        let mut renewer = Renewer::with_leaf(now - HOUR, now + 72 * HOUR, 0.0);
        let is_due = |renewer: &Renewer, at: SystemTime| {
            assert!(renewer.wait(at) <= LOOK_AGAIN);
            assert_eq!(renewer.wait(at).is_zero(), renewer.is_due(at));
            renewer.is_due(at)
        };
        assert!(!is_due(&renewer, now) && !is_due(&renewer, now - HOUR));
        assert!(is_due(&renewer, now - HOUR - Duration::from_secs(1)), "set back to before it begins");
        assert!(is_due(&renewer, now + 72 * HOUR), "set to after its end");
        renewer.failed(now + 100 * HOUR, 1.0);
        assert!(!is_due(&renewer, now + 100 * HOUR) && is_due(&renewer, now + 100 * HOUR + RETRY_MIN));
        assert!(is_due(&renewer, now), "what was planned by a clock that was ahead is not waited for");
    }

    #[test]
    fn a_new_leaf_that_is_due_already_is_not_asked_for_again_without_a_pause() {
        let now = START + 1_000 * HOUR;
        for (not_before, not_after) in [(now + HOUR, now + 73 * HOUR), (now - HOUR, now + HOUR / 2), (now - HOUR, now)]
        {
            let mut renewer = Renewer::new(now);
            for failures in 1..9 {
                renewer.renewed(now, not_before, not_after, 0.0);
                assert_eq!((renewer.failures(), renewer.due()), (failures, now + retry_after(failures, 0.0)));
            }
        }
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
