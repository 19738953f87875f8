//! `jlt real`: workloads on a cluster whose machines, wires, disks and clocks are ours to break.
//!
//! A run is a scene on which rounds are played, one or many. Phases of a round: load, faults, heal, converge, final reads, judgement.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use jlt_core::judgement::Judgement;
use jlt_core::plan::{Fault, Plan};
use jlt_core::record::{self, Outcome, Record, Tally, tally};
use jlt_net::{Fates, Network};
use jlt_workloads::{Need, Shared, Workload};
use serde::Serialize;

use crate::cluster::{Cluster, MACHINES, SERVERS, World, name};
use crate::nemesis::{Havoc, Nemesis};
use crate::report;
use crate::wire::with_sockets;
use crate::world::{ALL_MACHINES, Agents};

/// Answers a second, of all workloads together, below which a run proves too little.
const OK_PER_SECOND_MIN: u64 = 20;

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
    /// Why the run proves too little, in words.
    pub(crate) coverage: Vec<String>,
    #[serde(flatten)]
    pub(crate) judgement: Judgement,
    pub(crate) folder: PathBuf,
}

/// Machines, wires, disks and servers; they stay from round to round.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    /// Whether each second has its line of progress.
    pub(crate) is_chatty: bool,
    agents: Agents,
    network: Arc<Network>,
}

/// What was done and seen in one round.
pub(crate) struct Round {
    pub(crate) workloads: Vec<Arc<dyn Workload>>,
    pub(crate) history: Vec<Record>,
    pub(crate) havoc: Havoc,
    /// What was found before the workloads' judges had their turn.
    found: Judgement,
}

/// Runs a plan and writes everything into the folder. `Err` when it could not be run.
pub(crate) fn run(binary: &Path, plan: &Plan, folder: &Path) -> Result<Verdict, String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    std::fs::create_dir_all(folder).map_err(failed("the folder of the run"))?;
    std::fs::write(folder.join("plan.json"), pretty(plan)).map_err(failed("plan.json"))?;
    let mut scene = Scene::open(binary, plan.seed, &plan.kinds, folder)?;
    let round = scene.play(plan, 0)?;
    record::save(&round.history, &folder.join("history.jsonl")).map_err(failed("history.jsonl"))?;
    std::fs::write(folder.join("faults.json"), pretty(&round.havoc.happened)).map_err(failed("faults.json"))?;
    let verdict = verdict(plan, folder, &round, &scene);
    if verdict.verdict != "pass" {
        scene.cluster.save_disks()?;
    }
    std::fs::write(folder.join("verdict.json"), pretty(&verdict)).map_err(failed("verdict.json"))?;
    report::write(folder, plan, &round.history, &round.havoc.happened, &verdict).map_err(failed("the report"))?;
    Ok(verdict)
}

