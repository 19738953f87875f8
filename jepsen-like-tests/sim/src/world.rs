//! The simulated world: servers with their disks on a network, of which one seed decides everything.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent::{Agent, AgentConfig, Home};
use faults::Point;
use identity::JoinSecret;
use jlt_core::rng::Rng;
use raft::disk::fault::{FaultDisk, Faults};
use server::{RaftLog, Server, ServerConfig};
use turmoil::{Builder, Sim};

use crate::clients::Places;
use crate::node::{self, HTTP_PORT, RPC_PORT, Running};
use crate::trace::Trace;
use crate::{agents, crash, sidecars};

/// A message takes from the first to the second of these, unless it is delayed.
pub(crate) const LATENCY: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(3));

/// Sessions may live as shortly as the workloads ask for first, as in real clusters (`real/src/cluster.rs`).
const SESSION_TTL_MIN: Duration = Duration::from_secs(2);
/// A sync takes so long.
pub(crate) const SYNC_US: u64 = 1_000;
/// The host of all clients.
pub(crate) const CLIENTS: &str = "clients";
pub(crate) const SECRET: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// Everything there is.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    pub(crate) servers: Vec<Node>,
    pub(crate) agents: Vec<agents::Host>,
    pub(crate) sidecars: Vec<sidecars::Host>,
    pub(crate) trace: Trace,
    /// Servers that died by themselves at a point of their code, and whom nobody has started again.
    pub(crate) died: Vec<usize>,
    /// How often that was at which point.
    pub(crate) deaths: BTreeMap<Point, u64>,
    seed: u64,
    steps: u64,
}

/// A server with its own agent, and what belongs to it.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) disk: FaultDisk,
    folder: PathBuf,
    running: Rc<RefCell<Option<(Server, Agent)>>>,
    /// How often it was started.
    lives: Arc<AtomicU32>,
}

impl World {
    /// A world of so many servers and agents, and sidecars if somebody needs them. Nothing has begun to run. What is kept in real files lies
    /// below `folder`.
    pub(crate) fn new(
        seed: u64,
        servers: usize,
        agents: usize,
        has_sidecars: bool,
        folder: &Path,
        trace: Trace,
    ) -> Result<Self, Box<dyn Error>> {
        let sim = Builder::new()
            .rng_seed(seed)
            .enable_random_order()
            .simulation_duration(Duration::from_secs(1_000_000))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            .tcp_capacity(64 * 1024)
            .build();
        let names: Vec<String> = (1..=servers).map(|number| format!("s{number}")).collect();
        let addresses: Vec<IpAddr> = names.iter().map(|name| sim.lookup(name.as_str())).collect();
        let mut world = Self {
            sim,
            servers: Vec::new(),
            agents: Vec::new(),
            sidecars: Vec::new(),
            trace,
            died: Vec::new(),
            deaths: BTreeMap::new(),
            seed,
            steps: 0,
        };
        for (at, name) in names.iter().enumerate() {
            let node = Node::new(name, addresses[at], folder);
            let mut config = node.config(at, &addresses)?;
            config.log = log(seed);
            world.host(at, &node, config);
            world.servers.push(node);
        }
        for number in 1..=agents {
            let name = agents::name(number);
            let agent = agents::Host::new(number, world.sim.lookup(name.as_str()), folder);
            world.sim.host(name.as_str(), agent.software(&addresses)?);
            world.agents.push(agent);
        }
        if has_sidecars {
            world.sidecars = sidecars::Host::all(&mut world.sim, &world.agents);
        }
        let others = world.agents.iter().map(|agent| agent.name.clone()).chain([CLIENTS.to_owned()]);
        let names: Vec<String> = names.into_iter().chain(others).collect();
        crash::init(world.servers.iter().map(|node| node.end(&names)).collect());
        Ok(world)
    }

