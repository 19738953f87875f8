//! The verdict of a run: what was done, what was found, and whether the run proved anything.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::history::{Operation, Outcome};

/// The most violations that are printed; the history has them all.
const VIOLATIONS_PRINTED_MAX: usize = 20;

/// What a run found; printed as one JSON object.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// `smoke`, `kill` or `power`.
    pub mode: &'static str,
    /// The seed that the run was given.
    pub seed: u64,
    /// `pass`, or `fail` when a violation was found or too little was done.
    verdict: &'static str,
    /// How many operations had which outcome.
    pub operations: Counts,
    /// How many keys were used.
    pub keys: usize,
    /// How many times a server was killed or frozen.
    pub faults: u32,
    /// What was measured, if something was.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<&'static str, u64>,
    /// Broken guarantees, in words.
    pub violations: Vec<String>,
    /// Why the run proves too little, in words.
    pub coverage: Vec<String>,
    /// Where the evidence is, if it was kept.
    pub folder: Option<String>,
}

/// Operations by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Reads that saw something.
    pub read: usize,
    /// Writes and compare-and-sets that were acknowledged.
    pub acknowledged: usize,
    /// Compare-and-sets that were refused.
    pub refused: usize,
    /// Proven not to have happened.
    pub failed: usize,
    /// May have happened.
    pub unknown: usize,
}

impl Counts {
    /// Counts a history.
    pub fn of(history: &[Operation]) -> Self {
        let mut counts = Self::default();
        for operation in history {
            match operation.outcome {
                Outcome::Saw(_) => counts.read += 1,
                Outcome::Done => counts.acknowledged += 1,
                Outcome::Refused => counts.refused += 1,
                Outcome::Failed => counts.failed += 1,
                Outcome::Unknown => counts.unknown += 1,
            }
        }
        counts
    }
}

impl Verdict {
    /// The verdict on a history; `violations` and `coverage` decide.
    pub fn new(mode: &'static str, seed: u64, history: &[Operation], keys: usize, faults: u32) -> Self {
        let operations = Counts::of(history);
        Self {
            mode,
            seed,
            verdict: "",
            operations,
            keys,
            faults,
            figures: BTreeMap::new(),
            violations: Vec::new(),
            coverage: Vec::new(),
            folder: None,
        }
    }

    /// Demands that `count` of something be at least `least`; a run with less proves too little.
    pub fn cover(&mut self, what: &str, count: usize, least: usize) {
        if count < least {
            self.coverage.push(format!("{count} {what}, at least {least} are needed"));
        }
    }

    /// No violation, and enough was done to have found one.
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.coverage.is_empty()
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let mut sealed = Self { verdict: if self.passed() { "pass" } else { "fail" }, ..self.clone() };
        let more = sealed.violations.len().saturating_sub(VIOLATIONS_PRINTED_MAX);
        if more > 0 {
            sealed.violations.truncate(VIOLATIONS_PRINTED_MAX);
            sealed.violations.push(format!("and {more} more"));
        }
        serde_json::to_string(&sealed).unwrap_or_else(|error| format!("{{\"verdict\":\"fail\",\"error\":\"{error}\"}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_or_too_little_fails() {
        let good = Verdict::new("smoke", 1, &[], 0, 3);
        assert!(good.passed() && good.to_json().contains("\"verdict\":\"pass\""));

        let mut little = good.clone();
        little.cover("faults", 3, 3);
        assert!(little.passed());
        little.cover("faults", 3, 4);
        assert!(!little.passed() && little.to_json().contains("\"verdict\":\"fail\""));

        let mut bad = good;
        bad.violations.push("k: lost".to_owned());
        assert!(!bad.passed() && bad.to_json().contains("k: lost"));
        bad.violations = vec!["k: lost".to_owned(); VIOLATIONS_PRINTED_MAX + 5];
        assert!(bad.to_json().contains("and 5 more"));
    }
}
