//! Two datacenters. A service of the first calls one of the second, through gateways, while the intention between them flips in the first
//! (see [`crate::flips`]); and keys of the second are written and read through servers of the first: each is linearizable, and nothing that
//! was acknowledged is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jlt_core::history::{self, Operation, Value};
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};

use crate::api::{Api, Failure, Mode};
use crate::client::{Client, Need, Workload};
use crate::flips::{self, Flips};
use crate::keys::{self, Keys};

/// Each has one writer. Writers come after the clients of the calls, and then one who reads.
const KEYS: usize = 2;

/// The client after them makes the final reads.
const CLIENTS: usize = flips::CLIENTS + KEYS + 1;

/// How long a reader or writer waits. Short, so that the others' answers are not all older than a datacenter's absence.
const PATIENCE: Duration = Duration::from_secs(1);

/// A change goes from the primary to the other datacenter's server, and from there to the proxy. That server asks for changes again a second after its
/// stream has ended, and gives each server of the primary five to answer.
const FLIPS: Flips = Flips {
    source: "web2",
    destination: "api2",
    upstream: Client::far_upstream,
    agent: Client::far_agent,
    reach: "jlt/none?dc=dc1",
    patience: Duration::from_secs(2),
    lag: Duration::from_secs(2),
    calm: Duration::from_secs(8),
};

#[derive(Default)]
pub(crate) struct Xcluster {
    keys: Keys<KEYS>,
}

/// What is asked of a key of the other datacenter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Far {
    Read { key: String },
    Write { key: String, value: Value },
}

/// All calls of the workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Call {
    Service(flips::Call),
    Key(Far),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Done(bool),
    Value(Option<Value>),
}

