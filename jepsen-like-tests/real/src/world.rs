//! Plain agents on machines of their own, beside the servers of a cluster, and sidecars there; and who troubles them, by the same plan but at times of their own.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jlt_core::plan::{Fault, Plan};
use jlt_core::rng::Rng;
use jlt_net::Network;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster::{HTTP_PORT, MACHINES, READY_TIMEOUT, SECRET, SERVERS};
use crate::http;
use far::Far;
use fate::Fate;
use program::{Ground, Program};

mod far;
mod fate;
mod program;

/// How many machines there are beside the clients' and the servers'.
pub(crate) const ALL_MACHINES: usize = AGENTS + far::MACHINES;

/// How many agents there are when a workload needs some.
const AGENTS: usize = 2;

/// Consul's port for proxies.
const GRPC_PORT: u16 = 8502;

/// Where applications listen.
const APPLICATION_PORT: u16 = 9090;

/// Where `web`'s sidecar listens for calls to `api`.
const UPSTREAM_PORT: u16 = 9191;

/// How often the troubled agents are looked at.
const TICK: Duration = Duration::from_millis(20);

/// Between two troubles of one agent, in milliseconds.
const PAUSE_MS: (u64, u64) = (1_000, 5_000);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The agents and what runs beside them; all end with this value.
pub(crate) struct Agents {
    ground: Ground,
    agents: Vec<Program>,
    /// Of the services `web` at the first agent and `api` at the second.
    sidecars: Vec<Program>,
    /// The application `api`.
    application: Option<Program>,
    /// A second datacenter.
    far: Option<Far>,
}

/// What is wrong with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Killed,
    /// Its sidecar is.
    SidecarKilled,
    Frozen,
    /// It reaches no server, but its clients reach it.
    CutOff,
    /// It reaches all servers but this one.
    CutFrom(usize),
}

/// The machine of an agent: the first is the clients', then come the servers'.
fn machine(agent: usize) -> usize {
    1 + MACHINES + agent
}

/// The name of an agent's node.
fn name(agent: usize) -> String {
    format!("a{}", agent + 1)
}

impl Agents {
    /// None yet.
    pub(crate) fn new(binary: &Path, folder: &Path, network: &Arc<Network>) -> Result<Self, String> {
        let ground = Ground::new(binary, folder, network)?;
        Ok(Self { ground, agents: Vec::new(), sidecars: Vec::new(), application: None, far: None })
    }

