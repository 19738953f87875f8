//! Which nodes are alive, recorded in the catalog; and the servers' own entries there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::proto::session_client::SessionClient;
use api::proto::{SessionNode, SessionReport};
use catalog::query::{check, node as nodes, service as services};
use catalog::{Command, Deregistration, Registration, View};
use model::check::SERF_HEALTH;
use model::service::SERVER_SERVICE;
use model::{CheckStatus, Node, ServiceInstance};
use raft::Member;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::sessions::{Event, Report, Reporter, Sessions, Verdict, is_another};
use super::{RETRY, until_done};
use crate::core::Core;
use crate::local_sessions::LocalSessions;

/// Reports that wait to be judged.
const EVENTS_MAX: usize = 1024;
/// How often the judgement is compared with the catalog.
const RECONCILE: Duration = Duration::from_secs(5);
/// How often the servers' own entries are looked at while the members stay the same.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same while something was missing.
const SETTLING: Duration = Duration::from_millis(50);

/// Judges over what servers report, for as long as this server leads.
pub(super) async fn judge(core: &Arc<Core>) {
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let (mut sessions, started) = (Sessions::default(), Instant::now());
    let elected = Event::Elected { nodes: core.watch.read(nodes_with_sessions).0 };
    sessions.decide(0, elected);
    core.sessions.set_judge(Some(sender));
    let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut reconcile = tokio::time::interval(RECONCILE);
    reconcile.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let deadline = sessions.next_deadline_ms().map(|deadline_ms| started + Duration::from_millis(deadline_ms));
        let verdicts = tokio::select! {
            event = events.recv() => match event {
                Some(event) => sessions.decide(now_ms(), event),
                None => return,
            },
            () = sleep_until(deadline) => sessions.decide(now_ms(), Event::Tick),
            _ = reconcile.tick() => core.watch.read(|view| sessions.reconcile(|name| passing(view, name))).0,
        };
        record(core, verdicts).await;
    }
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// A verdict that cannot be recorded is given again by the next comparison with the catalog.
async fn record(core: &Core, verdicts: Vec<Verdict>) {
    let proposals = verdicts.into_iter().map(|verdict| async move {
        for command in commands(core, verdict) {
            if let Err(error) = core.proposer.propose_here(&command).await {
                tracing::debug!(%error, "a node's health could not be recorded yet");
            }
        }
    });
    futures_util::future::join_all(proposals).await;
}

fn commands(core: &Core, verdict: Verdict) -> Vec<Command> {
    match verdict {
        Verdict::Alive(node) => {
            let known = core.watch.read(|view| nodes::node(view, &node.name).map(|row| row.value.clone())).0;
            let is_passing = core.watch.read(|view| passing(view, &node.name).is_some()).0;
            if known.is_some() && !is_passing {
                tracing::info!(node = node.name, "a node is alive again");
            }
            // Its predecessor has no session any more, and so holds the name no longer.
            let predecessor = known.filter(|known| is_passing && is_another(&node, known));
            let failed = predecessor.map(|old| {
                tracing::warn!(node = node.name, old_id = old.id, new_id = node.id, "a node came back with another id");
                Command::SetNodeHealth { node: Box::new(old), alive: false }
            });
            failed.into_iter().chain([Command::SetNodeHealth { node: Box::new(node), alive: true }]).collect()
        }
        Verdict::Failed(name) => {
            tracing::warn!(node = name, "a node has failed: its agent has no session with any server");
            let id = core.watch.read(|view| nodes::node(view, &name).map(|row| row.id.clone())).0;
            let node = Node { name, id: id.unwrap_or_default(), ..Node::default() };
            vec![Command::SetNodeHealth { node: Box::new(node), alive: false }]
        }
        Verdict::Left(name) => {
            tracing::info!(node = name, "a node has left");
            vec![Command::Deregister(Deregistration { node: name, ..Deregistration::default() })]
        }
    }
}

