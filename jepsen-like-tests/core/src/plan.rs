//! The plan of a run: which fault begins when, how long it lasts and whom it hits. Made from a seed, kept as `plan.json`, and run again from there.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// A run is cut into windows of this length, and one of [`QUIET_OF`] in a row is without faults: what heals must be seen to heal.
const WINDOW_MS: u64 = 4_000;
const QUIET_OF: usize = 5;

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A server is cut off from the others, or a pair from each other.
    Partition,
    /// What one server sends does not arrive, or nothing arrives at it.
    Oneway,
    /// All that one server sends and receives is late and jitters.
    Delay,
    /// Frames to and from one server are lost, doubled and reordered.
    Loss,
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// SIGKILL, and what was not synced is lost.
    Power,
    /// The disk has no room.
    DiskFull,
    /// Syncs take up to two seconds.
    SlowSync,
    /// Syncs fail.
    Eio,
    /// The clock jumps by up to five minutes.
    Skew,
    /// The clock jumps back and forth, several times a second.
    Strobe,
    /// All servers are stopped politely and started again, one after the other.
    RestartAll,
    /// Servers join, leave, are lost and replaced; one comes back with an empty disk.
    Member,
    /// A bit flips on the disk of a server that is down.
    Flip,
    /// A server dies at a named point of its code.
    Crash,
}

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// This server.
    Server(usize),
    /// Whoever leads when it begins.
    Leader,
    /// All at once.
    All,
}

/// One fault of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// When it begins, in milliseconds of the run.
    pub at_ms: u64,
    /// How long it lasts.
    pub for_ms: u64,
    /// What is broken.
    pub fault: Fault,
    /// Whose.
    pub target: Target,
    /// How bad, and of which shape: 0 to 999, for the fault to read as it needs.
    pub degree: u32,
}

/// All faults of a run, in the order in which they begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it was made from; also decides the choices of clients, switch and disks.
    pub seed: u64,
    /// How long faults may begin.
    pub duration_ms: u64,
    /// How many servers there are.
    pub servers: usize,
    /// The workloads that run, by name.
    pub workloads: Vec<String>,
    /// The kinds of fault that were asked for; each has to happen.
    pub kinds: Vec<Fault>,
    /// What happens.
    pub faults: Vec<Planned>,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 16] = [
        Fault::Partition,
        Fault::Oneway,
        Fault::Delay,
        Fault::Loss,
        Fault::Kill,
        Fault::Pause,
        Fault::Power,
        Fault::DiskFull,
        Fault::SlowSync,
        Fault::Eio,
        Fault::Skew,
        Fault::Strobe,
        Fault::RestartAll,
        Fault::Member,
        Fault::Flip,
        Fault::Crash,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Partition => "partition",
            Fault::Oneway => "oneway",
            Fault::Delay => "delay",
            Fault::Loss => "loss",
            Fault::Kill => "kill",
            Fault::Pause => "pause",
            Fault::Power => "power",
            Fault::DiskFull => "disk-full",
            Fault::SlowSync => "slow-sync",
            Fault::Eio => "eio",
            Fault::Skew => "skew",
            Fault::Strobe => "strobe",
            Fault::RestartAll => "restart-all",
            Fault::Member => "member",
            Fault::Flip => "flip",
            Fault::Crash => "crash",
        }
    }

    /// What is counted where it acts. A run in which it stayed 0 did not have the fault, whatever was planned.
    pub fn effect(self) -> &'static str {
        match self {
            Fault::Partition | Fault::Oneway => "frames cut",
            Fault::Delay => "frames delayed",
            Fault::Loss => "frames lost",
            Fault::Kill => "processes killed",
            Fault::Pause => "milliseconds paused",
            Fault::Power => "unsynced bytes lost",
            Fault::DiskFull => "writes refused",
            Fault::SlowSync => "syncs slow",
            Fault::Eio => "syncs failed",
            Fault::Skew | Fault::Strobe => "clocks seen to be wrong",
            Fault::RestartAll => "servers stopped politely",
            Fault::Member => "members changed",
            Fault::Flip => "flipped bits refused",
            Fault::Crash => "crash points fired",
        }
    }

    /// The fault of that name.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|fault| fault.name()).collect();
            format!("{name:?} is no fault; there are {}", names.join(", "))
        })
    }

    /// Whether it needs no more than any machine has; the others have to be asked for by name.
    pub fn is_usual(self) -> bool {
        !matches!(self, Fault::Skew | Fault::Strobe | Fault::Crash)
    }

    /// The shortest and longest time that it lasts, in milliseconds.
    fn lasts_ms(self) -> (u64, u64) {
        match self {
            Fault::Partition | Fault::Oneway | Fault::Delay | Fault::Loss => (1_000, 6_000),
            Fault::Kill | Fault::Power => (0, 2_000),
            Fault::Pause => (100, 5_000),
            Fault::DiskFull => (1_000, 6_000),
            Fault::SlowSync => (1_000, 4_000),
            Fault::Eio => (100, 1_000),
            Fault::Skew | Fault::Strobe => (2_000, 8_000),
            // These end when all is done; until then the next one is not planned.
            Fault::RestartAll => (3_000, 15_000),
            Fault::Member => (5_000, 15_000),
            Fault::Flip => (3_000, 10_000),
            Fault::Crash => (3_000, 8_000),
        }
    }

    /// Killing all at once shows what the disks have; with the others it would only stop the cluster.
    fn may_hit_all(self) -> bool {
        matches!(self, Fault::Kill | Fault::Power)
    }
}