    fn host(&mut self, at: usize, node: &Node, config: ServerConfig) {
        let (disk, running, lives) = (node.disk.clone(), Rc::clone(&node.running), Arc::clone(&node.lives));
        let (agent, folder) = (node.agent_config(at), node.agent_folder());
        self.sim.host(node.name.as_str(), move || {
            lives.fetch_add(1, Ordering::SeqCst);
            let (disk, running) = (Arc::new(disk.clone()), Rc::clone(&running));
            Box::pin(run(disk, config.clone(), agent.clone(), folder.clone(), running)) as Running
        });
    }

    /// Who can be asked.
    pub(crate) fn places(&self) -> Places {
        let http = |address| SocketAddr::new(address, HTTP_PORT);
        Places {
            servers: self.servers.iter().map(|node| (http(node.address), Arc::clone(&node.lives))).collect(),
            agents: self.agents.iter().map(|agent| (http(agent.address), Arc::clone(&agent.lives))).collect(),
            upstream: self.sidecars.first().map(|sidecar| (sidecar.upstream(), Arc::clone(&sidecar.lives))),
            services: self.sidecars.iter().map(sidecars::Host::registration).collect(),
        }
    }

    /// Lets a millisecond pass. `Err` says which server has ended, and why.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        self.trace.set_time(self.steps);
        let stepped = self.sim.step();
        if let Some((server, point)) = crash::take() {
            self.has_died(server, point);
            return Ok(());
        }
        stepped.map(|_finished| ()).map_err(|error| error.to_string())
    }

    /// Half of those who die at a point lose their power.
    fn has_died(&mut self, server: usize, point: Point) {
        self.trace.note(&format!("{} died at {}", self.servers[server].name, point.name()));
        self.servers[server].disk.take_over();
        self.servers[server].stores().iter().for_each(|store| store::set_left(store, false));
        match Rng::new(self.seed, self.steps).below(2) {
            0 => self.kill(server),
            _ => self.cut_power(server, self.seed ^ self.steps),
        }
        self.died.push(server);
        *self.deaths.entry(point).or_default() += 1;
    }

    /// Simulated milliseconds since the servers began.
    pub(crate) fn now_ms(&self) -> u64 {
        self.steps
    }

    /// Ends a server as `kill -9` does.
    pub(crate) fn kill(&mut self, at: usize) {
        self.servers[at].running.take();
        let name = self.servers[at].name.clone();
        self.trace.note(&format!("kill {name}"));
        self.sim.crash(name);
    }

    /// Ends a server by a power cut: of what was not synced, each block survives or not, by the seed.
    pub(crate) fn cut_power(&mut self, at: usize, seed: u64) {
        self.kill(at);
        let node = &self.servers[at];
        node.disk.cut_power(seed);
        node.stores().iter().for_each(|store| store::cut_power(store, (seed % 4) as usize));
    }

    /// Ends an agent as `kill -9` does.
    pub(crate) fn kill_agent(&mut self, at: usize) {
        self.agents[at].forget();
        let name = self.agents[at].name.clone();
        self.trace.note(&format!("kill {name}"));
        self.sim.crash(name);
    }

    /// Ends a sidecar so, and its application.
    pub(crate) fn kill_sidecar(&mut self, at: usize) {
        self.sidecars[at].forget();
        let name = self.sidecars[at].name;
        self.trace.note(&format!("kill {name}"));
        self.sim.crash(name);
    }

    /// Starts an agent or a sidecar that was ended.
    pub(crate) fn start_host(&mut self, name: &str) {
        self.trace.note(&format!("start {name}"));
        self.sim.bounce(name);
    }

    /// Cuts an agent off from a server, or joins them again.
    pub(crate) fn part(&self, agent: usize, server: usize, is_apart: bool) {
        let (agent, server) = (self.agents[agent].name.as_str(), self.servers[server].name.as_str());
        match is_apart {
            true => self.sim.partition(agent, server),
            false => self.sim.repair(agent, server),
        }
    }

    /// Starts a server that was ended.
    pub(crate) fn start(&mut self, at: usize) {
        self.start_host(&self.servers[at].name.clone());
    }
}

