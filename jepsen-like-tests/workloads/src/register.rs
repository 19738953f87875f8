//! A few keys are read in all three modes, written and compared-and-set. With `consistent` reads each key is linearizable; `stale` reads never go back
//! while a server runs, and are no older than they say. `default` reads may be stale for a moment while two believe to lead: no longer than it takes
//! until one that is cut off gives up.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jlt_core::checker::{linearizable, lost_write};
use jlt_core::history::{self, Operation, Value};
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};

use crate::api::{Entry, Failure, Mode, Seen};
use crate::client::{Client, Workload};
use crate::keys::{self, Keys};

/// Keys in use at one time. Few, so that clients meet on them; and soon retired.
const KEYS: usize = 3;

/// The key after them, which is in use for seconds: there it is seen that an answer is too old.
const CALM_KEY: usize = KEYS;

/// Who do all that there is to do, in a hurry.
const WRITERS: usize = 4;

/// Then come those who do the same on the calm key.
const CALM_WRITERS: usize = 2;

/// And those who make `consistent` reads only. The client after them makes the final reads.
const CLIENTS: usize = WRITERS + CALM_WRITERS + 5;

/// Short, so that a server that hangs holds nobody up for long: the others have to go on meanwhile for its answers to be stale.
const PATIENCE: Duration = Duration::from_secs(1);

/// A leader that nobody answers stops to lead after a second; and it may have to wait for a processor.
const TWO_LEADERS_NS: u64 = 1_500_000_000;

/// A follower hears from the leader every 100 ms, and both may wait for a processor.
const CONTACT_SLACK_NS: u64 = 2_000_000_000;

#[derive(Default)]
pub(crate) struct Register {
    keys: Keys<{ KEYS + 1 }>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Read { key: String, mode: Mode },
    Write { key: String, value: Value },
    Cas { key: String, expected: Option<Value>, new: Value },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Changed(bool),
    Saw(Seen),
}

