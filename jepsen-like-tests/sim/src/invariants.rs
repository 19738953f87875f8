//! What must hold of Raft at every moment, as far as it can be seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use jlt_core::judgement::Judgement;
use raft::{NodeId, Role};

use crate::world::World;

/// Looks at all servers again and again.
#[derive(Default)]
pub(crate) struct Invariants {
    /// Who led in each term. openraft's leaders are of a term *and* a server: a second one in a term, of a higher id, is allowed, and takes the votes
    /// of the first away.
    leaders: BTreeSet<(u64, NodeId)>,
    /// What each server was last, in its present life.
    last: BTreeMap<usize, Last>,
    /// The number that each server drew at its first start.
    ids: BTreeMap<usize, NodeId>,
    looks: u64,
    findings: Vec<String>,
}

struct Last {
    life: u32,
    term: u64,
    committed: u64,
    applied: u64,
    index: u64,
}

impl Invariants {
    /// Looks at all servers now.
    pub(crate) fn look(&mut self, world: &World) {
        self.looks += 1;
        for (at, node) in world.servers.iter().enumerate() {
            let Some(server) = node.server() else {
                continue;
            };
            let status = server.status();
            let raft = &status.raft;
            let now = Last {
                life: node.lives(),
                term: raft.term,
                committed: raft.committed,
                applied: raft.applied,
                index: status.index,
            };
            let name = &node.name;
            if *self.ids.entry(at).or_insert(raft.id) != raft.id {
                self.findings.push(format!("{name} has forgotten its id"));
            }
            if raft.role == Role::Leader {
                self.leaders.insert((raft.term, raft.id));
            }
            if raft.applied > raft.committed.max(raft.snapshot) {
                self.findings
                    .push(format!("{name} has applied {} and knows {} to be agreed on", raft.applied, raft.committed));
            }
            if raft.purged > raft.snapshot {
                self.findings
                    .push(format!("{name} has dropped {} and has a snapshot of {}", raft.purged, raft.snapshot));
            }
            let went_back = self.last.insert(at, now).filter(|last| last.life == node.lives()).and_then(|last| {
                let pairs = [
                    ("term", last.term, raft.term),
                    ("committed index", last.committed, raft.committed),
                    ("applied index", last.applied, raft.applied),
                    ("catalog index", last.index, status.index),
                ];
                pairs.into_iter().find(|(_what, before, now)| now < before)
            });
            if let Some((what, before, now)) = went_back {
                self.findings.push(format!("the {what} of {name} went back from {before} to {now}"));
            }
        }
    }

    /// How many leaders there were.
    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }

    /// What was found.
    pub(crate) fn judge(mut self) -> Judgement {
        self.findings.dedup();
        let mut judgement = Judgement { violations: self.findings, ..Judgement::default() };
        judgement.cover("looks at the servers", self.looks, 100);
        judgement
    }
}
