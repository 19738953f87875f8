//! What all parts of a server share.

use std::sync::{Arc, Mutex};

use api::proto::{ServerInfo, Servers};
use catalog::query::datacenter;
use raft::Raft;
use rand::seq::SliceRandom;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bootstrap::Acquaintances;
use crate::config::ServerConfig;
use crate::leader::leases::Leases;
use crate::local_sessions::LocalSessions;
use crate::machine::Machine;
use crate::members::Members;
use crate::propose::Proposer;
use crate::reads::Reads;
use crate::rpc::dial::Peers;
use crate::trust::Trust;
use crate::watch::Watch;

/// What all parts of a server share.
pub(crate) struct Core {
    pub(crate) config: ServerConfig,
    /// `ip:port` where the others reach this server's RPC port.
    pub(crate) address: String,
    pub(crate) watch: Arc<Watch>,
    pub(crate) raft: Raft<Machine>,
    pub(crate) peers: Peers,
    pub(crate) trust: Trust,
    pub(crate) proposer: Proposer,
    pub(crate) reads: Reads,
    pub(crate) members: Members,
    pub(crate) sessions: LocalSessions,
    /// Renewals of sessions that hold locks, while this server leads.
    pub(crate) leases: Leases,
    pub(crate) acquaintances: Mutex<Acquaintances>,
    /// The servers of this datacenter, as agents are told.
    pub(crate) servers: tokio::sync::watch::Sender<Servers>,
    /// Whether this server is cut off from the leader, see [`crate::cut_off`].
    pub(crate) cut_off: tokio::sync::watch::Sender<bool>,
    /// Cancelled when the server closes.
    pub(crate) closing: CancellationToken,
    /// Everything that must end before the server is gone.
    pub(crate) tasks: TaskTracker,
}

impl Core {
    /// This server, as it introduces itself.
    pub(crate) async fn info(&self) -> ServerInfo {
        ServerInfo {
            id: self.raft.id(),
            name: self.config.node_name.clone(),
            rpc_address: self.address.clone(),
            datacenter: self.config.datacenter.clone(),
            bootstrap_expect: self.config.bootstrap_expect,
            initialized: self.raft.is_initialized().await.unwrap_or(false),
            wan: false,
        }
    }

    /// RPC addresses of a datacenter's servers in random order; empty for a datacenter that nobody knows.
    pub(crate) fn servers_of(&self, name: &str) -> Vec<String> {
        let mut servers: Vec<String> = if name == self.config.datacenter {
            self.members.all().into_iter().map(|member| member.address).collect()
        } else {
            self.watch
                .read(|view| datacenter::datacenter(view, name).map(|row| row.servers.clone()))
                .0
                .unwrap_or_default()
        };
        servers.shuffle(&mut rand::rng());
        servers
    }
}
