//! The sessions that this server has with agents, and what of them the leader has not been told yet. While this server leads, who
//! reports to it, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::Node;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::leader::sessions::{Event, Report, Reporter};

/// This server's sessions, and the way to the leader's judgement while this server leads.
#[derive(Default)]
pub(crate) struct LocalSessions {
    state: Mutex<State>,
    changed: Notify,
}

/// One session. A node that opens a second one has moved: the end of the first means nothing then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionId {
    node: String,
    number: u64,
}

#[derive(Default)]
struct State {
    open: BTreeMap<String, (u64, Node)>,
    next_number: u64,
    untold: Untold,
    judge: Option<mpsc::Sender<Event>>,
    last_stream: u64,
    /// Each server's newest stream of reports to this one; ended by the next one.
    streams: BTreeMap<String, CancellationToken>,
}

/// What the leader has not been told.
#[derive(Default)]
struct Untold {
    opened: BTreeMap<String, Node>,
    closed: BTreeSet<String>,
    /// Kept until the leader has heard it: no full report would show it.
    left: BTreeSet<String>,
}

impl LocalSessions {
    pub(crate) fn opened(&self, node: Node) -> SessionId {
        let mut state = self.lock();
        state.next_number += 1;
        let id = SessionId { node: node.name.clone(), number: state.next_number };
        state.untold.closed.remove(&id.node);
        state.untold.left.remove(&id.node);
        state.untold.opened.insert(id.node.clone(), node.clone());
        state.open.insert(id.node.clone(), (id.number, node));
        drop(state);
        self.changed.notify_one();
        id
    }

    /// The node is described anew.
    pub(crate) fn changed(&self, id: &SessionId, node: Node) {
        let mut state = self.lock();
        if let Some((number, known)) = state.open.get_mut(&id.node)
            && *number == id.number
        {
            *known = node.clone();
            state.untold.opened.insert(id.node.clone(), node);
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(crate) fn closed(&self, id: &SessionId, has_left: bool) {
        let mut state = self.lock();
        if state.open.get(&id.node).is_some_and(|(number, _)| *number == id.number) {
            state.open.remove(&id.node);
            state.untold.opened.remove(&id.node);
            let list = if has_left { &mut state.untold.left } else { &mut state.untold.closed };
            list.insert(id.node.clone());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// All sessions, and who has left; with this the leader has been told everything.
    pub(crate) fn tell_all(&self) -> Report {
        let mut state = self.lock();
        let left = state.untold.tell().left;
        let opened = state.open.values().map(|(_, node)| node.clone()).collect();
        Report { full: true, opened, closed: Vec::new(), left }
    }

    /// Waits for something to tell, and returns it. What was told before must have been [`heard`](Self::heard).
    pub(crate) async fn tell_changes(&self) -> Report {
        loop {
            let told = self.lock().untold.tell();
            if told != Report::default() {
                return told;
            }
            self.changed.notified().await;
        }
    }

    /// The leader has heard a report. One that it has not heard need not be told again: the next full one shows it, but for
    /// goodbyes, which are in each report until then.
    pub(crate) fn heard(&self, report: &Report) {
        let mut state = self.lock();
        state.untold.left.retain(|name| !report.left.contains(name));
    }

    /// A new stream of a server's reports to this one, and what ends it. Only the newest counts, and that may be one that its
    /// server has given up long ago, and that was delayed: so the one before is ended, and a server that lives begins again.
    pub(crate) fn reporter(&self, server: String) -> (Reporter, CancellationToken) {
        let mut state = self.lock();
        state.last_stream += 1;
        let is_over = CancellationToken::new();
        if let Some(before) = state.streams.insert(server.clone(), is_over.clone()) {
            before.cancel();
        }
        (Reporter { server, stream: state.last_stream }, is_over)
    }

    /// Where reports go while this server leads.
    pub(crate) fn judge(&self) -> Option<mpsc::Sender<Event>> {
        self.lock().judge.clone()
    }

    pub(crate) fn set_judge(&self, judge: Option<mpsc::Sender<Event>>) {
        self.lock().judge = judge;
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Untold {
    fn tell(&mut self) -> Report {
        let opened = std::mem::take(&mut self.opened).into_values().collect();
        let closed = std::mem::take(&mut self.closed).into_iter().collect();
        Report { full: false, opened, closed, left: self.left.iter().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node { name: name.into(), ..Node::default() }
    }

    #[tokio::test]
    async fn the_leader_is_told_everything_once() {
        let sessions = LocalSessions::default();
        let a = sessions.opened(node("a"));
        sessions.opened(node("b"));
        assert_eq!(sessions.tell_all().opened.len(), 2);
        sessions.closed(&a, false);
        let untold = sessions.tell_changes().await;
        assert_eq!((untold.opened.len(), untold.closed.len(), untold.left.len()), (0, 1, 0));
        let c = sessions.opened(node("c"));
        sessions.closed(&c, true);
        let untold = sessions.tell_changes().await;
        assert_eq!((untold.opened.len(), untold.closed.len(), untold.left.len()), (0, 0, 1));
        assert_eq!(sessions.count(), 1);
    }

    #[test]
    fn a_server_has_one_stream_of_reports() {
        let sessions = LocalSessions::default();
        let (first, first_is_over) = sessions.reporter("s1".into());
        let (_, others_is_over) = sessions.reporter("s2".into());
        let (second, second_is_over) = sessions.reporter("s1".into());
        assert!(first.stream < second.stream);
        assert!(first_is_over.is_cancelled() && !second_is_over.is_cancelled() && !others_is_over.is_cancelled());
    }

    #[tokio::test]
    async fn a_goodbye_is_told_until_it_is_heard() {
        let sessions = LocalSessions::default();
        let a = sessions.opened(node("a"));
        sessions.closed(&a, true);
        assert_eq!(sessions.tell_changes().await.left, ["a"]);
        let told = sessions.tell_all();
        assert_eq!(told.left, ["a"], "nobody has heard it");
        sessions.heard(&told);
        assert_eq!(sessions.tell_all().left, [""; 0]);
        let a = sessions.opened(node("a"));
        sessions.closed(&a, true);
        sessions.opened(node("a"));
        assert_eq!(sessions.tell_all().left, [""; 0], "it has come back");
    }

    #[tokio::test]
    async fn the_end_of_a_session_that_was_replaced_means_nothing() {
        let sessions = LocalSessions::default();
        let old = sessions.opened(node("a"));
        sessions.opened(node("a"));
        sessions.closed(&old, false);
        let untold = sessions.tell_changes().await;
        assert_eq!((untold.opened.len(), untold.closed.len()), (1, 0));
    }
}