/// Judges a saved history again: the verdict of its workloads alone.
pub(crate) fn check(folder: &Path) -> Result<Judgement, String> {
    let history = record::load(&folder.join("history.jsonl"))?;
    let mut judgement = Judgement::default();
    for workload in jlt_workloads::named(&load_plan(folder)?.workloads)? {
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

impl Scene {
    /// Takes this process into namespaces of its own, and starts the cluster there. What it writes lies in the folder.
    pub(crate) fn open(binary: &Path, seed: u64, kinds: &[Fault], folder: &Path) -> Result<Self, String> {
        let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        jlt_fs::apart().map_err(failed("mounts of our own (needs root)"))?;
        let network = Network::new(1 + MACHINES + ALL_MACHINES, seed).map_err(failed("the network (needs root)"))?;
        network.machine(0).enter().map_err(failed("the clients' machine"))?;
        let network = Arc::new(network);
        let world = World {
            network: Some(Arc::clone(&network)),
            disks: Some(seed),
            clocks: [Fault::Skew, Fault::Strobe].iter().any(|fault| kinds.contains(fault)),
            folder: Some(folder.to_owned()),
        };
        let cluster = Cluster::start_in(binary, world)?;
        let agents = Agents::new(binary, folder, &network)?;
        Ok(Self { cluster, is_chatty: true, agents, network })
    }

    /// Load and faults, heal, convergence, final reads. The number keeps the rounds' keys apart.
    pub(crate) fn play(&mut self, plan: &Plan, number: u64) -> Result<Round, String> {
        let workloads = jlt_workloads::named(&plan.workloads)?;
        self.provide(&workloads)?;
        let shared = Arc::new(self.shared(plan.seed, number));
        let havoc = self.load(plan, &workloads, &shared)?;
        if self.is_chatty {
            eprintln!("heal, converge, final reads");
        }
        let mut found = Judgement::default();
        match self.cluster.heal().and_then(|()| self.agents.heal()) {
            Err(why) => found.violations.push(format!("server: the cluster does not heal: {why}")),
            Ok(()) => found.violations.extend(self.finish(&workloads, &shared)?),
        }
        let history = std::mem::take(&mut *shared.history());
        Ok(Round { workloads, history, havoc, found })
    }

    /// Starts what these workloads need beside servers, unless it is there.
    fn provide(&mut self, workloads: &[Arc<dyn Workload>]) -> Result<(), String> {
        let offers = [Need::Dns, Need::OwnAgents, Need::Agents, Need::Sidecars, Need::Datacenter];
        jlt_workloads::fit(workloads, &offers)?;
        let is_needed = |need| workloads.iter().any(|workload| workload.needs().contains(&need));
        if is_needed(Need::Agents) && self.agents.lives().is_empty() {
            self.agents.start()?;
        }
        if is_needed(Need::Sidecars) && self.agents.upstream_life().is_none() {
            self.agents.start_sidecars()?;
        }
        if is_needed(Need::Datacenter) && self.agents.far_lives().is_empty() {
            self.agents.start_datacenter()?;
        }
        Ok(())
    }

    fn shared(&self, seed: u64, number: u64) -> Shared {
        let shared = Shared::new(seed, number, self.cluster.lives()).with_agents(self.agents.lives());
        shared.with_upstream(self.agents.upstream_life()).with_datacenter(self.agents.far_lives())
    }

    /// The nodes that run when all is healed.
    fn nodes(&self) -> Vec<String> {
        (0..SERVERS).map(name).chain(self.agents.names()).collect()
    }

    /// Servers, then agents, then what is called through a sidecar, then the second datacenter.
    fn http_addresses(&self) -> Vec<SocketAddr> {
        [self.cluster.http_addresses(), self.agents.http_addresses()].concat()
    }

    fn load(&mut self, plan: &Plan, workloads: &[Arc<dyn Workload>], shared: &Arc<Shared>) -> Result<Havoc, String> {
        let (servers, is_chatty) = (self.http_addresses(), self.is_chatty);
        let (agents, over) = (&mut self.agents, &AtomicBool::new(false));
        let started = shared.started().into_std();
        std::thread::scope(|scope| {
            let (done, ended) = mpsc::channel();
            for workload in workloads.chunks(1) {
                let (servers, done) = (&servers, done.clone());
                scope.spawn(move || {
                    let run = with_sockets(servers, async |wire| jlt_workloads::load(workload, shared, wire).await);
                    // Nobody listens any more only when the nemesis has failed, which is reported.
                    done.send(run.flatten()).ok();
                });
            }
            let troubled = scope.spawn(move || agents.run(plan, started, over));
            let nemesis = Nemesis::new(&mut self.cluster, Arc::clone(&self.network), started);
            let havoc = nemesis.run(plan, |broken| {
                if is_chatty {
                    tell(shared, broken);
                }
            });
            shared.stop();
            over.store(true, Ordering::Relaxed);
            drop(done);
            ended.iter().collect::<Result<Vec<()>, String>>()?;
            let found = troubled.join().map_err(|_| "the thread of the agents panicked".to_owned())??;
            havoc.map(|mut havoc| {
                havoc.violations.extend(found);
                havoc
            })
        })
    }

    /// Returns what is wrong, in words.
    fn finish(&self, workloads: &[Arc<dyn Workload>], shared: &Arc<Shared>) -> Result<Vec<String>, String> {
        with_sockets(&self.http_addresses(), async |wire| {
            let nodes = self.nodes();
            let mut wrong = Vec::from_iter(jlt_workloads::converge(shared, wire, &nodes).await.err());
            wrong.extend(jlt_workloads::finish(workloads, shared, wire).await);
            wrong
        })
    }

    /// Removes what a round has left.
    pub(crate) fn clear(&self, round: &Round, number: u64) -> Result<(), String> {
        let shared = Arc::new(self.shared(0, number));
        let servers = self.http_addresses();
        with_sockets(&servers, async |wire| jlt_workloads::clear(&round.workloads, &shared, wire).await).flatten()
    }

    /// What the faults did since the scene was opened, counted where they act.
    pub(crate) fn effects(&self, havoc: &Havoc) -> BTreeMap<&'static str, u64> {
        effects(&self.network.fates(), self.cluster.disk_counts(), havoc)
    }
}

impl Round {
    /// What all judges say but the one of faults.
    pub(crate) fn judge(&self) -> Judgement {
        let mut judgement = self.found.clone();
        for workload in &self.workloads {
            judgement.add(workload.name(), workload.judge(&self.history));
        }
        judgement.violations.extend(self.havoc.violations.iter().cloned());
        judgement.notes.extend(self.havoc.notes.iter().cloned());
        judgement
    }

    /// How often each of these faults happened.
    fn faults(&self, kinds: &[Fault]) -> BTreeMap<&'static str, u64> {
        let count = |kind: Fault| self.havoc.happened.iter().filter(|one| one.fault == kind).count() as u64;
        kinds.iter().map(|kind| (kind.name(), count(*kind))).collect()
    }

    /// Operations that were answered.
    pub(crate) fn answered(&self) -> u64 {
        tally(&self.history).values().map(|tally| tally.ok as u64).sum()
    }
}

