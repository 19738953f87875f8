//! Blocking queries while keys are written: a watcher's index never runs backwards, it misses no change and is told none twice,
//! and it is told at once. Some keys are busy; another one is calm, so that nobody who waits for it is woken by chance.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jlt_core::checker::lost_write;
use jlt_core::history::{self, Operation, Value};
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};

use crate::api::{Entry, Mode, Seen};
use crate::client::{Client, Told, Workload};

/// Who does what, by the number of the client: the first two write the busy keys, the next twelve watch them.
const WRITERS: usize = 2;
const WATCHERS: usize = 12;

/// Then one writes the calm key, and the rest watch it, one each server.
const CALM_WRITER: usize = WRITERS + WATCHERS;
const CLIENTS: usize = CALM_WRITER + 4;

/// A server that knows of a change tells it in this time, if it answers others.
const TELL_NS: u64 = 500_000_000;

/// Keys of one writer.
const KEYS: usize = 4;

pub(crate) struct Watch;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Write { key: String, value: Value },
    Watch { after: u64 },
    Await { after: u64 },
    Read,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Changed(bool),
    Saw(Seen),
}

#[async_trait(?Send)]
impl Workload for Watch {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn clients(&self) -> usize {
        CLIENTS
    }

    async fn run(&self, client: &mut Client) {
        match client.number {
            ..WRITERS => write(client).await,
            WRITERS..CALM_WRITER => watch(client).await,
            CALM_WRITER => write_calmly(client).await,
            _ => wait(client).await,
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        let all = client.key("?recurse");
        client.insist(Call::Read, async |api| api.see(&all, Mode::Consistent, None).await).await.map(|_| ())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }

    fn told(&self, history: &[Record]) -> Vec<Told> {
        typed::<Call, Answer>(history, self.name()).map(|operations| told(&operations)).unwrap_or_default()
    }
}

async fn write(client: &mut Client) {
    while client.goes_on() {
        let name = format!("busy/{}-{}", client.number, client.rng.below(KEYS));
        let key = client.key(name);
        let (server, value) = (client.any_server(), client.unique());
        let call = Call::Write { key: key.clone(), value };
        client.ask(server, call, async |api| api.put(&key, value).await).await.ok();
        client.think(0, 20).await;
    }
}

async fn write_calmly(client: &mut Client) {
    while client.goes_on() {
        let (server, value, key) = (client.any_server(), client.unique(), client.key("calm/key"));
        let call = Call::Write { key: key.clone(), value };
        client.ask(server, call, async |api| api.put(&key, value).await).await.ok();
        let rest = client.rng.between_ms(600, 1_400);
        client.pause(rest).await;
    }
}

/// Waits for the calm key at one server for ever; it does not need the leader for that.
async fn wait(client: &mut Client) {
    let (server, all) = (client.number % client.servers(), client.key("calm/?recurse"));
    let mut after = 1;
    while client.goes_on() {
        let answer =
            client.ask(server, Call::Await { after }, async |api| api.see(&all, Mode::Stale, Some(after)).await);
        after = answer.await.map_or(after, |seen| seen.index.max(1));
    }
}

/// Stays with a server while it answers, and takes its index to the next.
async fn watch(client: &mut Client) {
    let (mut server, mut after) = (client.any_server(), 1);
    let all = client.key("busy/?recurse");
    while client.goes_on() {
        let answer =
            client.ask(server, Call::Watch { after }, async |api| api.see(&all, Mode::Default, Some(after)).await);
        match answer.await {
            Ok(seen) => after = seen.index,
            Err(_) => server = client.any_server(),
        }
    }
}

fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut last: BTreeMap<(usize, u32), &Seen> = BTreeMap::new();
    // What was written with a value has one index for ever.
    let mut index_of: BTreeMap<Value, u64> = BTreeMap::new();
    let (mut answers, mut events) = (0, 0);
    for operation in operations {
        let Some(Some(Answer::Saw(seen))) = &operation.seen else { continue };
        for (key, entry) in &seen.rows {
            let index = *index_of.entry(entry.value).or_insert(entry.modify_index);
            if index != entry.modify_index {
                let other = entry.modify_index;
                judgement
                    .violations
                    .push(format!("the write {} of {key} has two indexes, {index} and {other}", entry.value));
            }
        }
        if let Call::Watch { .. } | Call::Await { .. } = operation.call {
            answers += 1;
            if let Some(before) = last.insert(row(operation), seen) {
                events += news(before, seen).count() as u64;
                let at = operation.end_ns / 1_000_000;
                let wrong = wrong_step(before, seen);
                judgement
                    .violations
                    .extend(wrong.map(|wrong| format!("watcher {} at {at} ms: {wrong}", operation.client)));
            }
        }
    }
    servers_do_not_go_back(operations, &mut judgement);
    waiters_are_told(operations, &mut judgement);
    end_is_explained(operations, &mut judgement);
    judgement.cover("answers to watchers", answers, 20);
    judgement.cover("changes told", events, 20);
    judgement.cover("values seen", index_of.len() as u64, 20);
    judgement
}

