//! Who is alive: the leader's judgement over what all servers report about their sessions with agents.
//!
//! The core is pure: events and the time in, verdicts out. A verdict that could not be recorded is given again, because
//! [`Sessions::reconcile`] compares the judgement with the catalog.

use std::collections::{BTreeMap, BTreeSet};

use model::Node;

/// A closed session that does not come back within this time makes its node critical.
pub(crate) const CLOSED_MS_MAX: u64 = 300;
/// A server's own node is given so long: restarting a server makes nobody critical.
pub(crate) const SERVER_GONE_MS_MAX: u64 = 3_000;
/// The agents of a server that died, and everybody after an election, may take so long to move over.
pub(crate) const GRACE_MS: u64 = 10_000;

/// What the leader learns.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// We lead now. These nodes have a `serfHealth` check in the catalog.
    Elected { nodes: Vec<String> },
    /// A server tells about its sessions.
    Report(Reporter, Report),
    /// A server stopped reporting.
    ServerLost(Reporter),
    /// Time has passed.
    Tick,
}

/// One stream of a server's reports. Streams that began later have greater numbers; what then comes of an older one, its end too,
/// means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reporter {
    pub(crate) server: String,
    pub(crate) stream: u64,
}

/// What a server tells about its sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// `opened` is the whole set.
    pub(crate) full: bool,
    pub(crate) opened: Vec<Node>,
    pub(crate) closed: Vec<String>,
    /// Said goodbye.
    pub(crate) left: Vec<String>,
}

/// What is to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The node has a session.
    Alive(Node),
    /// The node has none, and had time enough to come back.
    Failed(String),
    /// The node said goodbye.
    Left(String),
}

/// What the leader knows about sessions. Made anew at each election.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    nodes: BTreeMap<String, State>,
    deadlines: BTreeSet<(u64, String)>,
    /// The newest stream of each server's reports.
    streams: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open { server: String, node: Node },
    Missing { deadline_ms: u64 },
    Failed,
}

impl Sessions {
    /// Takes one event in and says what is to be recorded.
    pub(crate) fn decide(&mut self, now_ms: u64, event: Event) -> Vec<Verdict> {
        let mut verdicts = match event {
            Event::Elected { nodes } => {
                nodes.into_iter().for_each(|name| self.miss(name, now_ms + GRACE_MS));
                Vec::new()
            }
            Event::Report(from, report) if self.is_newest(&from) => self.report(now_ms, &from.server, report),
            Event::ServerLost(from) if self.is_newest(&from) => {
                self.lose_server(now_ms, &from.server);
                Vec::new()
            }
            Event::Report(..) | Event::ServerLost(_) | Event::Tick => Vec::new(),
        };
        verdicts.extend(self.expire(now_ms));
        verdicts
    }

