//! Raft's rules of logs: entries of the same leader and index are the same, with all before them; what is agreed on stays, on a majority, and every later
//! leader has it; a vote that is on a disk is never taken back.

use std::collections::{BTreeMap, BTreeSet};

use raft::{EntryId, LogView, NodeId};

/// What was seen of all logs.
#[derive(Default)]
pub(crate) struct Logs {
    /// Each server's log as it was last seen, in whatever life.
    seen: BTreeMap<usize, Seen>,
    /// Each entry's size and the entry before it, where one was seen.
    entries: BTreeMap<EntryId, (usize, Option<EntryId>)>,
    /// What is agreed on, by index, and the term of the server that was first seen to know it.
    agreed: BTreeMap<u64, Agreed>,
    matched: u64,
    /// Whether all servers are voters.
    pub(crate) is_formed: bool,
}

struct Agreed {
    id: EntryId,
    term: u64,
}

#[derive(Default)]
struct Seen {
    vote: Option<(u64, NodeId)>,
    view: LogView,
}

impl Logs {
    /// Takes a look at one server's log.
    pub(crate) fn look(
        &mut self,
        at: usize,
        name: &str,
        term: u64,
        is_new_leader: bool,
        view: LogView,
        findings: &mut Vec<String>,
    ) {
        let seen = self.seen.remove(&at).unwrap_or_default();
        if view.vote < seen.vote {
            findings.push(format!("the vote of {name} went back from {:?} to {:?}", seen.vote, view.vote));
        }
        let old: BTreeSet<EntryId> = seen.view.entries.iter().map(|(id, _bytes)| *id).collect();
        let mut before = view.purged;
        for (id, bytes) in &view.entries {
            if !old.contains(id) {
                self.look_at_entry(name, *id, *bytes, before.filter(|before| before.2 + 1 == id.2), findings);
            }
            before = Some(*id);
        }
        self.look_at_agreed(name, term, &view, findings);
        if is_new_leader {
            self.is_complete(name, term, &view, findings);
        }
        self.seen.insert(at, Seen { vote: view.vote, view });
    }

    /// The newest entry that is agreed on is held by a majority, if those that are down may have it.
    pub(crate) fn is_on_a_quorum(&self, up: &BTreeSet<usize>, servers: usize, findings: &mut Vec<String>) {
        let Some((index, agreed)) = self.agreed.last_key_value().filter(|_| self.is_formed) else {
            return;
        };
        let without = up.iter().filter(|at| self.seen.get(at).is_none_or(|seen| !seen.view.has(agreed.id))).count();
        if servers - without < servers / 2 + 1 {
            findings.push(format!("entry {index} is agreed on, and {without} of {servers} servers do not have it"));
        }
    }

    /// How many entries were seen on more than one server.
    pub(crate) fn matched(&self) -> u64 {
        self.matched
    }

    fn look_at_entry(
        &mut self,
        name: &str,
        id: EntryId,
        bytes: usize,
        before: Option<EntryId>,
        findings: &mut Vec<String>,
    ) {
        let Some(known) = self.entries.get_mut(&id) else {
            self.entries.insert(id, (bytes, before));
            return;
        };
        self.matched += 1;
        if known.0 != bytes {
            findings.push(format!("entry {id:?} of {name} is another one than elsewhere"));
        }
        match (known.1, before) {
            (Some(elsewhere), Some(here)) if elsewhere != here => {
                findings.push(format!("before entry {id:?}, {name} has {here:?} and another server {elsewhere:?}"));
            }
            (None, here) => known.1 = here,
            _ => {}
        }
    }

    /// What this server knows to be agreed on is what all others know.
    fn look_at_agreed(&mut self, name: &str, term: u64, view: &LogView, findings: &mut Vec<String>) {
        let Some(committed) = view.committed else {
            return;
        };
        let entries = view.entries.iter().map(|(id, _bytes)| *id).take_while(|id| id.2 <= committed.2);
        for id in entries.chain([committed]) {
            let agreed = self.agreed.entry(id.2).or_insert(Agreed { id, term });
            if agreed.id != id {
                findings.push(format!("{name} knows {id:?} to be agreed on, and another server {:?}", agreed.id));
            }
        }
    }

