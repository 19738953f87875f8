//! Plain agents on machines of their own, beside the servers of a cluster, and sidecars there; and who troubles them, by the same plan but at times of their own.

use std::fs::OpenOptions;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jlt_core::plan::{Fault, Plan};
use jlt_core::rng::Rng;
use jlt_net::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::cluster::{HTTP_PORT, MACHINES, READY_TIMEOUT, SECRET, SERVERS};
use crate::http;

/// How many agents there are when a workload needs some.
pub(crate) const AGENTS: usize = 2;

/// Consul's port for proxies.
const GRPC_PORT: u16 = 8502;

/// Where applications listen.
const APPLICATION_PORT: u16 = 9090;

/// Where `web`'s sidecar listens for calls to `api`.
const UPSTREAM_PORT: u16 = 9191;

/// A sidecar that ended by itself is started again after so long.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// How often the troubled agents are looked at.
const TICK: Duration = Duration::from_millis(20);

/// Between two troubles of one agent.
const PAUSE_MS: (u64, u64) = (1_000, 5_000);

/// How long a trouble lasts.
const TROUBLE_MS: (u64, u64) = (100, 5_000);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The agents and what runs beside them; all end with this value.
pub(crate) struct Agents {
    binary: PathBuf,
    folder: PathBuf,
    network: Arc<Network>,
    agents: Vec<Program>,
    /// Of the services `web` at the first agent and `api` at the second.
    sidecars: Vec<Program>,
    /// The application `api`.
    application: Option<Program>,
}

