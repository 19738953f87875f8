//! What a check says after several runs: thresholds keep one bad (or good) run from changing it.

use crate::CheckStatus;
/// How many runs in a row it takes to change what a check says. Zero means one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thresholds {
    /// Successes in a row before it passes (or warns, if that is what they say).
    pub success_before_passing: u32,
    /// Failures in a row before it warns; 0 means as many as before it is critical.
    pub failures_before_warning: u32,
    /// Failures in a row before it is critical.
    pub failures_before_critical: u32,
}

/// Counts the runs of one check. (Consul: `checks.StatusHandler`.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckMachine {
    thresholds: Thresholds,
    successes: u32,
    failures: u32,
}

impl CheckMachine {
    /// A check that has not run yet.
    pub fn new(mut thresholds: Thresholds) -> Self {
        if thresholds.failures_before_warning == 0 {
            thresholds.failures_before_warning = thresholds.failures_before_critical;
        }
        CheckMachine { thresholds, successes: 0, failures: 0 }
    }

    /// Takes the outcome of a run; returns what the check says now, or nothing if it goes on saying what it said.
    pub fn observe(&mut self, outcome: CheckStatus) -> Option<CheckStatus> {
        match outcome {
            CheckStatus::Passing | CheckStatus::Warning => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                (self.successes >= self.thresholds.success_before_passing).then_some(outcome)
            }
            CheckStatus::Critical => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.thresholds.failures_before_critical {
                    Some(CheckStatus::Critical)
                } else {
                    (self.failures >= self.thresholds.failures_before_warning).then_some(CheckStatus::Warning)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckStatus::{Critical, Passing, Warning};

    fn run(thresholds: (u32, u32, u32), outcomes: &[CheckStatus]) -> Vec<Option<CheckStatus>> {
        let mut machine = CheckMachine::new(Thresholds {
            success_before_passing: thresholds.0,
            failures_before_warning: thresholds.1,
            failures_before_critical: thresholds.2,
        });
        outcomes.iter().map(|outcome| machine.observe(*outcome)).collect()
    }

    #[test]
    fn without_thresholds_each_run_decides() {
        assert_eq!(run((0, 0, 0), &[Passing, Critical, Warning]), [Some(Passing), Some(Critical), Some(Warning)]);
    }

    #[test]
    fn failures_warn_and_then_are_critical() {
        let failures = [Critical; 4];
        assert_eq!(run((0, 2, 4), &failures), [None, Some(Warning), Some(Warning), Some(Critical)]);
        assert_eq!(run((0, 0, 3), &failures), [None, None, Some(Critical), Some(Critical)]);
        assert_eq!(run((0, 1, 0), &failures), [Some(Critical); 4]);
    }

    #[test]
    fn one_outcome_starts_the_other_count_again() {
        let outcomes = [Passing, Passing, Critical, Passing, Passing, Passing];
        assert_eq!(run((3, 0, 2), &outcomes), [None, None, None, None, None, Some(Passing)]);
        assert_eq!(
            run((0, 0, 2), &[Critical, Passing, Critical, Critical]),
            [None, Some(Passing), None, Some(Critical)]
        );
    }

    #[test]
    fn warnings_count_as_successes() {
        assert_eq!(run((2, 0, 0), &[Warning, Warning, Passing]), [None, Some(Warning), Some(Passing)]);
    }
}