fn nodes_with_sessions(view: &View<'_>) -> Vec<String> {
    let with_check = check::in_state(view, None, &[]).into_iter().filter(|row| row.check_id == SERF_HEALTH);
    with_check.map(|row| row.node.clone()).collect()
}

/// The node of this name, if it is recorded as alive.
pub(crate) fn passing<'a>(view: &'a View<'_>, name: &str) -> Option<&'a Node> {
    let check = check::check(view, name, SERF_HEALTH)?;
    nodes::node(view, name).map(|row| &row.value).filter(|_| check.status == CheckStatus::Passing)
}

/// Reports this server's sessions to whichever server leads, itself included. Runs on every server.
pub(crate) async fn report(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = report_to_leader(&core) => {}
            () = core.closing.cancelled() => return,
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn report_to_leader(core: &Core) {
    let mut leadership = core.raft.watch();
    let Some(leader) = leadership.borrow_and_update().leader.clone() else {
        let _ = leadership.changed().await;
        return;
    };
    let term = leadership.borrow().term;
    let over = async {
        let _ = leadership.wait_for(|now| now.term != term || now.leader.as_ref() != Some(&leader)).await;
    };
    tokio::select! {
        () = async {
            if leader.id == core.raft.id() { report_here(core).await } else { report_there(core, &leader).await }
        } => {}
        () = over => {}
    }
}

async fn report_here(core: &Core) {
    if let Some(judge) = core.sessions.judge() {
        let (from, _) = core.sessions.reporter(core.config.node_name.clone());
        tell(&core.sessions, &from, &judge).await;
    }
}

/// Tells a judge of this very server everything, and what changes, until it is gone: there may be a new one in the same term.
async fn tell(sessions: &LocalSessions, from: &Reporter, judge: &mpsc::Sender<Event>) {
    let mut report = sessions.tell_all();
    while judge.send(Event::Report(from.clone(), report.clone())).await.is_ok() {
        sessions.heard(&report);
        report = tokio::select! {
            changes = sessions.tell_changes() => changes,
            () = judge.closed() => return,
        };
    }
}

/// Tells another server, which leads, one report after the other: what changes meanwhile is in the next one.
async fn report_there(core: &Core, leader: &Member) {
    let Ok(channel) = core.peers.local(&leader.address) else { return };
    let (sender, reports) = mpsc::channel(1);
    let mut report = core.sessions.tell_all();
    if sender.send(packed(&report)).await.is_err() {
        return;
    }
    let Ok(acks) = SessionClient::new(channel).report(ReceiverStream::new(reports)).await else { return };
    let mut acks = acks.into_inner();
    while let Ok(Some(_)) = acks.message().await {
        core.sessions.heard(&report);
        report = tokio::select! {
            changes = core.sessions.tell_changes() => changes,
            _ended = acks.message() => return,
        };
        if sender.send(packed(&report)).await.is_err() {
            return;
        }
    }
}

fn packed(report: &Report) -> SessionReport {
    SessionReport {
        full: report.full,
        opened: report.opened.iter().map(|node| SessionNode { node_mp: api::mp::encode(node) }).collect(),
        closed: report.closed.clone(),
        left: report.left.clone(),
    }
}

/// Every server is in the catalog as an instance of the service `consul`; servers that were removed are not.
pub(super) async fn register_servers(core: &Arc<Core>) {
    let mut changed = core.raft.watch_members();
    loop {
        changed.mark_unchanged();
        let members = core.members.all();
        let commands = core.watch.read(|view| missing(view, &members, &core.config.datacenter)).0;
        let is_settling = members.is_empty() || !commands.is_empty();
        for command in commands {
            until_done(|| async { core.proposer.propose_here(&command).await.is_ok() || !core.raft.is_leader() }).await;
        }
        // Right after an election the members may not be known yet.
        let pause = if is_settling { SETTLING } else { LOOK_AGAIN };
        // Whether they changed or the time is up, it is time to look; unless Raft has stopped.
        if let Ok(Err(_stopped)) = tokio::time::timeout(pause, changed.changed()).await {
            return;
        }
    }
}

/// What must be recorded so that exactly the members are there.
fn missing(view: &View<'_>, members: &[Member], datacenter: &str) -> Vec<Command> {
    let found = services::instances(view, SERVER_SERVICE, &catalog::query::Selection::default());
    let by_node: BTreeMap<String, _> = found.iter().map(|placed| (placed.node.name.to_lowercase(), placed)).collect();
    let mut commands: Vec<Command> = Vec::new();
    for member in members {
        let Some((host, port)) =
            member.address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        else {
            continue;
        };
        let known = by_node.get(&member.name.to_lowercase());
        if known.is_some_and(|placed| {
            placed.service.port == port && placed.service.meta.get("raft_id") == Some(&member.id.to_string())
        }) {
            continue;
        }
        let node = nodes::node(view, &member.name)
            .map_or_else(|| fresh_node(member, host, datacenter), |row| row.value.clone());
        commands.push(Command::Register(Box::new(Registration {
            node,
            skip_node_update: true,
            service: Some(instance(member, port)),
            checks: vec![],
        })));
    }
    let is_member = |name: &str| members.iter().any(|member| member.name.eq_ignore_ascii_case(name));
    let gone = found.iter().filter(|placed| placed.service.id == SERVER_SERVICE && !is_member(&placed.node.name));
    commands.extend(gone.map(|placed| {
        let (node, service_id) = (placed.node.name.clone(), Some(SERVER_SERVICE.to_string()));
        Command::Deregister(Deregistration { node, service_id, check_id: None })
    }));
    commands
}

fn fresh_node(member: &Member, host: &str, datacenter: &str) -> Node {
    let address = host.trim_start_matches('[').trim_end_matches(']').to_string();
    Node { name: member.name.clone(), address, datacenter: datacenter.into(), ..Node::default() }
}

fn instance(member: &Member, port: u16) -> ServiceInstance {
    let meta = [("raft_id".to_string(), member.id.to_string())].into();
    ServiceInstance {
        id: SERVER_SERVICE.into(),
        service: SERVER_SERVICE.into(),
        port,
        meta,
        ..ServiceInstance::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::Catalog;

    fn member(id: u64) -> Member {
        Member { id, name: format!("s{id}"), address: format!("127.0.0.{id}:8300") }
    }

    #[tokio::test]
    async fn a_judge_who_is_gone_is_left_even_if_there_is_nothing_to_tell() {
        let (sessions, (judge, mut events)) = (LocalSessions::default(), mpsc::channel(4));
        let (from, _) = sessions.reporter("s1".into());
        let telling = tell(&sessions, &from, &judge);
        let hearing = async {
            assert!(matches!(events.recv().await, Some(Event::Report(_, report)) if report.full));
            drop(events);
        };
        let both = async { tokio::join!(telling, hearing) };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("it ends");
    }

    #[test]
    fn exactly_the_members_are_registered() {
        let mut catalog = Catalog::new();
        let step = |catalog: &mut Catalog, members: &[Member]| {
            let commands = missing(&View::new(catalog), members, "dc1");
            let count = commands.len();
            commands.into_iter().for_each(|command| drop(catalog.apply(command)));
            count
        };
        assert_eq!(step(&mut catalog, &[member(1), member(2)]), 2);
        assert_eq!(step(&mut catalog, &[member(1), member(2)]), 0);
        assert_eq!(step(&mut catalog, &[member(1)]), 1);
        let moved = Member { address: "127.0.0.1:9300".into(), ..member(1) };
        assert_eq!(step(&mut catalog, &[moved]), 1);
        let view = View::new(&catalog);
        let servers = services::instances(&view, SERVER_SERVICE, &catalog::query::Selection::default());
        assert_eq!(
            servers.iter().map(|placed| (placed.node.address.as_str(), placed.service.port)).collect::<Vec<_>>(),
            [("127.0.0.1", 9300)]
        );
    }
}
