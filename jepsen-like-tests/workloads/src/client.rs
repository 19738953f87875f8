//! What a workload is, and the client that it is given.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Outcome, Record};
use jlt_core::rng::Rng;
use serde::Serialize;
use tokio::time::Instant;

use crate::api::{Api, Failure};
use crate::http::{Http, Wire};

/// After an error a client waits this long, so that a cluster without a leader is not flooded.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How long a client waits for an answer, unless its workload says otherwise.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a healed cluster may take to answer a final read.
const PATIENCE: Duration = Duration::from_secs(30);

/// What not every world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The servers' DNS ports.
    Dns,
    /// The servers' own agents: `/v1/agent/`.
    OwnAgents,
    /// Agents that are no servers.
    Agents,
    /// A service `web` with a sidecar at the first agent, which calls a service `api` with a sidecar at the second.
    Sidecars,
    /// A datacenter `dc2`, joined by gateways, with an agent and a service `api2` there; a service `web2` with a sidecar at the first agent calls it.
    Datacenter,
}

/// One way to use the cluster, and the judge of what was seen.
#[async_trait(?Send)]
pub trait Workload: Send + Sync {
    /// As on the command line, in the history and in the verdict.
    fn name(&self) -> &'static str;

    /// How many clients there are.
    fn clients(&self) -> usize;

    /// What one client does while [`Client::goes_on`]: it asks through [`Client::ask`], which times and records.
    async fn run(&self, client: &mut Client);

    /// When all faults are over and the cluster is healed: the final reads, by one client, through [`Client::insist`].
    async fn finish(&self, client: &mut Client) -> Result<(), String>;

    /// What the history says; records of other workloads are in it, too.
    fn judge(&self, history: &[Record]) -> Judgement;

    /// When clients were told of changes that were acknowledged, where that is to be measured.
    fn told(&self, _history: &[Record]) -> Vec<Told> {
        Vec::new()
    }

    /// What the world must have beside servers that speak HTTP.
    fn needs(&self) -> &'static [Need] {
        &[]
    }

    /// Removes what the round has left, but for keys below [`Client::key`], so that the next round finds the cluster as this one did.
    async fn clear(&self, _client: &mut Client) -> Result<(), String> {
        Ok(())
    }
}

/// A client was told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// When the change was acknowledged, in nanoseconds since the beginning of the round.
    pub acknowledged_ns: u64,
    /// When the client had the answer.
    pub told_ns: u64,
}

/// What all clients of a round share.
pub struct Shared {
    seed: u64,
    /// Keys and names of a round are its own.
    round: u64,
    servers: usize,
    agents: usize,
    /// The number of the other datacenter's agent, if there is one.
    far: usize,
    /// The longest that a client thinks before it asks, in milliseconds.
    think_ms_max: u64,
    /// How often each server was started, each agent, the caller's sidecar, the other datacenter's agent and the sidecar of who calls there: they are
    /// numbered in this order.
    lives: Vec<Arc<AtomicU32>>,
    started: Instant,
    stop: AtomicBool,
    history: Mutex<Vec<Record>>,
    next: AtomicU64,
}

/// One client of one workload.
pub struct Client {
    /// Which of the workload's clients this is.
    pub number: usize,
    /// For its choices.
    pub rng: Rng,
    /// How long it waits for an answer, whose outcome is then unknown. Five seconds, unless its workload says otherwise.
    pub patience: Duration,
    workload: &'static str,
    shared: Arc<Shared>,
    http: Http,
}

