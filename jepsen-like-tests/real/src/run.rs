//! `jlt real`: all workloads on a cluster whose machines, wires, disks and clocks are ours to break.
//!
//! Phases: boot, load, faults, heal, converge, final reads, judgement. What is left is a folder with everything that was decided, done and said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jlt_core::judgement::Judgement;
use jlt_core::plan::{Fault, Plan};
use jlt_core::record::{self, Outcome, Record, Tally, tally};
use jlt_net::{Fates, Network};
use serde::Serialize;

use crate::cluster::{Cluster, MACHINES, World, name};
use crate::kv::{self, Mode};
use crate::nemesis::{Happened, Havoc, Nemesis};
use crate::workload::{Client, Shared, Workload};
use crate::{report, workloads};

/// Answers a second, of all workloads together, below which a run proves too little.
const OK_PER_SECOND_MIN: u64 = 20;

/// How long healed servers may take to agree.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The most findings of a kind in the verdict; the history has them all.
const FINDINGS_MAX: usize = 50;

/// `verdict.json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    mode: &'static str,
    /// `pass`, `fail` or `unknown`.
    pub(crate) verdict: &'static str,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    /// What repeats the run.
    pub(crate) repeat: String,
    pub(crate) operations: BTreeMap<String, Tally>,
    /// How often each fault happened.
    faults: BTreeMap<&'static str, u64>,
    /// What the faults did, counted where they act.
    pub(crate) effects: BTreeMap<&'static str, u64>,
    /// The longest time without an acknowledged operation.
    pub(crate) longest_gap_ms: u64,
    #[serde(flatten)]
    pub(crate) judgement: Judgement,
    pub(crate) folder: PathBuf,
}

/// Runs a plan and writes everything into the folder. `Err` when it could not be run.
pub(crate) fn run(binary: &Path, plan: &Plan, folder: &Path) -> Result<Verdict, String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    std::fs::create_dir_all(folder).map_err(failed("the folder of the run"))?;
    std::fs::write(folder.join("plan.json"), pretty(plan)).map_err(failed("plan.json"))?;
    jlt_fs::apart().map_err(failed("mounts of our own (needs root)"))?;
    let network = Network::new(MACHINES + 1, plan.seed).map_err(failed("the network (needs root)"))?;
    network.machine(0).enter().map_err(failed("the clients' machine"))?;
    let network = Arc::new(network);
    let world = World {
        network: Some(Arc::clone(&network)),
        disks: Some(plan.seed),
        clocks: [Fault::Skew, Fault::Strobe].iter().any(|fault| plan.kinds.contains(fault)),
        folder: Some(folder.to_owned()),
    };
    let mut cluster = Cluster::start_in(binary, world)?;
    let workloads = workloads::named(&plan.workloads)?;
    let mut run = Run { plan, folder, network, workloads, judgement: Judgement::default() };
    let (history, havoc) = run.drive(&mut cluster)?;
    record::save(&history, &folder.join("history.jsonl")).map_err(failed("history.jsonl"))?;
    std::fs::write(folder.join("faults.json"), pretty(&havoc.happened)).map_err(failed("faults.json"))?;
    let happened = havoc.happened.clone();
    let verdict = run.judge(&history, havoc, &cluster);
    if verdict.verdict != "pass" {
        cluster.save_disks()?;
    }
    std::fs::write(folder.join("verdict.json"), pretty(&verdict)).map_err(failed("verdict.json"))?;
    report::write(folder, plan, &history, &happened, &verdict).map_err(failed("the report"))?;
    Ok(verdict)
}

/// Judges a saved history again: the verdict of its workloads alone.
pub(crate) fn check(folder: &Path) -> Result<Judgement, String> {
    let history = record::load(&folder.join("history.jsonl"))?;
    let mut judgement = Judgement::default();
    for workload in workloads::named(&load_plan(folder)?.workloads)? {
        judgement.add(workload.name(), workload.judge(&history));
    }
    Ok(judgement)
}

