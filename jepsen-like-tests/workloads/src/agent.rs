//! Services and checks come and go at plain agents, which are killed, frozen and cut off as servers are: in the end the catalog is what the
//! agents have, nothing forgotten and nothing risen, and while an agent reaches a server the catalog follows it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::api::{Api, Failure};
use crate::client::{Client, Need, Workload};

/// One client changes what an agent has, another reads the catalog through it.
const AGENTS_MAX: usize = 2;

/// Services of one agent.
const SERVICES: usize = 4;

/// How long after the heal the catalog may still differ: an agent that was cut off waits before it tries again.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the catalog may lag behind an agent that reaches a server.
const LAG_NS: u64 = 10_000_000_000;

/// Reads through an agent are never further apart while it works.
const GAP_NS: u64 = 2_000_000_000;

pub(crate) struct Agent;

/// An instance, and whether its check passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    port: u64,
    passing: bool,
}

/// Services by id.
type States = BTreeMap<String, State>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    /// At the agent.
    Register {
        id: String,
        port: u64,
    },
    Deregister {
        id: String,
    },
    Check {
        id: String,
        passing: bool,
    },
    /// What the servers have, asked through the agent.
    Read,
    /// Both, when all is over.
    Compare {
        agent: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done,
    Read(States),
    Compared { local: States, catalog: States },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OnNode {
    services: BTreeMap<String, Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    port: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "ServiceID")]
    service_id: String,
    status: String,
}

#[async_trait(?Send)]
impl Workload for Agent {
    fn name(&self) -> &'static str {
        "agent"
    }

    fn clients(&self) -> usize {
        2 * AGENTS_MAX
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Agents]
    }

    async fn run(&self, client: &mut Client) {
        let agent = client.number % AGENTS_MAX;
        if agent < client.agents() {
            if client.number < AGENTS_MAX { change(client, agent).await } else { read(client, agent).await }
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for agent in 0..client.agents().min(AGENTS_MAX) {
            compare(client, agent).await?;
        }
        Ok(())
    }

    async fn clear(&self, client: &mut Client) -> Result<(), String> {
        for agent in 0..client.agents().min(AGENTS_MAX) {
            let (server, prefix) = (client.agent(agent), prefix(client));
            for id in client.insist_of(server, async |api| local(api, &prefix).await).await?.keys() {
                let path = format!("/v1/agent/service/deregister/{id}");
                client.insist_of(server, async |api| api.send("PUT", &path, "").await).await?;
            }
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

/// The names of all services of the round begin so.
fn prefix(client: &Client) -> String {
    client.named("agent-")
}

/// The node of an agent, as worlds name it.
fn node(agent: usize) -> String {
    format!("a{}", agent + 1)
}

/// Changes one service after the other. After an outcome that is not known the service is left alone and another takes its place.
async fn change(client: &mut Client, agent: usize) {
    let mut slots: Vec<(u64, bool)> = vec![(0, false); SERVICES];
    let mut port = 0;
    while client.goes_on() {
        let slot = client.rng.below(SERVICES);
        let (generation, is_there) = slots[slot];
        let id = format!("{}{agent}-{slot}-{generation}", prefix(client));
        port = port % 60_000 + 1;
        let call = match client.rng.below(4) {
            _ if !is_there => Call::Register { id, port },
            0 => Call::Register { id, port },
            1 => Call::Deregister { id },
            _ => Call::Check { id, passing: client.rng.below(2) == 0 },
        };
        let server = client.agent(agent);
        slots[slot] = match client.ask(server, call.clone(), async |api| send(api, &call).await).await {
            Err(Failure::Unknown(_)) => (generation + 1, false),
            Ok(_) if matches!(call, Call::Register { .. }) => (generation, true),
            Ok(_) if matches!(call, Call::Deregister { .. }) => (generation, false),
            Ok(_) | Err(Failure::Failed(_)) => slots[slot],
        };
        client.think(0, 40).await;
    }
}

/// Makes a change at the agent.
async fn send(api: &mut Api<'_>, call: &Call) -> Result<Answer, Failure> {
    let (path, body) = match call {
        Call::Register { id, port } => {
            let check = json!({"CheckID": id, "Name": "check", "TTL": "1h", "Status": "passing"});
            ("/v1/agent/service/register".to_owned(), json!({"ID": id, "Name": id, "Port": port, "Check": check}))
        }
        Call::Deregister { id } => (format!("/v1/agent/service/deregister/{id}"), json!(null)),
        Call::Check { id, passing } => {
            let status = if *passing { "passing" } else { "critical" };
            (format!("/v1/agent/check/update/{id}"), json!({"Status": status}))
        }
        Call::Read | Call::Compare { .. } => return Err(Failure::Failed("this changes nothing".to_owned())),
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    api.send("PUT", &path, &body).await.map(|_| Answer::Done)
}

async fn read(client: &mut Client, agent: usize) {
    let (server, prefix) = (client.agent(agent), prefix(client));
    while client.goes_on() {
        let read = async |api: &mut Api<'_>| catalog(api, agent, &prefix).await.map(Answer::Read);
        client.ask(server, Call::Read, read).await.ok();
        client.think(50, 150).await;
    }
}

/// Compares until both are the same, or it has taken too long.
async fn compare(client: &mut Client, agent: usize) -> Result<(), String> {
    let deadline = Instant::now() + COMPARE_TIMEOUT;
    let (at, prefix) = (client.agent(agent), prefix(client));
    loop {
        let server = client.any_server();
        let asked = catalog(&mut client.api(server), agent, &prefix).await;
        let compared = match &asked {
            Ok(catalog) => {
                let compare = async |api: &mut Api<'_>| {
                    Ok(Answer::Compared { local: local(api, &prefix).await?, catalog: catalog.clone() })
                };
                client.ask(at, Call::Compare { agent }, compare).await
            }
            Err(error) => Err(error.clone()),
        };
        match compared {
            Ok(Answer::Compared { local, catalog }) if local == catalog => return Ok(()),
            Ok(_) if Instant::now() > deadline => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("agent: {} cannot be compared: {error:?}", node(agent)));
            }
            Ok(_) | Err(_) => client.think(200, 400).await,
        }
    }
}

/// What the agent says that it has.
async fn local(api: &mut Api<'_>, prefix: &str) -> Result<States, Failure> {
    let services: BTreeMap<String, Instance> = api.get("/v1/agent/services").await?;
    let checks: BTreeMap<String, Check> = api.get("/v1/agent/checks").await?;
    Ok(states(services, checks.values(), prefix))
}

/// What the servers say that its node has.
async fn catalog(api: &mut Api<'_>, agent: usize, prefix: &str) -> Result<States, Failure> {
    let node = node(agent);
    let services: Option<OnNode> = api.get(&format!("/v1/catalog/node/{node}?consistent")).await?;
    let checks: Vec<Check> = api.get(&format!("/v1/health/node/{node}?consistent")).await?;
    Ok(states(services.map(|on| on.services).unwrap_or_default(), checks.iter(), prefix))
}

fn states<'a>(services: BTreeMap<String, Instance>, checks: impl Iterator<Item = &'a Check>, prefix: &str) -> States {
    let checks: BTreeMap<&str, &str> = checks.map(|check| (check.service_id.as_str(), check.status.as_str())).collect();
    let ours = services.into_iter().filter(|(id, _)| id.starts_with(prefix));
    ours.map(|(id, instance)| {
        let passing = checks.get(id.as_str()) == Some(&"passing");
        (id, State { port: instance.port, passing })
    })
    .collect()
}