impl Shared {
    /// A round that begins now, on so many servers as there are counters of their lives.
    pub fn new(seed: u64, round: u64, lives: Vec<Arc<AtomicU32>>) -> Self {
        Self {
            seed,
            round,
            servers: lives.len(),
            agents: 0,
            far: 0,
            think_ms_max: 0,
            lives,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    /// Clients think before they ask, up to so many milliseconds, where a world is to be less busy.
    #[must_use]
    pub fn thinking(self, think_ms_max: u64) -> Self {
        Self { think_ms_max, ..self }
    }

    /// The same with agents: their HTTP ports are reached as the servers' are, by the numbers that come next.
    pub fn with_agents(mut self, lives: Vec<Arc<AtomicU32>>) -> Self {
        self.agents = lives.len();
        self.lives.extend(lives);
        self
    }

    /// And with a sidecar, behind whose listener another service is called: after the agents.
    pub fn with_upstream(mut self, life: Option<Arc<AtomicU32>>) -> Self {
        self.lives.extend(life);
        self
    }

    /// And with another datacenter: its agent, and the sidecar behind whose listener a service there is called. After all others.
    pub fn with_datacenter(mut self, lives: Vec<Arc<AtomicU32>>) -> Self {
        self.far = self.lives.len();
        self.lives.extend(lives);
        self
    }

    /// Time since the beginning of the round.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The beginning of the round.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Tells the clients that it is enough.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What was done so far.
    pub fn history(&self) -> MutexGuard<'_, Vec<Record>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Below this lie all keys of the round.
    pub(crate) fn prefix(&self) -> String {
        format!("jlt/{}", self.round)
    }

    pub(crate) fn servers(&self) -> usize {
        self.servers
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Client {
    /// The client of this number; the one after the last makes the final reads.
    pub fn new(shared: Arc<Shared>, wire: Rc<dyn Wire>, workload: &'static str, number: usize) -> Self {
        let name = workload.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let rng = Rng::new(shared.seed ^ name, number as u64 + 1);
        let http = Http::new(wire, shared.lives.len());
        Self { number, rng, patience: ANSWER_PATIENCE, workload, shared, http }
    }

    /// Whether there is still something to do.
    pub fn goes_on(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed)
    }

    /// Which round of a soak it is; 0 is the first, or the only one.
    pub fn round(&self) -> u64 {
        self.shared.round
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.shared.servers
    }

    /// How many agents there are.
    pub fn agents(&self) -> usize {
        self.shared.agents
    }

    /// The number by which an agent is asked.
    pub fn agent(&self, agent: usize) -> usize {
        self.shared.servers + agent
    }

    /// The number by which another service is called.
    pub fn upstream(&self) -> usize {
        self.shared.servers + self.shared.agents
    }

    /// The number by which the other datacenter's agent is asked.
    pub fn far_agent(&self) -> usize {
        self.shared.far
    }

    /// The number by which a service of the other datacenter is called.
    pub fn far_upstream(&self) -> usize {
        self.shared.far + 1
    }

    /// A server chosen at random.
    pub fn any_server(&mut self) -> usize {
        self.rng.below(self.shared.servers)
    }

    /// A number that nobody else of this round gets.
    pub fn unique(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A key of this round and workload.
    pub fn key(&self, name: impl std::fmt::Display) -> String {
        format!("{}/{}/{name}", self.shared.prefix(), self.workload)
    }

    /// A name, for example of a node, that no other round has.
    pub fn named(&self, name: impl std::fmt::Display) -> String {
        format!("jlt-{}-{name}", self.shared.round)
    }

    /// Waits so long, or until it is enough.
    pub async fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.goes_on() && Instant::now() < until {
            tokio::time::sleep((until - Instant::now()).min(BACK_OFF)).await;
        }
    }

    /// Waits a random time, in milliseconds.
    pub async fn think(&mut self, least_ms: u64, most_ms: u64) {
        let time = self.rng.between_ms(least_ms, most_ms);
        tokio::time::sleep(time).await;
    }

    /// Asks a server, and records what was asked and what came of it. After an error it waits a moment.
    pub async fn ask<C: Serialize, S: Serialize>(
        &mut self,
        server: usize,
        call: C,
        send: impl AsyncFnOnce(&mut Api<'_>) -> Result<S, Failure>,
    ) -> Result<S, Failure> {
        if self.shared.think_ms_max > 0 {
            self.think(0, self.shared.think_ms_max).await;
        }
        let life = self.shared.lives[server].load(Ordering::SeqCst);
        let start_ns = self.shared.now_ns();
        let answer = send(&mut Api::new(&mut self.http, server, self.patience)).await;
        let end_ns = self.shared.now_ns();
        // Invariant: calls and answers are plain structs and enums with text keys, which always have a JSON form.
        let json = |value: serde_json::Result<serde_json::Value>| value.expect("a call or answer has a JSON form");
        let outcome = match &answer {
            Ok(seen) => Outcome::Ok(json(serde_json::to_value(seen))),
            Err(Failure::Failed(why)) => Outcome::Failed(why.clone()),
            Err(Failure::Unknown(why)) => Outcome::Unknown(why.clone()),
        };
        let call = json(serde_json::to_value(call));
        let workload = self.workload.to_owned();
        let record = Record { workload, client: self.number, server, life, call, outcome, start_ns, end_ns };
        self.shared.history().push(record);
        if answer.is_err() {
            tokio::time::sleep(BACK_OFF).await;
        }
        answer
    }

    /// Asks a healed cluster until a server answers.
    pub async fn insist<C: Serialize + Clone, S: Serialize>(
        &mut self,
        call: C,
        send: impl AsyncFn(&mut Api<'_>) -> Result<S, Failure>,
    ) -> Result<S, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let server = self.any_server();
            match self.ask(server, call.clone(), &send).await {
                Ok(seen) => return Ok(seen),
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("{}: the healed cluster does not answer: {error:?}", self.workload));
                }
                Err(_) => {}
            }
        }
    }

    /// Asks one node of a healed cluster until it answers, without a record.
    pub async fn insist_of<S>(
        &mut self,
        node: usize,
        send: impl AsyncFn(&mut Api<'_>) -> Result<S, Failure>,
    ) -> Result<S, String> {
        let ask = async |client: &mut Client| send(&mut client.api(node)).await.map_err(|error| format!("{error:?}"));
        self.patiently(ask).await.map_err(|error| format!("{}: {node} does not answer: {error}", self.workload))
    }

    /// Tries until something comes of it, as long as a healed cluster may take.
    pub async fn patiently<S, E>(&mut self, attempt: impl AsyncFn(&mut Client) -> Result<S, E>) -> Result<S, E> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match attempt(self).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(BACK_OFF).await,
                done => return done,
            }
        }
    }

    /// One server, without a record.
    pub fn api(&mut self, server: usize) -> Api<'_> {
        Api::new(&mut self.http, server, self.patience)
    }
}
