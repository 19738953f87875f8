//! Lists that transactions read and append to, several at once: there is one order of all transactions, in which each
//! sees what those before it have left, and no transaction before one that had ended when it began. A transaction of
//! which one operation fails leaves nothing.
//!
//! Who appends reads first, and then writes in one transaction that compares the index of every list it has read, so
//! that it happens as a whole, or not.

mod judge;
mod order;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, typed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{Api, Failure, Mode};
use crate::client::{Client, Workload};
use crate::lease::{self, Row, Txn};

/// Lists in use at one time.
const LISTS: usize = 4;

/// After so many appends another list takes the place, so that answers stay short.
const APPENDS_MAX: usize = 80;

/// The client after them makes the final reads.
const CLIENTS: usize = 5;

/// So many of a thousand transactions have an operation that must fail.
const DOOMED_PER_MILLE: u32 = 120;

#[derive(Default)]
pub(crate) struct Append {
    /// How often each place was asked to grow.
    asked: Mutex<[usize; LISTS]>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    /// Several lists at one moment.
    Read { lists: Vec<String> },
    /// Appends, if all lists are as they were read. One that is doomed has an operation more, which must fail.
    Append { parts: Vec<Part>, doomed: bool },
    /// What doomed transactions have left.
    Markers,
}

/// A list in a transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Part {
    list: String,
    before: Vec<u64>,
    /// What is appended, if anything.
    add: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// The lists, in the order of the call: for a read as they are, for an append as they are after it.
    Lists(Vec<Vec<u64>>),
    /// Nothing was done.
    Refused,
    Markers(Vec<String>),
}

/// A list as it was read, and the index to compare.
struct Found {
    list: String,
    key: String,
    values: Vec<u64>,
    modify_index: Option<u64>,
}

#[async_trait(?Send)]
impl Workload for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn clients(&self) -> usize {
        CLIENTS
    }

    async fn run(&self, client: &mut Client) {
        while client.goes_on() {
            let lists = self.some_lists(client);
            let Some(found) = read(client, &lists).await else { continue };
            if client.rng.below(4) > 0 {
                self.append(client, &found).await;
            }
            client.think(0, 10).await;
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, asked) in asked.into_iter().enumerate() {
            for generation in 0..=asked / APPENDS_MAX {
                let list = name(place, generation);
                let keys = [client.key(&list)];
                let call = Call::Read { lists: vec![list] };
                client.insist(call, async |api| Ok(Answer::Lists(values(&look(api, &keys).await?)))).await?;
            }
        }
        let prefix = format!("{}?recurse", client.key("doomed/"));
        let markers = async |api: &mut Api<'_>| {
            let seen = api.see(&prefix, Mode::Consistent, None).await?;
            Ok(Answer::Markers(seen.rows.into_keys().collect()))
        };
        client.insist(Call::Markers, markers).await.map(|_| ())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge::judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

fn name(place: usize, generation: usize) -> String {
    format!("{place}-{generation}")
}

impl Append {
    /// One to three lists.
    fn some_lists(&self, client: &mut Client) -> Vec<String> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, count) = (client.rng.below(LISTS), 1 + client.rng.below(3));
        let places = (first..first + count).map(|place| place % LISTS);
        places.map(|place| name(place, asked[place] / APPENDS_MAX)).collect()
    }

    async fn append(&self, client: &mut Client, found: &[Found]) {
        let doomed = client.rng.chance(DOOMED_PER_MILLE);
        let (mut parts, mut ops) = (Vec::new(), Vec::new());
        for (at, found) in found.iter().enumerate() {
            let add = (at == 0 || client.rng.below(2) == 0).then(|| client.unique());
            ops.extend(compared(client, found, add));
            parts.push(Part { list: found.list.clone(), before: found.values.clone(), add });
        }
        if doomed {
            ops.extend(doom(client, found));
        } else {
            ops.extend(found.iter().map(|found| lease::op("get", &found.key, json!({}))));
            self.count(&parts);
        }
        let (server, call) = (client.any_server(), Call::Append { parts, doomed });
        let append = async |api: &mut Api<'_>| match lease::txn(api, &ops).await? {
            Txn::Refused(_) => Ok(Answer::Refused),
            Txn::Done(rows) => Ok(Answer::Lists(found.iter().map(|found| last(&rows, &found.key)).collect())),
        };
        // What is not known is in the history, and the judge takes it for what it may be.
        client.ask(server, call, append).await.ok();
    }

    fn count(&self, parts: &[Part]) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts.iter().filter(|part| part.add.is_some()) {
            let place = part.list.split('-').next().and_then(|place| place.parse::<usize>().ok());
            if let Some(asked) = place.and_then(|place| asked.get_mut(place)) {
                *asked += 1;
            }
        }
    }
}

