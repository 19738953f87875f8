//! What must hold of Raft and of the catalog at every moment, seen from within all servers at once.

mod logs;

use std::collections::{BTreeMap, BTreeSet};

use jlt_core::judgement::Judgement;
use raft::{NodeId, Role};
use server::Server;

use self::logs::Logs;
use crate::world::World;

/// The whole catalog is hashed at each so many looks.
const LOOKS_PER_HASH: u64 = 25;
/// More findings say nothing new.
const FINDINGS_MAX: usize = 50;

/// Looks at all servers again and again.
#[derive(Default)]
pub(crate) struct Invariants {
    /// Who led in each term. openraft's leaders are of a term *and* a server: a second one in a term, of a higher id, is allowed, and takes the votes
    /// of the first away.
    /// With each, up to which index the log was known to be agreed on before.
    leaders: BTreeMap<(u64, NodeId), u64>,
    /// What each server was last, in its present life.
    last: BTreeMap<usize, Last>,
    /// The number that each server drew at its first start.
    ids: BTreeMap<usize, NodeId>,
    /// Up to which index any server ever knew the log to be agreed on; and the same at the look before this one.
    agreed: u64,
    agreed_before: u64,
    /// Servers that had applied more than that, and how much.
    ahead: BTreeSet<(usize, u64)>,
    logs: Logs,
    /// The catalog's hash at each index.
    hashes: BTreeMap<u64, u64>,
    /// Set when nothing disturbs the servers any more.
    calm: Option<u64>,
    looks: u64,
    compared: u64,
    findings: Vec<String>,
}

struct Last {
    life: u32,
    term: u64,
    committed: u64,
    applied: u64,
    snapshot: u64,
    index: u64,
}

impl Invariants {
    /// Looks at all servers now.
    pub(crate) fn look(&mut self, world: &World) {
        self.looks += 1;
        self.agreed_before = self.agreed;
        for (at, node) in world.servers.iter().enumerate() {
            if let Some(server) = node.server() {
                self.look_at(at, &node.name, node.lives(), &server);
            }
        }
        let up = world.servers.iter().enumerate().filter(|(_, node)| node.server().is_some()).map(|(at, _)| at);
        self.logs.is_on_a_quorum(&up.collect(), world.servers.len(), &mut self.findings);
        self.findings.sort();
        self.findings.dedup();
        self.findings.truncate(FINDINGS_MAX);
    }

    /// From now on all servers are voters, and what is agreed on must stay with a majority.
    pub(crate) fn is_formed(&mut self) {
        self.logs.is_formed = true;
    }

    /// From now on no server has a reason to stand for election.
    pub(crate) fn is_calm(&mut self) {
        self.calm = self.last.values().map(|last| last.term).max();
    }

    /// All servers have come to the same.
    pub(crate) fn are_equal(&mut self, world: &World) {
        let states = world.servers.iter().filter_map(|node| Some((&node.name, node.server()?.state_hash())));
        let states: Vec<_> = states.collect();
        if let Some(pair) = states.windows(2).find(|pair| pair[0].1 != pair[1].1) {
            self.findings.push(format!("{} and {} hold different catalogs in the end", pair[0].0, pair[1].0));
        }
    }

    /// How many leaders there were.
    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }

    /// What was found.
    pub(crate) fn judge(self) -> Judgement {
        let mut judgement = Judgement { violations: self.findings, ..Judgement::default() };
        judgement.cover("looks at the servers", self.looks, 100);
        judgement.cover("entries seen on more than one server", self.logs.matched(), 20);
        judgement.cover("states of the catalog that were compared", self.compared, 20);
        judgement
    }

    fn look_at(&mut self, at: usize, name: &str, life: u32, server: &Server) {
        let status = server.status();
        let raft = &status.raft;
        let findings = &mut self.findings;
        if *self.ids.entry(at).or_insert(raft.id) != raft.id {
            findings.push(format!("{name} has forgotten its id"));
        }
        let reign = (raft.term, raft.id);
        let is_new_leader = raft.role == Role::Leader && !self.leaders.contains_key(&reign);
        if is_new_leader {
            self.leaders.insert(reign, self.agreed_before);
        }
        let answers_as_leader = raft.leader.as_ref().is_some_and(|leader| leader.id == raft.id);
        if let Some(agreed) = self.leaders.get(&reign).filter(|agreed| answers_as_leader && raft.applied < **agreed) {
            let applied = raft.applied;
            findings.push(format!(
                "{name} answers as the leader, has applied {applied}, and {agreed} was agreed on before"
            ));
        }
        // Of a snapshot that was just installed the server's own status tells later, after a slow disk much later; of what was just
        // agreed on, at the next look.
        self.agreed = self.agreed.max(raft.committed).max(raft.snapshot);
        if raft.applied > self.agreed && !self.ahead.insert((at, raft.applied)) {
            let agreed = self.agreed;
            findings.push(format!(
                "{name} has applied {} and no server knew more than {agreed} to be agreed on",
                raft.applied
            ));
        }
        if raft.purged > raft.snapshot {
            findings.push(format!("{name} has dropped {} and has a snapshot of {}", raft.purged, raft.snapshot));
        }
        if self.calm.is_some_and(|term| raft.term > term) {
            findings.push(format!("{name} left its leader for term {} though nothing was wrong", raft.term));
        }
        let now = Last {
            life,
            term: raft.term,
            committed: raft.committed,
            applied: raft.applied,
            snapshot: raft.snapshot,
            index: status.index,
        };
        if let Some(last) = self.last.get(&at).filter(|last| last.life == life) {
            findings.extend(last.went_back(&now).map(|what| format!("the {what} (on {name})")));
        }
        self.last.insert(at, now);
        self.logs.look(at, name, raft.term, is_new_leader, server.raft_log(0), findings);
        if self.looks.is_multiple_of(LOOKS_PER_HASH) {
            self.compare(name, server);
        }
    }

    /// Two servers with the same index have the same catalog.
    fn compare(&mut self, name: &str, server: &Server) {
        let (index, hash) = server.state_hash();
        match self.hashes.insert(index, hash) {
            Some(other) if other != hash => {
                self.findings.push(format!("the catalog of {name} at {index} is not what another server had there"));
            }
            Some(_same) => self.compared += 1,
            None => {}
        }
    }
}

impl Last {
    fn went_back(&self, now: &Last) -> Option<String> {
        let pairs = [
            ("term", self.term, now.term),
            ("committed index", self.committed, now.committed),
            ("applied index", self.applied, now.applied),
            ("snapshot", self.snapshot, now.snapshot),
            ("catalog's index", self.index, now.index),
        ];
        let back = pairs.into_iter().find(|(_what, before, now)| now < before);
        back.map(|(what, before, now)| format!("{what} went back from {before} to {now}"))
    }
}
