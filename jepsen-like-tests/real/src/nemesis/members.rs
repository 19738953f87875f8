//! Who belongs to the cluster, as its leader says, and what must hold of it at all times.

use std::collections::BTreeSet;

use crate::cluster::SERVERS;

/// Voters of which there are never fewer, whatever operation is under way.
const VOTERS_MIN: usize = SERVERS / 2 + 1;

/// A member, as the API tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) is_leader: bool,
    pub(super) is_voter: bool,
}

/// All members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Members(pub(super) Vec<Member>);

impl Members {
    /// Reads the answer of `/v1/operator/raft/configuration`.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
        let member = |one: &serde_json::Value| {
            let text = |key: &str| one[key].as_str().map(str::to_owned);
            let (is_leader, is_voter) = (one["Leader"].as_bool()?, one["Voter"].as_bool()?);
            Some(Member { id: text("ID")?, name: text("Node")?, is_leader, is_voter })
        };
        answer["Servers"].as_array()?.iter().map(member).collect::<Option<_>>().map(Members)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Member> {
        self.0.iter().find(|member| member.name == name)
    }

    fn voters(&self) -> BTreeSet<&str> {
        self.0.iter().filter(|member| member.is_voter).map(|member| member.id.as_str()).collect()
    }
}

/// What was seen of the members so far; only what is known to be agreed on.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) last: Members,
    /// Those who were members and are none any more: no id is ever used again.
    former: BTreeSet<String>,
}

impl Book {
    /// Takes down what is seen now, and answers what must not be.
    pub(super) fn see(&mut self, now: Members) -> Vec<String> {
        let mut wrong = Vec::new();
        let (before, voters) = (self.last.voters(), now.voters());
        if voters.len() < VOTERS_MIN {
            wrong.push(format!("members: there are {} voters, fewer than {VOTERS_MIN}", voters.len()));
        }
        if voters.intersection(&before).count() < (before.len() / 2 + 1).min(before.len()) {
            wrong.push(format!("members: no majority of the voters {before:?} is among the next, {voters:?}"));
        }
        let returned = now.0.iter().filter(|member| self.former.contains(&member.id));
        wrong.extend(
            returned.map(|member| format!("members: {} is back with its former id {}", member.name, member.id)),
        );
        let gone = self.last.0.iter().filter(|old| now.0.iter().all(|member| member.id != old.id));
        self.former.extend(gone.map(|old| old.id.clone()));
        self.last = now;
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[&str]) -> Members {
        let member =
            |id: &&str| Member { id: (*id).to_owned(), name: format!("s{id}"), is_leader: false, is_voter: true };
        Members(voters.iter().map(member).collect())
    }

    fn wrong(steps: &[&[&str]]) -> Vec<String> {
        let mut book = Book::default();
        steps.iter().flat_map(|step| book.see(members(step))).collect()
    }

    #[test]
    fn the_answer_of_the_api_is_read() {
        let body = br#"{"Servers":[{"ID":"7","Node":"s1","Address":"10.77.0.2:8300","Leader":true,"ProtocolVersion":"3","Voter":true,"LastIndex":4},
            {"ID":"8","Node":"s2","Address":"x","Leader":false,"Voter":false}],"Index":3}"#;
        let read = Members::parse(body).unwrap();
        assert_eq!((read.0.len(), read.voters().len()), (2, 1));
        assert!(read.named("s1").unwrap().is_leader && !read.named("s2").unwrap().is_voter);
        assert_eq!(Members::parse(b"rpc error"), None);
        assert_eq!(Members::parse(br#"{"Servers":[{"ID":7}]}"#), None);
    }

    #[test]
    fn members_come_and_go_one_by_one() {
        let grow: &[&[&str]] = &[&["1", "2", "3"], &["1", "2", "3", "4", "5"], &["1", "2", "5"]];
        let replace: &[&[&str]] = &[&["1", "2", "3"], &["1", "2"], &["1", "2", "9"], &["2", "9"], &["2", "9", "8"]];
        assert!(wrong(grow).is_empty() && wrong(replace).is_empty());
    }

    #[test]
    fn too_few_voters_other_voters_and_ids_that_return_are_seen() {
        assert!(wrong(&[&["1", "2", "3"], &["1"]]).iter().any(|text| text.contains("fewer than 2")));
        assert!(wrong(&[&["1", "2", "3"], &["1", "8", "9"]])[0].contains("no majority"));
        assert!(wrong(&[&["1", "2", "3"], &["1", "2"], &["1", "2", "3"]])[0].contains("former id 3"));
    }
}