/// A process that is started again and again.
struct Program {
    name: String,
    machine: usize,
    arguments: Vec<String>,
    /// How often it was started.
    lives: Arc<AtomicU32>,
    /// Holds its standard input open, so that it ends with this program.
    process: Option<Child>,
    /// It is not started again before this, if it ended by itself.
    rests_until: Option<Instant>,
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
        let absolute = |path: &Path| path.canonicalize().map_err(|error| format!("{}: {error}", path.display()));
        let (binary, folder, network) = (absolute(binary)?, absolute(folder)?, Arc::clone(network));
        Ok(Self { binary, folder, network, agents: Vec::new(), sidecars: Vec::new(), application: None })
    }

    /// Starts them, and waits until they speak with servers.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        for agent in 0..AGENTS {
            self.agents.push(Program::new(&name(agent), machine(agent), self.agent_arguments(agent)));
        }
        self.heal()
    }

    /// Starts `web` and `api` with their sidecars, and waits until the one can be asked for the other.
    pub(crate) fn start_sidecars(&mut self) -> Result<(), String> {
        let web = Network::address(machine(0));
        let upstream = json!({"DestinationName": "api", "LocalBindAddress": web, "LocalBindPort": UPSTREAM_PORT});
        self.register(0, "web", &json!([upstream]))?;
        self.register(1, "api", &json!([]))?;
        let arguments = ["demo", "service", "-name=api"].map(str::to_owned);
        let listen = format!("-listen=127.0.0.1:{APPLICATION_PORT}");
        let mut application = Program::new("api", machine(1), arguments.into_iter().chain([listen]).collect());
        application.start(&self.binary, &self.folder, &self.network)?;
        self.application = Some(application);
        for (agent, service) in ["web", "api"].into_iter().enumerate() {
            let at = Network::address(machine(agent));
            let arguments = ["connect".to_owned(), "proxy".to_owned(), format!("-sidecar-for={service}")];
            let control = [format!("-http-addr={at}:{HTTP_PORT}"), format!("-grpc-addr={at}:{GRPC_PORT}")];
            let arguments = arguments.into_iter().chain(control).collect();
            self.sidecars.push(Program::new(&format!("{service}-sidecar"), machine(agent), arguments));
        }
        self.heal()
    }

    fn register(&self, agent: usize, service: &str, upstreams: &serde_json::Value) -> Result<(), String> {
        let sidecar = json!({"Proxy": {"Upstreams": upstreams}});
        let body =
            json!({"Name": service, "Port": APPLICATION_PORT, "Connect": {"SidecarService": sidecar}}).to_string();
        let path = "/v1/agent/service/register";
        let address = self.http_address(agent);
        match http::request(address, "PUT", path, body.as_bytes(), REQUEST_TIMEOUT) {
            Ok(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{service} cannot be registered with {}: {other:?}", name(agent))),
        }
    }

    pub(crate) fn lives(&self) -> Vec<Arc<AtomicU32>> {
        self.agents.iter().map(|agent| Arc::clone(&agent.lives)).collect()
    }

    /// How often the caller's sidecar was started.
    pub(crate) fn upstream_life(&self) -> Option<Arc<AtomicU32>> {
        self.sidecars.first().map(|sidecar| Arc::clone(&sidecar.lives))
    }

    /// Where clients send their requests: to the agents, and, if there are sidecars, to `api` by way of `web`'s.
    pub(crate) fn http_addresses(&self) -> Vec<SocketAddr> {
        let agents = (0..self.agents.len()).map(|agent| self.http_address(agent));
        let upstream = SocketAddr::new(IpAddr::V4(Network::address(machine(0))), UPSTREAM_PORT);
        agents.chain(self.sidecars.first().map(|_| upstream)).collect()
    }

    fn http_address(&self, agent: usize) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Network::address(machine(agent))), HTTP_PORT)
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
                let folder = self.folder.display();
                return Err(format!("an agent reaches no leader within {READY_TIMEOUT:?}; the logs are in {folder}"));
            }
            self.revive_sidecars()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let knows_leader = |agent: usize| {
            http::request(self.http_address(agent), "GET", "/v1/status/leader", b"", REQUEST_TIMEOUT)
                .is_ok_and(|reply| reply.status == 200 && reply.body.len() > 4)
        };
        let upstream = self.http_addresses().get(self.agents.len()).copied();
        let listens = |address: SocketAddr| TcpStream::connect_timeout(&address, REQUEST_TIMEOUT).is_ok();
        (0..self.agents.len()).all(knows_leader) && upstream.is_none_or(listens)
    }

    /// Troubles them until it is told to stop, and ends all troubles. Returns what broke a guarantee, in words.
    pub(crate) fn run(&mut self, plan: &Plan, started: Instant, stop: &AtomicBool) -> Result<Vec<String>, String> {
        let mut ended = Vec::new();
        let mut fates: Vec<Fate> = (0..self.agents.len()).map(|agent| Fate::new(plan, agent)).collect();
        while !stop.load(Ordering::Relaxed) {
            let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            for (agent, fate) in fates.iter_mut().enumerate() {
                match fate.step(now_ms) {
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
            std::thread::sleep(TICK);
        }
        for (agent, fate) in fates.iter().enumerate() {
            if let Some((trouble, _)) = fate.current {
                self.end(agent, trouble)?;
            }
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
            Trouble::Killed => self.agents[agent].start(&self.binary, &self.folder, &self.network),
            Trouble::SidecarKilled => {
                let mut sidecar = self.sidecars.get_mut(agent).into_iter();
                sidecar.try_for_each(|sidecar| sidecar.start(&self.binary, &self.folder, &self.network))
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
            self.network.part(machine(agent), server + 1, is_cut);
        }
    }

    /// A sidecar that finds no agent ends, and is started again, as a service manager would.
    fn revive_sidecars(&mut self) -> Result<(), String> {
        for sidecar in &mut self.sidecars {
            if sidecar.ended().is_some() {
                sidecar.rests_until = Some(Instant::now() + RESTART_AFTER);
            }
            if sidecar.rests_until.is_some_and(|until| Instant::now() >= until) {
                sidecar.start(&self.binary, &self.folder, &self.network)?;
            }
        }
        Ok(())
    }

    fn agent_arguments(&self, agent: usize) -> Vec<String> {
        let (name, address) = (name(agent), Network::address(machine(agent)));
        let data = self.folder.join(&name);
        let own = [
            "agent".to_owned(),
            format!("-encrypt={SECRET}"),
            format!("-node={name}"),
            format!("-bind={address}"),
            format!("-client={address}"),
            format!("-data-dir={}", data.display()),
        ];
        own.into_iter()
            .chain((0..SERVERS).map(|server| format!("-retry-join={}", Network::address(server + 1))))
            .collect()
    }
}

impl Program {
    fn new(name: &str, machine: usize, arguments: Vec<String>) -> Self {
        Self { name: name.to_owned(), machine, arguments, lives: Arc::default(), process: None, rests_until: None }
    }

    /// Does nothing if it runs.
    fn start(&mut self, binary: &Path, folder: &Path, network: &Network) -> Result<(), String> {
        if self.process.is_some() {
            return Ok(());
        }
        let path = folder.join(format!("{}.log", self.name));
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| format!("{}: {error}", path.display()))?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(binary);
        command.args(&self.arguments).env("TRIBUNE_ENDS_WITH_PARENT", "1");
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        let spawned = network.machine(self.machine).inside(|| command.spawn());
        let process = spawned.map_err(|error| format!("{} does not start: {error}", binary.display()))?;
        self.lives.fetch_add(1, Ordering::SeqCst);
        (self.process, self.rests_until) = (Some(process), None);
        Ok(())
    }

    /// SIGKILL, and wait until the process is gone. Does nothing when it is.
    fn kill(&mut self) {
        self.rests_until = None;
        if let Some(mut process) = self.process.take() {
            // Both fail only for a process that is gone already.
            process.kill().ok();
            process.wait().ok();
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        // The process is our child and not yet waited for, so the id is still its own.
        kill(Pid::from_raw(process.id() as i32), signal).map_err(|error| format!("{signal} cannot be sent: {error}"))
    }

    /// How it ended, if it did by itself since the last call.
    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What happens to one agent, and when: one trouble at a time.
struct Fate {
    rng: Rng,
    kinds: Vec<Fault>,
    end_ms: u64,
    current: Option<(Trouble, u64)>,
    next_ms: u64,
}

impl Fate {
    fn new(plan: &Plan, agent: usize) -> Self {
        let mut rng = Rng::new(plan.seed, 1_000 + agent as u64);
        let can = |kind: &&Fault| {
            matches!(
                kind,
                Fault::Kill
                    | Fault::Power
                    | Fault::Pause
                    | Fault::Partition
                    | Fault::Oneway
                    | Fault::Delay
                    | Fault::Loss
            )
        };
        let kinds = plan.kinds.iter().filter(can).copied().collect();
        let next_ms = millis(rng.between_ms(PAUSE_MS.0, PAUSE_MS.1));
        Self { rng, kinds, end_ms: plan.duration_ms, current: None, next_ms }
    }

    /// The trouble that begins (true) or ends (false) now.
    fn step(&mut self, now_ms: u64) -> Option<(Trouble, bool)> {
        if let Some((trouble, until_ms)) = self.current {
            if now_ms < until_ms.min(self.end_ms) {
                return None;
            }
            self.current = None;
            self.next_ms = now_ms + millis(self.rng.between_ms(PAUSE_MS.0, PAUSE_MS.1));
            return Some((trouble, false));
        }
        if now_ms < self.next_ms || now_ms >= self.end_ms || self.kinds.is_empty() {
            return None;
        }
        let trouble = match self.rng.pick(&self.kinds) {
            Fault::Kill | Fault::Power if self.rng.below(2) == 0 => Trouble::SidecarKilled,
            Fault::Kill | Fault::Power => Trouble::Killed,
            Fault::Pause => Trouble::Frozen,
            _ if self.rng.below(3) == 0 => Trouble::CutFrom(self.rng.below(SERVERS)),
            _ => Trouble::CutOff,
        };
        self.current = Some((trouble, now_ms + millis(self.rng.between_ms(TROUBLE_MS.0, TROUBLE_MS.1))));
        Some((trouble, true))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(kinds: &[Fault]) -> Vec<(u64, Trouble, bool)> {
        let plan = Plan::new(7, Duration::from_secs(30), SERVERS, Vec::new(), kinds);
        let mut fate = Fate::new(&plan, 0);
        let step = |now_ms| fate.step(now_ms).map(|(trouble, begins)| (now_ms, trouble, begins));
        (0..60_000).step_by(20).filter_map(step).collect()
    }

    #[test]
    fn each_trouble_begins_and_ends_one_after_the_other_within_the_plan() {
        let steps = steps(&[Fault::Kill, Fault::Pause, Fault::Partition]);
        assert!(steps.len() >= 4 && steps.len().is_multiple_of(2), "{steps:?}");
        for pair in steps.chunks(2) {
            assert!(pair[0].2 && !pair[1].2 && pair[0].1 == pair[1].1, "{pair:?}");
        }
        assert!(steps.iter().all(|(at_ms, ..)| *at_ms <= 30_000));
    }

    #[test]
    fn only_what_was_asked_for_happens() {
        assert!(steps(&[Fault::Pause]).iter().all(|(_, trouble, _)| *trouble == Trouble::Frozen));
        assert_eq!(steps(&[Fault::DiskFull, Fault::Skew]), []);
    }
}
