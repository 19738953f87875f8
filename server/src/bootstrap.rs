//! How servers without a cluster find out who begins one. The decision is pure; `join` asks the questions.
//!
//! Exactly `bootstrap_expect` servers begin, and only when each of them knows of exactly the same set and none belongs to
//! a cluster. The one with the lowest id initializes Raft with all of them as voters; the others hear of it by Raft.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use api::proto::{HelloReply, ServerInfo};

/// A server that said nothing for so long before there was a cluster is not counted on any more.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// What an uninitialized server does next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Not yet: why, for the log.
    Wait(String),
    /// Begin the cluster with these voters, this server among them.
    Initialize(Vec<ServerInfo>),
    /// A cluster exists: enroll there.
    Join(String),
}

/// The servers of this datacenter that have been heard of before there is a cluster.
#[derive(Debug, Default)]
pub(crate) struct Acquaintances {
    by_id: BTreeMap<u64, (ServerInfo, Instant)>,
}

impl Acquaintances {
    /// A server has said who it is. It replaces one of the same name or address: a server with an emptied folder has a new id.
    pub(crate) fn meet(&mut self, server: ServerInfo, now: Instant) {
        self.by_id.retain(|id, (known, _)| {
            *id == server.id || (known.name != server.name && known.rpc_address != server.rpc_address)
        });
        self.by_id.insert(server.id, (server, now));
    }

    /// All that were heard of lately, by id.
    pub(crate) fn known(&mut self, now: Instant) -> Vec<ServerInfo> {
        self.by_id.retain(|_, (_, seen)| now.duration_since(*seen) < FORGET_AFTER);
        self.by_id.values().map(|(server, _)| server.clone()).collect()
    }
}

/// Decides from what the others have answered to `Hello` just now.
pub(crate) fn decide(me: &ServerInfo, replies: &[HelloReply]) -> Step {
    let local: Vec<(&ServerInfo, &HelloReply)> = replies
        .iter()
        .filter_map(|reply| Some((reply.me.as_ref()?, reply)))
        .filter(|(server, _)| server.datacenter == me.datacenter)
        .collect();
    if let Some(address) = cluster_address(&local) {
        return Step::Join(address);
    }
    if me.bootstrap_expect == 0 {
        return Step::Wait("no server of an existing cluster was found yet, and this one does not bootstrap (bootstrap_expect is not set)".into());
    }
    let mut set: BTreeMap<u64, ServerInfo> = local.iter().map(|(server, _)| (server.id, (*server).clone())).collect();
    set.insert(me.id, me.clone());
    if let Some(other) = set.values().find(|server| server.bootstrap_expect != me.bootstrap_expect) {
        return Step::Wait(format!(
            "{} has bootstrap_expect {}, this server {}: make them equal",
            other.name, other.bootstrap_expect, me.bootstrap_expect
        ));
    }
    let expected = me.bootstrap_expect as usize;
    if set.len() != expected {
        return Step::Wait(format!("{} of {expected} expected servers were found", set.len()));
    }
    let ids: Vec<u64> = set.keys().copied().collect();
    if let Some((server, _)) = local.iter().find(|(server, reply)| server.id != me.id && !knows_exactly(reply, &ids)) {
        return Step::Wait(format!("{} does not know of the same {expected} servers yet", server.name));
    }
    match ids.first() {
        Some(lowest) if *lowest == me.id => Step::Initialize(set.into_values().collect()),
        _ => Step::Wait(format!("all {expected} servers were found; another one begins the cluster")),
    }
}

/// The leader that somebody knows of, else a server that is in a cluster.
fn cluster_address(local: &[(&ServerInfo, &HelloReply)]) -> Option<String> {
    let leader = local.iter().map(|(_, reply)| &reply.leader_address).find(|address| !address.is_empty());
    let member = || local.iter().find(|(server, _)| server.initialized).map(|(server, _)| &server.rpc_address);
    leader.or_else(member).cloned()
}

