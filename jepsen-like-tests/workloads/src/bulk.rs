//! Large values on few keys: the log needs new segments and snapshots, so that a full or slow disk is met. What was acknowledged is there in the end.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jlt_core::checker::lost_write;
use jlt_core::history::{self, Operation, Value};
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};

use crate::api::Api;
use crate::client::{Client, Workload};

const KEYS: usize = 3;

/// Between two writes, so that other workloads have their turn: three megabytes a second.
const PAUSE_MS: u64 = 60;

pub(crate) struct Bulk;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Write { key: String, value: Value },
    Read { key: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Answer {
    Written,
    Saw(Option<Value>),
}

#[async_trait(?Send)]
impl Workload for Bulk {
    fn name(&self) -> &'static str {
        "bulk"
    }

    fn clients(&self) -> usize {
        1
    }

    async fn run(&self, client: &mut Client) {
        while client.goes_on() {
            let (server, value) = (client.any_server(), client.unique());
            let place = client.rng.below(KEYS);
            let key = client.key(place);
            let call = Call::Write { key: key.clone(), value };
            client.ask(server, call, async |api| api.put_large(&key, value).await.map(|_| Answer::Written)).await.ok();
            client.think(PAUSE_MS / 2, PAUSE_MS * 3 / 2).await;
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for place in 0..KEYS {
            let key = client.key(place);
            let call = Call::Read { key: key.clone() };
            let read = async |api: &mut Api<'_>| Ok(Answer::Saw(api.read(&key).await?.map(|entry| entry.value)));
            client.insist(call, read).await?;
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

fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut writes: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
    let mut ends: BTreeMap<&str, Option<Value>> = BTreeMap::new();
    let mut acknowledged = 0;
    for operation in operations {
        match (&operation.call, &operation.seen) {
            (Call::Write { key, value }, seen) => {
                let outcome = match seen {
                    None => history::Outcome::Failed,
                    Some(None) => history::Outcome::Unknown,
                    Some(Some(_)) => history::Outcome::Done,
                };
                acknowledged += u64::from(outcome == history::Outcome::Done);
                let (client, call) = (operation.client, history::Call::Write(*value));
                let (start_ns, end_ns) = (operation.start_ns, operation.end_ns);
                let write = Operation { client, key: key.clone(), call, outcome, start_ns, end_ns };
                writes.entry(key).or_default().push(write);
            }
            (Call::Read { key }, Some(Some(Answer::Saw(value)))) => drop(ends.insert(key, *value)),
            (Call::Read { .. }, _) => {}
        }
    }
    for (key, writes) in &writes {
        match ends.get(key) {
            Some(end) => {
                let lost = lost_write(writes, *end);
                judgement.violations.extend(lost.map(|lost| format!("acknowledged write lost: {lost}")));
            }
            None => judgement.undecided.push(format!("{key} was not read in the end")),
        }
    }
    judgement.cover("large writes acknowledged", acknowledged, 20);
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(call: Call, seen: Option<Option<Answer>>, at: u64) -> Typed<Call, Answer> {
        Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at, end_ns: at + 1 }
    }

    #[test]
    fn what_was_acknowledged_must_be_there_in_the_end() {
        let key = || "k".to_owned();
        let write = |value, at| operation(Call::Write { key: key(), value }, Some(Some(Answer::Written)), at);
        let read = |value, at| operation(Call::Read { key: key() }, Some(Some(Answer::Saw(value))), at);
        let judged = |end: Option<Value>| judge(&[write(1, 1), write(2, 3), read(end, 5)]);
        assert!(judged(Some(2)).violations.is_empty());
        assert!(judged(Some(1)).violations[0].contains("lost"));
        assert!(judged(None).violations[0].contains("lost"));
        assert!(!judge(&[write(1, 1)]).undecided.is_empty());
    }
}
