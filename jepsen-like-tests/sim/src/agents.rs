//! The real agents, each on a host of its own, and what is done to them: services and checks come and go through an agent's own API while it and the
//! servers fall. In the end the catalog has what the agents have, and the agents what was acknowledged.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent::{Agent, AgentConfig, Deps, Home};
use identity::{Identity, JoinSecret, Role, RpcIdentity, TrustBundle};
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use jlt_core::rng::Rng;
use jlt_workloads::{Api, Client, Failure, Workload, async_trait};
use model::Node;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use server::HttpLimits;
use store::Store;
use tokio::time::Instant;

use crate::clients;
use crate::world::{SECRET, World};

/// Everything is compared with the servers so often.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// An agent has told the servers all within this time after the faults.
const AGREE_TIMEOUT: Duration = Duration::from_secs(60);
/// Services of one agent.
const SERVICES: usize = 4;
/// Between two faults of the agents.
const CALM_MS: (u64, u64) = (3_000, 9_000);
/// How long one lasts.
const FAULT_MS: (u64, u64) = (200, 4_000);

/// A host with an agent.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) lives: Arc<AtomicU32>,
    number: usize,
    folder: PathBuf,
    running: Rc<RefCell<Option<Agent>>>,
}

impl Host {
    /// The agent of that number, which has not begun to run.
    pub(crate) fn new(number: usize, address: IpAddr, folder: &Path) -> Self {
        let name = name(number);
        Self { number, folder: folder.join(&name), name, address, lives: Arc::default(), running: Rc::default() }
    }

    /// What the host runs, each time that it is started.
    pub(crate) fn software(&self, servers: &[IpAddr]) -> Result<impl Fn() -> Running + use<>, Box<dyn Error>> {
        let node = Node {
            id: format!("00000000-0000-0000-0001-{:012}", self.number),
            name: self.name.clone(),
            address: self.address.to_string(),
            datacenter: "dc1".to_owned(),
            ..Node::default()
        };
        let home = Home::Join(servers.iter().map(|server| format!("{server}:8300")).collect());
        let config = AgentConfig { sync_interval: SYNC_INTERVAL, ..AgentConfig::new(node, home) };
        let secret = JoinSecret::parse(SECRET)?;
        let (folder, running, lives) = (self.folder.clone(), Rc::clone(&self.running), Arc::clone(&self.lives));
        Ok(move || {
            let (config, secret, folder, running) =
                (config.clone(), secret.clone(), folder.clone(), Rc::clone(&running));
            lives.fetch_add(1, Ordering::SeqCst);
            Box::pin(run(config, secret, folder, running)) as Running
        })
    }
}

/// The software of a host.
pub(crate) type Running = std::pin::Pin<Box<dyn Future<Output = turmoil::Result>>>;

/// The name of the agent's node and host.
pub(crate) fn name(number: usize) -> String {
    format!("a{number}")
}

async fn run(
    config: AgentConfig,
    secret: JoinSecret,
    folder: PathBuf,
    running: Rc<RefCell<Option<Agent>>>,
) -> turmoil::Result {
    let identity = Identity::new(TrustBundle::empty());
    let rpc = RpcIdentity::new(identity, &secret, Role::Client, &config.node.datacenter, &config.node.name)?;
    let agent = Agent::start(config, Deps { store: Store::open(folder)?, rpc })?;
    let router = agent.router_local().fallback_service(agent.forward_fallback());
    running.replace(Some(agent));
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", clients::PORT)).await?;
    let limits = HttpLimits { connections_per_client_max: 10_000, ..HttpLimits::default() };
    server::serve_http(listener, router, limits, std::future::pending()).await;
    Ok(())
}

/// Kills agents, and cuts them off from servers.
pub(crate) struct Trouble {
    rng: Rng,
    next_ms: u64,
    /// What ends then.
    active: Option<(u64, Wrong)>,
}

enum Wrong {
    Killed(usize),
    /// An agent and a server.
    Apart(usize, usize),
}

impl Trouble {
    pub(crate) fn new(seed: u64, now_ms: u64) -> Self {
        Self { rng: Rng::new(seed, 500), next_ms: now_ms + CALM_MS.0, active: None }
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        let now_ms = world.now_ms();
        if self.active.as_ref().is_some_and(|(end_ms, _wrong)| *end_ms <= now_ms) {
            self.heal(world);
        }
        if self.active.is_some() || self.next_ms > now_ms || world.agents.is_empty() {
            return;
        }
        let agent = self.rng.below(world.agents.len());
        let wrong = match self.rng.below(2) {
            0 => Wrong::Killed(agent),
            _ => Wrong::Apart(agent, self.rng.below(world.servers.len())),
        };
        match wrong {
            Wrong::Killed(agent) => world.kill_agent(agent),
            Wrong::Apart(agent, server) => {
                world.sim.partition(world.agents[agent].name.as_str(), world.servers[server].name.as_str());
            }
        }
        self.active = Some((now_ms + millis(&mut self.rng, FAULT_MS), wrong));
    }

