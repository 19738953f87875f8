//! What happens to somebody beside the cluster, and when: one trouble at a time, of the kinds of the plan but at times of its own.

use std::time::Duration;

use jlt_core::plan::{Fault, Plan};
use jlt_core::rng::Rng;

/// The kinds that there are outside of the servers.
const KINDS: [Fault; 7] =
    [Fault::Kill, Fault::Power, Fault::Pause, Fault::Partition, Fault::Oneway, Fault::Delay, Fault::Loss];

/// How long a trouble lasts, in milliseconds.
const TROUBLE_MS: (u64, u64) = (100, 5_000);

pub(super) struct Fate<T> {
    rng: Rng,
    kinds: Vec<Fault>,
    choose: fn(Fault, &mut Rng) -> T,
    /// Between two troubles, in milliseconds.
    pause_ms: (u64, u64),
    end_ms: u64,
    current: Option<(T, u64)>,
    next_ms: u64,
}

impl<T: Copy> Fate<T> {
    /// The number makes its times and choices its own.
    pub(super) fn new(plan: &Plan, number: u64, pause_ms: (u64, u64), choose: fn(Fault, &mut Rng) -> T) -> Self {
        let mut rng = Rng::new(plan.seed, 1_000 + number);
        let kinds = plan.kinds.iter().filter(|kind| KINDS.contains(kind)).copied().collect();
        let next_ms = millis(rng.between_ms(pause_ms.0, pause_ms.1));
        Self { rng, kinds, choose, pause_ms, end_ms: plan.duration_ms, current: None, next_ms }
    }

    /// The trouble that is on.
    pub(super) fn current(&self) -> Option<T> {
        self.current.map(|(trouble, _)| trouble)
    }

    /// The trouble that begins (true) or ends (false) now.
    pub(super) fn step(&mut self, now_ms: u64) -> Option<(T, bool)> {
        if let Some((trouble, until_ms)) = self.current {
            if now_ms < until_ms.min(self.end_ms) {
                return None;
            }
            self.current = None;
            self.next_ms = now_ms + millis(self.rng.between_ms(self.pause_ms.0, self.pause_ms.1));
            return Some((trouble, false));
        }
        if now_ms < self.next_ms || now_ms >= self.end_ms || self.kinds.is_empty() {
            return None;
        }
        let kind = *self.rng.pick(&self.kinds);
        let trouble = (self.choose)(kind, &mut self.rng);
        self.current = Some((trouble, now_ms + millis(self.rng.between_ms(TROUBLE_MS.0, TROUBLE_MS.1))));
        Some((trouble, true))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(kinds: &[Fault]) -> Vec<(u64, Fault, bool)> {
        let plan = Plan::new(7, Duration::from_secs(30), 3, Vec::new(), kinds);
        let mut fate = Fate::new(&plan, 0, (1_000, 5_000), |kind, _| kind);
        let step = |now_ms| fate.step(now_ms).map(|(trouble, begins)| (now_ms, trouble, begins));
        (0..60_000).step_by(20).filter_map(step).collect()
    }

    #[test]
    fn each_trouble_begins_and_ends_one_after_the_other_within_the_plan() {
        let steps = steps(&[Fault::Kill, Fault::Pause, Fault::Partition]);
        assert!(steps.len() >= 4 && steps.len().is_multiple_of(2), "{steps:?}");
        for pair in steps.chunks(2) {
            assert!(pair[0].2 && !pair[1].2 && pair[0].1 == pair[1].1, "{pair:?}");
        }
        assert!(steps.iter().all(|(at_ms, ..)| *at_ms <= 30_000));
    }

    #[test]
    fn only_what_was_asked_for_happens() {
        assert!(steps(&[Fault::Pause]).iter().all(|(_, kind, _)| *kind == Fault::Pause));
        assert_eq!(steps(&[Fault::DiskFull, Fault::Skew]), []);
    }
}