    /// A leader has all that was agreed on in the terms before its own.
    fn is_complete(&self, name: &str, term: u64, view: &LogView, findings: &mut Vec<String>) {
        let earlier = self.agreed.values().filter(|agreed| agreed.term < term);
        if let Some(missing) = earlier.map(|agreed| agreed.id).find(|id| !view.has(*id)) {
            findings.push(format!("{name} leads term {term} without {missing:?}, which was agreed on before"));
        }
    }
}

/// What can be asked of a log.
trait Has {
    /// Whether it has the entry, or had it before it was dropped for a snapshot.
    fn has(&self, id: EntryId) -> bool;
}

impl Has for LogView {
    fn has(&self, id: EntryId) -> bool {
        let purged = self.purged.map_or(0, |purged| purged.2);
        let is_purged = self.purged.is_some() && id.2 <= purged;
        is_purged || self.entries.iter().any(|(own, _bytes)| *own == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(committed: u64, entries: &[EntryId]) -> LogView {
        LogView {
            vote: Some((1, 1)),
            purged: None,
            committed: entries.iter().copied().find(|id| id.2 == committed),
            entries: entries.iter().map(|id| (*id, 10)).collect(),
            end: entries.len() as u64,
        }
    }

    /// What is found when servers 0, 1… have these logs, one after the other, the last of them as a new leader of term 3.
    fn found(views: Vec<LogView>) -> Vec<String> {
        let mut logs = Logs { is_formed: true, ..Logs::default() };
        let mut findings = Vec::new();
        let last = views.len() - 1;
        for (at, view) in views.into_iter().enumerate() {
            logs.look(at, &format!("s{at}"), if at == last { 3 } else { 1 }, at == last, view, &mut findings);
        }
        logs.is_on_a_quorum(&(0..3).collect(), 3, &mut findings);
        findings
    }

    const A: EntryId = (1, 1, 0);
    const B: EntryId = (1, 1, 1);
    const C: EntryId = (2, 2, 1);

    #[test]
    fn good_logs_are_good() {
        assert!(found(vec![view(1, &[A, B]), view(0, &[A, B]), view(1, &[A, B])]).is_empty());
        assert!(found(vec![view(0, &[A, B]), view(0, &[A, C]), view(0, &[A, B])]).is_empty());
    }

    #[test]
    fn each_rule_is_seen_to_be_broken() {
        let cases = [
            (vec![view(1, &[A, B]), view(1, &[A, C]), view(1, &[A, B])], "another server (1, 1, 1)"),
            (vec![view(1, &[A, B]), view(1, &[A, B]), view(0, &[A, C])], "without (1, 1, 1)"),
            (vec![view(1, &[A, B]), view(0, &[A, C]), view(0, &[A])], "2 of 3 servers do not have it"),
            (vec![view(0, &[A, (3, 3, 1), (3, 3, 2)]), view(0, &[A, B, (3, 3, 2)]), view(0, &[A])], "before entry"),
        ];
        for (views, words) in cases {
            let findings = found(views);
            assert!(findings.iter().any(|finding| finding.contains(words)), "{words}: {findings:?}");
        }
        let other = LogView { entries: vec![(A, 11)], ..LogView::default() };
        assert!(found(vec![view(0, &[A]), other, view(0, &[A])]).iter().any(|finding| finding.contains("elsewhere")));
        let mut logs = Logs::default();
        let mut findings = Vec::new();
        for vote in [(2, 1), (1, 3)] {
            let view = LogView { vote: Some(vote), ..LogView::default() };
            logs.look(0, "s0", 1, false, view, &mut findings);
        }
        assert!(findings[0].contains("vote of s0 went back"), "{findings:?}");
    }
}
