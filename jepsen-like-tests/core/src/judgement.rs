//! What a judge says of a history. There are three answers, and only the first is good: held, broken, and not known.

use std::collections::BTreeMap;

use serde::Serialize;

/// The findings of one judge, or of all together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Broken guarantees, in words.
    pub violations: Vec<String>,
    /// What could not be decided, in words.
    pub undecided: Vec<String>,
    /// What was done how often, and how often it had to be done.
    pub counts: BTreeMap<String, Count>,
    /// What is worth knowing and breaks no promise.
    pub notes: Vec<String>,
}

/// How often something was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// So often.
    pub count: u64,
    /// With less a run proves too little.
    pub least: u64,
}

impl Judgement {
    /// Demands that `count` of something be at least `least`; a run with less proves too little. What was counted before is added.
    pub fn cover(&mut self, what: &str, count: u64, least: u64) {
        let sum = self.counts.entry(what.to_owned()).or_default();
        *sum = Count { count: sum.count + count, least: sum.least + least };
    }

    /// Why the run proves too little, in words.
    pub fn coverage(&self) -> Vec<String> {
        let short = self.counts.iter().filter(|(_, sum)| sum.count < sum.least);
        short.map(|(what, sum)| format!("{} {what}, at least {} are needed", sum.count, sum.least)).collect()
    }

    /// Takes over the findings of another judge, under its name.
    pub fn add(&mut self, judge: &str, other: Judgement) {
        let named = |findings: Vec<String>| findings.into_iter().map(move |finding| format!("{judge}: {finding}"));
        self.violations.extend(named(other.violations));
        self.undecided.extend(named(other.undecided));
        self.notes.extend(named(other.notes));
        other.counts.into_iter().for_each(|(what, sum)| self.cover(&format!("{judge}: {what}"), sum.count, sum.least));
    }

    /// `pass`, `fail` or `unknown`; all but the first fail the run.
    pub fn word(&self) -> &'static str {
        match (self.violations.is_empty() && self.coverage().is_empty(), self.undecided.is_empty()) {
            (false, _) => "fail",
            (true, false) => "unknown",
            (true, true) => "pass",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_without_findings_passes() {
        let mut all = Judgement::default();
        all.cover("operations", 10, 10);
        all.notes.push("slow".to_owned());
        assert_eq!(all.word(), "pass");
        all.undecided.push("too long".to_owned());
        assert_eq!(all.word(), "unknown");
        let mut little = Judgement::default();
        little.cover("operations", 9, 10);
        assert_eq!(little.word(), "fail");
        little.cover("operations", 11, 10);
        assert_eq!(little.word(), "pass", "rounds are added up");
        let broken = Judgement { violations: vec!["lost".to_owned()], ..Judgement::default() };
        all.add("set", broken);
        assert_eq!((all.word(), all.violations[0].as_str()), ("fail", "set: lost"));
    }
}