type Changes<'a> = BTreeMap<&'a str, Vec<&'a Typed<Call, Answer>>>;

fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut changes: Changes<'_> = BTreeMap::new();
    for operation in operations {
        if let Some(id) = id_of(&operation.call) {
            changes.entry(id).or_default().push(operation);
        }
    }
    let mut last: BTreeMap<usize, (&States, &States)> = BTreeMap::new();
    for operation in operations {
        if let (Call::Compare { agent }, Some(Some(Answer::Compared { local, catalog }))) =
            (&operation.call, &operation.seen)
        {
            last.insert(*agent, (local, catalog));
        }
    }
    for (agent, (local, catalog)) in &last {
        judgement.violations.extend(differences(local, catalog).map(|what| format!("agent {agent}: {what}")));
    }
    if last.is_empty() {
        judgement.undecided.push("no agent was compared with the catalog".to_owned());
    }
    let all: BTreeMap<&str, State> =
        last.values().flat_map(|(local, _)| local.iter()).map(|(id, state)| (id.as_str(), *state)).collect();
    judgement
        .violations
        .extend(all.keys().filter(|id| !changes.contains_key(**id)).map(|id| format!("nobody registered {id}")));
    for (id, changes) in &changes {
        let (found, allowed) = (all.get(id).copied(), possible(changes));
        if !last.is_empty() && !allowed.contains(&found) {
            judgement
                .violations
                .push(format!("the agent has {found:?} as {id}; what it acknowledged makes it one of {allowed:?}"));
        }
    }
    let followed = follows(operations, &changes, &mut judgement);
    let done = changes.values().flatten().filter(|change| matches!(change.seen, Some(Some(_)))).count();
    let reads = operations.iter().filter(|one| one.call == Call::Read && matches!(one.seen, Some(Some(_)))).count();
    judgement.cover("changes acknowledged", done as u64, 50);
    judgement.cover("reads through agents", reads as u64, 20);
    judgement.cover("agents compared", last.len() as u64, 1);
    judgement.notes.push(format!("{followed} states had to be in the catalog while the load went on"));
    judgement
}