/// The answers that must not go back. A server that was started again may have lost what it had applied and not synced: who
/// takes stale answers from it begins anew.
fn row(operation: &Typed<Call, Answer>) -> (usize, u32) {
    (operation.client, if let Call::Await { .. } = operation.call { operation.life } else { 0 })
}

/// What is wrong with an answer after the one before.
fn wrong_step(before: &Seen, now: &Seen) -> Option<String> {
    if now.index < before.index {
        return Some(format!("the index ran back from {} to {}", before.index, now.index));
    }
    for (key, old) in &before.rows {
        match now.rows.get(key) {
            None => return Some(format!("{key} is gone, though nobody removed it")),
            Some(new) if new.modify_index < old.modify_index => {
                return Some(format!("{key} went back from the write {} to {}", old.value, new.value));
            }
            Some(_) => {}
        }
    }
    for (key, new) in &now.rows {
        if before.rows.get(key) != Some(new) && new.modify_index <= before.index {
            let (value, at, index) = (new.value, new.modify_index, before.index);
            return Some(format!("the write {value} of {key} at {at} was missing in the answer of index {index}"));
        }
        if new.modify_index > now.index {
            return Some(format!("{key} is of index {}, the answer only of {}", new.modify_index, now.index));
        }
    }
    None
}

/// What an answer tells that the one before did not.
fn news<'a>(before: &'a Seen, now: &'a Seen) -> impl Iterator<Item = &'a Entry> {
    now.rows.iter().filter(|(key, new)| before.rows.get(*key) != Some(*new)).map(|(_, new)| new)
}

/// When each watcher was told of each acknowledged write.
fn told(operations: &[Typed<Call, Answer>]) -> Vec<Told> {
    let mut acknowledged: BTreeMap<Value, u64> = BTreeMap::new();
    for operation in operations {
        if let (Call::Write { value, .. }, Some(Some(Answer::Changed(true)))) = (&operation.call, &operation.seen) {
            acknowledged.insert(*value, operation.end_ns);
        }
    }
    let mut last: BTreeMap<(usize, u32), &Seen> = BTreeMap::new();
    let mut all = Vec::new();
    for (operation, seen) in operations.iter().filter_map(watched) {
        let Some(before) = last.insert(row(operation), seen) else { continue };
        let known = news(before, seen).filter_map(|entry| acknowledged.get(&entry.value));
        all.extend(known.map(|at| Told { acknowledged_ns: *at, told_ns: operation.end_ns.max(*at) }));
    }
    all
}

/// What a server has told one of its watchers, it does not take back when another asks after that.
fn servers_do_not_go_back(operations: &[Typed<Call, Answer>], judgement: &mut Judgement) {
    let mut ended: Vec<(&Typed<Call, Answer>, &Seen)> = operations.iter().filter_map(watched).collect();
    ended.sort_by_key(|(operation, _)| operation.end_ns);
    let mut started = ended.clone();
    started.sort_by_key(|(operation, _)| operation.start_ns);
    let mut told: BTreeMap<(usize, u32, bool), u64> = BTreeMap::new();
    let mut ended = ended.into_iter().peekable();
    for (operation, seen) in started {
        while let Some((before, seen)) = ended.next_if(|(before, _)| before.end_ns < operation.start_ns) {
            let index = told.entry(place(before)).or_default();
            *index = seen.index.max(*index);
        }
        let index = told.get(&place(operation)).copied().unwrap_or(0);
        if seen.index < index {
            let (server, at, now) = (operation.server, operation.end_ns / 1_000_000, seen.index);
            judgement.violations.push(format!("server {server} went back from index {index} to {now} at {at} ms"));
        }
    }
}

/// An answer to a watcher.
fn watched(operation: &Typed<Call, Answer>) -> Option<(&Typed<Call, Answer>, &Seen)> {
    match (&operation.call, &operation.seen) {
        (Call::Watch { .. } | Call::Await { .. }, Some(Some(Answer::Saw(seen)))) => Some((operation, seen)),
        _ => None,
    }
}

