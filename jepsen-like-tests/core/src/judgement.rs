//! What a judge says of a history. There are three answers, and only the first is good: held, broken, and not known.

use serde::Serialize;

/// The findings of one judge, or of all together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Broken guarantees, in words.
    pub violations: Vec<String>,
    /// What could not be decided, in words.
    pub undecided: Vec<String>,
    /// Why the run proves too little, in words.
    pub coverage: Vec<String>,
    /// What is worth knowing and breaks no promise.
    pub notes: Vec<String>,
}

impl Judgement {
    /// Demands that `count` of something be at least `least`; a run with less proves too little.
    pub fn cover(&mut self, what: &str, count: u64, least: u64) {
        if count < least {
            self.coverage.push(format!("{count} {what}, at least {least} are needed"));
        }
    }

    /// Takes over the findings of another judge, under its name.
    pub fn add(&mut self, judge: &str, other: Judgement) {
        let named = |findings: Vec<String>| findings.into_iter().map(move |finding| format!("{judge}: {finding}"));
        self.violations.extend(named(other.violations));
        self.undecided.extend(named(other.undecided));
        self.coverage.extend(named(other.coverage));
        self.notes.extend(named(other.notes));
    }

    /// `pass`, `fail` or `unknown`; all but the first fail the run.
    pub fn word(&self) -> &'static str {
        match (self.violations.is_empty() && self.coverage.is_empty(), self.undecided.is_empty()) {
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
        let broken = Judgement { violations: vec!["lost".to_owned()], ..Judgement::default() };
        all.add("set", broken);
        assert_eq!((all.word(), all.violations[0].as_str()), ("fail", "set: lost"));
    }
}