fn id_of(call: &Call) -> Option<&str> {
    match call {
        Call::Register { id, .. } | Call::Deregister { id } | Call::Check { id, .. } => Some(id),
        Call::Read | Call::Compare { .. } => None,
    }
}

/// In what the catalog differs from the agent.
fn differences<'a>(local: &'a States, catalog: &'a States) -> impl Iterator<Item = String> + 'a {
    let risen = catalog
        .iter()
        .filter(|(id, _)| !local.contains_key(*id))
        .map(|(id, _)| format!("the catalog has {id}, which is gone"));
    let other = local.iter().filter_map(|(id, state)| match catalog.get(id) {
        None => Some(format!("the catalog lacks {id}")),
        Some(found) if found != state => Some(format!("the catalog has {id} as {found:?}, the agent as {state:?}")),
        Some(_) => None,
    });
    risen.chain(other)
}

/// What a service can be after these changes, which are of one client, one after the other; only the last can be of unknown outcome.
fn possible(changes: &[&Typed<Call, Answer>]) -> Vec<Option<State>> {
    let mut possible = vec![None];
    for change in changes {
        let after: Vec<Option<State>> = possible.iter().map(|before| after(*before, &change.call)).collect();
        match change.seen {
            Some(Some(_)) => possible = after,
            Some(None) => possible.extend(after),
            None => {}
        }
    }
    possible
}

/// A service that is registered again keeps what its check said.
fn after(before: Option<State>, call: &Call) -> Option<State> {
    match call {
        Call::Register { port, .. } => Some(State { port: *port, passing: before.is_none_or(|state| state.passing) }),
        Call::Deregister { .. } => None,
        Call::Check { passing, .. } => before.map(|state| State { passing: *passing, ..state }),
        Call::Read | Call::Compare { .. } => before,
    }
}

/// What was acknowledged long ago is in the catalog, if the agent has answered from the servers all the time since. Returns how often
/// that was to be seen.
fn follows(operations: &[Typed<Call, Answer>], changes: &Changes<'_>, judgement: &mut Judgement) -> u64 {
    let mut by_agent: BTreeMap<usize, Vec<&Typed<Call, Answer>>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| !matches!(operation.call, Call::Compare { .. })) {
        by_agent.entry(operation.server).or_default().push(operation);
    }
    let mut followed = 0;
    for (agent, of_agent) in &by_agent {
        let mut good_since = None;
        let mut last: Option<&Typed<Call, Answer>> = None;
        for operation in of_agent {
            let is_ok = matches!(operation.seen, Some(Some(_)));
            let Some(Some(Answer::Read(found))) = &operation.seen else {
                good_since = good_since.filter(|_| is_ok);
                continue;
            };
            let goes_on =
                last.is_some_and(|last| last.life == operation.life && operation.end_ns < last.end_ns + GAP_NS);
            last = Some(operation);
            let since = *good_since.get_or_insert(operation.start_ns);
            if !goes_on {
                good_since = Some(operation.start_ns);
                continue;
            }
            if since + LAG_NS >= operation.start_ns {
                continue;
            }
            for (id, changes) in changes.iter().filter(|(_, changes)| changes[0].server == *agent) {
                followed += 1;
                let (found, allowed) = (found.get(*id).copied(), lately(changes, operation));
                if !is_one_of(found, &allowed) {
                    let at = operation.end_ns / 1_000_000;
                    judgement.violations.push(format!(
                        "the catalog has {found:?} as {id} at {at} ms; the agent, which reaches a server, has had {allowed:?} for long"
                    ));
                }
            }
        }
    }
    followed
}

/// Instances and checks are read one after the other, so each may be of another moment.
fn is_one_of(found: Option<State>, allowed: &[Option<State>]) -> bool {
    let known = || allowed.iter().flatten();
    match found {
        None => allowed.contains(&None),
        Some(found) => {
            let has_status = known().any(|state| state.passing == found.passing);
            let has_no_check = !found.passing && allowed.contains(&None);
            known().any(|state| state.port == found.port) && (has_status || has_no_check)
        }
    }
}