fn knows_exactly(reply: &HelloReply, ids: &[u64]) -> bool {
    let mut known: Vec<u64> = reply.known.iter().map(|server| server.id).collect();
    known.sort_unstable();
    known == ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: u64) -> ServerInfo {
        ServerInfo {
            id,
            name: format!("s{id}"),
            rpc_address: format!("127.0.0.{id}:8300"),
            datacenter: "dc1".into(),
            bootstrap_expect: 3,
            ..ServerInfo::default()
        }
    }

    fn reply(id: u64, known: &[u64]) -> HelloReply {
        HelloReply {
            me: Some(server(id)),
            known: known.iter().map(|id| server(*id)).collect(),
            ..HelloReply::default()
        }
    }

    #[test]
    fn the_lowest_of_exactly_three_that_know_each_other_begins() {
        let all = [1, 2, 3];
        let replies =
            |me: u64| -> Vec<HelloReply> { all.iter().filter(|id| **id != me).map(|id| reply(*id, &all)).collect() };
        assert_eq!(decide(&server(1), &replies(1)), Step::Initialize(all.map(server).into()));
        assert!(matches!(decide(&server(2), &replies(2)), Step::Wait(_)));
        assert!(matches!(decide(&server(3), &replies(3)), Step::Wait(_)));
    }

    #[test]
    fn two_or_four_or_a_different_view_begin_nothing() {
        let cases: [&[HelloReply]; 4] = [
            &[],
            &[reply(2, &[1, 2, 3])],
            &[reply(2, &[1, 2, 3]), reply(3, &[1, 3])],
            &[reply(2, &[1, 2, 3, 4]), reply(3, &[1, 2, 3, 4]), reply(4, &[1, 2, 3, 4])],
        ];
        for replies in cases {
            assert!(matches!(decide(&server(1), replies), Step::Wait(_)), "{replies:?}");
        }
    }

    #[test]
    fn servers_that_expect_another_number_begin_nothing() {
        let mut other = reply(2, &[1, 2, 3]);
        other.me.as_mut().expect("me").bootstrap_expect = 5;
        let Step::Wait(reason) = decide(&server(1), &[other, reply(3, &[1, 2, 3])]) else { panic!("must wait") };
        assert!(reason.contains("bootstrap_expect 5"), "{reason}");
    }

    #[test]
    fn an_existing_cluster_is_joined_whatever_else() {
        let mut old = reply(2, &[2]);
        old.me.as_mut().expect("me").initialized = true;
        assert_eq!(decide(&server(1), &[old.clone(), reply(3, &[1, 2, 3])]), Step::Join("127.0.0.2:8300".into()));
        old.leader_address = "127.0.0.9:8300".into();
        assert_eq!(decide(&server(1), &[old]), Step::Join("127.0.0.9:8300".into()));
    }

    #[test]
    fn servers_of_other_datacenters_do_not_count() {
        let mut far = reply(2, &[1, 2, 3]);
        far.me.as_mut().expect("me").datacenter = "dc2".into();
        far.me.as_mut().expect("me").initialized = true;
        assert!(matches!(decide(&server(1), &[far, reply(3, &[1, 2, 3])]), Step::Wait(_)));
    }

    #[test]
    fn one_server_begins_alone() {
        let alone = ServerInfo { bootstrap_expect: 1, ..server(7) };
        assert_eq!(decide(&alone, &[]), Step::Initialize(vec![alone.clone()]));
    }

    #[test]
    fn a_server_with_a_new_id_replaces_its_former_self() {
        let (mut known, now) = (Acquaintances::default(), Instant::now());
        known.meet(server(1), now);
        known.meet(server(2), now);
        known.meet(ServerInfo { id: 9, ..server(1) }, now);
        let ids: Vec<u64> = known.known(now).iter().map(|s| s.id).collect();
        assert_eq!(ids, [2, 9]);
        assert_eq!(known.known(now + FORGET_AFTER), []);
    }
}