    /// Starts them, and waits until they speak with servers.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        for agent in 0..AGENTS {
            let servers: Vec<usize> = (1..=SERVERS).collect();
            let arguments = agent_arguments(&self.ground, &name(agent), machine(agent), &servers);
            self.agents.push(Program::new(&name(agent), machine(agent), arguments));
        }
        self.heal()
    }

    /// Starts `web` and `api` with their sidecars, and waits until the one can be asked for the other.
    pub(crate) fn start_sidecars(&mut self) -> Result<(), String> {
        let web = Network::address(machine(0));
        let upstream = json!({"DestinationName": "api", "LocalBindAddress": web, "LocalBindPort": UPSTREAM_PORT});
        register(machine(0), "web", APPLICATION_PORT, &json!([upstream]))?;
        register(machine(1), "api", APPLICATION_PORT, &json!([]))?;
        let mut application = application("api", "api", machine(1), APPLICATION_PORT);
        application.start(&self.ground)?;
        self.application = Some(application);
        for (agent, service) in ["web", "api"].into_iter().enumerate() {
            let what = ["proxy".to_owned(), format!("-sidecar-for={service}")];
            self.sidecars.push(proxy(&format!("{service}-sidecar"), machine(agent), &what));
        }
        self.heal()
    }

    /// Starts a second datacenter, with a service there that is called from here.
    pub(crate) fn start_datacenter(&mut self) -> Result<(), String> {
        self.far = Some(Far::start(&self.ground)?);
        Ok(())
    }

    /// The agents' nodes.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        (0..self.agents.len()).map(name)
    }

    pub(crate) fn lives(&self) -> Vec<Arc<AtomicU32>> {
        self.agents.iter().map(|agent| Arc::clone(&agent.lives)).collect()
    }

    /// How often the caller's sidecar was started.
    pub(crate) fn upstream_life(&self) -> Option<Arc<AtomicU32>> {
        self.sidecars.first().map(|sidecar| Arc::clone(&sidecar.lives))
    }

    /// How often the second datacenter's agent was started, and the sidecar of who calls there. None without a second datacenter.
    pub(crate) fn far_lives(&self) -> Vec<Arc<AtomicU32>> {
        self.far.as_ref().map(Far::lives).unwrap_or_default()
    }

    /// Where clients send their requests: to the agents; if there are sidecars, to `api` by way of `web`'s; and where the second datacenter is reached.
    pub(crate) fn http_addresses(&self) -> Vec<SocketAddr> {
        let agents = (0..self.agents.len()).map(|agent| http_address(machine(agent)));
        let far = self.far.as_ref().map(Far::http_addresses).unwrap_or_default();
        agents.chain(self.upstream()).chain(far).collect()
    }

    fn upstream(&self) -> Option<SocketAddr> {
        self.sidecars.first().map(|_| SocketAddr::new(IpAddr::V4(Network::address(machine(0))), UPSTREAM_PORT))
    }

    /// Ends all troubles, and waits until each agent reaches a leader and the caller's sidecar listens.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        for agent in 0..self.agents.len() {
            for trouble in [Trouble::Killed, Trouble::Frozen, Trouble::CutOff, Trouble::SidecarKilled] {
                self.end(agent, trouble)?;
            }
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.is_ready() {
            if Instant::now() > deadline {
                let folder = self.ground.folder.display();
                return Err(format!("an agent reaches no leader within {READY_TIMEOUT:?}; the logs are in {folder}"));
            }
            self.revive_sidecars()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        self.far.as_mut().map_or(Ok(()), Far::heal)
    }

    fn is_ready(&self) -> bool {
        (0..self.agents.len()).all(|agent| knows_leader(machine(agent))) && self.upstream().is_none_or(listens)
    }

    /// Troubles them until it is told to stop, and ends all troubles. Returns what broke a guarantee, in words.
    pub(crate) fn run(&mut self, plan: &Plan, started: Instant, stop: &AtomicBool) -> Result<Vec<String>, String> {
        let mut ended = Vec::new();
        let fate = |agent: usize| Fate::new(plan, agent as u64, PAUSE_MS, trouble);
        let mut fates: Vec<Fate<Trouble>> = (0..self.agents.len()).map(fate).collect();
        let mut far_fates = Far::fates(plan);
        while !stop.load(Ordering::Relaxed) {
            let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            for (agent, fate) in fates.iter_mut().enumerate() {
                let step = fate.step(now_ms);
                self.ground.tell(now_ms, &name(agent), step);
                match step {
                    Some((trouble, true)) => self.begin(agent, trouble)?,
                    Some((trouble, false)) => self.end(agent, trouble)?,
                    None => {}
                }
                if let Some(how) = self.agents[agent].ended() {
                    ended.push(format!("{} ended by itself ({how})", name(agent)));
                    self.end(agent, Trouble::Killed)?;
                }
            }
            self.revive_sidecars()?;
            if let Some(far) = &mut self.far {
                ended.extend(far.step(&mut far_fates, now_ms)?);
            }
            std::thread::sleep(TICK);
        }
        for (agent, fate) in fates.iter().enumerate() {
            if let Some(trouble) = fate.current() {
                self.end(agent, trouble)?;
            }
        }
        for trouble in far_fates.iter().filter_map(Fate::current) {
            self.far.as_mut().map_or(Ok(()), |far| far.end(trouble))?;
        }
        Ok(ended)
    }

    fn begin(&mut self, agent: usize, trouble: Trouble) -> Result<(), String> {
        match trouble {
            Trouble::Killed => self.agents[agent].kill(),
            Trouble::SidecarKilled => self.sidecars.get_mut(agent).into_iter().for_each(Program::kill),
            Trouble::Frozen => self.agents[agent].signal(Signal::SIGSTOP)?,
            Trouble::CutOff => self.cut(agent, 0..MACHINES, true),
            Trouble::CutFrom(server) => self.cut(agent, server..server + 1, true),
        }
        Ok(())
    }

    fn end(&mut self, agent: usize, trouble: Trouble) -> Result<(), String> {
        match trouble {
            Trouble::Killed => self.agents[agent].start(&self.ground),
            Trouble::SidecarKilled => {
                let mut sidecar = self.sidecars.get_mut(agent).into_iter();
                sidecar.try_for_each(|sidecar| sidecar.start(&self.ground))
            }
            Trouble::Frozen => self.agents[agent].signal(Signal::SIGCONT),
            Trouble::CutOff | Trouble::CutFrom(_) => {
                self.cut(agent, 0..MACHINES, false);
                Ok(())
            }
        }
    }

    fn cut(&self, agent: usize, servers: Range<usize>, is_cut: bool) {
        for server in servers {
            self.ground.network.part(machine(agent), server + 1, is_cut);
        }
    }

    /// A sidecar that finds no agent ends, and is started again, as a service manager would.
    fn revive_sidecars(&mut self) -> Result<(), String> {
        self.sidecars.iter_mut().try_for_each(|sidecar| sidecar.revive(&self.ground))
    }
}