    /// When the next node runs out of time.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Verdicts that the catalog does not show: `passing` says which node is recorded as alive under a name, if any is.
    pub(crate) fn reconcile<'a>(&self, passing: impl Fn(&str) -> Option<&'a Node>) -> Vec<Verdict> {
        self.nodes
            .iter()
            .filter_map(|(name, state)| match (state, passing(name)) {
                (State::Open { node, .. }, Some(recorded)) if !is_another(node, recorded) => None,
                (State::Open { node, .. }, _) => Some(Verdict::Alive(node.clone())),
                (State::Failed, Some(_)) => Some(Verdict::Failed(name.clone())),
                (State::Missing { .. }, _) | (State::Failed, None) => None,
            })
            .collect()
    }

    /// Nodes that have a session now.
    #[cfg(test)]
    fn open(&self) -> Vec<&str> {
        self.nodes
            .iter()
            .filter(|(_, state)| matches!(state, State::Open { .. }))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    fn is_newest(&mut self, from: &Reporter) -> bool {
        let newest = self.streams.entry(from.server.clone()).or_default();
        *newest = from.stream.max(*newest);
        *newest == from.stream
    }

    fn report(&mut self, now_ms: u64, server: &str, report: Report) -> Vec<Verdict> {
        if report.full {
            let kept: BTreeSet<&str> = report.opened.iter().map(|node| node.name.as_str()).collect();
            let gone: Vec<String> = self.held_by(server).filter(|name| !kept.contains(name.as_str())).collect();
            gone.into_iter().for_each(|name| self.miss(name, now_ms + CLOSED_MS_MAX));
        }
        let mut verdicts = Vec::new();
        // A node that has moved to another server is not closed by its old one, and has not left.
        for name in report.left {
            if self.holder(&name).is_none_or(|holder| holder == server) {
                self.forget(&name);
                verdicts.push(Verdict::Left(name));
            }
        }
        for name in report.closed {
            if self.holder(&name) == Some(server) {
                self.miss(name, now_ms + CLOSED_MS_MAX);
            }
        }
        for node in report.opened {
            verdicts.extend(self.open_session(server.to_string(), node));
        }
        verdicts
    }

    /// The server that has a node's session.
    fn holder(&self, name: &str) -> Option<&str> {
        match self.nodes.get(name) {
            Some(State::Open { server, .. }) => Some(server),
            Some(State::Missing { .. } | State::Failed) | None => None,
        }
    }

    fn open_session(&mut self, server: String, node: Node) -> Option<Verdict> {
        let before = self.forget(&node.name);
        let is_news = match &before {
            Some(State::Open { node: known, .. }) => *known != node,
            Some(State::Missing { .. } | State::Failed) | None => true,
        };
        self.nodes.insert(node.name.clone(), State::Open { server, node: node.clone() });
        is_news.then_some(Verdict::Alive(node))
    }

    fn lose_server(&mut self, now_ms: u64, server: &str) {
        let names: Vec<String> = self.held_by(server).collect();
        for name in names {
            let time_ms = if name == server { SERVER_GONE_MS_MAX } else { GRACE_MS };
            self.miss(name, now_ms + time_ms);
        }
    }

    fn expire(&mut self, now_ms: u64) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while let Some((_, name)) = self.deadlines.first().filter(|(deadline_ms, _)| *deadline_ms <= now_ms).cloned() {
            self.forget(&name);
            self.nodes.insert(name.clone(), State::Failed);
            verdicts.push(Verdict::Failed(name));
        }
        verdicts
    }

    fn held_by(&self, server: &str) -> impl Iterator<Item = String> {
        self.nodes
            .iter()
            .filter(move |(_, state)| matches!(state, State::Open { server: holder, .. } if holder == server))
            .map(|(name, _)| name.clone())
    }

    fn miss(&mut self, name: String, deadline_ms: u64) {
        self.forget(&name);
        self.deadlines.insert((deadline_ms, name.clone()));
        self.nodes.insert(name, State::Missing { deadline_ms });
    }

    fn forget(&mut self, name: &str) -> Option<State> {
        let state = self.nodes.remove(name);
        if let Some(State::Missing { deadline_ms }) = state {
            self.deadlines.remove(&(deadline_ms, name.to_string()));
        }
        state
    }
}