#[async_trait(?Send)]
impl Workload for Xcluster {
    fn name(&self) -> &'static str {
        "xcluster"
    }

    fn clients(&self) -> usize {
        CLIENTS
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Agents, Need::Datacenter]
    }

    async fn run(&self, client: &mut Client) {
        match client.number.checked_sub(flips::CLIENTS) {
            None => FLIPS.run(client).await,
            Some(number) => self.use_keys(client, number).await,
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for name in self.keys.all() {
            let key = client.key(name);
            let call = Far::Read { key: key.clone() };
            client.insist(call, async |api| read(api, &key).await).await?;
        }
        FLIPS.finish(client).await
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        let path = format!("/v1/kv/{}?recurse&dc=dc2", client.key(""));
        client.insist("clear", async |api| api.send("DELETE", &path, "").await.map(|_| ())).await?;
        FLIPS.clear(client).await
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

impl Xcluster {
    /// A writer has the key of its number, and looks at it now and then; who comes after the writers reads all keys.
    async fn use_keys(&self, client: &mut Client, number: usize) {
        client.patience = PATIENCE;
        while client.goes_on() {
            let place = if number < KEYS { number } else { client.rng.below(KEYS) };
            let is_write = number < KEYS && client.rng.below(3) > 0;
            let (server, key) = (client.any_server(), client.key(self.keys.name_of(place)));
            if is_write {
                let value = client.unique();
                let call = Far::Write { key: key.clone(), value };
                let write = async |api: &mut Api<'_>| api.change(&path(&key), &value.to_string()).await;
                if let Err(Failure::Unknown(_)) = client.ask(server, call, write).await {
                    self.keys.doubt(place);
                }
            } else {
                // A read that failed has changed nothing.
                client.ask(server, Far::Read { key: key.clone() }, async |api| read(api, &key).await).await.ok();
            }
            client.think(20, 60).await;
        }
    }
}

fn path(key: &str) -> String {
    format!("/v1/kv/{key}?dc=dc2")
}

async fn read(api: &mut Api<'_>, key: &str) -> Result<Option<Value>, Failure> {
    let seen = api.see(&format!("{key}?dc=dc2"), Mode::Consistent, None).await?;
    Ok(seen.rows.into_values().next().map(|entry| entry.value))
}

fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let services: Vec<_> = operations.iter().filter_map(of_services).collect();
    let mut judgement = FLIPS.judge(&services);
    let mut keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for operation in operations.iter().filter_map(of_keys) {
        keys.entry(operation.key.clone()).or_default().push(operation);
    }
    for (key, operations) in &keys {
        keys::judge_key(key, operations, CLIENTS, &mut judgement);
    }
    let count = |is_wanted: fn(&history::Outcome) -> bool| {
        keys.values().flatten().filter(|operation| is_wanted(&operation.outcome)).count() as u64
    };
    judgement.cover("reads of the other datacenter", count(|outcome| matches!(outcome, history::Outcome::Saw(_))), 20);
    judgement.cover("writes to the other datacenter", count(|outcome| *outcome == history::Outcome::Done), 20);
    judgement
}

/// Calls of the service, as their judge knows them.
fn of_services(operation: &Typed<Call, Answer>) -> Option<Typed<flips::Call, bool>> {
    let Call::Service(call) = operation.call else { return None };
    let seen = operation.seen.as_ref().map(|seen| seen.as_ref().map(|answer| *answer == Answer::Done(true)));
    let Typed { client, server, life, start_ns, end_ns, .. } = *operation;
    Some(Typed { client, server, life, call, seen, start_ns, end_ns })
}

/// Operations on keys, as the checker of one register knows them.
fn of_keys(operation: &Typed<Call, Answer>) -> Option<Operation> {
    use history::Outcome::{Done, Failed, Refused, Saw, Unknown};
    let (key, call) = match &operation.call {
        Call::Service(_) => return None,
        Call::Key(Far::Read { key }) => (key, history::Call::Read),
        Call::Key(Far::Write { key, value }) => (key, history::Call::Write(*value)),
    };
    let outcome = match &operation.seen {
        None => Failed,
        Some(None) => Unknown,
        Some(Some(Answer::Done(true))) => Done,
        Some(Some(Answer::Done(false))) => Refused,
        Some(Some(Answer::Value(value))) => Saw(*value),
    };
    let (client, start_ns, end_ns) = (operation.client, operation.start_ns, operation.end_ns);
    Some(Operation { client, key: key.clone(), call, outcome, start_ns, end_ns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jlt_core::record::Outcome;
    use serde_json::{Value as Json, json};

    fn record(client: usize, call: impl Serialize, outcome: Outcome, at: u64) -> Record {
        let (workload, call) = ("xcluster".to_owned(), serde_json::to_value(call).unwrap());
        let (start_ns, end_ns) = (at * 1_000_000_000, at * 1_000_000_000 + 1);
        Record { workload, client, server: 0, life: 1, call, outcome, start_ns, end_ns }
    }

    fn write(value: Value, at: u64) -> Record {
        record(5, Far::Write { key: "k".to_owned(), value }, Outcome::Ok(Json::Bool(true)), at)
    }

    fn read(client: usize, value: Option<Value>, at: u64) -> Record {
        record(client, Far::Read { key: "k".to_owned() }, Outcome::Ok(json!(value)), at)
    }

    fn set(rule: flips::Rule, at: u64) -> Record {
        record(flips::CALLERS, flips::Call::Set(rule), Outcome::Ok(Json::Bool(true)), at)
    }

    fn call(client: usize, is_right: bool, at: u64) -> Record {
        record(client, flips::Call::Request { anew: true }, Outcome::Ok(Json::Bool(is_right)), at)
    }

    fn judged(history: &[Record]) -> Judgement {
        let judgement = Xcluster::default().judge(history);
        assert!(judgement.undecided.is_empty(), "{judgement:?}");
        judgement
    }

    #[test]
    fn good_histories_pass() {
        let unknown = Record { outcome: Outcome::Unknown("late".to_owned()), ..write(9, 1) };
        let failed = Record { outcome: Outcome::Failed("refused".to_owned()), ..write(8, 3) };
        for history in [
            vec![read(5, None, 1), write(1, 2), read(6, Some(1), 3), read(CLIENTS, Some(1), 9)],
            vec![unknown, write(1, 2), read(6, Some(1), 3), read(CLIENTS, Some(9), 9)],
            vec![write(1, 2), failed, read(CLIENTS, Some(1), 9)],
            vec![set(flips::Rule::Deny, 10), set(flips::Rule::Allow, 15), call(0, true, 20)],
            vec![set(flips::Rule::Deny, 10), call(0, true, 20)],
        ] {
            assert_eq!(judged(&history).violations, Vec::<String>::new(), "{history:?}");
        }
    }

    #[test]
    fn bad_histories_fail() {
        let failed = Record { outcome: Outcome::Failed("refused".to_owned()), ..write(8, 3) };
        for history in [
            vec![write(1, 2), read(6, None, 3), read(CLIENTS, Some(1), 9)],
            vec![write(1, 2), write(2, 3), read(6, Some(1), 4), read(CLIENTS, Some(2), 9)],
            vec![write(1, 2), read(CLIENTS, None, 9)],
            vec![failed, read(CLIENTS, Some(8), 9)],
            vec![set(flips::Rule::Deny, 10), call(CLIENTS, true, 20)],
            vec![set(flips::Rule::Allow, 10), call(0, false, 20)],
        ] {
            assert!(!judged(&history).violations.is_empty(), "{history:?}");
        }
    }

    #[test]
    fn a_denial_holds_while_the_other_datacenter_reaches_the_primary() {
        let reach = (0..60).map(|at| record(4, flips::Call::Reach, Outcome::Ok(Json::Bool(true)), at));
        let denied = [set(flips::Rule::Deny, 10), call(0, true, 20)];
        assert_eq!(judged(&reach.chain(denied).collect::<Vec<_>>()).violations.len(), 1);
    }

    #[test]
    fn a_key_that_nobody_has_read_in_the_end_is_not_decided() {
        assert!(Xcluster::default().judge(&[write(1, 2)]).undecided[0].contains("not read in the end"));
    }
}