fn trouble(kind: Fault, rng: &mut Rng) -> Trouble {
    match kind {
        Fault::Kill | Fault::Power if rng.below(2) == 0 => Trouble::SidecarKilled,
        Fault::Kill | Fault::Power => Trouble::Killed,
        Fault::Pause => Trouble::Frozen,
        _ if rng.below(3) == 0 => Trouble::CutFrom(rng.below(SERVERS)),
        _ => Trouble::CutOff,
    }
}

/// A plain agent, and the machines of the servers that it looks for.
fn agent_arguments(ground: &Ground, name: &str, machine: usize, servers: &[usize]) -> Vec<String> {
    let address = Network::address(machine);
    let own = [
        "agent".to_owned(),
        format!("-encrypt={SECRET}"),
        format!("-node={name}"),
        format!("-bind={address}"),
        format!("-client={address}"),
        format!("-data-dir={}", ground.folder.join(name).display()),
    ];
    own.into_iter().chain(servers.iter().map(|server| format!("-retry-join={}", Network::address(*server)))).collect()
}

/// An application that answers with this name, for its sidecar alone.
fn application(program: &str, name: &str, machine: usize, port: u16) -> Program {
    let arguments = ["demo".to_owned(), "service".to_owned(), format!("-name={name}")];
    let listen = format!("-listen=127.0.0.1:{port}");
    Program::new(program, machine, arguments.into_iter().chain([listen]).collect())
}

/// A sidecar or gateway with the agent of its machine.
fn proxy(name: &str, machine: usize, what: &[String]) -> Program {
    let at = Network::address(machine);
    let control = [format!("-http-addr={at}:{HTTP_PORT}"), format!("-grpc-addr={at}:{GRPC_PORT}")];
    let arguments = ["connect".to_owned()].into_iter().chain(what.iter().cloned()).chain(control);
    Program::new(name, machine, arguments.collect())
}

/// Registers a service with a sidecar at the agent of a machine.
fn register(machine: usize, service: &str, port: u16, upstreams: &serde_json::Value) -> Result<(), String> {
    let sidecar = json!({"Proxy": {"Upstreams": upstreams}});
    let body = json!({"Name": service, "Port": port, "Connect": {"SidecarService": sidecar}}).to_string();
    let (path, address) = ("/v1/agent/service/register", http_address(machine));
    match http::request(address, "PUT", path, body.as_bytes(), REQUEST_TIMEOUT) {
        Ok(reply) if reply.status == 200 => Ok(()),
        other => Err(format!("{service} cannot be registered at {address}: {other:?}")),
    }
}

fn http_address(machine: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Network::address(machine)), HTTP_PORT)
}

fn knows_leader(machine: usize) -> bool {
    http::request(http_address(machine), "GET", "/v1/status/leader", b"", REQUEST_TIMEOUT)
        .is_ok_and(|reply| reply.status == 200 && reply.body.len() > 4)
}

fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, REQUEST_TIMEOUT).is_ok()
}