fn verdict(plan: &Plan, folder: &Path, round: &Round, scene: &Scene) -> Verdict {
    let mut judgement = round.judge();
    let effects = scene.effects(&round.havoc);
    let faults = round.faults(&plan.kinds);
    cover_faults(&plan.kinds, &faults, &effects, &mut judgement);
    let seconds = plan.duration_ms / 1000;
    judgement.cover("operations answered", round.answered(), OK_PER_SECOND_MIN * seconds);
    for findings in [&mut judgement.violations, &mut judgement.undecided, &mut judgement.notes] {
        let more = findings.len().saturating_sub(FINDINGS_MAX);
        findings.truncate(FINDINGS_MAX);
        findings.extend((more > 0).then(|| format!("and {more} more")));
    }
    Verdict {
        mode: "real",
        verdict: judgement.word(),
        seed: plan.seed,
        seconds,
        repeat: format!("jlt replay {}", folder.display()),
        operations: tally(&round.history),
        faults,
        effects,
        longest_gap_ms: longest_gap_ms(&round.history, plan.duration_ms),
        coverage: judgement.coverage(),
        judgement,
        folder: folder.to_owned(),
    }
}

/// The line of progress.
fn tell(shared: &Shared, broken: &str) {
    let history = shared.history();
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
        shared.elapsed().as_secs()
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
pub(crate) fn cover_faults(
    kinds: &[Fault],
    happened: &BTreeMap<&'static str, u64>,
    effects: &BTreeMap<&'static str, u64>,
    judgement: &mut Judgement,
) {
    for kind in kinds {
        judgement.cover(&format!("faults {}", kind.name()), happened.get(kind.name()).copied().unwrap_or(0), 1);
        judgement.cover(kind.effect(), effects.get(kind.effect()).copied().unwrap_or(0), 1);
    }
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

pub(crate) fn pretty(value: &impl Serialize) -> String {
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
        let judged = |happened, cut| {
            let mut judgement = Judgement::default();
            let counts = |name, count| BTreeMap::from([(name, count)]);
            let (happened, effects) = (counts("partition", happened), counts("frames cut", cut));
            cover_faults(&[Fault::Partition], &happened, &effects, &mut judgement);
            judgement.word()
        };
        assert_eq!((judged(1, 1), judged(1, 0), judged(0, 1)), ("pass", "fail", "fail"));
    }
}
