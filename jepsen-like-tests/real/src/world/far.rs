//! A second datacenter, `dc2`: one server, an agent with the service `api2` and its sidecar, and a gateway in each datacenter with an agent beside it,
//! all on machines of their own. In the first datacenter, `web2` with a sidecar calls `api2` there; and there is another `api2` in the first one,
//! which nobody means.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use jlt_core::plan::{Fault, Plan};
use jlt_core::rng::Rng;
use jlt_net::Network;
use nix::sys::signal::Signal;
use serde_json::json;

use super::fate::Fate;
use super::program::{Ground, Program};
use super::{AGENTS, agent_arguments, knows_leader, listens, proxy, register};
use crate::cluster::{self, READY_TIMEOUT, SECRET, SERVERS};
use crate::http;

/// How many machines there are for it: the server's, the agent's, and one for the gateway of each datacenter.
pub(crate) const MACHINES: usize = 4;

/// After the clients', the servers' and the agents'.
const SERVER: usize = 1 + cluster::MACHINES + AGENTS;
const AGENT: usize = SERVER + 1;
/// Of the first datacenter, and of the second.
const GATEWAYS: [usize; 2] = [SERVER + 2, SERVER + 3];

/// Where `web2`'s sidecar listens for calls to `api2`.
const UPSTREAM_PORT: u16 = 9292;

/// Where the `api2` listens that is not meant; others have the usual port of its machine.
const DECOY_PORT: u16 = 9393;

/// Consul's port for gateways.
const GATEWAY_PORT: u16 = 8443;

/// Between two troubles, in milliseconds. Longer than an agent's, so that calls pass and denials come across in between.
const PAUSE_MS: (u64, u64) = (3_000, 9_000);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// It ends with this value.
pub(super) struct Far {
    ground: Ground,
    server: Program,
    /// Of the second datacenter, and beside each gateway.
    agents: Vec<Program>,
    gateways: Vec<Program>,
    applications: Vec<Program>,
    /// The first is `web2`'s.
    sidecars: Vec<Program>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    ServerKilled,
    ServerFrozen,
    GatewayKilled(usize),
    GatewayFrozen(usize),
    /// No machine of one datacenter reaches one of the other.
    Parted,
    /// The servers do not reach each other, but the gateways do.
    ServersParted,
    /// The gateways do not reach each other, but the servers do.
    GatewaysParted,
}

impl Far {
    /// Starts it, and waits until `web2` can call `api2`.
    pub(super) fn start(ground: &Ground) -> Result<Self, String> {
        let server = Program::new("t1", SERVER, server_arguments(ground));
        let primary: Vec<usize> = (1..=SERVERS).collect();
        let agent = |name: &str, machine: usize, servers: &[usize], datacenter: &str| {
            let mut arguments = agent_arguments(ground, name, machine, servers);
            arguments.extend([format!("-datacenter={datacenter}"), "-primary-datacenter=dc1".to_owned()]);
            Program::new(name, machine, arguments)
        };
        let agents = vec![
            agent("b1", AGENT, &[SERVER], "dc2"),
            agent("g1", GATEWAYS[0], &primary, "dc1"),
            agent("g2", GATEWAYS[1], &[SERVER], "dc2"),
        ];
        let (gateways, applications, sidecars) = (Vec::new(), Vec::new(), Vec::new());
        let mut far = Self { ground: ground.clone(), server, agents, gateways, applications, sidecars };
        far.heal()?;
        far.start_services()?;
        far.heal()?;
        far.wait_joined()?;
        Ok(far)
    }

    fn start_services(&mut self) -> Result<(), String> {
        let [caller, other] = [super::machine(0), super::machine(1)];
        let upstream = json!({
            "DestinationName": "api2", "Datacenter": "dc2",
            "LocalBindAddress": Network::address(caller), "LocalBindPort": UPSTREAM_PORT,
        });
        register(caller, "web2", super::APPLICATION_PORT, &json!([upstream]))?;
        register(AGENT, "api2", super::APPLICATION_PORT, &json!([]))?;
        register(other, "api2", DECOY_PORT, &json!([]))?;
        self.applications.push(super::application("api2", "api2", AGENT, super::APPLICATION_PORT));
        self.applications.push(super::application("decoy", "decoy", other, DECOY_PORT));
        for (at, machine) in GATEWAYS.into_iter().enumerate() {
            let place = SocketAddr::new(Network::address(machine).into(), GATEWAY_PORT);
            let what = ["gateway".to_owned(), "-register".to_owned(), format!("-address={place}")];
            self.gateways.push(proxy(&format!("gateway{}", at + 1), machine, &what));
        }
        for (name, machine, service) in
            [("web2-sidecar", caller, "web2"), ("api2-sidecar", AGENT, "api2"), ("decoy-sidecar", other, "api2")]
        {
            self.sidecars.push(proxy(name, machine, &["proxy".to_owned(), format!("-sidecar-for={service}")]));
        }
        Ok(())
    }

