//! Each client registers and deregisters services of its own, with a check: what is read is the state that it left, and nothing comes back from the dead.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::{Api, Failure};
use crate::client::{Client, Workload};

/// Services of one client.
const SERVICES: usize = 3;

pub(crate) struct Catalog;

/// What a registration says: a port that no other has, and whether the check passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    port: u64,
    passing: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Set {
        service: String,
        state: Option<State>,
    },
    /// The node is deregistered, with all services of its client.
    Leave {
        services: Vec<String>,
    },
    Read {
        service: String,
    },
    /// Only what passes.
    Passing {
        service: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Answer {
    Set,
    Saw(Vec<State>),
}

/// What the health endpoint says of an instance.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    service: Instance,
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    port: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

#[async_trait(?Send)]
impl Workload for Catalog {
    fn name(&self) -> &'static str {
        "catalog"
    }

    fn clients(&self) -> usize {
        3
    }

    async fn run(&self, client: &mut Client) {
        while client.goes_on() {
            let name = format!("{}-{}", client.number, client.rng.below(SERVICES));
            let service = client.named(name);
            let server = client.any_server();
            match client.rng.below(5) {
                0..2 => {
                    let state = State { port: client.unique(), passing: client.rng.below(2) == 0 };
                    set(client, server, &service, Some(state)).await;
                }
                2 if client.rng.below(3) == 0 => leave(client, server).await,
                2 => set(client, server, &service, None).await,
                _ => {
                    let is_passing = client.rng.below(3) == 0;
                    let service = service.clone();
                    let call = if is_passing { Call::Passing { service } } else { Call::Read { service } };
                    client.ask(server, call.clone(), async |api| read(api, &call).await).await.ok();
                }
            }
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for (owner, number) in (0..self.clients()).flat_map(|owner| (0..SERVICES).map(move |number| (owner, number))) {
            let service = client.named(format!("{owner}-{number}"));
            let call = Call::Read { service };
            client.insist(call.clone(), async |api| read(api, &call).await).await?;
        }
        Ok(())
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        for owner in 0..self.clients() {
            let body = json!({"Node": node(client, owner)}).to_string();
            let deregister =
                async |api: &mut Api<'_>| api.send("PUT", "/v1/catalog/deregister", &body).await.map(|_| ());
            client.insist("clear", deregister).await?;
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

fn node(client: &Client, owner: usize) -> String {
    client.named(format!("node-{owner}"))
}

async fn leave(client: &mut Client, server: usize) {
    let owner = client.number;
    let services = (0..SERVICES).map(|number| client.named(format!("{owner}-{number}"))).collect();
    let body = json!({"Node": node(client, owner)}).to_string();
    let deregister =
        async |api: &mut Api<'_>| api.send("PUT", "/v1/catalog/deregister", &body).await.map(|_| Answer::Set);
    client.ask(server, Call::Leave { services }, deregister).await.ok();
}

/// Registers the service on its client's node, or deregisters it.
async fn set(client: &mut Client, server: usize, service: &str, state: Option<State>) {
    let node = node(client, client.number);
    let (path, body) = match state {
        Some(state) => {
            let status = if state.passing { "passing" } else { "critical" };
            let check =
                json!({"CheckID": format!("check-{service}"), "Name": "check", "Status": status, "ServiceID": service});
            let instance = json!({"ID": service, "Service": service, "Port": state.port});
            let body = json!({"Node": node, "Address": "10.0.0.1", "SkipNodeUpdate": true, "Service": instance, "Check": check});
            ("/v1/catalog/register", body)
        }
        None => ("/v1/catalog/deregister", json!({"Node": node, "ServiceID": service})),
    };
    let call = Call::Set { service: service.to_owned(), state };
    let body = body.to_string();
    client.ask(server, call, async |api| api.send("PUT", path, &body).await.map(|_| Answer::Set)).await.ok();
}

async fn read(api: &mut Api<'_>, call: &Call) -> Result<Answer, Failure> {
    let (service, filter) = match call {
        Call::Set { service, .. } | Call::Read { service } => (service.as_str(), ""),
        Call::Passing { service } => (service.as_str(), "&passing"),
        Call::Leave { .. } => ("", ""),
    };
    let rows: Vec<Row> = api.get(&format!("/v1/health/service/{service}?consistent{filter}")).await?;
    let state = |row: Row| {
        let passing = row.checks.iter().all(|check| check.status == "passing");
        State { port: row.service.port, passing }
    };
    Ok(Answer::Saw(rows.into_iter().map(state).collect()))
}

/// A read sees the last change that was acknowledged, or one that was at work beside it, or one of unknown outcome, which may come at any time.
fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut changes: BTreeMap<&str, Vec<&Typed<Call, Answer>>> = BTreeMap::new();
    for operation in operations {
        let changed = match &operation.call {
            Call::Set { service, .. } => std::slice::from_ref(service),
            Call::Leave { services } => services,
            Call::Read { .. } | Call::Passing { .. } => &[],
        };
        changed.iter().for_each(|service| changes.entry(service).or_default().push(operation));
    }
    let mut reads = 0;
    for operation in operations {
        if let (Call::Read { service } | Call::Passing { service }, Some(Some(Answer::Saw(seen)))) =
            (&operation.call, &operation.seen)
        {
            reads += 1;
            let changes = changes.get(service.as_str()).map_or(&[][..], Vec::as_slice);
            let mut allowed = allowed(changes, operation.start_ns, operation.end_ns);
            if let Call::Passing { .. } = operation.call {
                allowed.iter_mut().for_each(|state| *state = state.filter(|state| state.passing));
            }
            let is_allowed = seen.len() <= 1 && allowed.contains(&seen.first().copied());
            if !is_allowed {
                let at = operation.end_ns / 1_000_000;
                judgement.violations.push(format!("{service} is {seen:?} at {at} ms; it may be one of {allowed:?}"));
            }
        }
    }
    let acknowledged = changes.values().flatten().filter(|change| matches!(change.seen, Some(Some(_)))).count();
    judgement.cover("changes acknowledged", acknowledged as u64, 20);
    judgement.cover("reads", reads, 20);
    judgement
}

/// The states that a read may see; the changes are of one client, one after the other.
fn allowed(changes: &[&Typed<Call, Answer>], start_ns: u64, end_ns: u64) -> Vec<Option<State>> {
    let state = |change: &&Typed<Call, Answer>| match change.call {
        Call::Set { state, .. } => state,
        Call::Leave { .. } | Call::Read { .. } | Call::Passing { .. } => None,
    };
    let is_done = |change: &&&Typed<Call, Answer>| matches!(change.seen, Some(Some(_))) && change.end_ns <= start_ns;
    let last = changes.iter().rev().find(is_done).and_then(state);
    let may_come = changes.iter().filter(|change| match change.seen {
        None => false,
        Some(None) => change.start_ns <= end_ns,
        Some(Some(_)) => change.start_ns <= end_ns && change.end_ns > start_ns,
    });
    [last].into_iter().chain(may_come.map(state)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(port: Option<u64>, seen: Option<Option<Answer>>, at: (u64, u64)) -> Typed<Call, Answer> {
        let state = port.map(|port| State { port, passing: true });
        operation(Call::Set { service: "s".to_owned(), state }, seen, at)
    }

    fn read(port: Option<u64>, at: (u64, u64)) -> Typed<Call, Answer> {
        let states = port.map(|port| State { port, passing: true }).into_iter().collect();
        operation(Call::Read { service: "s".to_owned() }, Some(Some(Answer::Saw(states))), at)
    }

    fn operation(call: Call, seen: Option<Option<Answer>>, at: (u64, u64)) -> Typed<Call, Answer> {
        Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at.0, end_ns: at.1 }
    }

    fn violations(operations: &[Typed<Call, Answer>]) -> usize {
        judge(operations).violations.len()
    }

    const DONE: Option<Option<Answer>> = Some(Some(Answer::Set));

    #[test]
    fn good_histories_pass() {
        assert_eq!(violations(&[read(None, (1, 2)), set(Some(1), DONE, (3, 4)), read(Some(1), (5, 6))]), 0);
        assert_eq!(violations(&[set(Some(1), DONE, (1, 4)), read(None, (2, 3)), read(Some(1), (2, 3))]), 0);
        let unknown =
            [set(Some(1), DONE, (1, 2)), set(None, Some(None), (3, 4)), read(Some(1), (5, 6)), read(None, (7, 8))];
        assert_eq!(violations(&unknown), 0);
    }

    #[test]
    fn bad_histories_fail() {
        assert_eq!(violations(&[set(Some(1), DONE, (1, 2)), read(None, (3, 4))]), 1, "lost");
        let risen = [set(Some(1), DONE, (1, 2)), set(None, DONE, (3, 4)), read(Some(1), (5, 6))];
        assert_eq!(violations(&risen), 1, "back from the dead");
        let leave = operation(Call::Leave { services: vec!["s".to_owned()] }, DONE, (3, 4));
        assert_eq!(violations(&[set(Some(1), DONE, (1, 2)), leave, read(Some(1), (5, 6))]), 1, "its node is gone");
        assert_eq!(violations(&[set(Some(1), None, (1, 2)), read(Some(1), (3, 4))]), 1, "failed and there");
        let two =
            Typed { seen: Some(Some(Answer::Saw(vec![State { port: 1, passing: true }; 2]))), ..read(None, (5, 6)) };
        assert_eq!(violations(&[set(Some(1), DONE, (1, 2)), two]), 1, "twice");
        let state = State { port: 1, passing: false };
        let critical = operation(Call::Set { service: "s".to_owned(), state: Some(state) }, DONE, (1, 2));
        let passing =
            |seen| operation(Call::Passing { service: "s".to_owned() }, Some(Some(Answer::Saw(seen))), (3, 4));
        assert_eq!(violations(&[critical.clone(), passing(vec![state])]), 1, "critical");
        assert_eq!(violations(&[critical, passing(Vec::new())]), 0);
    }
}