#[async_trait(?Send)]
impl Workload for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn clients(&self) -> usize {
        CLIENTS
    }

    async fn run(&self, client: &mut Client) {
        client.patience = PATIENCE;
        // What this client last saw of a key, so that it has an index to compare with.
        let mut seen: BTreeMap<String, Option<Entry>> = BTreeMap::new();
        while client.goes_on() {
            let is_calm = (WRITERS..WRITERS + CALM_WRITERS).contains(&client.number);
            let place = if is_calm { CALM_KEY } else { client.rng.below(KEYS) };
            let key = client.key(self.keys.name_of(place));
            if is_calm {
                client.think(10, 50).await;
            }
            if client.number >= WRITERS + CALM_WRITERS {
                read(client, &key, Mode::Consistent).await.ok();
            } else if let Err(Failure::Unknown(_)) = operate(client, &key, &mut seen).await {
                self.keys.doubt(place);
            }
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for name in self.keys.all() {
            let key = client.key(name);
            let call = Call::Read { key: key.clone(), mode: Mode::Consistent };
            client.insist(call, async |api| api.see(&key, Mode::Consistent, None).await).await?;
        }
        Ok(())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

/// One operation; `Err` is of a change, as a read that failed changes nothing.
async fn operate(client: &mut Client, key: &str, seen: &mut BTreeMap<String, Option<Entry>>) -> Result<(), Failure> {
    let server = client.any_server();
    let value = client.unique();
    let key = key.to_owned();
    match (client.rng.below(8), seen.get(&key).copied()) {
        (0..2, _) => {
            let call = Call::Write { key: key.clone(), value };
            client.ask(server, call, async |api| api.put(&key, value).await).await.map(|_| ())
        }
        (2..4, Some(entry)) => {
            let call = Call::Cas { key: key.clone(), expected: entry.map(|entry| entry.value), new: value };
            let index = entry.map_or(0, |entry| entry.modify_index);
            client.ask(server, call, async |api| api.compare_and_set(&key, index, value).await).await.map(|_| ())
        }
        (choice, _) => {
            let mode = [Mode::Consistent, Mode::Consistent, Mode::Default, Mode::Stale][choice % 4];
            if let Ok(answer) = read(client, &key, mode).await {
                seen.insert(key, answer.rows.into_values().next());
            }
            Ok(())
        }
    }
}

async fn read(client: &mut Client, key: &str, mode: Mode) -> Result<Seen, Failure> {
    let (server, call) = (client.any_server(), Call::Read { key: key.to_owned(), mode });
    client.ask(server, call, async |api| api.see(key, mode, None).await).await
}

fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut keys: BTreeMap<&str, Vec<&Typed<Call, Answer>>> = BTreeMap::new();
    for operation in operations {
        let (Call::Read { key, .. } | Call::Write { key, .. } | Call::Cas { key, .. }) = &operation.call;
        keys.entry(key).or_default().push(operation);
    }
    for (key, operations) in &keys {
        judge_key(key, operations, &mut judgement);
    }
    stale_never_goes_back(operations, &mut judgement);
    let count = |wanted: Mode| {
        let is_wanted = |operation: &&Typed<Call, Answer>| matches!((&operation.call, &operation.seen), (Call::Read { mode, .. }, Some(Some(_))) if *mode == wanted);
        operations.iter().filter(is_wanted).count() as u64
    };
    judgement.cover("consistent reads", count(Mode::Consistent), 20);
    judgement.cover("default reads", count(Mode::Default), 10);
    judgement.cover("stale reads", count(Mode::Stale), 10);
    judgement
}

fn judge_key(key: &str, operations: &[&Typed<Call, Answer>], judgement: &mut Judgement) {
    let of_mode = |mode| operations.iter().filter_map(|operation| plain(operation, mode)).collect::<Vec<_>>();
    let consistent = of_mode(&[Mode::Consistent]);
    keys::judge_key(key, &consistent, CLIENTS, judgement);
    if linearizable(&of_mode(&[Mode::Consistent, Mode::Default])) == Ok(false) {
        judgement.notes.push(format!("{key}: a default read was stale"));
    }
    for operation in operations {
        if let (Call::Read { mode, .. }, Some(Some(Answer::Saw(seen)))) = (&operation.call, &operation.seen)
            && let Some(allowed_ns) = allowed_age_ns(*mode, seen)
            && let Some(older) = older_than(&consistent, operation.start_ns.saturating_sub(allowed_ns), seen)
        {
            let (at, allowed) = (operation.start_ns / 1_000_000, allowed_ns / 1_000_000);
            judgement.violations.push(format!("a {mode:?} read at {at} ms: {older} more than {allowed} ms before"));
        }
    }
}

/// As the checker of one register knows it; `None` for reads of other modes.
fn plain(operation: &Typed<Call, Answer>, modes: &[Mode]) -> Option<Operation> {
    use history::Outcome::{Done, Failed, Refused, Saw, Unknown};
    let (key, call) = match &operation.call {
        Call::Read { key, mode } => (key, modes.contains(mode).then_some(history::Call::Read)?),
        Call::Write { key, value } => (key, history::Call::Write(*value)),
        Call::Cas { key, expected, new } => (key, history::Call::Cas { expected: *expected, new: *new }),
    };
    let outcome = match &operation.seen {
        None => Failed,
        Some(None) => Unknown,
        Some(Some(Answer::Changed(true))) => Done,
        Some(Some(Answer::Changed(false))) => Refused,
        Some(Some(Answer::Saw(seen))) => Saw(seen.rows.values().next().map(|entry| entry.value)),
    };
    let (client, start_ns, end_ns) = (operation.client, operation.start_ns, operation.end_ns);
    Some(Operation { client, key: key.clone(), call, outcome, start_ns, end_ns })
}

/// How old an answer may be. `None` if something else decides.
fn allowed_age_ns(mode: Mode, seen: &Seen) -> Option<u64> {
    match mode {
        Mode::Consistent => None,
        Mode::Default => Some(TWO_LEADERS_NS),
        Mode::Stale => Some(seen.last_contact_ms.saturating_mul(1_000_000).saturating_add(CONTACT_SLACK_NS)),
    }
}

/// What was acknowledged before that time must be in the answer.
fn older_than(operations: &[Operation], known_ns: u64, seen: &Seen) -> Option<String> {
    let value = seen.rows.values().next().map(|entry| entry.value);
    let is_due = |operation: &&Operation| {
        operation.written().is_some()
            && (operation.written() == value || !operation.acknowledged() || operation.end_ns < known_ns)
    };
    let due: Vec<Operation> = operations.iter().filter(is_due).cloned().collect();
    lost_write(&due, value)
}

/// What one client reads of a key on one server is never older than what it read before, as long as the server was not started anew.
fn stale_never_goes_back(operations: &[Typed<Call, Answer>], judgement: &mut Judgement) {
    let mut last: BTreeMap<(usize, usize, u32, &str), u64> = BTreeMap::new();
    for operation in operations {
        if let (Call::Read { key, mode: Mode::Stale }, Some(Some(Answer::Saw(seen)))) =
            (&operation.call, &operation.seen)
        {
            let session = (operation.client, operation.server, operation.life, key.as_str());
            let before = last.insert(session, seen.index).unwrap_or(0);
            if seen.index < before {
                let (at, now) = (operation.start_ns / 1_000_000, seen.index);
                let wrong = format!("a stale read of {key} at {at} ms went back from index {before} to {now}");
                judgement.violations.push(wrong);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: Value, at: (u64, u64)) -> Typed<Call, Answer> {
        operation(Call::Write { key: "k".to_owned(), value }, Answer::Changed(true), at)
    }

    fn read(mode: Mode, value: Value, index: u64, at: (u64, u64)) -> Typed<Call, Answer> {
        let rows = BTreeMap::from([("k".to_owned(), Entry { value, modify_index: index })]);
        let seen = Seen { rows, index, last_contact_ms: 10, known_leader: true };
        operation(Call::Read { key: "k".to_owned(), mode }, Answer::Saw(seen), at)
    }

    fn operation(call: Call, answer: Answer, at: (u64, u64)) -> Typed<Call, Answer> {
        Typed { client: 0, server: 0, life: 1, call, seen: Some(Some(answer)), start_ns: at.0, end_ns: at.1 }
    }

    #[test]
    fn a_stale_consistent_read_is_a_violation_and_a_stale_default_read_a_note() {
        let writes = [write(1, (1, 2)), write(2, (3, 4))];
        let judged = |mode| judge(&[&writes[..], &[read(mode, 1, 5, (5, 6))]].concat());
        assert_eq!(judged(Mode::Consistent).violations.len(), 1);
        assert_eq!((judged(Mode::Default).violations.len(), judged(Mode::Default).notes.len()), (0, 1));
        let late = TWO_LEADERS_NS + 10;
        let old = judge(&[&writes[..], &[read(Mode::Default, 1, 5, (late, late + 1))]].concat());
        assert!(old.violations[0].contains("Default read"), "{old:?}");
        assert_eq!(judged(Mode::Stale).violations.len(), 0);
    }

    #[test]
    fn only_the_final_read_shows_a_loss() {
        let writes = [write(1, (1, 2)), write(2, (3, 4))];
        let end = |value| Typed { client: CLIENTS, ..read(Mode::Consistent, value, 5, (5, 6)) };
        let judged = |end| judge(&[&writes[..], &[end]].concat());
        assert!(judged(end(1)).violations.iter().any(|violation| violation.contains("lost")));
        assert!(judged(end(2)).violations.is_empty() && judged(end(2)).undecided.is_empty());
        assert!(judged(read(Mode::Consistent, 2, 5, (5, 6))).undecided[0].contains("not read in the end"));
    }

    #[test]
    fn a_stale_read_is_bounded_by_its_last_contact() {
        let writes = [write(1, (1, 2)), write(2, (3, 4))];
        let late_ns = CONTACT_SLACK_NS + 20_000_000;
        let judged = |at| judge(&[&writes[..], &[read(Mode::Stale, 1, 5, (at, at + 1))]].concat()).violations.len();
        assert_eq!((judged(late_ns), judged(late_ns - 15_000_000)), (1, 0));
    }

    #[test]
    fn a_session_does_not_go_back() {
        let one = read(Mode::Stale, 1, 9, (1, 2));
        let back = read(Mode::Stale, 1, 8, (3, 4));
        let other_life = Typed { life: 2, ..back.clone() };
        let count = |operations: &[Typed<Call, Answer>]| {
            let mut judgement = Judgement::default();
            stale_never_goes_back(operations, &mut judgement);
            judgement.violations.len()
        };
        assert_eq!(count(&[one.clone(), back]), 1);
        assert_eq!(count(&[one, other_life]), 0);
    }
}