/// What a service was when the read began or so long before as the catalog may lag, and what it became until the read ended.
fn lately(changes: &[&Typed<Call, Answer>], read: &Typed<Call, Answer>) -> Vec<Option<State>> {
    let old = changes.partition_point(|change| change.end_ns + LAG_NS < read.start_ns);
    let until = changes.partition_point(|change| change.start_ns <= read.end_ns);
    (old..=until.max(old)).flat_map(|count| possible(&changes[..count])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const DONE: Option<Option<Answer>> = Some(Some(Answer::Done));

    fn operation(call: Call, seen: Option<Option<Answer>>, at: u64) -> Typed<Call, Answer> {
        Typed { client: 0, server: 3, life: 1, call, seen, start_ns: at, end_ns: at }
    }

    fn register(port: u64, seen: Option<Option<Answer>>, at: u64) -> Typed<Call, Answer> {
        operation(Call::Register { id: "s".to_owned(), port }, seen, at)
    }

    fn deregister(at: u64) -> Typed<Call, Answer> {
        operation(Call::Deregister { id: "s".to_owned() }, DONE, at)
    }

    fn states(state: Option<(u64, bool)>) -> States {
        state.map(|(port, passing)| ("s".to_owned(), State { port, passing })).into_iter().collect()
    }

    fn compare(local: Option<(u64, bool)>, catalog: Option<(u64, bool)>, at: u64) -> Typed<Call, Answer> {
        let answer = Answer::Compared { local: states(local), catalog: states(catalog) };
        operation(Call::Compare { agent: 0 }, Some(Some(answer)), at)
    }

    fn violations(operations: &[Typed<Call, Answer>]) -> Vec<String> {
        judge(operations).violations
    }

    #[test]
    fn good_ends_pass() {
        let there = compare(Some((7, true)), Some((7, true)), 90);
        assert_eq!(violations(&[register(7, DONE, 1), there.clone()]), [""; 0]);
        assert_eq!(violations(&[register(7, DONE, 1), deregister(2), compare(None, None, 90)]), [""; 0]);
        assert_eq!(violations(&[register(7, Some(None), 1), there.clone()]), [""; 0]);
        assert_eq!(violations(&[register(7, Some(None), 1), compare(None, None, 90)]), [""; 0]);
        let late = [register(7, DONE, 1), compare(Some((7, true)), None, 80), there];
        assert_eq!(violations(&late), [""; 0], "the last comparison counts");
        let failing = operation(Call::Check { id: "s".to_owned(), passing: false }, DONE, 2);
        let both = compare(Some((8, false)), Some((8, false)), 90);
        assert_eq!(violations(&[register(7, DONE, 1), failing, register(8, DONE, 3), both]), [""; 0]);
    }

    #[test]
    fn bad_ends_fail() {
        let end = |local, catalog| violations(&[register(7, DONE, 1), compare(local, catalog, 90)]).join(" ");
        assert!(end(Some((7, true)), None).contains("lacks s"));
        assert!(end(Some((7, true)), Some((7, false))).contains("the catalog has s as"));
        assert!(end(None, None).contains("the agent has None"));
        let risen = [register(7, DONE, 1), deregister(2), compare(None, Some((7, true)), 90)];
        assert!(violations(&risen)[0].contains("which is gone"));
        let failed = [register(7, None, 1), compare(Some((7, true)), Some((7, true)), 90)];
        assert_eq!(violations(&failed).len(), 1, "failed and there");
        assert!(!judge(&[register(7, DONE, 1)]).undecided.is_empty());
    }

    fn read(found: Option<(u64, bool)>, at: u64) -> Typed<Call, Answer> {
        operation(Call::Read, Some(Some(Answer::Read(states(found)))), at)
    }

    /// A read each second, with something else in one of them; what is there changes from one moment on.
    fn watched(from_s: u64, odd: Option<(u64, Typed<Call, Answer>)>) -> usize {
        let mut all = vec![register(7, DONE, 1)];
        for at in 1..30 {
            let odd = odd.clone().filter(|(when, _)| *when == at).map(|(_, odd)| odd);
            let found = (at >= from_s).then_some((7, true));
            all.push(Typed { start_ns: at * S, end_ns: at * S, ..odd.unwrap_or_else(|| read(found, at)) });
        }
        all.push(compare(Some((7, true)), Some((7, true)), 90 * S));
        violations(&all).len()
    }

    #[test]
    fn the_catalog_follows_an_agent_that_reaches_a_server() {
        assert_eq!(watched(9, None), 0, "a moment later");
        assert_eq!(watched(15, None), 3, "much later");
        assert_eq!(watched(15, Some((8, operation(Call::Read, None, 0)))), 0, "it did not reach a server");
        assert_eq!(watched(15, Some((8, Typed { life: 2, ..read(None, 0) }))), 0, "it was started anew");
    }

    #[test]
    fn an_instance_and_its_check_may_be_of_two_moments() {
        let state = |port, passing| Some(State { port, passing });
        let allowed = [state(7, false), state(8, true)];
        assert!(is_one_of(state(8, false), &allowed) && is_one_of(state(7, true), &allowed));
        assert!(!is_one_of(None, &allowed) && !is_one_of(state(9, true), &allowed));
        assert!(is_one_of(state(8, false), &[None, state(8, true)]), "the check is already gone");
        assert!(!is_one_of(state(8, false), &[state(8, true)]));
    }
}