    /// Ends what is wrong.
    pub(crate) fn heal(&mut self, world: &mut World) {
        match self.active.take() {
            Some((_, Wrong::Killed(agent))) => world.start_agent(agent),
            Some((_, Wrong::Apart(agent, server))) => {
                world.sim.repair(world.agents[agent].name.as_str(), world.servers[server].name.as_str());
            }
            None => {}
        }
        self.next_ms = world.now_ms() + millis(&mut self.rng, CALM_MS);
    }
}

fn millis(rng: &mut Rng, between: (u64, u64)) -> u64 {
    u64::try_from(rng.between_ms(between.0, between.1).as_millis()).unwrap_or(u64::MAX)
}

impl Host {
    /// Forgets what runs; the host is ended by whoever says so.
    pub(crate) fn forget(&self) {
        self.running.take();
    }
}

/// Registers, deregisters and reports to agents: one client for each.
pub(crate) struct Locals {
    pub(crate) agents: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Set {
        service: String,
        port: u64,
    },
    Remove {
        service: String,
    },
    Report {
        service: String,
        status: String,
    },
    /// What the catalog has in the end.
    End {
        node: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Done,
    Has(BTreeMap<String, u64>),
}

#[async_trait(?Send)]
impl Workload for Locals {
    fn name(&self) -> &'static str {
        "agent"
    }

    fn clients(&self) -> usize {
        self.agents
    }