impl Plan {
    /// Plans each kind of fault by itself, so that they overlap as they please, and each at least once.
    pub fn new(seed: u64, duration: Duration, servers: usize, workloads: Vec<String>, kinds: &[Fault]) -> Self {
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let quiet = quiet_windows(&mut Rng::new(seed, 100), duration_ms);
        let mut faults = Vec::new();
        for kind in kinds {
            let mut rng = Rng::new(seed, 101 + *kind as u64);
            let pause_ms = 2_500 + 700 * kinds.len() as u64;
            faults.extend(of_kind(&mut rng, *kind, servers, duration_ms, pause_ms, &quiet));
        }
        faults.sort_by_key(|fault| fault.at_ms);
        Self { seed, duration_ms, servers, workloads, kinds: kinds.to_vec(), faults }
    }
}

/// The beginnings of the windows without faults. The first window is never one.
fn quiet_windows(rng: &mut Rng, duration_ms: u64) -> Vec<u64> {
    let windows: Vec<u64> = (0..duration_ms.div_ceil(WINDOW_MS)).map(|window| window * WINDOW_MS).collect();
    windows.chunks(QUIET_OF).filter(|row| row.len() == QUIET_OF).map(|row| row[1 + rng.below(QUIET_OF - 1)]).collect()
}

/// The faults of one kind: after each a pause of half to one and a half of `pause_ms`.
fn of_kind(
    rng: &mut Rng,
    fault: Fault,
    servers: usize,
    duration_ms: u64,
    pause_ms: u64,
    quiet: &[u64],
) -> Vec<Planned> {
    let mut faults = Vec::new();
    let mut at_ms = millis(rng, 200, pause_ms);
    while at_ms < duration_ms {
        let (least, most) = fault.lasts_ms();
        let planned = Planned {
            at_ms,
            for_ms: millis(rng, least, most),
            fault,
            target: target(rng, fault, servers),
            degree: rng.below(1000) as u32,
        };
        at_ms += planned.for_ms + millis(rng, pause_ms / 2, pause_ms * 3 / 2);
        faults.extend(before_quiet(planned, quiet));
    }
    if faults.is_empty() {
        let target = target(rng, fault, servers);
        faults.push(Planned { at_ms: 200, for_ms: fault.lasts_ms().1.min(2_000), fault, target, degree: 500 });
    }
    faults
}

/// Half of the faults hit the leader, which is the harder case.
fn target(rng: &mut Rng, fault: Fault, servers: usize) -> Target {
    match rng.below(10) {
        _ if fault == Fault::RestartAll => Target::All,
        0..5 => Target::Leader,
        5..8 if fault.may_hit_all() => Target::All,
        _ => Target::Server(rng.below(servers)),
    }
}

/// Ends a fault where a quiet window begins; none begins within one.
fn before_quiet(planned: Planned, quiet: &[u64]) -> Option<Planned> {
    if quiet.iter().any(|start| (*start..start + WINDOW_MS).contains(&planned.at_ms)) {
        return None;
    }
    let end_ms = quiet.iter().filter(|start| **start > planned.at_ms).min().copied().unwrap_or(u64::MAX);
    Some(Planned { for_ms: planned.for_ms.min(end_ms - planned.at_ms), ..planned })
}

fn millis(rng: &mut Rng, least: u64, most: u64) -> u64 {
    u64::try_from(rng.between_ms(least, most).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, seconds: u64, kinds: &[Fault]) -> Plan {
        Plan::new(seed, Duration::from_secs(seconds), 3, vec!["register".to_owned()], kinds)
    }

    #[test]
    fn names_read_back() {
        for fault in Fault::ALL {
            assert_eq!(Fault::named(fault.name()), Ok(fault));
            assert_eq!(serde_json::to_string(&fault).unwrap(), format!("{:?}", fault.name()));
        }
        assert!(Fault::named("fire").unwrap_err().contains("disk-full"));
    }

    #[test]
    fn a_seed_gives_one_plan_and_it_reads_back() {
        let one = plan(1, 45, &Fault::ALL);
        assert_eq!(one, plan(1, 45, &Fault::ALL));
        assert_ne!(one.faults, plan(2, 45, &Fault::ALL).faults);
        assert_eq!(serde_json::from_str::<Plan>(&serde_json::to_string(&one).unwrap()).unwrap(), one);
    }

    #[test]
    fn each_kind_happens_and_a_fifth_of_the_time_is_quiet() {
        for seed in 0..200 {
            let plan = plan(seed, 60, &Fault::ALL);
            for kind in Fault::ALL {
                assert!(plan.faults.iter().any(|fault| fault.fault == kind), "{seed}: {kind:?}");
            }
            let is_quiet =
                |ms: u64| plan.faults.iter().all(|fault| !(fault.at_ms..fault.at_ms + fault.for_ms).contains(&ms));
            let quiet = (0..60_000).step_by(100).filter(|ms| is_quiet(*ms)).count();
            assert!(quiet >= 120 - 3, "{seed}: {quiet} of 600");
        }
    }

    #[test]
    fn faults_of_a_kind_do_not_overlap_and_short_runs_have_them_too() {
        for seed in 0..200 {
            for seconds in [1, 5, 45] {
                let plan = plan(seed, seconds, &[Fault::Pause]);
                assert!(!plan.faults.is_empty());
                assert!(plan.faults.windows(2).all(|pair| pair[0].at_ms + pair[0].for_ms < pair[1].at_ms));
            }
        }
    }
}
