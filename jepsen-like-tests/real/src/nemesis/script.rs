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
    /// Kills a server that is not started again before [`Step::Start`].
    Kill(usize),
    /// Empties the disk of a server that is down.
    Wipe(usize),
    /// Asks a server to leave the cluster for good, and waits until it has ended.
    Leave(usize),
    /// What an operator does with a member that is gone.
    Remove(usize),
    /// Sees to one that was to leave and could not, for others broke it meanwhile: it is removed, and its disk emptied. Nothing if it has left.
    SeeOff(usize),
    /// Waits until a server is a member with a vote, and not the one that it was before its disk was emptied.
    AwaitVote(usize),
    /// For so many milliseconds a server must not be a member.
    StaysOut(usize, u64),
    /// Flips a bit in a file of a server that is down whose path contains this.
    Flip(usize, &'static str),
    /// Waits until a server whose disk is damaged has refused to start, or serves.
    Judge(usize),
}

impl Step {
    /// For people.
    pub(super) fn describe(&self) -> String {
        match self {
            Step::Stop(server) => format!("{} stops", name(*server)),
            Step::Start(server) => format!("{} starts", name(*server)),
            Step::Wait(_) => "a pause".to_owned(),
            Step::Kill(server) => format!("{} dies", name(*server)),
            Step::Wipe(server) => format!("{} gets an empty disk", name(*server)),
            Step::Leave(server) => format!("{} leaves", name(*server)),
            Step::Remove(server) | Step::SeeOff(server) => format!("{} is removed", name(*server)),
            Step::AwaitVote(server) => format!("{} is to vote", name(*server)),
            Step::Flip(server, part) => format!("a bit of {} of {} flips", part, name(*server)),
            Step::Judge(server) => format!("{} refuses to start on a damaged disk, or serves", name(*server)),
            Step::StaysOut(server, _) => format!("{} is no member any more", name(*server)),
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
        Fault::Member => membership(victim, degree),
        Fault::Flip => damage(victim % SERVERS, degree),
        _ => Vec::new(),
    }
}

/// From three members to others and back, without ever losing more than one disk: before a server is lost, all have a vote.
fn membership(victim: usize, degree: u32) -> Vec<Step> {
    let stay = Step::Wait(1_000 + u64::from(degree) * 4);
    // The leader may be a guest.
    let victim = victim % SERVERS;
    let middle = match degree % 5 {
        0 => {
            let [one, other] = GUESTS;
            [join(one), join(other), vec![stay], retire(one), retire(other)].concat()
        }
        1 => {
            let [one, other] = GUESTS;
            let lost = |guest| vec![Step::Kill(guest), Step::Remove(guest), Step::Wipe(guest)];
            [join(one), join(other), vec![stay], lost(one), lost(other)].concat()
        }
        2 => [vec![Step::Kill(victim), Step::Wipe(victim)], join(victim)].concat(),
        3 => {
            let guest = GUESTS[0];
            // On every other disk it finds what leaving has left.
            let gone = if degree.is_multiple_of(2) { retire(victim) } else { leave(victim) };
            [join(guest), gone, join(victim), retire(guest)].concat()
        }
        _ => {
            let guest = GUESTS[0];
            let ghost = vec![
                Step::Kill(guest),
                Step::Remove(guest),
                Step::Start(guest),
                Step::StaysOut(guest, 5_000),
                Step::Kill(guest),
                Step::Wipe(guest),
            ];
            [join(guest), ghost].concat()
        }
    };
    [all_vote(), middle, all_vote()].concat()
}

/// Where bits flip; the log is what there is most of.
const DAMAGED: [&str; 8] =
    ["raft/log", "raft/log", "raft/log", "raft/snapshot", "raft/store", "agent/sled", "identity", "node.json"];

/// A server goes down, its disk is damaged, and it starts again. Never of two at once: all have a vote before and after.
fn damage(victim: usize, degree: u32) -> Vec<Step> {
    let down = if degree.is_multiple_of(2) { Step::Kill(victim) } else { Step::Stop(victim) };
    let part = DAMAGED[degree as usize / 2 % DAMAGED.len()];
    let middle = vec![down, Step::Flip(victim, part), Step::Judge(victim)];
    [all_vote(), middle, all_vote()].concat()
}

/// What the message of a server that refuses to start asks of its operator; some forget to remove it first.
pub(super) fn mend(victim: usize, degree: u32) -> Vec<Step> {
    let removed = if degree < 500 { vec![Step::Remove(victim)] } else { Vec::new() };
    [removed, vec![Step::Wipe(victim)], join(victim)].concat()
}

const GUESTS: [usize; 2] = [SERVERS, SERVERS + 1];

fn all_vote() -> Vec<Step> {
    (0..SERVERS).map(Step::AwaitVote).collect()
}

fn join(server: usize) -> Vec<Step> {
    vec![Step::Start(server), Step::AwaitVote(server)]
}

fn leave(server: usize) -> Vec<Step> {
    vec![Step::Leave(server), Step::SeeOff(server)]
}

fn retire(server: usize) -> Vec<Step> {
    [leave(server), vec![Step::Wipe(server)]].concat()
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

    /// Follows a script: who runs and votes. Never may two of the three disks be lost, nor a guest be left behind.
    #[test]
    fn a_script_ends_with_the_three_that_it_began_with_and_spares_a_majority() {
        for (victim, degree) in (0..SERVERS + 2).flat_map(|victim| (0..1000).map(move |degree| (victim, degree))) {
            let (mut up, mut voters) = (vec![0, 1, 2], vec![0, 1, 2]);
            for step in membership(victim, degree) {
                match step {
                    Step::Start(server) => up.push(server),
                    Step::Kill(server) | Step::Stop(server) => up.retain(|one| *one != server),
                    Step::Leave(server) => {
                        up.retain(|one| *one != server);
                        voters.retain(|one| *one != server);
                    }
                    Step::Wipe(server) => {
                        assert!(!up.contains(&server), "{degree}: the disk is in use");
                        voters.retain(|one| *one != server);
                    }
                    Step::Remove(server) | Step::SeeOff(server) => voters.retain(|one| *one != server),
                    Step::AwaitVote(server) => {
                        assert!(up.contains(&server), "{degree}: nobody is there to vote");
                        if !voters.contains(&server) {
                            voters.push(server);
                        }
                    }
                    Step::StaysOut(server, _) => assert!(!voters.contains(&server)),
                    Step::Wait(_) | Step::Flip(..) | Step::Judge(_) => {}
                }
                assert!(voters.len() >= 2, "{degree}: {voters:?}");
            }
            up.sort_unstable();
            voters.sort_unstable();
            assert_eq!((up, voters), (vec![0, 1, 2], vec![0, 1, 2]), "{degree}");
        }
    }

    #[test]
    fn each_kind_of_file_is_damaged_while_its_server_is_down() {
        let mut parts = std::collections::BTreeSet::new();
        for degree in 0..1000 {
            let steps = damage(1, degree);
            assert_eq!((&steps[..3], &steps[6..]), (&all_vote()[..], &all_vote()[..]));
            assert!(matches!(steps[3], Step::Kill(1) | Step::Stop(1)) && steps[5] == Step::Judge(1));
            let Step::Flip(1, part) = steps[4] else { panic!("{:?}", steps[4]) };
            parts.insert(part);
        }
        assert_eq!(parts, DAMAGED.into());
    }

    #[test]
    fn faults_without_steps_are_no_operations() {
        assert!(is_operation(Fault::RestartAll));
        assert!(!is_operation(Fault::Kill) && !is_operation(Fault::Strobe));
    }
}
