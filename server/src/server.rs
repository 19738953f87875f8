//! A server: starts all parts in order, and stops them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::transport::net::{self, TcpListener};
use axum::Router;
use catalog::Catalog;
use identity::{Identity, JoinSecret, Role, RpcIdentity, TrustBundle};
use raft::Raft;
use raft::disk::{Disk, RealDisk};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{ServerConfig, StartError};
use crate::core::Core;
use crate::leader::leases::Leases;
use crate::local_sessions::LocalSessions;
use crate::lookup::ServerLookup;
use crate::machine::Machine;
use crate::members::Members;
use crate::propose::Proposer;
use crate::reads::Reads;
use crate::rpc::dial::Peers;
use crate::trust::Trust;
use crate::watch::Watch;

/// How long everything has to end at a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server. Clones are the same server; it runs until [`Server::shutdown`].
#[derive(Clone)]
pub struct Server {
    core: Arc<Core>,
    http: Router,
}

/// How a server is now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerStatus {
    /// Raft's view: term, leader, members.
    pub raft: raft::Status,
    /// Where the others reach this server's RPC port.
    pub rpc_address: String,
    /// The catalog's index.
    pub index: model::Index,
    /// The trust domain; empty while there is no CA.
    pub trust_domain: String,
    /// Whether this server has its certificate.
    pub is_member: bool,
    /// Agents that have their session with this server.
    pub sessions: usize,
}

impl Server {
    /// Starts a server: listens on the RPC port, opens the data folder, and begins to look for the others.
    ///
    /// # Errors
    /// [`StartError`]; the operator is told what to do.
    pub async fn start(config: ServerConfig) -> Result<Server, StartError> {
        Server::start_on(Arc::new(RealDisk), config).await
    }

    /// As [`Server::start`], with Raft's log and snapshots on a disk of the caller's.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on(disk: Arc<dyn Disk>, config: ServerConfig) -> Result<Server, StartError> {
        config.check()?;
        let address = config.rpc_bind;
        let listener = net::listen(address).await.map_err(|source| StartError::Listen { address, source })?;
        let address = advertised(&config, &listener)?;
        let data_dir = &config.data_dir;
        std::fs::create_dir_all(data_dir).map_err(|source| StartError::DataDir { path: data_dir.clone(), source })?;
        let trust = open_trust(&config)?;
        let peers = Peers::new(trust.rpc.clone(), &config.datacenter)?;
        let watch = Arc::new(Watch::new(Catalog::new()));
        let raft_config = raft_config(&config, &address);
        let (raft, service) = Raft::start_on(disk, raft_config, Machine::new(watch.clone()), peers.clone()).await?;
        let core = Arc::new(Core {
            proposer: Proposer::start(raft.clone(), peers.clone(), watch.clone(), config.hold_timeout),
            reads: Reads::start(raft.clone(), peers.clone(), config.hold_timeout, config.timing),
            members: Members::new(raft.clone(), &config.datacenter),
            sessions: LocalSessions::default(),
            leases: Leases::default(),
            acquaintances: Mutex::default(),
            servers: tokio::sync::watch::Sender::default(),
            cut_off: tokio::sync::watch::Sender::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            address: address.to_string(),
            watch,
            raft,
            peers,
            trust,
            config,
        });
        let http = crate::http::router(core.clone());
        spawn_tasks(&core, &http, service, listener);
        tracing::info!(datacenter = core.config.datacenter, rpc = core.address, "server started");
        Ok(Server { core, http })
    }

    /// `/v1/*` but `/v1/agent/*`: for the HTTP port.
    pub fn http_router(&self) -> Router {
        self.http.clone()
    }

    /// What DNS asks.
    pub fn dns_lookup(&self) -> ServerLookup {
        ServerLookup::new(self.core.clone())
    }

    /// This server's identity among nodes, for its own agent and for HTTPS.
    pub fn identity(&self) -> &Identity {
        self.core.trust.identity()
    }

    /// The same with its join certificate: what this node's agent needs to speak to its own server.
    pub fn rpc_identity(&self) -> &RpcIdentity {
        &self.core.trust.rpc
    }

    /// How this server is now.
    pub fn status(&self) -> ServerStatus {
        ServerStatus {
            raft: self.core.members.status(),
            rpc_address: self.core.address.clone(),
            index: self.core.watch.current().index(),
            trust_domain: self.core.trust.bundle().borrow().trust_domain.clone(),
            is_member: self.core.trust.is_member(),
            sessions: self.core.sessions.count(),
        }
    }

    /// The catalog's index and the hash of all that is in it: replicas of the same index have the same. Walks the whole catalog.
    #[cfg(feature = "sim")]
    pub fn state_hash(&self) -> (model::Index, u64) {
        let catalog = self.core.watch.current();
        (catalog.index(), catalog.state_hash())
    }

    /// What Raft's log holds, for who checks its rules.
    #[cfg(feature = "sim")]
    pub fn raft_log(&self, from: u64) -> raft::LogView {
        self.core.raft.log_view(from)
    }

    /// Waits until this server knows a leader and has its certificate, so that it can serve. False after `timeout`.
    pub async fn ready(&self, timeout: Duration) -> bool {
        let (mut leadership, mut member) = (self.core.raft.watch(), self.core.trust.member());
        let both = async {
            let is_led = leadership.wait_for(|now| now.leader.is_some()).await.is_ok();
            is_led && member.wait_for(|is_member| *is_member).await.is_ok()
        };
        tokio::time::timeout(timeout, both).await.unwrap_or(false)
    }

    /// Leaves the cluster for good: hands the leadership on, has this server removed from Raft, shuts down, and forgets the
    /// cluster, so that it can join again as a new server. The last server cannot leave; then this only shuts down.
    ///
    /// # Errors
    /// Why it could not leave; it is shut down all the same.
    pub async fn leave(&self) -> Result<(), api::Error> {
        let left = crate::leave::leave(&self.core).await;
        self.shutdown().await;
        if left? {
            crate::leave::forget(&self.core.config.data_dir);
        }
        Ok(())
    }

    /// Stops this server: waiting queries are answered, connections end, the data folder is free for another start.
    pub async fn shutdown(&self) {
        self.core.closing.cancel();
        self.core.watch.close();
        self.core.tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.core.tasks.wait()).await.is_err() {
            tracing::debug!("some connections did not end in time");
        }
        self.core.raft.shutdown().await;
    }
}

