//! One run: the servers form a cluster, clients load it while faults strike, everything heals, and what is left must be one truth.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jlt_core::judgement::Judgement;
use jlt_core::plan::{Fault, Plan};
use jlt_workloads::Need;
use raft::Role;
use serde_json::json;

use crate::clients::{Clients, Phase};
use crate::invariants::Invariants;
use crate::nemesis::{self, Nemesis};
use crate::trace::Trace;
use crate::troubles::Troubles;
use crate::world::{CLIENTS, World};

/// The servers form a cluster within this time, and come together again after the faults.
const CONVERGE_MS_MAX: u64 = 60_000;
/// How often the servers are looked at.
const LOOK_MS: u64 = 20;
/// The last reads take no longer.
const FINISH_MS_MAX: u64 = 120_000;
/// Of all workloads together.
const ANSWERED_PER_SECOND_MIN: u64 = 3;
/// A server holds a request for no longer.
const SETTLE_MS: u64 = 8_000;

/// What one run is made of.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) servers: usize,
    pub(crate) agents: usize,
    /// How long faults strike.
    pub(crate) duration: Duration,
    pub(crate) faults: Vec<Fault>,
    pub(crate) workloads: Vec<String>,
}

/// Runs, and answers the verdict as one line of JSON, and whether it is a pass.
pub(crate) fn run(settings: &Settings, trace: &Trace) -> Result<(String, bool), Box<dyn Error>> {
    let folder = Folder::new(settings.seed)?;
    // Servers speak of their folders: in each run these have the same names.
    std::env::set_current_dir(&folder.path)?;
    let workloads = jlt_workloads::named(&settings.workloads)?;
    let needs: Vec<Need> = workloads.iter().flat_map(|workload| workload.needs()).copied().collect();
    let nodes = (settings.servers, settings.agents);
    let mut world = World::new(settings.seed, nodes, &needs, Path::new(""), trace.clone())?;
    let clients = Clients::new(settings.seed, workloads, world.places(), trace.clone());
    world.sim.client(CLIENTS, clients.clone().run());
    let mut run = Run {
        invariants: Invariants::default(),
        clients,
        judgement: Judgement::default(),
        nemesis: None,
        troubles: Vec::new(),
    };
    if let Err(broken) = run.phases(&mut world, settings) {
        run.judgement.violations.push(format!("liveness: {broken}"));
    }
    Ok(run.verdict(&world, settings, trace))
}

struct Run {
    invariants: Invariants,
    clients: Clients,
    nemesis: Option<Nemesis>,
    troubles: Vec<Troubles>,
    judgement: Judgement,
}

impl Run {
    fn phases(&mut self, world: &mut World, settings: &Settings) -> Result<(), String> {
        self.until(world, CONVERGE_MS_MAX, "there was no cluster", is_one_cluster)?;
        self.invariants.is_formed();
        let workloads = settings.workloads.clone();
        let plan = Plan::new(settings.seed, settings.duration, settings.servers, workloads, &settings.faults);
        self.nemesis = Some(Nemesis::new(plan, world.now_ms()));
        if !settings.faults.is_empty() {
            self.troubles = Troubles::all(settings.seed, world);
        }
        self.clients.set_phase(Phase::Load);
        let end_ms = world.now_ms() + u64::try_from(settings.duration.as_millis()).unwrap_or(u64::MAX);
        while world.now_ms() < end_ms {
            self.step(world)?;
        }
        if let Some(nemesis) = &mut self.nemesis {
            nemesis.heal(world);
        }
        self.troubles.drain(..).for_each(|mut row| row.heal(world));
        trace_phase(world, "healed");
        self.until(world, CONVERGE_MS_MAX, "the servers did not come together after the faults", is_one_cluster)?;
        self.clients.set_phase(Phase::Finish);
        let clients = self.clients.clone();
        self.until(world, FINISH_MS_MAX, "the final reads did not end", |_world| clients.is_finished())?;
        // What clients have given up may still be carried out, and connections that lost something may still have to be given up.
        self.settle(world)?;
        self.invariants.is_calm();
        self.settle(world)?;
        self.invariants.are_equal(world);
        Ok(())
    }

    fn settle(&mut self, world: &mut World) -> Result<(), String> {
        let settled_ms = world.now_ms() + SETTLE_MS;
        let is_settled = |world: &World| world.now_ms() >= settled_ms && is_one_cluster(world);
        self.until(world, SETTLE_MS + CONVERGE_MS_MAX, "the servers did not settle", is_settled)
    }