/// The plan of a run that was.
pub(crate) fn load_plan(folder: &Path) -> Result<Plan, String> {
    let path = folder.join("plan.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

struct Run<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    network: Arc<Network>,
    workloads: Vec<Box<dyn Workload>>,
    judgement: Judgement,
}

impl Run<'_> {
    /// Load and faults, heal, converge, final reads.
    fn drive(&mut self, cluster: &mut Cluster) -> Result<(Vec<Record>, Havoc), String> {
        let shared = Shared {
            started: Instant::now(),
            servers: cluster.http_addresses(),
            lives: cluster.lives(),
            seed: self.plan.seed,
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            next: AtomicU64::new(1),
        };
        let havoc = std::thread::scope(|scope| {
            for workload in &self.workloads {
                for number in 0..workload.clients() {
                    let mut client = Client::new(&shared, workload.name(), number);
                    scope.spawn(move || workload.run(&mut client));
                }
            }
            let nemesis = Nemesis::new(cluster, Arc::clone(&self.network), shared.started);
            let havoc = nemesis.run(self.plan, |broken| tell(&shared, broken));
            shared.stop.store(true, Ordering::Relaxed);
            havoc
        })?;
        eprintln!("heal, converge, final reads");
        if let Err(why) = cluster.heal() {
            self.judgement.violations.push(format!("the cluster does not heal: {why}"));
        } else {
            self.converge(&shared);
            for workload in &self.workloads {
                let mut client = Client::new(&shared, workload.name(), workload.clients());
                if let Err(why) = workload.finish(&mut client) {
                    self.judgement.violations.push(why);
                }
            }
        }
        Ok((shared.history.into_inner().unwrap_or_else(PoisonError::into_inner), havoc))
    }

    /// All servers must come to hold the same keys, values and indexes.
    fn converge(&mut self, shared: &Shared) {
        let deadline = Instant::now() + CONVERGE_TIMEOUT;
        loop {
            let all =
                |server: &std::net::SocketAddr| Some(kv::see(*server, "jlt/?recurse", Mode::Stale, None).ok()?.rows);
            let held: Vec<_> = shared.servers.iter().map(all).collect();
            if held[0].is_some() && held.iter().all(|rows| *rows == held[0]) {
                return;
            }
            if Instant::now() > deadline {
                return self
                    .judgement
                    .violations
                    .push(format!("the servers do not agree {CONVERGE_TIMEOUT:?} after the heal"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn judge(self, history: &[Record], havoc: Havoc, cluster: &Cluster) -> Verdict {
        let mut judgement = self.judgement;
        for workload in &self.workloads {
            judgement.add(workload.name(), workload.judge(history));
        }
        judgement.violations.extend(havoc.violations.iter().cloned());
        judgement.notes.extend(havoc.notes.iter().cloned());
        let effects = effects(&self.network.fates(), cluster.disk_counts(), &havoc);
        let faults = cover_faults(self.plan, &havoc.happened, &effects, &mut judgement);
        let operations = tally(history);
        let ok: usize = operations.values().map(|tally| tally.ok).sum();
        let seconds = self.plan.duration_ms / 1000;
        judgement.cover("operations answered", ok as u64, OK_PER_SECOND_MIN * seconds);
        for findings in [&mut judgement.violations, &mut judgement.undecided, &mut judgement.notes] {
            let more = findings.len().saturating_sub(FINDINGS_MAX);
            findings.truncate(FINDINGS_MAX);
            findings.extend((more > 0).then(|| format!("and {more} more")));
        }
        Verdict {
            mode: "real",
            verdict: judgement.word(),
            seed: self.plan.seed,
            seconds,
            repeat: format!("jlt replay {}", self.folder.display()),
            operations,
            faults,
            effects,
            longest_gap_ms: longest_gap_ms(history, self.plan.duration_ms),
            judgement,
            folder: self.folder.to_owned(),
        }
    }
}

/// The line of progress.
fn tell(shared: &Shared, broken: &str) {
    let history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
    let count = history.len();
    let ok = history.iter().rev().take(500).filter(|record| matches!(record.outcome, Outcome::Ok(_))).count();
    let percent = 100 * ok / count.clamp(1, 500);
    let bad = history.iter().rev().find_map(|record| match &record.outcome {
        Outcome::Failed(why) | Outcome::Unknown(why) if percent < 50 => Some(why.as_str()),
        _ => None,
    });
    let why = bad.map_or(String::new(), |why| format!("   last error: {}", why.trim()));
    eprintln!(
        "{:4} s  {count:7} operations  {percent:3} % of the last answered  {broken}{why}",
        shared.started.elapsed().as_secs()
    );
}

fn effects(fates: &Fates, disks: jlt_fs::Counts, havoc: &Havoc) -> BTreeMap<&'static str, u64> {
    let mut effects = BTreeMap::from([
        ("frames sent", fates.sent),
        ("frames cut", fates.cut),
        ("frames lost", fates.lost),
        ("frames delayed", fates.delayed),
        ("frames doubled", fates.doubled),
        ("frames that overtook", fates.overtook),
        ("syncs", disks.syncs),
        ("syncs failed", disks.failed),
        ("syncs slow", disks.slow),
        ("writes refused", disks.refused),
    ]);
    effects.extend(&havoc.effects);
    effects
}

/// Each fault that was asked for must have happened, and have had an effect.
fn cover_faults(
    plan: &Plan,
    happened: &[Happened],
    effects: &BTreeMap<&'static str, u64>,
    judgement: &mut Judgement,
) -> BTreeMap<&'static str, u64> {
    let mut faults = BTreeMap::new();
    for kind in &plan.kinds {
        let count = happened.iter().filter(|one| one.fault == *kind).count() as u64;
        faults.insert(kind.name(), count);
        judgement.cover(&format!("faults {}", kind.name()), count, 1);
        judgement.cover(kind.effect(), effects.get(kind.effect()).copied().unwrap_or(0), 1);
    }
    faults
}

/// The longest time of the run in which nothing was answered.
fn longest_gap_ms(history: &[Record], duration_ms: u64) -> u64 {
    let is_ok = |record: &&Record| matches!(record.outcome, Outcome::Ok(_));
    let mut ends: Vec<u64> = history.iter().filter(is_ok).map(|record| record.end_ns / 1_000_000).collect();
    ends.retain(|end_ms| *end_ms < duration_ms);
    ends.extend([0, duration_ms]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

/// The names of servers, for people.
pub(crate) fn names(servers: &[usize]) -> String {
    servers.iter().map(|server| name(*server)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(end_ms: u64, outcome: Outcome) -> Record {
        let call = serde_json::Value::Null;
        let (start_ns, end_ns) = (0, end_ms * 1_000_000);
        Record { workload: "w".to_owned(), client: 0, server: 0, life: 1, call, outcome, start_ns, end_ns }
    }

    #[test]
    fn the_longest_gap_is_between_answers_and_the_ends() {
        let ok = |end_ms| record(end_ms, Outcome::Ok(serde_json::Value::Null));
        assert_eq!(longest_gap_ms(&[], 1000), 1000);
        assert_eq!(longest_gap_ms(&[ok(100), ok(900), record(500, Outcome::Failed("x".to_owned()))], 1000), 800);
        assert_eq!(longest_gap_ms(&[ok(100), ok(200)], 1000), 800);
    }

    #[test]
    fn a_fault_that_did_not_happen_or_did_nothing_fails() {
        let plan = Plan::new(1, Duration::from_secs(5), 3, vec![], &[Fault::Partition]);
        let judged = |happened: &[Happened], cut| {
            let mut judgement = Judgement::default();
            cover_faults(&plan, happened, &BTreeMap::from([("frames cut", cut)]), &mut judgement);
            judgement.word()
        };
        let one = Happened { fault: Fault::Partition, servers: vec![0], start_ms: 0, end_ms: 1, effect: String::new() };
        assert_eq!(judged(std::slice::from_ref(&one), 1), "pass");
        assert_eq!(judged(&[one], 0), "fail");
        assert_eq!(judged(&[], 1), "fail");
    }
}