/// The operations on one list: compare, and append if wanted.
fn compared(client: &mut Client, found: &Found, add: Option<u64>) -> Vec<Value> {
    let index = found.modify_index.unwrap_or(0);
    let check = match found.modify_index {
        Some(index) => lease::op("check-index", &found.key, json!({"Index": index})),
        None => lease::op("check-not-exists", &found.key, json!({})),
    };
    let Some(add) = add else { return vec![check] };
    let texts: Vec<String> = found.values.iter().chain([&add]).map(u64::to_string).collect();
    let value = lease::encoded(&texts.join(" "));
    if client.rng.below(2) == 0 {
        return vec![lease::op("cas", &found.key, json!({"Value": value, "Index": index}))];
    }
    vec![check, lease::op("set", &found.key, json!({"Value": value}))]
}

/// Something that would be seen, and something that cannot be.
fn doom(client: &mut Client, found: &[Found]) -> Vec<Value> {
    let (key, number) = (&found[0].key, client.unique());
    let marker = client.key(format!("doomed/{number}"));
    let seen = match client.rng.below(3) {
        0 => lease::op("set", &marker, json!({"Value": lease::encoded(&number.to_string())})),
        1 => lease::op("delete", key, json!({})),
        _ => lease::op("cas", &marker, json!({"Value": lease::encoded(&number.to_string()), "Index": 0})),
    };
    let nobody = json!({"Session": "00000000-0000-0000-0000-000000000000"});
    vec![seen, lease::op("check-session", key, nobody)]
}

async fn read(client: &mut Client, lists: &[String]) -> Option<Vec<Found>> {
    let keys: Vec<String> = lists.iter().map(|list| client.key(list)).collect();
    let server = client.any_server();
    let mut rows = BTreeMap::new();
    let look = async |api: &mut Api<'_>| {
        rows = look(api, &keys).await?;
        Ok(Answer::Lists(keys.iter().map(|key| rows[key].as_ref().map_or_else(Vec::new, numbers)).collect()))
    };
    client.ask(server, Call::Read { lists: lists.to_vec() }, look).await.ok()?;
    let found = lists.iter().zip(keys).map(|(list, key)| {
        let row = rows.remove(&key).flatten();
        let (values, modify_index) = (row.as_ref().map_or_else(Vec::new, numbers), row.map(|row| row.modify_index));
        Found { list: list.clone(), key, values, modify_index }
    });
    Some(found.collect())
}

/// Keys at one moment; `None` for one that is not there.
async fn look(api: &mut Api<'_>, keys: &[String]) -> Result<BTreeMap<String, Option<Row>>, Failure> {
    let ops: Vec<Value> = keys.iter().map(|key| lease::op("get-or-empty", key, json!({}))).collect();
    match lease::txn(api, &ops).await? {
        Txn::Refused(at) => Err(Failure::Unknown(format!("a reading transaction was refused: {at:?}"))),
        Txn::Done(rows) => {
            let mut all: BTreeMap<String, Option<Row>> = keys.iter().map(|key| (key.clone(), None)).collect();
            all.extend(rows.into_iter().filter(|row| row.modify_index > 0).map(|row| (row.key.clone(), Some(row))));
            Ok(all)
        }
    }
}

fn values(rows: &BTreeMap<String, Option<Row>>) -> Vec<Vec<u64>> {
    rows.values().map(|row| row.as_ref().map_or_else(Vec::new, numbers)).collect()
}

/// The list after a transaction, which got it last.
fn last(rows: &[Row], key: &str) -> Vec<u64> {
    rows.iter().rev().find(|row| row.key == key && row.value.is_some()).map_or_else(Vec::new, numbers)
}

fn numbers(row: &Row) -> Vec<u64> {
    row.value.iter().flat_map(|text| text.split(' ')).filter_map(|text| text.parse().ok()).collect()
}
