//! A smaller plan that still fails. Pure: who is asked whether a plan fails stands outside.
//!
//! Faults go first, by Zeller and Hildebrandt's ddmin (2002), then workloads one by one, then time.

use std::collections::BTreeSet;

use crate::plan::{Fault, Plan};

/// So long a plan goes on after its last fault has ended.
const AFTER_MS: u64 = 2_000;

/// The first fault comes so soon, but for what is tried out.
const BEFORE_MS: u64 = 500;

/// What came of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It fails as the first one did.
    Fails,
    /// It does not, as far as was seen.
    Passes,
    /// Nothing more is tried.
    Enough,
}

/// The smallest plan that was found. `run` tries one out.
pub fn shrink(plan: &Plan, mut run: impl FnMut(&Plan) -> Tried) -> Plan {
    let mut search = Search { run: &mut run, is_over: false };
    let mut best = plan.clone();
    best.faults = search.least(&plan.faults, |faults| with_faults(plan, faults.to_vec()));
    best.kinds = kinds(&best);
    search.drop_workloads(&mut best);
    search.save_time(&mut best);
    best
}

struct Search<'a> {
    run: &'a mut dyn FnMut(&Plan) -> Tried,
    is_over: bool,
}

impl Search<'_> {
    fn fails(&mut self, plan: &Plan) -> bool {
        if self.is_over {
            return false;
        }
        let tried = (self.run)(plan);
        self.is_over = tried == Tried::Enough;
        tried == Tried::Fails
    }

    /// Of these things as few as still fail: none of those that are left can be left out, nor any chunk that was tried.
    fn least<T: Clone>(&mut self, all: &[T], plan: impl Fn(&[T]) -> Plan) -> Vec<T> {
        if all.is_empty() || self.fails(&plan(&[])) {
            return Vec::new();
        }
        let (mut left, mut parts) = (all.to_vec(), 2);
        while left.len() > 1 && !self.is_over {
            let size = left.len().div_ceil(parts);
            let chunks: Vec<Vec<T>> = left.chunks(size).map(<[T]>::to_vec).collect();
            let rests = (0..chunks.len()).map(|out| {
                let kept = chunks.iter().enumerate().filter(|(at, _)| *at != out);
                kept.flat_map(|(_, chunk)| chunk.iter().cloned()).collect::<Vec<T>>()
            });
            // Of two chunks, what is left without the one is the other.
            let rests: Vec<Vec<T>> = if chunks.len() > 2 { rests.collect() } else { Vec::new() };
            if let Some(chunk) = chunks.iter().find(|chunk| self.fails(&plan(chunk))) {
                (left, parts) = (chunk.clone(), 2);
            } else if let Some(rest) = rests.iter().find(|rest| self.fails(&plan(rest))) {
                (left, parts) = (rest.clone(), (parts - 1).max(2));
            } else if size == 1 {
                break;
            } else {
                parts = (parts * 2).min(left.len());
            }
        }
        left
    }

    fn drop_workloads(&mut self, best: &mut Plan) {
        for name in best.workloads.clone() {
            let mut smaller = best.clone();
            smaller.workloads.retain(|other| *other != name);
            if !smaller.workloads.is_empty() && self.fails(&smaller) {
                *best = smaller;
            }
        }
    }

    /// First what is after the last fault and before the first, then half of the time that is left, and half of that.
    fn save_time(&mut self, best: &mut Plan) {
        let end_ms = best.faults.iter().map(|fault| fault.at_ms + fault.for_ms).max();
        let shorter = Plan { duration_ms: end_ms.map_or(best.duration_ms, |end_ms| end_ms + AFTER_MS), ..best.clone() };
        self.take_if_shorter(best, shorter);
        let first_ms = best.faults.iter().map(|fault| fault.at_ms).min().unwrap_or(0);
        let early_ms = first_ms.saturating_sub(BEFORE_MS);
        let mut sooner = Plan { duration_ms: best.duration_ms.saturating_sub(early_ms), ..best.clone() };
        sooner.faults.iter_mut().for_each(|fault| fault.at_ms -= early_ms);
        self.take_if_shorter(best, sooner);
        while let Some(half) = squeezed(best) {
            if !self.take_if_shorter(best, half) {
                return;
            }
        }
    }

    fn take_if_shorter(&mut self, best: &mut Plan, other: Plan) -> bool {
        let is_taken = other.duration_ms < best.duration_ms && self.fails(&other);
        if is_taken {
            *best = other;
        }
        is_taken
    }
}

fn with_faults(plan: &Plan, faults: Vec<crate::plan::Planned>) -> Plan {
    let mut smaller = Plan { faults, ..plan.clone() };
    smaller.kinds = kinds(&smaller);
    smaller
}

