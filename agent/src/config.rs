//! What the program tells an agent at its start, and every limit of it.

use model::{JsonMap, Node};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Most services of one agent.
pub(crate) const SERVICES_MAX: usize = 65_536;
/// Most checks of one agent.
pub(crate) const CHECKS_MAX: usize = 131_072;
/// Largest service, and largest check with how it is made, encoded: what the store takes, less the output of a check.
pub(crate) const ITEM_BYTES_MAX: usize = store::VALUE_BYTES_MAX - 2 * model::limits::CHECK_OUTPUT_BYTES_MAX;
/// Longest id of a service or check: a key of the store, less its prefix.
pub(crate) const ID_BYTES_MAX: usize = store::KEY_BYTES_MAX - 3;
/// Most items in one push, other than a full one.
pub(crate) const PUSH_ITEMS_MAX: usize = 4_096;
/// Most checks that run at the same time.
pub(crate) const PROBES_MAX: usize = 256;
/// Most views that are kept.
pub(crate) const VIEWS_MAX: usize = 8_192;
/// Most leaves for `/v1/agent/connect/ca/leaf` that are kept.
pub(crate) const LEAVES_MAX: usize = 1_024;
/// Largest body that is kept in memory so that it can be sent to a second server.
pub(crate) const REPLAY_BYTES_MAX: usize = 1024 * 1024;
/// The version of Consul that clients are told (`/v1/agent/self`), so that they use what this API has.
pub const CONSUL_VERSION: &str = "1.16.1";

/// How one agent is set up.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// This node, as it is registered: id, name, address, datacenter, labels.
    pub node: Node,
    /// The datacenter of the CA's root, intentions and config entries; empty means this one.
    pub primary_datacenter: String,
    /// Where the servers are.
    pub servers: Home,
    /// Tribune's own version.
    pub version: String,
    /// The RPC port of this node if it is a server, for `/v1/agent/self` and members; else 0.
    pub rpc_port: u16,
    /// Whose scripts are run.
    pub scripts: Scripts,
    /// How often a changed output alone is told to the servers (Consul: `check_update_interval`, 5 m).
    pub check_update_interval: Duration,
    /// How often everything is compared with the servers, before jitter.
    pub sync_interval: Duration,
    /// How often services are looked for that were critical for too long (Consul: 30 s).
    pub reap_interval: Duration,
    /// How long a view that nobody reads is kept.
    pub view_idle: Duration,
    /// Ports for sidecars that name none (Consul: 21000–21255).
    pub sidecar_ports: RangeInclusive<u16>,
    /// Settings to show in `/v1/agent/self`.
    pub debug: JsonMap,
}

/// Where an agent's servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// This node is a server with this RPC address (`ip:port`): the agent speaks to it alone, and it does the joining.
    Own(String),
    /// Addresses (`host:port`) of servers; one that answers tells of the others.
    Join(Vec<String>),
}

/// Whose scripts are run as checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scripts {
    /// Nobody's.
    #[default]
    Off,
    /// Those in this node's configuration files (`enable_local_script_checks`).
    Local,
    /// Also those of whoever reaches the HTTP API (`enable_script_checks`): it runs commands for them.
    All,
}

/// Where a registration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This node's configuration files.
    File,
    /// The HTTP API.
    Http,
}

impl Scripts {
    /// Whether a script from there is run.
    pub fn allow(self, source: Source) -> bool {
        match self {
            Scripts::Off => false,
            Scripts::Local => source == Source::File,
            Scripts::All => true,
        }
    }
}

impl AgentConfig {
    /// An agent with Consul's defaults.
    pub fn new(node: Node, servers: Home) -> Self {
        AgentConfig {
            node,
            servers,
            primary_datacenter: String::new(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            rpc_port: 0,
            scripts: Scripts::Off,
            check_update_interval: Duration::from_secs(300),
            sync_interval: Duration::from_secs(60),
            reap_interval: Duration::from_secs(30),
            view_idle: Duration::from_secs(600),
            sidecar_ports: 21_000..=21_255,
            debug: JsonMap::new(),
        }
    }

    /// Whether this node is a server.
    pub fn is_server(&self) -> bool {
        matches!(self.servers, Home::Own(_))
    }
}