/// Which life of which server was asked for which keys.
fn place(operation: &Typed<Call, Answer>) -> (usize, u32, bool) {
    (operation.server, operation.life, matches!(operation.call, Call::Await { .. }))
}

/// A server that has told one watcher of a later change, and goes on answering, has told who waits for an earlier one.
fn waiters_are_told(operations: &[Typed<Call, Answer>], judgement: &mut Judgement) {
    let mut busy: BTreeMap<(usize, u32), Vec<(u64, u64)>> = BTreeMap::new();
    for (operation, seen) in operations.iter().filter_map(watched) {
        if let Call::Watch { .. } = operation.call {
            busy.entry((operation.server, operation.life)).or_default().push((operation.end_ns, seen.index));
        }
    }
    let mut told = 0;
    for (operation, seen) in operations.iter().filter_map(watched) {
        let Call::Await { after } = operation.call else { continue };
        let Some(index) = seen.rows.values().map(|row| row.modify_index).find(|index| *index > after) else { continue };
        told += 1;
        let others = busy.get(&(operation.server, operation.life)).map_or(&[][..], Vec::as_slice);
        let within = |at: u64| operation.start_ns < at && at < operation.end_ns;
        let known_ns = others.iter().filter(|(at, other)| within(*at) && *other >= index).map(|(at, _)| *at).min();
        let alive = |known_ns: u64| others.iter().any(|(at, _)| within(*at) && *at >= known_ns + TELL_NS);
        if let Some(known_ns) = known_ns
            && alive(known_ns)
        {
            let (server, late) = (operation.server, (operation.end_ns - known_ns) / 1_000_000);
            judgement
                .violations
                .push(format!("server {server} knew of index {index} and told a waiter {late} ms later"));
        }
    }
    judgement.cover("answers to those who wait", told, 5);
}

