//! Each client has two small trees of keys, a busy one and a calm one, of which only the disk knows after a while: it puts keys with flags, deletes one or all, and reads the whole. What it reads is what it left, flags
//! and indexes too; what was deleted does not come back, and the index of the tree never runs backwards.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};

use crate::api::{Api, Failure};
use crate::client::{Client, Workload};

const CLIENTS: usize = 3;

/// Of so many changes one is of the calm tree.
const CALM_OF: usize = 15;

/// Keys of one tree.
const KEYS: usize = 5;

pub(crate) struct Tree;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Put { tree: usize, key: usize, flags: u64 },
    Delete { tree: usize, key: usize },
    Clear { tree: usize },
    Read { tree: usize },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Answer {
    Done,
    Saw { index: u64, keys: BTreeMap<usize, Leaf> },
}

/// A key as it is read. Its flags are a number that no other put has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Leaf {
    flags: u64,
    modify_index: u64,
}

/// A row of the API.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    key: String,
    flags: u64,
    modify_index: u64,
}

type Operation = Typed<Call, Answer>;

#[async_trait(?Send)]
impl Workload for Tree {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn clients(&self) -> usize {
        CLIENTS
    }

    async fn run(&self, client: &mut Client) {
        while client.goes_on() {
            let (server, key, flags) = (client.any_server(), client.rng.below(KEYS), client.unique());
            let choice = client.rng.below(10);
            let is_calm = client.rng.below(if choice < 6 { CALM_OF } else { 2 }) == 0;
            let tree = client.number + if is_calm { CLIENTS } else { 0 };
            let prefix = client.key(tree);
            match choice {
                0..4 => {
                    let path = format!("/v1/kv/{prefix}/{key}?flags={flags}");
                    let put = async |api: &mut Api<'_>| api.change(&path, "leaf").await.map(|_| Answer::Done);
                    client.ask(server, Call::Put { tree, key, flags }, put).await.ok();
                }
                4 => {
                    let path = format!("/v1/kv/{prefix}/{key}");
                    client.ask(server, Call::Delete { tree, key }, async |api| delete(api, &path).await).await.ok();
                }
                5 => {
                    let path = format!("/v1/kv/{prefix}/?recurse");
                    client.ask(server, Call::Clear { tree }, async |api| delete(api, &path).await).await.ok();
                }
                _ => drop(client.ask(server, Call::Read { tree }, async |api| read(api, &prefix).await).await),
            }
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for tree in 0..2 * CLIENTS {
            let prefix = client.key(tree);
            client.insist(Call::Read { tree }, async |api| read(api, &prefix).await).await?;
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

async fn delete(api: &mut Api<'_>, path: &str) -> Result<Answer, Failure> {
    api.send("DELETE", path, "").await.map(|_| Answer::Done)
}

async fn read(api: &mut Api<'_>, prefix: &str) -> Result<Answer, Failure> {
    let reply = api.send("GET", &format!("/v1/kv/{prefix}/?recurse&consistent"), "").await?;
    let unreadable = |what: &str| Failure::Unknown(format!("the answer is no tree: {what}"));
    let index = reply.header("x-consul-index").and_then(|index| index.parse().ok());
    let index = index.ok_or_else(|| unreadable("no index"))?;
    let rows: Vec<Row> = match reply.status {
        404 => Vec::new(),
        _ => serde_json::from_slice(&reply.body).map_err(|error| unreadable(&error.to_string()))?,
    };
    let leaf = |row: Row| {
        let key = row.key.rsplit('/').next().and_then(|name| name.parse().ok());
        let leaf = Leaf { flags: row.flags, modify_index: row.modify_index };
        Ok((key.ok_or_else(|| unreadable(&row.key))?, leaf))
    };
    Ok(Answer::Saw { index, keys: rows.into_iter().map(leaf).collect::<Result<_, _>>()? })
}

/// A tree belongs to one client, so its operations come one after the other; only those of unknown outcome may come at any later time.
fn judge(operations: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut trees: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        let (Call::Put { tree, .. } | Call::Delete { tree, .. } | Call::Clear { tree } | Call::Read { tree }) =
            operation.call;
        trees.entry(tree).or_default().push(operation);
    }
    let is_ok = |operation: &&Operation| matches!(operation.seen, Some(Some(_)));
    let (mut reads, mut changes) = (0, 0);
    for (tree, operations) in &trees {
        judge_tree(*tree, operations, &mut judgement);
        let answered = operations.iter().filter(|operation| is_ok(operation));
        let read = answered.clone().filter(|operation| matches!(operation.call, Call::Read { .. })).count();
        reads += read;
        changes += answered.count() - read;
    }
    judgement.cover("reads", reads as u64, 20);
    judgement.cover("changes acknowledged", changes as u64, 20);
    judgement
}

fn judge_tree(tree: usize, operations: &[&Operation], judgement: &mut Judgement) {
    let mut last_index = 0;
    let mut index_of: BTreeMap<u64, u64> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        let Some(Some(Answer::Saw { index, keys })) = &operation.seen else { continue };
        let when = format!("tree {tree} at {} ms", operation.end_ns / 1_000_000);
        if *index < last_index {
            judgement.violations.push(format!("{when}: its index ran back from {last_index} to {index}"));
        }
        last_index = *index;
        for leaf in keys.values() {
            let first = *index_of.entry(leaf.flags).or_insert(leaf.modify_index);
            if first != leaf.modify_index {
                let other = leaf.modify_index;
                judgement
                    .violations
                    .push(format!("{when}: the put {} has two indexes, {first} and {other}", leaf.flags));
            }
        }
        for key in 0..KEYS {
            let (seen, allowed) = (keys.get(&key).map(|leaf| leaf.flags), allowed(&operations[..at], key));
            if !allowed.contains(&seen) {
                judgement.violations.push(format!("{when}: key {key} is {seen:?}; it may be one of {allowed:?}"));
            }
        }
    }
}

/// What a key may be after these operations: as the last one that was acknowledged left it, or as one of unknown outcome does.
fn allowed(before: &[&Operation], key: usize) -> Vec<Option<u64>> {
    let left = |operation: &&&Operation| match operation.call {
        Call::Put { key: other, flags, .. } if other == key => Some(Some(flags)),
        Call::Delete { key: other, .. } if other == key => Some(None),
        Call::Clear { .. } => Some(None),
        _ => None,
    };
    let is_done = |operation: &&&Operation| matches!(operation.seen, Some(Some(_)));
    let last = before.iter().rev().filter(is_done).find_map(|operation| left(&operation)).unwrap_or(None);
    let unknown = before.iter().filter(|operation| matches!(operation.seen, Some(None)));
    [last].into_iter().chain(unknown.filter_map(|operation| left(&operation))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(call: Call, seen: Option<Option<Answer>>, at: u64) -> Operation {
        Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at, end_ns: at }
    }

    fn put(key: usize, flags: u64, seen: Option<Option<Answer>>) -> Operation {
        operation(Call::Put { tree: 0, key, flags }, seen, 1)
    }

    fn saw(index: u64, keys: &[(usize, u64, u64)]) -> Operation {
        let keys = keys.iter().map(|(key, flags, at)| (*key, Leaf { flags: *flags, modify_index: *at })).collect();
        operation(Call::Read { tree: 0 }, Some(Some(Answer::Saw { index, keys })), 9)
    }

    fn violations(operations: &[Operation]) -> Vec<String> {
        judge(operations).violations
    }

    const DONE: Option<Option<Answer>> = Some(Some(Answer::Done));

    #[test]
    fn good_histories_pass() {
        let clear = || operation(Call::Clear { tree: 0 }, DONE, 3);
        let one = [put(1, 7, DONE), saw(5, &[(1, 7, 5)]), clear(), saw(6, &[])];
        assert_eq!(violations(&one), [""; 0]);
        let unknown = [put(1, 7, DONE), put(1, 8, Some(None)), saw(5, &[(1, 7, 5)]), saw(6, &[(1, 8, 6)])];
        assert_eq!(violations(&unknown), [""; 0]);
    }

    #[test]
    fn bad_histories_fail() {
        let found = |operations: &[Operation], what: &str| {
            assert!(violations(operations).iter().any(|violation| violation.contains(what)), "{what}");
        };
        let delete = || operation(Call::Delete { tree: 0, key: 1 }, DONE, 3);
        found(&[put(1, 7, DONE), delete(), saw(6, &[(1, 7, 5)])], "key 1 is Some(7)");
        found(&[put(1, 7, DONE), saw(6, &[])], "key 1 is None");
        found(&[put(1, 7, DONE), saw(5, &[(1, 0, 5)])], "key 1 is Some(0)");
        found(&[put(1, 7, None), saw(5, &[(1, 7, 5)])], "key 1 is Some(7)");
        found(&[put(1, 7, DONE), saw(5, &[(1, 7, 5)]), saw(4, &[(1, 7, 5)])], "ran back");
        found(&[put(1, 7, DONE), saw(5, &[(1, 7, 5)]), saw(6, &[(1, 7, 6)])], "two indexes");
    }
}
