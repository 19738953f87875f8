//! The simulated world: servers with their disks on a network, of which one seed decides everything.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use faults::Point;
use jlt_core::rng::Rng;
use jlt_workloads::Need;
use turmoil::{Builder, Sim};

use crate::clients::{At, Places};
use crate::far::Far;
use crate::node::{Cluster, HTTP_PORT};
use crate::proxies::{self, Role};
use crate::trace::Trace;
use crate::{agents, crash, servers};

/// A message takes from the first to the second of these, unless it is delayed.
pub(crate) const LATENCY: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(3));

/// The host of all clients.
pub(crate) const CLIENTS: &str = "clients";

/// Agents that the services need.
pub(crate) const AGENTS: usize = 2;

/// Everything there is.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    pub(crate) servers: Vec<servers::Node>,
    pub(crate) agents: Vec<agents::Host>,
    /// `web`, at the first agent, which calls `api`, at the second; if somebody needs them.
    pub(crate) services: Vec<proxies::Host>,
    /// The other datacenter, if somebody needs it.
    pub(crate) far: Option<Far>,
    pub(crate) trace: Trace,
    /// Servers that died by themselves at a point of their code, and whom nobody has started again.
    pub(crate) died: Vec<usize>,
    /// How often that was at which point.
    pub(crate) deaths: BTreeMap<Point, u64>,
    seed: u64,
    steps: u64,
}

impl World {
    /// A world of so many servers and agents, and what else is needed. Nothing has begun to run. What is kept in real files lies below `folder`.
    pub(crate) fn new(
        seed: u64,
        (servers, agents): (usize, usize),
        needs: &[Need],
        folder: &Path,
        trace: Trace,
    ) -> Result<Self, Box<dyn Error>> {
        let mut world = Self {
            sim: network(seed),
            servers: Vec::new(),
            agents: Vec::new(),
            services: Vec::new(),
            far: None,
            trace,
            died: Vec::new(),
            deaths: BTreeMap::new(),
            seed,
            steps: 0,
        };
        world.add_nodes(servers, agents, folder)?;
        if needs.contains(&Need::Sidecars) {
            let roles = [("web", Some(("api", "dc1"))), ("api", None)];
            for ((name, calls), agent) in roles.into_iter().zip(&world.agents) {
                let service = proxies::Host::new(&mut world.sim, name, Role::Service { name, calls }, agent);
                world.services.push(service);
            }
        }
        if needs.contains(&Need::Datacenter) {
            let primary: Vec<IpAddr> = world.servers.iter().map(|server| server.address).collect();
            world.far = Some(Far::new(&mut world.sim, &primary, &world.agents, folder)?);
        }
        let others = world.others();
        let names: Vec<String> = world.servers.iter().map(|server| server.name.clone()).chain(others).collect();
        crash::init(world.servers.iter().map(|server| server.end(&names)).collect());
        Ok(world)
    }

    fn add_nodes(&mut self, servers: usize, agents: usize, folder: &Path) -> Result<(), Box<dyn Error>> {
        let id = |kind: u8, number: usize| format!("00000000-0000-0000-{kind:04}-{number:012}");
        let sim = &mut self.sim;
        let server = |number: usize| servers::Node::new(&format!("s{number}"), &id(0, number), sim, folder);
        self.servers = (1..=servers).map(server).collect();
        let addresses = self.servers.iter().map(|server| server.address).collect();
        let cluster = Cluster { datacenter: "dc1", servers: addresses, primary: Vec::new() };
        for server in &self.servers {
            server.host(sim, &cluster, servers::log(self.seed))?;
        }
        for number in 1..=agents {
            let agent = agents::Host::new(&agents::name(number), &id(1, number), sim, folder);
            agent.host(sim, &cluster)?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// The hosts that are no servers of the first datacenter, and speak with them.
    pub(crate) fn others(&self) -> Vec<String> {
        let agents = self.agents.iter().map(|agent| agent.name.clone());
        agents.chain(self.far.as_ref().map(|far| far.server.name.clone())).chain([CLIENTS.to_owned()]).collect()
    }

    /// Who can be asked.
    pub(crate) fn places(&self) -> Places {
        let http = |address, lives: &Arc<_>| (SocketAddr::new(address, HTTP_PORT), Arc::clone(lives));
        let upstream = |service: &proxies::Host| (service.upstream(), Arc::clone(&service.lives));
        let far = |far: &Far| vec![http(far.agent.address, &far.agent.lives), upstream(&far.services[0])];
        let near = self.services.iter().enumerate().map(|(agent, service)| (At::Agent(agent), service.registration()));
        Places {
            servers: self.servers.iter().map(|server| http(server.address, &server.lives)).collect(),
            agents: self.agents.iter().map(|agent| http(agent.address, &agent.lives)).collect(),
            upstream: self.services.first().map(upstream),
            far: self.far.as_ref().map(far).unwrap_or_default(),
            services: near.chain(self.far.iter().flat_map(Far::registrations)).collect(),
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
        self.kill_host(&self.servers[at].name.clone());
    }

    /// Ends a server by a power cut: of what was not synced, each block survives or not, by the seed.
    pub(crate) fn cut_power(&mut self, at: usize, seed: u64) {
        self.kill(at);
        let node = &self.servers[at];
        node.disk.cut_power(seed);
        node.stores().iter().for_each(|store| store::cut_power(store, (seed % 4) as usize));
    }

    /// Ends what runs on a host as `kill -9` does.
    pub(crate) fn kill_host(&mut self, name: &str) {
        self.forget(name);
        self.trace.note(&format!("kill {name}"));
        self.sim.crash(name);
    }

    /// Lets go of what runs there.
    fn forget(&self, name: &str) {
        let servers = self.servers.iter().chain(self.far.as_ref().map(|far| &far.server));
        servers.filter(|server| server.name == name).for_each(servers::Node::forget);
        let agents = self.agents.iter().chain(self.far.as_ref().map(|far| &far.agent));
        agents.filter(|agent| agent.name == name).for_each(agents::Host::forget);
        let far = self.far.iter().flat_map(|far| far.gateways.iter().chain(&far.services));
        self.services.iter().chain(far).filter(|host| host.name == name).for_each(proxies::Host::forget);
    }

    /// Starts what was ended.
    pub(crate) fn start_host(&mut self, name: &str) {
        self.trace.note(&format!("start {name}"));
        self.sim.bounce(name);
    }

    /// Starts a server that was ended.
    pub(crate) fn start(&mut self, at: usize) {
        self.start_host(&self.servers[at].name.clone());
    }
}

fn network(seed: u64) -> Sim<'static> {
    Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .simulation_duration(Duration::from_secs(1_000_000))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(LATENCY.0)
        .max_message_latency(LATENCY.1)
        .tcp_capacity(64 * 1024)
        .udp_capacity(1_024)
        .build()
}