fn spawn_tasks(core: &Arc<Core>, http: &Router, service: raft::RaftServer<raft::Service>, listener: TcpListener) {
    let (rpc_core, router) = (core.clone(), http.clone());
    core.tasks.spawn(async move {
        if let Err(error) = crate::rpc::serve(rpc_core, router, service, listener).await {
            tracing::error!(%error, "the RPC port is not served any more");
        }
    });
    core.tasks.spawn(crate::trust::follow(core.clone()));
    core.tasks.spawn(crate::as_of::follow(core.clone()));
    core.tasks.spawn(crate::cut_off::follow(core.clone()));
    core.tasks.spawn(crate::join::run(core.clone()));
    core.tasks.spawn(crate::leader::run(core.clone()));
    core.tasks.spawn(crate::leader::report(core.clone()));
    core.tasks.spawn(tell_members(core.clone()));
}

/// Tells agents which servers there are, whenever that changes.
async fn tell_members(core: Arc<Core>) {
    let mut members = core.raft.watch_members();
    loop {
        members.mark_unchanged();
        let servers = core.members.servers();
        core.servers.send_if_modified(|known| {
            let is_news = *known != servers;
            *known = servers;
            is_news
        });
        tokio::select! {
            Ok(()) = members.changed() => {}
            () = core.closing.cancelled() => return,
        }
    }
}

fn advertised(config: &ServerConfig, listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let bound = listener.local_addr().map_err(|source| StartError::Listen { address: config.rpc_bind, source })?;
    let mut address = config.rpc_advertise.unwrap_or(bound);
    if address.port() == 0 {
        address.set_port(bound.port());
    }
    if address.ip() == Ipv4Addr::UNSPECIFIED {
        return Err(StartError::Advertise(address.to_string()));
    }
    Ok(address)
}

fn open_trust(config: &ServerConfig) -> Result<Trust, StartError> {
    if JoinSecret::is_open(&config.join_secret) {
        tracing::warn!("no join secret is set (`encrypt`): whoever reaches the RPC port may join");
    }
    let identity = Identity::new(TrustBundle::empty());
    let rpc = RpcIdentity::new(identity, &config.join_secret, Role::Server, &config.datacenter, &config.node_name)?;
    Ok(Trust::open(rpc, &config.data_dir)?)
}

fn raft_config(config: &ServerConfig, address: &SocketAddr) -> raft::Config {
    raft::Config {
        heartbeat_ms: config.timing.heartbeat_ms,
        election_ms_min: config.timing.election_ms_min,
        election_ms_max: config.timing.election_ms_max,
        snapshot_every_entries: config.log.snapshot_every_entries,
        log_entries_kept: config.log.entries_kept,
        segment_bytes: config.log.segment_bytes,
        cache_bytes_max: config.log.cache_bytes_max,
        ..raft::Config::new(config.data_dir.join("raft"), config.node_name.clone(), address.to_string())
    }
}
