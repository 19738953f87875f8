//! The real agents, each on a host of its own, and what is done to them.

use std::cell::RefCell;
use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agent::{Agent, AgentConfig, Home};
use identity::{Identity, JoinSecret, Role, RpcIdentity, TrustBundle};
use jlt_core::rng::Rng;

use crate::node::{self, RPC_PORT, Running};
use crate::world::{SECRET, World};

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
        let id = format!("00000000-0000-0000-0001-{:012}", self.number);
        let home = Home::Join(servers.iter().map(|server| format!("{server}:{RPC_PORT}")).collect());
        let config = node::agent_config(&id, &self.name, self.address, home);
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
    let agent = node::start_agent(config, rpc, &folder)?;
    let router = agent.router_local().fallback_service(agent.forward_fallback());
    running.replace(Some(agent.clone()));
    node::serve(router, agent.lookup(), &agent).await
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
    /// The sidecar of a service there.
    SidecarKilled(usize),
    /// An agent and a server.
    Apart(usize, usize),
    /// An agent and all servers; its clients reach it.
    CutOff(usize),
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
        let wrong = match self.rng.below(4) {
            0 if !world.sidecars.is_empty() => Wrong::SidecarKilled(self.rng.below(world.sidecars.len())),
            0 | 3 => Wrong::Killed(agent),
            1 => Wrong::Apart(agent, self.rng.below(world.servers.len())),
            _ => Wrong::CutOff(agent),
        };
        match wrong {
            Wrong::Killed(agent) => world.kill_agent(agent),
            Wrong::SidecarKilled(sidecar) => world.kill_sidecar(sidecar),
            Wrong::Apart(agent, server) => world.part(agent, server, true),
            Wrong::CutOff(agent) => (0..world.servers.len()).for_each(|server| world.part(agent, server, true)),
        }
        self.active = Some((now_ms + millis(&mut self.rng, FAULT_MS), wrong));
    }

    /// Ends what is wrong.
    pub(crate) fn heal(&mut self, world: &mut World) {
        match self.active.take() {
            Some((_, Wrong::Killed(agent))) => world.start_host(&world.agents[agent].name.clone()),
            Some((_, Wrong::SidecarKilled(sidecar))) => world.start_host(world.sidecars[sidecar].name),
            Some((_, Wrong::Apart(agent, server))) => world.part(agent, server, false),
            Some((_, Wrong::CutOff(agent))) => {
                (0..world.servers.len()).for_each(|server| world.part(agent, server, false));
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
