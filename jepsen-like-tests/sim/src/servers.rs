//! Servers with their own agents, each on a host of its own with a disk that loses what was not synced.

use std::cell::RefCell;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent::{Agent, AgentConfig, Home};
use identity::JoinSecret;
use jlt_core::rng::Rng;
use raft::disk::fault::{FaultDisk, Faults};
use server::{RaftLog, Server, ServerConfig};
use turmoil::Sim;

use crate::node::{self, Cluster, RPC_PORT, Running, SECRET};

/// A sync takes so long.
pub(crate) const SYNC_US: u64 = 1_000;
/// Sessions may live as shortly as the workloads ask for first, as in real clusters (`real/src/cluster.rs`).
const SESSION_TTL_MIN: Duration = Duration::from_secs(2);

/// A server with its own agent, and what belongs to it.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) disk: FaultDisk,
    /// How often it was started.
    pub(crate) lives: Arc<AtomicU32>,
    id: String,
    folder: PathBuf,
    running: Rc<RefCell<Option<(Server, Agent)>>>,
}

impl Node {
    /// The server of that name, which has no host yet.
    pub(crate) fn new(name: &str, id: &str, sim: &Sim<'static>, folder: &Path) -> Self {
        let disk = FaultDisk::new();
        disk.set(Faults { sync_us: SYNC_US, ..Faults::default() });
        Self {
            name: name.to_owned(),
            address: sim.lookup(name),
            disk,
            lives: Arc::default(),
            id: id.to_owned(),
            folder: folder.join(name),
            running: Rc::default(),
        }
    }

    /// Adds its host, which has not begun to run.
    pub(crate) fn host(&self, sim: &mut Sim<'static>, cluster: &Cluster, log: RaftLog) -> Result<(), Box<dyn Error>> {
        let config = ServerConfig { log, ..self.config(cluster)? };
        let home = Home::Own(node::rpc_address(self.address));
        let agent = node::agent_config(&self.id, &self.name, self.address, cluster, home);
        let (disk, running, lives) = (self.disk.clone(), Rc::clone(&self.running), Arc::clone(&self.lives));
        let folder = self.agent_folder();
        sim.host(self.name.as_str(), move || {
            lives.fetch_add(1, Ordering::SeqCst);
            let (disk, running) = (Arc::new(disk.clone()), Rc::clone(&running));
            Box::pin(run(disk, config.clone(), agent.clone(), folder.clone(), running)) as Running
        });
        Ok(())
    }

    fn config(&self, cluster: &Cluster) -> Result<ServerConfig, Box<dyn Error>> {
        let bind = SocketAddr::from(([0, 0, 0, 0], RPC_PORT));
        let secret = JoinSecret::parse(SECRET)?;
        Ok(ServerConfig {
            node_id: self.id.clone(),
            primary_datacenter: "dc1".to_owned(),
            rpc_advertise: Some(SocketAddr::new(self.address, RPC_PORT)),
            bootstrap_expect: cluster.servers.len() as u32,
            session_ttl_min: SESSION_TTL_MIN,
            retry_join: cluster.servers.iter().copied().map(node::rpc_address).collect(),
            retry_join_wan: cluster.primary.iter().copied().map(node::rpc_address).collect(),
            ..ServerConfig::new(&self.folder, &self.name, cluster.datacenter, bind, secret)
        })
    }

    fn agent_folder(&self) -> PathBuf {
        self.folder.join("agent")
    }

    /// What it keeps beside the log: Raft's vote and the like, and what its agent must not forget.
    pub(crate) fn stores(&self) -> [PathBuf; 2] {
        [self.folder.join("raft/store"), self.agent_folder()]
    }

    /// What cuts this server from its disk and from all others, from within its code.
    pub(crate) fn end(&self, names: &[String]) -> Box<dyn Fn() + Send> {
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

    /// Forgets what runs; the host is ended by whoever says so.
    pub(crate) fn forget(&self) {
        self.running.take();
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

/// How much of the log is kept. Little, so that a short run has many snapshots and segments; each seed has its own.
pub(crate) fn log(seed: u64) -> RaftLog {
    let mut rng = Rng::new(seed, 300);
    RaftLog {
        snapshot_every_entries: 30 + rng.below(170) as u64,
        entries_kept: rng.below(60) as u64,
        segment_bytes: (16 * 1024) << rng.below(5),
        cache_bytes_max: (4 * 1024) << rng.below(5),
    }
}