    fn until(
        &mut self,
        world: &mut World,
        ms_max: u64,
        otherwise: &str,
        is_so: impl Fn(&World) -> bool,
    ) -> Result<(), String> {
        let until_ms = world.now_ms() + ms_max;
        while world.now_ms() < until_ms {
            self.step(world)?;
            if world.now_ms().is_multiple_of(LOOK_MS) && is_so(world) {
                return Ok(());
            }
        }
        Err(format!("{otherwise} within {ms_max} ms: {}", describe(world)))
    }

    fn step(&mut self, world: &mut World) -> Result<(), String> {
        if let Some(nemesis) = &mut self.nemesis {
            nemesis.act(world);
        }
        self.troubles.iter_mut().for_each(|row| row.act(world));
        world.step()?;
        if world.now_ms().is_multiple_of(LOOK_MS) {
            self.invariants.look(world);
        }
        Ok(())
    }

    fn verdict(self, world: &World, settings: &Settings, trace: &Trace) -> (String, bool) {
        let mut judgement = self.judgement;
        let elections = self.invariants.elections();
        judgement.add("raft", self.invariants.judge());
        let seen = self.clients.judge();
        judgement.notes.extend(seen.coverage());
        judgement.violations.extend(seen.violations);
        judgement.undecided.extend(seen.undecided);
        judgement.notes.extend(seen.notes);
        // A single short run may do little of something; many do not.
        let answered = self.clients.tally().values().map(|tally| tally.ok as u64).sum();
        judgement.cover("operations answered", answered, ANSWERED_PER_SECOND_MIN * settings.duration.as_secs());
        let happened = self.nemesis.as_ref().map(|nemesis| nemesis.happened().clone()).unwrap_or_default();
        for fault in &settings.faults {
            judgement.cover(fault.name(), happened.get(fault.name()).copied().unwrap_or(0), 1);
        }
        let deaths = world.deaths.iter().map(|(point, times)| (point.name(), times)).collect::<BTreeMap<_, _>>();
        let (hash, lines) = trace.hash();
        let word = judgement.word();
        let verdict = json!({
            "seed": settings.seed,
            "verdict": word,
            "trace": format!("{hash:016x}"),
            "lines": lines,
            "simulated_ms": world.now_ms(),
            "operations": self.clients.tally(),
            "elections": elections,
            "lives": world.servers.iter().map(|node| node.lives()).collect::<Vec<_>>(),
            "faults": happened,
            "deaths": deaths,
            "violations": judgement.violations,
            "undecided": judgement.undecided,
            "coverage": judgement.coverage(),
            "notes": judgement.notes,
        });
        (verdict.to_string(), word == "pass")
    }
}

fn trace_phase(world: &World, phase: &str) {
    world.trace.note(&format!("phase {phase}"));
}

/// All servers are members, follow one leader, and have applied the same.
fn is_one_cluster(world: &World) -> bool {
    let statuses: Option<Vec<_>> = world.servers.iter().map(|node| Some(node.server()?.status())).collect();
    let Some(statuses) = statuses else {
        return false;
    };
    let Some(leader) = nemesis::leader(world).map(|at| &statuses[at].raft) else {
        return false;
    };
    statuses.iter().all(|status| {
        let raft = &status.raft;
        status.is_member
            && raft.term == leader.term
            && matches!(raft.role, Role::Leader | Role::Follower)
            && raft.leader.as_ref().is_some_and(|known| known.id == leader.id)
            && raft.applied == leader.applied
            && raft.applied == raft.last_log
            && raft.voters.len() == statuses.len()
    })
}

fn describe(world: &World) -> String {
    let states = world.servers.iter().map(|node| match node.server() {
        None => format!("{} is down", node.name),
        Some(server) => {
            let status = server.status();
            let raft = &status.raft;
            format!(
                "{} is {:?} in term {}, has applied {} of {}, {} voters, member: {}",
                node.name,
                raft.role,
                raft.term,
                raft.applied,
                raft.last_log,
                raft.voters.len(),
                status.is_member
            )
        }
    });
    states.collect::<Vec<_>>().join("; ")
}

/// A folder in memory for the few files that servers keep beside the simulated disk; gone with the run.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(seed: u64) -> std::io::Result<Self> {
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("jlt-sim-{}-{seed}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over is small, and in memory.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
