//! The phases of a round: load; then, when everything is healed, convergence, final reads, and clearing up. Each runs in a `LocalSet`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::client::{Client, Shared, Workload};
use crate::http::Wire;

/// How long healed servers may take to agree.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(30);

/// `GET /v1/operator/state-hash`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    index: u64,
    hash: String,
}

/// All clients of these workloads, until they are told to stop.
///
/// # Errors
/// A client that panicked.
pub async fn load(workloads: &[Arc<dyn Workload>], shared: &Arc<Shared>, wire: &Rc<dyn Wire>) -> Result<(), String> {
    let mut clients = Vec::new();
    for workload in workloads {
        for number in 0..workload.clients() {
            let workload = Arc::clone(workload);
            let mut client = Client::new(Arc::clone(shared), Rc::clone(wire), workload.name(), number);
            clients.push(spawn_local(async move { workload.run(&mut client).await }));
        }
    }
    for client in clients {
        client.await.map_err(|error| format!("a client ended: {error}"))?;
    }
    Ok(())
}

/// A check of a node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID")]
    check_id: String,
    status: String,
}

/// All servers must come to the same state, and these nodes, which run, be alive in it.
///
/// # Errors
/// A broken guarantee, in words: servers that differ at one index, or do not come to one; a node that runs and is not alive.
pub async fn converge(shared: &Arc<Shared>, wire: &Rc<dyn Wire>, nodes: &[String]) -> Result<(), String> {
    let deadline = Instant::now() + CONVERGE_TIMEOUT;
    let mut client = Client::new(Arc::clone(shared), Rc::clone(wire), "converge", 0);
    loop {
        let mut states = Vec::new();
        for server in 0..shared.servers() {
            states.push(client.api(server).get::<State>("/v1/operator/state-hash").await.ok());
        }
        if let Some((one, other)) = differ(&states) {
            return Err(format!("servers: {one:?} and {other:?} are of one index"));
        }
        let do_agree = states[0].is_some() && states.iter().all(|state| *state == states[0]);
        let failed = if do_agree { failed(&mut client, nodes).await } else { Vec::new() };
        if do_agree && failed.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            if do_agree {
                return Err(format!(
                    "servers: {failed:?} run, and are not passing {CONVERGE_TIMEOUT:?} after the heal"
                ));
            }
            return Err(format!("servers: they do not agree {CONVERGE_TIMEOUT:?} after the heal: {states:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Those of the nodes that the catalog does not have as alive.
async fn failed(client: &mut Client, nodes: &[String]) -> Vec<String> {
    let mut failed = Vec::new();
    for node in nodes {
        let checks = client.api(0).get::<Vec<Check>>(&format!("/v1/health/node/{node}")).await.unwrap_or_default();
        if !checks.iter().any(|check| check.check_id == "serfHealth" && check.status == "passing") {
            failed.push(node.clone());
        }
    }
    failed
}

/// Two of one index that are not the same.
fn differ(states: &[Option<State>]) -> Option<(&State, &State)> {
    let known: Vec<&State> = states.iter().flatten().collect();
    let pairs = known.iter().enumerate().flat_map(|(at, one)| known[at + 1..].iter().map(move |other| (*one, *other)));
    pairs.into_iter().find(|(one, other)| one.index == other.index && one.hash != other.hash)
}

/// The final reads. Returns what could not be read, in words.
pub async fn finish(workloads: &[Arc<dyn Workload>], shared: &Arc<Shared>, wire: &Rc<dyn Wire>) -> Vec<String> {
    let mut failures = Vec::new();
    for workload in workloads {
        let mut client = Client::new(Arc::clone(shared), Rc::clone(wire), workload.name(), workload.clients());
        failures.extend(workload.finish(&mut client).await.err());
    }
    failures
}

/// Removes what a round has left.
///
/// # Errors
/// The healed cluster did not do it.
pub async fn clear(workloads: &[Arc<dyn Workload>], shared: &Arc<Shared>, wire: &Rc<dyn Wire>) -> Result<(), String> {
    for workload in workloads {
        let mut client = Client::new(Arc::clone(shared), Rc::clone(wire), workload.name(), workload.clients() + 1);
        workload.clear(&mut client).await?;
    }
    let mut client = Client::new(Arc::clone(shared), Rc::clone(wire), "clear", 0);
    let path = format!("/v1/kv/{}/?recurse", shared.prefix());
    client.insist("clear", async |api| api.send("DELETE", &path, "").await.map(|_| ())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(index: u64, hash: &str) -> Option<State> {
        Some(State { index, hash: hash.to_owned() })
    }

    #[test]
    fn servers_of_one_index_must_be_equal() {
        assert_eq!(differ(&[state(1, "a"), None, state(1, "a"), state(2, "b")]), None);
        assert!(differ(&[state(2, "b"), None, state(1, "a"), state(2, "c")]).is_some());
    }
}