/// The final read holds what was acknowledged.
fn end_is_explained(operations: &[Typed<Call, Answer>], judgement: &mut Judgement) {
    let is_end =
        |operation: &&Typed<Call, Answer>| operation.call == Call::Read && matches!(operation.seen, Some(Some(_)));
    let Some(Some(Some(Answer::Saw(end)))) = operations.iter().rev().find(is_end).map(|operation| &operation.seen)
    else {
        return judgement.undecided.push("there is no final read".to_owned());
    };
    let mut writes: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        if let Call::Write { key, value } = &operation.call {
            let outcome = match &operation.seen {
                None | Some(Some(Answer::Changed(false))) => history::Outcome::Failed,
                Some(None) => history::Outcome::Unknown,
                Some(Some(_)) => history::Outcome::Done,
            };
            let (client, call) = (operation.client, history::Call::Write(*value));
            let (start_ns, end_ns) = (operation.start_ns, operation.end_ns);
            let write = Operation { client, key: key.clone(), call, outcome, start_ns, end_ns };
            writes.entry(key).or_default().push(write);
        }
    }
    for (key, writes) in &writes {
        let lost = lost_write(writes, end.rows.get(*key).map(|entry| entry.value));
        judgement.violations.extend(lost.map(|lost| format!("acknowledged write lost: {lost}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(index: u64, rows: &[(&str, Value, u64)]) -> Seen {
        let rows = rows.iter().map(|(key, value, at)| ((*key).to_owned(), Entry { value: *value, modify_index: *at }));
        Seen { rows: rows.collect(), index, last_contact_ms: 0, known_leader: true }
    }

    fn wrong(before: (u64, &[(&str, Value, u64)]), now: (u64, &[(&str, Value, u64)])) -> Option<String> {
        wrong_step(&seen(before.0, before.1), &seen(now.0, now.1))
    }

    #[test]
    fn good_steps() {
        assert_eq!(wrong((5, &[("a", 1, 5)]), (5, &[("a", 1, 5)])), None);
        assert_eq!(wrong((5, &[("a", 1, 5)]), (9, &[("a", 2, 7), ("b", 3, 9)])), None);
    }

    #[test]
    fn bad_steps() {
        assert!(wrong((5, &[]), (4, &[])).unwrap().contains("ran back"));
        assert!(wrong((5, &[("a", 1, 5)]), (6, &[])).unwrap().contains("gone"));
        assert!(wrong((5, &[("a", 2, 5)]), (6, &[("a", 1, 4)])).unwrap().contains("went back"));
        assert!(wrong((5, &[]), (6, &[("a", 1, 4)])).unwrap().contains("missing"));
        assert!(wrong((5, &[]), (6, &[("a", 1, 7)])).unwrap().contains("only of"));
    }

    fn operation(call: Call, seen: Option<Option<Answer>>, at: u64) -> Typed<Call, Answer> {
        Typed { client: 3, server: 0, life: 1, call, seen, start_ns: at, end_ns: at }
    }

    #[test]
    fn a_server_that_goes_back_or_forgets_a_waiter_is_found() {
        let answer = |call: Call, index: u64, (start_ns, end_ns): (u64, u64)| Typed {
            start_ns,
            ..operation(call, Some(Some(Answer::Saw(seen(index, &[("a", index, index)])))), end_ns)
        };
        let judged = |operations: &[Typed<Call, Answer>]| {
            let mut judgement = Judgement::default();
            let mut operations = operations.to_vec();
            operations.sort_by_key(|operation| operation.start_ns);
            servers_do_not_go_back(&operations, &mut judgement);
            waiters_are_told(&operations, &mut judgement);
            judgement.violations
        };
        let busy = |index, at| answer(Call::Watch { after: 1 }, index, at);
        assert_eq!(judged(&[busy(5, (1, 2)), busy(5, (3, 4)), busy(4, (1, 5))]), [""; 0]);
        assert!(judged(&[busy(5, (1, 2)), busy(4, (3, 4))])[0].contains("went back"));
        let waiter = |end_ns| answer(Call::Await { after: 3 }, 4, (1, end_ns));
        let others = [busy(6, (1, 10)), busy(7, (11, 20 + TELL_NS))];
        let with = |waiter| judged(&[&others[..], &[waiter]].concat());
        assert_eq!(with(waiter(15)), [""; 0]);
        assert_eq!(judged(&[others[0].clone(), waiter(30 + TELL_NS)]), [""; 0], "it may have been frozen");
        assert!(with(waiter(30 + TELL_NS))[0].contains("told a waiter"));
    }

    #[test]
    fn only_who_takes_stale_answers_may_begin_anew() {
        let history = |call: Call, life| {
            let at = |index, at| operation(call.clone(), Some(Some(Answer::Saw(seen(index, &[("a", 1, 1)])))), at);
            judge(&[at(5, 1), Typed { life, ..at(4, 2) }]).violations.len()
        };
        let (watch, wait) = (Call::Watch { after: 1 }, Call::Await { after: 1 });
        assert_eq!((history(watch.clone(), 2), history(wait.clone(), 2)), (1, 0));
        assert!(history(watch, 1) > 0 && history(wait, 1) > 0);
    }

    #[test]
    fn what_is_new_was_told() {
        let write =
            |value, at| operation(Call::Write { key: "a".to_owned(), value }, Some(Some(Answer::Changed(true))), at);
        let watch = |seen, at| operation(Call::Watch { after: 1 }, Some(Some(Answer::Saw(seen))), at);
        let (first, second) = (seen(5, &[("a", 1, 5)]), seen(7, &[("a", 2, 7), ("b", 9, 6)]));
        let history = [write(1, 1), watch(first, 2), write(2, 3), watch(second.clone(), 8), watch(second, 9)];
        assert_eq!(told(&history), [Told { acknowledged_ns: 3, told_ns: 8 }], "nobody knows of b's write");
    }

    #[test]
    fn a_write_that_is_told_twice_or_lost_is_found() {
        let write =
            |value, at| operation(Call::Write { key: "a".to_owned(), value }, Some(Some(Answer::Changed(true))), at);
        let watch = |seen, at| operation(Call::Watch { after: 1 }, Some(Some(Answer::Saw(seen))), at);
        let end = |seen| operation(Call::Read, Some(Some(Answer::Saw(seen))), 100);
        let good = [write(1, 1), watch(seen(5, &[("a", 1, 5)]), 2), end(seen(5, &[("a", 1, 5)]))];
        assert_eq!(judge(&good).violations, [""; 0]);
        let twice = [write(1, 1), watch(seen(5, &[("a", 1, 5)]), 2), end(seen(6, &[("a", 1, 6)]))];
        assert!(judge(&twice).violations[0].contains("two indexes"));
        let lost = [write(1, 1), write(2, 3), end(seen(5, &[("a", 1, 5)]))];
        assert!(judge(&lost).violations[0].contains("lost"));
        assert!(!judge(&good[..2]).undecided.is_empty());
    }
}