/// Only what is planned has to happen.
fn kinds(plan: &Plan) -> Vec<Fault> {
    plan.faults.iter().map(|fault| fault.fault).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Everything in half of the time; none if it would be over before something can happen.
fn squeezed(plan: &Plan) -> Option<Plan> {
    let mut half = Plan { duration_ms: plan.duration_ms / 2, ..plan.clone() };
    half.faults.iter_mut().for_each(|fault| fault.at_ms /= 2);
    (half.duration_ms >= BEFORE_MS + AFTER_MS).then_some(half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Planned, Target};

    fn plan(faults: &[(u64, Fault)]) -> Plan {
        let planned = |(at_ms, fault): &(u64, Fault)| Planned {
            at_ms: *at_ms,
            for_ms: 1_000,
            fault: *fault,
            target: Target::Leader,
            degree: 7,
        };
        let faults: Vec<Planned> = faults.iter().map(planned).collect();
        let workloads = ["register", "set", "bulk"].map(str::to_owned).to_vec();
        let mut plan = Plan { seed: 1, duration_ms: 60_000, servers: 3, workloads, kinds: vec![], faults };
        plan.kinds = kinds(&plan);
        plan
    }

    fn many(count: u64) -> Plan {
        let kinds = [Fault::Kill, Fault::Partition, Fault::Pause, Fault::Power];
        plan(&(0..count).map(|at| (1_000 * at, kinds[at as usize % 4])).collect::<Vec<_>>())
    }

    /// Shrinks by a rule, and answers how often it was asked.
    fn shrunk(plan: &Plan, rule: impl Fn(&Plan) -> bool) -> (Plan, usize) {
        let mut asked = 0;
        let found = shrink(plan, |plan| {
            asked += 1;
            if rule(plan) { Tried::Fails } else { Tried::Passes }
        });
        (found, asked)
    }

    #[test]
    fn one_fault_and_one_workload_are_found_among_many() {
        let needs = |plan: &Plan| {
            plan.workloads.contains(&"set".to_owned()) && plan.faults.iter().any(|fault| fault.fault == Fault::Power)
        };
        let (found, asked) = shrunk(&many(40), needs);
        assert_eq!((found.faults.len(), found.faults[0].fault), (1, Fault::Power));
        assert_eq!((found.workloads, found.kinds), (vec!["set".to_owned()], vec![Fault::Power]));
        assert_eq!(found.faults[0].degree, 7, "the fault itself is as it was");
        assert!(found.duration_ms < 10_000, "{}", found.duration_ms);
        assert!(asked < 40, "{asked}");
    }

    #[test]
    fn two_faults_far_apart_are_kept_and_nothing_else() {
        let has = |plan: &Plan, degree: u64| plan.faults.iter().any(|fault| u64::from(fault.degree) == degree);
        for (one, other) in [(0, 1), (3, 38), (17, 39), (0, 39)] {
            let mut plan = many(40);
            plan.faults.iter_mut().zip(0..).for_each(|(fault, at)| fault.degree = at);
            let (found, asked) = shrunk(&plan, |plan| has(plan, one) && has(plan, other));
            let degrees: Vec<u32> = found.faults.iter().map(|fault| fault.degree).collect();
            assert_eq!(degrees, [one as u32, other as u32]);
            assert!(asked < 150, "{asked}");
        }
    }

    #[test]
    fn time_is_kept_if_it_is_needed_and_the_order_stays() {
        let long = |plan: &Plan| plan.duration_ms >= 20_000 && plan.faults.len() >= 3;
        let (found, _) = shrunk(&many(10), long);
        assert_eq!(found.faults.len(), 3);
        assert!((20_000..40_000).contains(&found.duration_ms) || found.duration_ms == 60_000, "{}", found.duration_ms);
        assert!(found.faults.is_sorted_by_key(|fault| fault.at_ms));
    }

    #[test]
    fn what_fails_without_faults_needs_none() {
        let (found, _) = shrunk(&many(30), |_| true);
        assert!(found.faults.is_empty() && found.kinds.is_empty());
        assert_eq!(found.workloads.len(), 1);
    }

    #[test]
    fn what_passes_when_it_is_tried_again_stays_as_it_was() {
        let whole = many(8);
        let (found, _) = shrunk(&whole, |_| false);
        assert_eq!(found, whole);
    }

    #[test]
    fn the_best_so_far_is_the_answer_when_it_is_enough() {
        for most in 0..40 {
            let mut asked = 0;
            let needs = |plan: &Plan| plan.faults.iter().any(|fault| fault.at_ms == 5_000);
            let found = shrink(&many(32), |plan| {
                asked += 1;
                match asked > most {
                    true => Tried::Enough,
                    false if needs(plan) => Tried::Fails,
                    false => Tried::Passes,
                }
            });
            assert!(asked <= most + 1, "asked after it was enough");
            assert!(needs(&found) || most > 7, "{most}");
        }
    }
}