    /// How often its agent and the caller's sidecar were started.
    pub(super) fn lives(&self) -> Vec<Arc<AtomicU32>> {
        [&self.agents[0], &self.sidecars[0]].map(|program| Arc::clone(&program.lives)).into()
    }

    /// Its agent, and where `web2`'s sidecar listens for calls to `api2`.
    pub(super) fn http_addresses(&self) -> Vec<SocketAddr> {
        vec![super::http_address(AGENT), upstream()]
    }

    /// Ends all troubles, and waits until everybody reaches a leader and the caller's sidecar listens.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        for trouble in [Trouble::Parted, Trouble::GatewaysParted] {
            self.part(&pairs(trouble), false);
        }
        for program in self.everyone() {
            program.signal(Signal::SIGCONT)?;
        }
        let ground = self.ground.clone();
        self.everyone().try_for_each(|program| program.start(&ground))?;
        self.wait("an agent or server reaches no leader", |far| {
            let machines = [SERVER].into_iter().chain(far.agents.iter().map(|agent| agent.machine));
            machines.into_iter().all(knows_leader) && (far.sidecars.is_empty() || listens(upstream()))
        })
    }

    /// Waits until the first call has come through: nothing denies it yet.
    fn wait_joined(&mut self) -> Result<(), String> {
        self.wait("web2 cannot call api2", |_| {
            let answer = http::request(upstream(), "GET", "/", b"", REQUEST_TIMEOUT);
            answer.is_ok_and(|reply| reply.status == 200 && reply.body.starts_with(b"api2 "))
        })
    }

    fn wait(&mut self, what: &str, is_ready: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !is_ready(self) {
            if Instant::now() > deadline {
                let folder = self.ground.folder.display();
                return Err(format!("dc2: {what} within {READY_TIMEOUT:?}; the logs are in {folder}"));
            }
            self.revive()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn everyone(&mut self) -> impl Iterator<Item = &mut Program> {
        let services = self.gateways.iter_mut().chain(&mut self.applications).chain(&mut self.sidecars);
        [&mut self.server].into_iter().chain(&mut self.agents).chain(services)
    }

    /// What happens to it, and when: to the server and the ways to it, and to the gateways.
    pub(super) fn fates(plan: &Plan) -> Vec<Fate<Trouble>> {
        let choices = [of_server as fn(Fault, &mut Rng) -> Trouble, of_gateways];
        let number = |at: usize| (AGENTS + at) as u64;
        choices.into_iter().enumerate().map(|(at, choose)| Fate::new(plan, number(at), PAUSE_MS, choose)).collect()
    }

    /// Begins and ends what is due. Returns what broke a guarantee, in words.
    pub(super) fn step(&mut self, fates: &mut [Fate<Trouble>], now_ms: u64) -> Result<Vec<String>, String> {
        for fate in fates {
            let step = fate.step(now_ms);
            self.ground.tell(now_ms, "dc2", step);
            match step {
                Some((trouble, true)) => self.begin(trouble)?,
                Some((trouble, false)) => self.end(trouble)?,
                None => {}
            }
        }
        self.ended()
    }

    fn begin(&mut self, trouble: Trouble) -> Result<(), String> {
        match trouble {
            Trouble::ServerKilled => self.server.kill(),
            Trouble::ServerFrozen => self.server.signal(Signal::SIGSTOP)?,
            Trouble::GatewayKilled(at) => self.gateways[at].kill(),
            Trouble::GatewayFrozen(at) => self.gateways[at].signal(Signal::SIGSTOP)?,
            Trouble::Parted | Trouble::ServersParted | Trouble::GatewaysParted => self.part(&pairs(trouble), true),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, trouble: Trouble) -> Result<(), String> {
        match trouble {
            Trouble::ServerKilled => self.server.start(&self.ground),
            Trouble::ServerFrozen => self.server.signal(Signal::SIGCONT),
            Trouble::GatewayKilled(at) => self.gateways[at].start(&self.ground),
            Trouble::GatewayFrozen(at) => self.gateways[at].signal(Signal::SIGCONT),
            Trouble::Parted | Trouble::ServersParted | Trouble::GatewaysParted => {
                self.part(&pairs(trouble), false);
                Ok(())
            }
        }
    }

    fn part(&self, pairs: &[(usize, usize)], is_cut: bool) {
        pairs.iter().for_each(|(one, other)| self.ground.network.part(*one, *other, is_cut));
    }

    /// Servers and agents that ended by themselves, in words; all others are started again.
    fn ended(&mut self) -> Result<Vec<String>, String> {
        let mut ended = Vec::new();
        for program in [&mut self.server].into_iter().chain(&mut self.agents) {
            if let Some(how) = program.ended() {
                ended.push(format!("{} ended by itself ({how})", program.name));
                program.start(&self.ground)?;
            }
        }
        self.revive()?;
        Ok(ended)
    }

    /// A proxy that finds no agent ends.
    fn revive(&mut self) -> Result<(), String> {
        let mut proxies = self.gateways.iter_mut().chain(&mut self.sidecars);
        proxies.try_for_each(|program| program.revive(&self.ground))
    }
}

fn upstream() -> SocketAddr {
    SocketAddr::new(Network::address(super::machine(0)).into(), UPSTREAM_PORT)
}

fn of_server(kind: Fault, rng: &mut Rng) -> Trouble {
    match kind {
        Fault::Kill | Fault::Power => Trouble::ServerKilled,
        Fault::Pause => Trouble::ServerFrozen,
        _ if rng.below(2) == 0 => Trouble::ServersParted,
        _ => Trouble::Parted,
    }
}

fn of_gateways(kind: Fault, rng: &mut Rng) -> Trouble {
    let at = rng.below(GATEWAYS.len());
    match kind {
        Fault::Kill | Fault::Power => Trouble::GatewayKilled(at),
        Fault::Pause => Trouble::GatewayFrozen(at),
        _ => Trouble::GatewaysParted,
    }
}

/// The machines that do not reach each other. A cut is known by its pair: the gateways' own is the other way round, so that it stays when another ends.
fn pairs(trouble: Trouble) -> Vec<(usize, usize)> {
    match trouble {
        Trouble::Parted => everybody(),
        Trouble::ServersParted => (1..=cluster::MACHINES).map(|server| (server, SERVER)).collect(),
        Trouble::GatewaysParted => vec![(GATEWAYS[1], GATEWAYS[0])],
        Trouble::ServerKilled | Trouble::ServerFrozen | Trouble::GatewayKilled(_) | Trouble::GatewayFrozen(_) => {
            Vec::new()
        }
    }
}

/// Each machine of the first datacenter with each of the second.
fn everybody() -> Vec<(usize, usize)> {
    let first = (1..SERVER).chain([GATEWAYS[0]]);
    first.flat_map(|one| [SERVER, AGENT, GATEWAYS[1]].map(|other| (one, other))).collect()
}

fn server_arguments(ground: &Ground) -> Vec<String> {
    let address: Ipv4Addr = Network::address(SERVER);
    let own = [
        "agent".to_owned(),
        "-server".to_owned(),
        "-bootstrap-expect=1".to_owned(),
        "-datacenter=dc2".to_owned(),
        "-primary-datacenter=dc1".to_owned(),
        format!("-encrypt={SECRET}"),
        "-node=t1".to_owned(),
        format!("-bind={address}"),
        format!("-client={address}"),
        format!("-data-dir={}", ground.folder.join("t1").display()),
        "-hcl=raft_snapshot_threshold = 200".to_owned(),
        "-hcl=raft_trailing_logs = 50".to_owned(),
    ];
    own.into_iter().chain((1..=SERVERS).map(|server| format!("-retry-join-wan={}", Network::address(server)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_between_the_datacenters_and_within_none() {
        let is_second = |machine: usize| [SERVER, AGENT, GATEWAYS[1]].contains(&machine);
        for trouble in [Trouble::Parted, Trouble::ServersParted, Trouble::GatewaysParted] {
            let pairs = pairs(trouble);
            assert!(!pairs.is_empty() && pairs.iter().all(|(one, other)| is_second(*one) != is_second(*other)));
            assert!(pairs.iter().all(|(one, other)| *one > 0 && *other > 0), "clients reach everybody");
        }
        let own = pairs(Trouble::GatewaysParted)[0];
        assert!(!everybody().contains(&own) && everybody().contains(&(own.1, own.0)));
    }
}
