//! Operations as lists of steps. Pure: what is done is decided here, how is in [`super::operate`].

use std::collections::VecDeque;

use jlt_core::plan::{Fault, Planned};

use crate::cluster::{SERVERS, name};

/// One thing that is done, or waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Asks a server to stop (SIGTERM), and waits until it has.
    Stop(usize),
    /// Starts a server on what is on its disk.
    Start(usize),
    /// Lets so many milliseconds pass.
    Wait(u64),
}

impl Step {
    /// For people.
    pub(super) fn describe(&self) -> String {
        match self {
            Step::Stop(server) => format!("{} stops", name(*server)),
            Step::Start(server) => format!("{} starts", name(*server)),
            Step::Wait(_) => "a pause".to_owned(),
        }
    }
}

/// Whether the fault has steps and an end of its own.
pub(super) fn is_operation(fault: Fault) -> bool {
    !steps(fault, 0, 0).is_empty()
}

/// What is done to `victim`, and to others for its sake.
pub(super) fn script(planned: &Planned, victim: usize) -> VecDeque<Step> {
    steps(planned.fault, victim, planned.degree).into()
}

fn steps(fault: Fault, victim: usize, degree: u32) -> Vec<Step> {
    match fault {
        Fault::RestartAll => rolling(victim, degree),
        _ => Vec::new(),
    }
}

/// One after the other, with 0.5 to 9 s between.
fn rolling(first: usize, degree: u32) -> Vec<Step> {
    let gap_ms = 500 + u64::from(degree) * 8_500 / 999;
    let order = (0..SERVERS).map(|turn| (first + turn) % SERVERS);
    order.flat_map(|server| [Step::Stop(server), Step::Start(server), Step::Wait(gap_ms)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_restarted_one_after_the_other() {
        let steps = steps(Fault::RestartAll, 1, 999);
        let gap = Step::Wait(9_000);
        let one = |server| [Step::Stop(server), Step::Start(server), gap.clone()];
        assert_eq!(steps, [one(1), one(2), one(0)].concat());
        assert!(matches!(rolling(0, 0)[2], Step::Wait(500)));
    }

    #[test]
    fn faults_without_steps_are_no_operations() {
        assert!(is_operation(Fault::RestartAll));
        assert!(!is_operation(Fault::Kill) && !is_operation(Fault::Strobe));
    }
}