/// Whether two nodes of one name are two machines, or one that has lost its data.
pub(crate) fn is_another(node: &Node, recorded: &Node) -> bool {
    !node.id.is_empty() && !recorded.id.is_empty() && node.id != recorded.id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node { name: name.into(), address: "10.0.0.1".into(), ..Node::default() }
    }

    fn opened(server: &str, names: &[&str]) -> Event {
        report(server, false, names, &[], &[])
    }

    fn report(server: &str, full: bool, opened: &[&str], closed: &[&str], left: &[&str]) -> Event {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_string()).collect();
        let opened = opened.iter().map(|n| node(n)).collect();
        Event::Report(stream(server, 1), Report { full, opened, closed: names(closed), left: names(left) })
    }

    fn stream(server: &str, stream: u64) -> Reporter {
        Reporter { server: server.into(), stream }
    }

    fn failed(name: &str) -> Vec<Verdict> {
        vec![Verdict::Failed(name.into())]
    }

    #[test]
    fn a_killed_agent_is_critical_after_its_closing_time() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.decide(0, opened("s1", &["a"])), [Verdict::Alive(node("a"))]);
        assert_eq!(sessions.decide(1_000, report("s1", false, &[], &["a"], &[])), []);
        assert_eq!(sessions.decide(1_000 + CLOSED_MS_MAX - 1, Event::Tick), []);
        assert_eq!(sessions.next_deadline_ms(), Some(1_000 + CLOSED_MS_MAX));
        assert_eq!(sessions.decide(1_000 + CLOSED_MS_MAX, Event::Tick), failed("a"));
        assert_eq!(sessions.next_deadline_ms(), None);
        assert_eq!(sessions.decide(60_000, opened("s2", &["a"])), [Verdict::Alive(node("a"))]);
    }

    #[test]
    fn an_agent_that_moves_to_another_server_never_fails() {
        for new_first in [true, false] {
            let mut sessions = Sessions::default();
            sessions.decide(0, opened("s1", &["a"]));
            let (moved, closed) = (opened("s2", &["a"]), report("s1", false, &[], &["a"], &[]));
            let events = if new_first { [moved, closed] } else { [closed, moved] };
            let verdicts: Vec<Verdict> = events.into_iter().flat_map(|event| sessions.decide(100, event)).collect();
            assert!(!verdicts.iter().any(|v| matches!(v, Verdict::Failed(_))), "{verdicts:?}");
            assert_eq!(sessions.decide(60_000, Event::Tick), []);
            assert_eq!(sessions.open(), ["a"]);
        }
    }

    #[test]
    fn agents_of_a_dead_server_have_a_grace_period_and_its_own_node_a_shorter_one() {
        let mut sessions = Sessions::default();
        sessions.decide(0, opened("s1", &["s1", "a", "b"]));
        assert_eq!(sessions.decide(1_000, Event::ServerLost(stream("s1", 1))), []);
        assert_eq!(sessions.decide(2_000, opened("s2", &["a"])).len(), 1);
        assert_eq!(sessions.decide(1_000 + SERVER_GONE_MS_MAX, Event::Tick), failed("s1"));
        assert_eq!(sessions.decide(1_000 + GRACE_MS - 1, Event::Tick), []);
        assert_eq!(sessions.decide(1_000 + GRACE_MS, Event::Tick), failed("b"));
        assert_eq!(sessions.open(), ["a"]);
    }

    #[test]
    fn after_an_election_everybody_has_time_to_report() {
        let mut sessions = Sessions::default();
        sessions.decide(0, Event::Elected { nodes: vec!["a".into(), "b".into()] });
        sessions.decide(5_000, report("s1", true, &["a"], &[], &[]));
        assert_eq!(sessions.decide(GRACE_MS, Event::Tick), failed("b"));
        assert_eq!(sessions.decide(GRACE_MS * 10, Event::Tick), []);
    }

    #[test]
    fn a_full_report_closes_what_it_does_not_name() {
        let mut sessions = Sessions::default();
        sessions.decide(0, opened("s1", &["a", "b"]));
        sessions.decide(0, opened("s2", &["c"]));
        sessions.decide(10, report("s1", true, &["b"], &[], &[]));
        assert_eq!(sessions.decide(10 + CLOSED_MS_MAX, Event::Tick), failed("a"));
        assert_eq!(sessions.open(), ["b", "c"]);
    }

    #[test]
    fn a_goodbye_is_no_failure() {
        let mut sessions = Sessions::default();
        sessions.decide(0, opened("s1", &["a"]));
        assert_eq!(sessions.decide(1, report("s1", false, &[], &["a"], &["a"])), [Verdict::Left("a".into())]);
        assert_eq!(sessions.decide(60_000, Event::Tick), []);
    }

    #[test]
    fn what_comes_late_of_an_older_stream_means_nothing() {
        let mut sessions = Sessions::default();
        let of = |number, full, opened: &[&str], closed: &[&str]| match report("s1", full, opened, closed, &[]) {
            Event::Report(_, report) => Event::Report(stream("s1", number), report),
            other => other,
        };
        sessions.decide(0, of(1, true, &["s1", "a"], &[]));
        sessions.decide(10, of(2, true, &["s1", "a"], &[]));
        for late in [of(1, false, &[], &["a"]), of(1, true, &[], &[]), Event::ServerLost(stream("s1", 1))] {
            assert_eq!(sessions.decide(20, late), []);
        }
        assert_eq!(sessions.decide(60_000, Event::Tick), []);
        assert_eq!(sessions.open(), ["a", "s1"]);
        sessions.decide(60_000, Event::ServerLost(stream("s1", 2)));
        assert_eq!(sessions.open(), [""; 0]);
    }

    #[test]
    fn who_has_left_one_server_and_is_at_another_has_not_left() {
        let mut sessions = Sessions::default();
        sessions.decide(0, opened("s1", &["a"]));
        sessions.decide(1, opened("s2", &["a"]));
        assert_eq!(sessions.decide(2, report("s1", false, &[], &[], &["a"])), []);
        assert_eq!(sessions.open(), ["a"]);
        assert_eq!(sessions.decide(3, report("s2", false, &[], &[], &["a"])), [Verdict::Left("a".into())]);
    }

    #[test]
    fn who_has_left_while_nobody_led_has_left() {
        let mut sessions = Sessions::default();
        sessions.decide(0, Event::Elected { nodes: vec!["a".into()] });
        assert_eq!(sessions.decide(1, report("s1", true, &[], &[], &["a"])), [Verdict::Left("a".into())]);
        assert_eq!(sessions.decide(60_000, Event::Tick), []);
    }

    #[test]
    fn what_the_catalog_does_not_show_is_said_again() {
        let mut sessions = Sessions::default();
        sessions.decide(0, opened("s1", &["a", "b"]));
        sessions.decide(0, report("s1", false, &[], &["b"], &[]));
        sessions.decide(CLOSED_MS_MAX, Event::Tick);
        let (a, b) = (node("a"), node("b"));
        assert_eq!(sessions.reconcile(|name| Some(if name == "a" { &a } else { &b })), failed("b"));
        assert_eq!(sessions.reconcile(|_| None), [Verdict::Alive(a.clone())]);
        assert_eq!(sessions.reconcile(|name| (name == "a").then_some(&a)), []);
    }

    #[test]
    fn who_has_the_session_has_the_name() {
        let with_id = |id: &str| Node { id: id.into(), ..node("a") };
        let (old, new) = (with_id("1"), with_id("2"));
        let mut sessions = Sessions::default();
        let event = |node: &Node| {
            let report = Report { opened: vec![node.clone()], ..Report::default() };
            Event::Report(stream("s1", 1), report)
        };
        sessions.decide(0, event(&old));
        assert_eq!(sessions.reconcile(|_| Some(&old)), []);
        assert_eq!(sessions.decide(1, event(&new)), [Verdict::Alive(new.clone())]);
        assert_eq!(sessions.reconcile(|_| Some(&old)), [Verdict::Alive(new.clone())]);
        assert_eq!(sessions.reconcile(|_| Some(&new)), []);
        let without_id = node("a");
        assert_eq!(sessions.reconcile(|_| Some(&without_id)), []);
    }

    #[test]
    fn the_same_session_is_news_only_once() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.decide(0, opened("s1", &["a"])).len(), 1);
        assert_eq!(sessions.decide(1, report("s1", true, &["a"], &[], &[])), []);
    }
}
