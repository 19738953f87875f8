//! What a server is told at its start, and why it may refuse to start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use identity::JoinSecret;
use model::Meta;
use model::intention::Action;

/// How one server is set up. [`ServerConfig::new`] gives defaults for one server on its own.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The folder that belongs to this server alone; the caller sees to that. `raft/` and `identity/` are made in it.
    pub data_dir: PathBuf,
    /// Unique in the datacenter.
    pub node_name: String,
    /// A UUID, kept by the caller from start to start.
    pub node_id: String,
    /// Labels of this node.
    pub node_meta: Meta,
    /// Further addresses of this node by network (`wan`…).
    pub tagged_addresses: BTreeMap<String, String>,
    /// This datacenter.
    pub datacenter: String,
    /// The datacenter that has the CA's root, intentions and config entries; empty means this one.
    pub primary_datacenter: String,
    /// Where the RPC port listens. Port 0 takes a free one.
    pub rpc_bind: SocketAddr,
    /// Where the others reach it, if that is another address; port 0 means the port that is listened on.
    pub rpc_advertise: Option<SocketAddr>,
    /// How many servers begin a cluster together; 0: this one only joins.
    pub bootstrap_expect: u32,
    /// Servers of this datacenter (`host:port`) to find or form a cluster with; asked until it is found.
    pub retry_join: Vec<String>,
    /// Servers of other datacenters (`host:port`) to federate with.
    pub retry_join_wan: Vec<String>,
    /// How often [`ServerConfig::retry_join`] is asked, at first; later more rarely.
    pub retry_interval: Duration,
    /// What a node must know to join.
    pub join_secret: JoinSecret,
    /// What becomes of calls that no intention names. All servers must agree on it.
    pub default_intention_policy: Action,
    /// How Raft behaves.
    pub timing: RaftTiming,
    /// How much of the log is kept.
    pub log: RaftLog,
    /// How long a request waits for an election (Consul: RPC hold timeout).
    pub hold_timeout: Duration,
    /// Nodes that have failed for so long are removed.
    pub reap_after: Duration,
    /// The shortest time to live of a session (Consul: `session_ttl_min`).
    pub session_ttl_min: Duration,
    /// Connections on the RPC port.
    pub rpc_limits: api::transport::AcceptLimits,
    /// The version that this server says it has.
    pub version: String,
}

/// How fast Raft notices things, in milliseconds. See `raft::Config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTiming {
    /// Between two words of a leader.
    pub heartbeat_ms: u64,
    /// Shortest time without a leader until an election.
    pub election_ms_min: u64,
    /// Longest.
    pub election_ms_max: u64,
}

impl Default for RaftTiming {
    fn default() -> Self {
        let raft = raft::Config::new("", "", "");
        RaftTiming {
            heartbeat_ms: raft.heartbeat_ms,
            election_ms_min: raft.election_ms_min,
            election_ms_max: raft.election_ms_max,
        }
    }
}

/// How much of the log stays where. An entry holds what was written at the same time. See `raft::Config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftLog {
    /// A snapshot is made after so many, at least 1 (Consul: `raft_snapshot_threshold`).
    pub snapshot_every_entries: u64,
    /// So many stay behind a snapshot (Consul: `raft_trailing_logs`).
    pub entries_kept: u64,
    /// A file of the log.
    pub segment_bytes: u64,
    /// Of the newest entries, so much stays in memory.
    pub cache_bytes_max: usize,
}

impl Default for RaftLog {
    fn default() -> Self {
        let raft = raft::Config::new("", "", "");
        RaftLog {
            snapshot_every_entries: raft.snapshot_every_entries,
            entries_kept: raft.log_entries_kept,
            segment_bytes: raft.segment_bytes,
            cache_bytes_max: raft.cache_bytes_max,
        }
    }
}

impl ServerConfig {
    /// One server on its own, with defaults.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        node_name: &str,
        datacenter: &str,
        rpc_bind: SocketAddr,
        join_secret: JoinSecret,
    ) -> Self {
        ServerConfig {
            data_dir: data_dir.into(),
            node_name: node_name.into(),
            node_id: String::new(),
            node_meta: Meta::new(),
            tagged_addresses: BTreeMap::new(),
            datacenter: datacenter.into(),
            primary_datacenter: String::new(),
            rpc_bind,
            rpc_advertise: None,
            bootstrap_expect: 1,
            retry_join: Vec::new(),
            retry_join_wan: Vec::new(),
            retry_interval: Duration::from_secs(1),
            join_secret,
            default_intention_policy: Action::Allow,
            timing: RaftTiming::default(),
            log: RaftLog::default(),
            hold_timeout: Duration::from_secs(7),
            reap_after: Duration::from_secs(72 * 3600),
            session_ttl_min: model::session::TTL_MIN,
            rpc_limits: api::transport::AcceptLimits::default(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The datacenter that has the CA's root.
    pub(crate) fn primary(&self) -> &str {
        if self.primary_datacenter.is_empty() { &self.datacenter } else { &self.primary_datacenter }
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.primary() == self.datacenter
    }

    /// Refuses names that could not be in a certificate or in DNS.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        model::name::check_datacenter(&self.datacenter)?;
        model::name::check_datacenter(self.primary())?;
        model::name::check_node(&self.node_name)?;
        let advertised = self.rpc_advertise.unwrap_or(self.rpc_bind).ip();
        if advertised.is_unspecified() {
            return Err(StartError::Advertise(advertised.to_string()));
        }
        Ok(())
    }
}

/// Why a server does not start. Nothing was changed but, perhaps, empty folders made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator's: a name cannot be used.
    #[error(transparent)]
    Name(#[from] model::name::InvalidName),
    /// The operator's: nobody can reach "any address".
    #[error("others cannot reach this server at {0}: give its own address with `advertise_addr` (or `-advertise`)")]
    Advertise(String),
    /// The operator's, or another program has the port.
    #[error(
        "cannot listen on {address} for RPC: {source}; is another agent running, or is the port taken? choose another with `ports.server`"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The operator's: no rights, or no room.
    #[error("cannot use the data folder {}: {source}; it must belong to the user that runs this server", path.display())]
    DataDir {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The operator's settings, the disk, or damaged data. The text says which.
    #[error(transparent)]
    Raft(#[from] raft::StartError),
    /// Certificates on the disk cannot be used, or the join secret is wrong.
    #[error(transparent)]
    Identity(#[from] identity::Error),
}