    async fn run(&self, client: &mut Client) {
        let own = client.number;
        while client.goes_on() {
            let service = format!("s{}", client.rng.below(SERVICES));
            let (call, path, body) = match client.rng.below(8) {
                0..3 => {
                    let port = client.unique();
                    let check = json!({ "TTL": "20s", "Status": "passing" });
                    let body = json!({ "ID": service, "Name": service, "Port": port, "Check": check }).to_string();
                    (Call::Set { service, port }, "/v1/agent/service/register".to_owned(), body)
                }
                3 => {
                    let path = format!("/v1/agent/service/deregister/{service}");
                    (Call::Remove { service }, path, String::new())
                }
                _ => {
                    let status = ["pass", "warn", "fail"][client.rng.below(3)];
                    let path = format!("/v1/agent/check/{status}/service:{service}?note={}", client.unique());
                    (Call::Report { service, status: status.to_owned() }, path, String::new())
                }
            };
            let send = async |api: &mut Api<'_>| api.send("PUT", &path, &body).await.map(|_reply| Answer::Done);
            // What comes of it is in the history.
            client.ask(own, call, send).await.ok();
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for agent in 0..self.agents {
            agree(client, agent).await?;
            let call = Call::End { node: name(agent + 1) };
            client.ask(agent, call, async |api| ports_in_catalog(api, agent).await).await.ok();
        }
        Ok(())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        let mut judgement = Judgement::default();
        match typed::<Call, Answer>(history, self.name()) {
            Err(why) => judgement.undecided.push(why),
            Ok(operations) => (0..self.agents).for_each(|agent| judge(agent, &operations, &mut judgement)),
        }
        judgement
    }
}

/// Waits until the catalog has what the agent has.
async fn agree(client: &mut Client, agent: usize) -> Result<(), String> {
    let deadline = Instant::now() + AGREE_TIMEOUT;
    loop {
        let own = here(&mut client.api(agent)).await;
        let states = match own {
            Ok(own) => there(&mut client.api(agent), agent).await.map(|there| (own, there)),
            Err(failure) => Err(failure),
        };
        match states {
            Ok((own, there)) if own == there => return Ok(()),
            other if Instant::now() > deadline => {
                return Err(format!("agent: {} and the catalog do not agree: {other:?}", name(agent + 1)));
            }
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Services with their ports, and checks with their status.
type State = (BTreeMap<String, u64>, BTreeSet<(String, String)>);

async fn here(api: &mut Api<'_>) -> Result<State, Failure> {
    let services: BTreeMap<String, Value> = api.get("/v1/agent/services").await?;
    let checks: BTreeMap<String, Value> = api.get("/v1/agent/checks").await?;
    Ok((services.iter().map(port).collect(), checks.values().map(status).collect()))
}

async fn there(api: &mut Api<'_>, agent: usize) -> Result<State, Failure> {
    let services = ports(api, agent).await?;
    let checks: Vec<Value> = api.get(&format!("/v1/health/node/{}?consistent", name(agent + 1))).await?;
    let (own, others): (Vec<_>, Vec<_>) = checks.iter().map(status).partition(|(id, _status)| id != "serfHealth");
    match &others[..] {
        [(_, alive)] if alive == "passing" => Ok((services, own.into_iter().collect())),
        other => Err(Failure::Failed(format!("the node's own check is {other:?}"))),
    }
}

async fn ports_in_catalog(api: &mut Api<'_>, agent: usize) -> Result<Answer, Failure> {
    ports(api, agent).await.map(Answer::Has)
}

async fn ports(api: &mut Api<'_>, agent: usize) -> Result<BTreeMap<String, u64>, Failure> {
    let node: Value = api.get(&format!("/v1/catalog/node/{}?consistent", name(agent + 1))).await?;
    let services = node["Services"].as_object().into_iter().flatten();
    Ok(services.map(port).collect())
}

fn port<'a>((id, service): (&'a String, &'a Value)) -> (String, u64) {
    (id.clone(), service["Port"].as_u64().unwrap_or_default())
}

fn status(check: &Value) -> (String, String) {
    let text = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
    (text("CheckID"), text("Status"))
}

/// What was acknowledged is in the end in the catalog; what may have been done may be.
fn judge(agent: usize, operations: &[Typed<Call, Answer>], judgement: &mut Judgement) {
    let node = name(agent + 1);
    let mut possible: BTreeMap<&str, BTreeSet<Option<u64>>> = BTreeMap::new();
    let mut acknowledged = 0;
    for operation in operations.iter().filter(|operation| operation.client == agent) {
        let (service, state) = match &operation.call {
            Call::Set { service, port } => (service.as_str(), Some(*port)),
            Call::Remove { service } => (service.as_str(), None),
            Call::Report { .. } | Call::End { .. } => continue,
        };
        let states = possible.entry(service).or_insert_with(|| BTreeSet::from([None]));
        match operation.seen {
            None => {}
            Some(None) => _ = states.insert(state),
            Some(Some(_)) => {
                acknowledged += 1;
                *states = BTreeSet::from([state]);
            }
        }
    }
    judgement.cover("changes acknowledged", acknowledged, 5);
    let end = operations.iter().rev().find_map(|operation| match (&operation.call, &operation.seen) {
        (Call::End { node: of }, Some(Some(Answer::Has(services)))) if *of == node => Some(services),
        _ => None,
    });
    let Some(end) = end else {
        judgement.undecided.push(format!("{node} was not read in the end"));
        return;
    };
    for (service, states) in possible {
        let has = end.get(service).copied();
        if !states.contains(&has) {
            judgement
                .violations
                .push(format!("the catalog has {service} of {node} as {has:?}, which can be {states:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(client: usize, call: Call, seen: Option<Option<Answer>>) -> Typed<Call, Answer> {
        Typed { client, server: 0, life: 1, call, seen, start_ns: 0, end_ns: 1 }
    }

    fn set(port: u64, seen: Option<Option<Answer>>) -> Typed<Call, Answer> {
        operation(0, Call::Set { service: "s0".to_owned(), port }, seen)
    }

    fn violations(mut operations: Vec<Typed<Call, Answer>>, end: &[(&str, u64)]) -> usize {
        let has = end.iter().map(|(service, port)| ((*service).to_owned(), *port)).collect();
        operations.push(operation(1, Call::End { node: "a1".to_owned() }, Some(Some(Answer::Has(has)))));
        let mut judgement = Judgement::default();
        judge(0, &operations, &mut judgement);
        judgement.violations.len()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_is_unknown_may() {
        let done = || Some(Some(Answer::Done));
        let remove = operation(0, Call::Remove { service: "s0".to_owned() }, done());
        assert_eq!(violations(vec![set(1, done())], &[("s0", 1)]), 0);
        assert_eq!(violations(vec![set(1, done())], &[]), 1);
        assert_eq!(violations(vec![set(1, done()), set(2, Some(None))], &[("s0", 1)]), 0);
        assert_eq!(violations(vec![set(1, done()), set(2, None)], &[("s0", 2)]), 1);
        assert_eq!(violations(vec![set(1, done()), remove], &[("s0", 1)]), 1);
    }
}
