//! How a command changes the catalog: one file per noun.

mod ca;
mod check;
mod config_entry;
mod datacenter;
mod intention;
mod kv;
mod node;
mod service;
mod session;
mod sync;
mod txn;

use crate::command::{Command, Refusal, Response};
use crate::key::under;
use crate::tables::Catalog;
use crate::topic::{Changes, Topic};
use model::Index;

impl Catalog {
    /// Applies a command: deterministic, and never fails but by a [`Response`]. The index goes up by one, also for a
    /// command that changes nothing; rows and topics carry it only if they changed.
    pub fn apply(&mut self, command: Command) -> (Response, Changes) {
        self.apply_at(0, command)
    }

    /// As [`Catalog::apply`], at a time by the leader's clock, in milliseconds. Where that clock begins is of no matter, for only
    /// what passes is counted; to the catalog, time never runs backwards.
    pub fn apply_at(&mut self, time_ms: u64, command: Command) -> (Response, Changes) {
        self.index += 1;
        self.clock_ms = self.clock_ms.max(time_ms);
        self.lock_delays.forget_past(self.clock_ms);
        let mut step = Step { index: self.index, catalog: self, touched: Vec::with_capacity(12) };
        let response = step.run(command).unwrap_or_else(Response::Refused);
        (response, step.finish())
    }
}

/// One command on its way through the tables.
struct Step<'c> {
    catalog: &'c mut Catalog,
    index: Index,
    touched: Vec<Topic>,
}

impl Step<'_> {
    fn run(&mut self, command: Command) -> Result<Response, Refusal> {
        match command {
            Command::Register(registration) => self.register(*registration),
            Command::Deregister(what) => Ok(self.deregister(&what)),
            Command::Sync(push) => self.sync(*push),
            Command::SetNodeHealth { node, alive } => self.set_node_health(*node, alive),
            Command::RemoveNode { node, id } => Ok(self.remove_node_if(&node, &id)),
            Command::Kv(command) => self.kv(command),
            Command::Txn(ops) => Ok(self.txn(ops)),
            Command::CreateSession(session) => self.create_session(*session),
            Command::DestroySession { id } => Ok(self.destroy_session(&id)),
            Command::SetIntention(intention) => self.set_intention(*intention),
            Command::DeleteIntention { source, destination } => Ok(self.delete_intention(&source, &destination)),
            Command::SetConfigEntry { entry, cas } => self.set_config_entry(*entry, cas),
            Command::DeleteConfigEntry { kind, name, cas } => self.delete_config_entry(&kind, &name, cas),
            Command::SetCa { expected, state } => Ok(self.set_ca(expected, *state)),
            Command::Revoke(revocation) => Ok(self.revoke(revocation)),
            Command::ForgetRevoked { before_secs } => Ok(self.forget_revoked(before_secs)),
            Command::SetDatacenter(datacenter) => self.set_datacenter(*datacenter),
            Command::DeleteDatacenter { name } => Ok(self.delete_datacenter(&name)),
        }
    }

    /// Says that a topic changed. Saying it twice is the same as once.
    fn touch(&mut self, topic: Topic) {
        if self.touched.last() != Some(&topic) {
            self.touched.push(topic);
        }
    }

    /// Records when the topics changed, and names each once.
    fn finish(self) -> Changes {
        let mut topics = self.touched;
        topics.sort_unstable();
        topics.dedup();
        for topic in &topics {
            match self.catalog.standing(topic) {
                Standing::There => self.catalog.indexes.touch(topic.clone(), self.index),
                Standing::Gone => self.catalog.indexes.bury(topic.clone(), self.index),
                Standing::InRows => {}
            }
        }
        Changes { topics }
    }
}

/// A noun that breaks a rule of its own. The edge should have refused it; the catalog does not keep it either.
fn invalid(problem: impl std::fmt::Display) -> Refusal {
    Refusal::Invalid(problem.to_string())
}

/// Whether the index of a topic must be remembered, and for how long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The thing is there: as long as it is.
    There,
    /// The thing is gone: as long as there is room.
    Gone,
    /// The rows themselves know it.
    InRows,
}

impl Catalog {
    pub(crate) fn standing(&self, topic: &Topic) -> Standing {
        let there = match topic {
            Topic::Kv(_) | Topic::KvUnder(_) => return Standing::InRows,
            Topic::Node(node) | Topic::NodeServices(node) | Topic::NodeChecks(node) | Topic::NodeSessions(node) => {
                self.nodes.contains_key(&**node)
            }
            Topic::Session(id) => self.sessions.contains_key(&**id),
            Topic::Instances(service) | Topic::ServiceChecks(service) | Topic::ServiceNodeChecks(service) => {
                under(&self.by_service, [service]).next().is_some()
            }
            Topic::Connect(service) => under(&self.by_connect, [service]).next().is_some(),
            Topic::IntentionsFor(destination) => under(&self.intentions, [destination]).next().is_some(),
            Topic::ConfigEntry(kind, name) => under(&self.config_entries, [kind, name]).next().is_some(),
            Topic::Nodes
            | Topic::Services
            | Topic::AllInstances
            | Topic::ConnectNames
            | Topic::Kind(_)
            | Topic::Checks
            | Topic::ChecksIn(_)
            | Topic::Sessions
            | Topic::Intentions
            | Topic::ConfigEntries(_)
            | Topic::Ca
            | Topic::Revoked
            | Topic::Datacenters => true,
        };
        if there { Standing::There } else { Standing::Gone }
    }
}