async fn run(
    disk: Arc<FaultDisk>,
    config: ServerConfig,
    agent: AgentConfig,
    agent_folder: PathBuf,
    running: Rc<RefCell<Option<(Server, Agent)>>>,
) -> turmoil::Result {
    let server = Server::start_on(disk, config).await?;
    let agent = node::start_agent(agent, server.rpc_identity().clone(), &agent_folder)?;
    let (router, lookup) = (server.http_router().merge(agent.router_local()), server.dns_lookup());
    running.replace(Some((server, agent.clone())));
    node::serve(router, Arc::new(lookup), &agent).await
}

/// Small ones, so that a short run has many snapshots and segments; each seed has its own.
fn log(seed: u64) -> RaftLog {
    let mut rng = Rng::new(seed, 300);
    RaftLog {
        snapshot_every_entries: 30 + rng.below(170) as u64,
        entries_kept: rng.below(60) as u64,
        segment_bytes: (16 * 1024) << rng.below(5),
        cache_bytes_max: (4 * 1024) << rng.below(5),
    }
}

/// The id of a server's node.
fn id(at: usize) -> String {
    format!("00000000-0000-0000-0000-{at:012}")
}

impl Node {
    fn new(name: &str, address: IpAddr, folder: &Path) -> Self {
        let disk = FaultDisk::new();
        disk.set(Faults { sync_us: SYNC_US, ..Faults::default() });
        Self {
            name: name.to_owned(),
            address,
            disk,
            folder: folder.join(name),
            running: Rc::default(),
            lives: Arc::default(),
        }
    }

    fn config(&self, at: usize, servers: &[IpAddr]) -> Result<ServerConfig, Box<dyn Error>> {
        let bind = SocketAddr::from(([0, 0, 0, 0], RPC_PORT));
        let secret = JoinSecret::parse(SECRET)?;
        let mut config = ServerConfig::new(&self.folder, &self.name, "dc1", bind, secret);
        config.rpc_advertise = Some(SocketAddr::new(self.address, RPC_PORT));
        config.node_id = id(at);
        config.bootstrap_expect = servers.len() as u32;
        config.session_ttl_min = SESSION_TTL_MIN;
        config.retry_join = servers.iter().map(|server| SocketAddr::new(*server, RPC_PORT).to_string()).collect();
        Ok(config)
    }

    /// That of its own agent.
    fn agent_config(&self, at: usize) -> AgentConfig {
        let home = Home::Own(SocketAddr::new(self.address, RPC_PORT).to_string());
        node::agent_config(&id(at), &self.name, self.address, home)
    }

    fn agent_folder(&self) -> PathBuf {
        self.folder.join("agent")
    }

    /// What it keeps beside the log: Raft's vote and the like, and what its agent must not forget.
    fn stores(&self) -> [PathBuf; 2] {
        [self.folder.join("raft/store"), self.agent_folder()]
    }

    /// What cuts this server from its disk and from all others, from within its code.
    fn end(&self, names: &[String]) -> Box<dyn Fn() + Send> {
        let (name, disk, stores) = (self.name.clone(), self.disk.clone(), self.stores());
        let others: Vec<String> = names.iter().filter(|other| **other != name).cloned().collect();
        Box::new(move || {
            disk.leave();
            stores.iter().for_each(|store| store::set_left(store, true));
            others.iter().for_each(|other| turmoil::partition_oneway(name.as_str(), other.as_str()));
        })
    }

    /// The server, while it runs.
    pub(crate) fn server(&self) -> Option<Server> {
        self.running.borrow().as_ref().map(|(server, _agent)| server.clone())
    }

    /// How often it was started.
    pub(crate) fn lives(&self) -> u32 {
        self.lives.load(Ordering::SeqCst)
    }
}
