//! The settings, typed, with Consul's names and defaults.

use super::file::ConfigError;
use model::{GoDuration, Meta};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Everything that can be set. Names are those of the configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    pub(crate) acl: Acl,
    pub(crate) addresses: Addresses,
    pub(crate) advertise_addr: Option<String>,
    pub(crate) advertise_addr_wan: Option<String>,
    pub(crate) alt_domain: String,
    pub(crate) bind_addr: Option<String>,
    pub(crate) bootstrap: bool,
    pub(crate) bootstrap_expect: u32,
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) check: Vec<Value>,
    pub(crate) checks: Vec<Value>,
    pub(crate) check_update_interval: GoDuration,
    pub(crate) client_addr: Option<String>,
    pub(crate) config_entries: ConfigEntries,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) datacenter: String,
    pub(crate) default_intention_policy: String,
    pub(crate) dns_config: DnsConfig,
    pub(crate) domain: String,
    pub(crate) enable_local_script_checks: bool,
    pub(crate) enable_script_checks: bool,
    pub(crate) encrypt: Option<String>,
    pub(crate) leave_on_terminate: Option<bool>,
    pub(crate) limits: Limits,
    pub(crate) log_json: bool,
    pub(crate) log_level: String,
    pub(crate) node_id: Option<String>,
    pub(crate) node_meta: Meta,
    pub(crate) node_name: Option<String>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) ports: Ports,
    pub(crate) primary_datacenter: String,
    pub(crate) raft_snapshot_threshold: Option<u64>,
    pub(crate) raft_trailing_logs: Option<u64>,
    pub(crate) recursors: Vec<String>,
    pub(crate) retry_join: Vec<String>,
    pub(crate) retry_join_wan: Vec<String>,
    pub(crate) server: bool,
    pub(crate) session_ttl_min: GoDuration,
    pub(crate) skip_leave_on_interrupt: Option<bool>,
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) service: Vec<Value>,
    pub(crate) services: Vec<Value>,
    pub(crate) start_join: Vec<String>,
    pub(crate) start_join_wan: Vec<String>,
    pub(crate) tagged_addresses: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            acl: Acl::default(),
            addresses: Addresses::default(),
            advertise_addr: None,
            advertise_addr_wan: None,
            alt_domain: String::new(),
            bind_addr: None,
            bootstrap: false,
            bootstrap_expect: 0,
            check: Vec::new(),
            checks: Vec::new(),
            check_update_interval: GoDuration::from_secs(300),
            client_addr: None,
            config_entries: ConfigEntries::default(),
            data_dir: None,
            datacenter: "dc1".into(),
            default_intention_policy: String::new(),
            dns_config: DnsConfig::default(),
            domain: "consul.".into(),
            enable_local_script_checks: false,
            enable_script_checks: false,
            encrypt: None,
            leave_on_terminate: None,
            limits: Limits::default(),
            log_json: false,
            log_level: "info".into(),
            node_id: None,
            node_meta: Meta::new(),
            node_name: None,
            pid_file: None,
            ports: Ports::default(),
            primary_datacenter: String::new(),
            raft_snapshot_threshold: None,
            raft_trailing_logs: None,
            recursors: Vec::new(),
            retry_join: Vec::new(),
            retry_join_wan: Vec::new(),
            server: false,
            session_ttl_min: GoDuration::ZERO,
            skip_leave_on_interrupt: None,
            service: Vec::new(),
            services: Vec::new(),
            start_join: Vec::new(),
            start_join_wan: Vec::new(),
            tagged_addresses: BTreeMap::new(),
        }
    }
}

/// Access control. Not supported yet, so turning it on is refused rather than ignored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Acl {
    pub(crate) enabled: bool,
    pub(crate) default_policy: String,
}

/// Addresses that differ from `client_addr`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Addresses {
    pub(crate) dns: Option<String>,
    pub(crate) grpc: Option<String>,
    pub(crate) http: Option<String>,
}

/// Config entries to write when there are none of that kind and name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigEntries {
    pub(crate) bootstrap: Vec<Value>,
}

/// How DNS answers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DnsConfig {
    pub(crate) a_record_limit: Option<usize>,
    pub(crate) enable_additional_node_meta_txt: Option<bool>,
    pub(crate) enable_truncate: Option<bool>,
    pub(crate) node_ttl: GoDuration,
    pub(crate) only_passing: bool,
    pub(crate) recursor_timeout: Option<GoDuration>,
    pub(crate) service_ttl: BTreeMap<String, GoDuration>,
    pub(crate) soa: Soa,
    pub(crate) udp_answer_limit: Option<usize>,
}

/// The SOA record, in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Soa {
    pub(crate) expire: u32,
    pub(crate) min_ttl: u32,
    pub(crate) refresh: u32,
    pub(crate) retry: u32,
}

impl Default for Soa {
    fn default() -> Self {
        Soa { expire: 86_400, min_ttl: 0, refresh: 3_600, retry: 600 }
    }
}

/// Limits on clients.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    pub(crate) http_max_conns_per_client: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { http_max_conns_per_client: 200 }
    }
}

/// Ports; -1 turns one off.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Ports {
    pub(crate) dns: i32,
    pub(crate) grpc: i32,
    pub(crate) http: i32,
    pub(crate) https: i32,
    pub(crate) server: i32,
    pub(crate) sidecar_max_port: u16,
    pub(crate) sidecar_min_port: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Ports {
            dns: 8600,
            grpc: 8502,
            http: 8500,
            https: -1,
            server: 8300,
            sidecar_max_port: 21_255,
            sidecar_min_port: 21_000,
        }
    }
}

/// Addresses that were derived from the settings.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) bind: IpAddr,
    pub(crate) advertise: IpAddr,
    pub(crate) advertise_wan: IpAddr,
    pub(crate) rpc: SocketAddr,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) dns: Option<SocketAddr>,
}

impl Settings {
    /// Types a merged document.
    pub(super) fn from_value(value: Value) -> Result<Settings, ConfigError> {
        serde_path_to_error::deserialize(value)
            .map_err(|error| ConfigError::Value { key: error.path().to_string(), message: error.inner().to_string() })
    }

    /// What no single value can say: settings that do not go together, or that would weaken security if ignored.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let conflict = |text: &str| Err(ConfigError::Conflict(text.to_string()));
        if self.acl.enabled || self.acl.default_policy == "deny" {
            return conflict(
                "acl: access control lists are not supported yet; Tribune does not start with `acl.enabled` or `default_policy = \"deny\"` set, because it would run open",
            );
        }
        if self.ports.https > 0 {
            return conflict(
                "ports.https: HTTPS for clients is not supported yet; remove it, or put a TLS proxy in front of the HTTP port",
            );
        }
        if self.bootstrap && self.bootstrap_expect > 1 {
            return conflict("bootstrap and bootstrap_expect exclude each other: give one of them");
        }
        if (self.bootstrap || self.bootstrap_expect > 0) && !self.server {
            return conflict("bootstrap_expect needs a server: add `server = true` (or -server)");
        }
        if self.raft_snapshot_threshold == Some(0) {
            return conflict(
                "raft_snapshot_threshold: there must be something to make a snapshot of; 10000 is the default",
            );
        }
        if self.bootstrap_expect > 9 {
            return conflict("bootstrap_expect: more than 9 servers are slower and no safer; 3 or 5 are usual");
        }
        if !matches!(self.default_intention_policy.as_str(), "" | "allow" | "deny") {
            return conflict("default_intention_policy: must be \"allow\" or \"deny\"");
        }
        if self.session_ttl_min.0 > model::session::TTL_MAX {
            return conflict(
                "session_ttl_min: no session may live for more than 24h without being renewed, so none could have a TTL; set a shorter one (default 10s)",
            );
        }
        for (what, name) in [("datacenter", &self.datacenter), ("primary_datacenter", &self.primary_datacenter)] {
            if !name.is_empty() {
                model::name::check_datacenter(name)
                    .map_err(|e| ConfigError::Value { key: what.into(), message: e.to_string() })?;
            }
        }
        Ok(())
    }

    /// Where this node listens and how others reach it.
    ///
    /// # Errors
    /// An address that is none, or a node name that is none.
    pub(crate) fn node(&self) -> Result<Node, ConfigError> {
        let bind = parse_ip("bind_addr", self.bind_addr.as_deref())?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let client = parse_ip("client_addr", self.client_addr.as_deref())?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let advertise = match parse_ip("advertise_addr", self.advertise_addr.as_deref())? {
            Some(address) => address,
            None if bind.is_unspecified() => own_address(bind),
            None => bind,
        };
        let name = self.node_name.clone().unwrap_or_else(host_name);
        model::name::check_node(&name)
            .map_err(|e| ConfigError::Value { key: "node_name".into(), message: e.to_string() })?;
        let at = |key, own: &Option<String>, port| -> Result<Option<SocketAddr>, ConfigError> {
            let ip = parse_ip(key, own.as_deref())?.unwrap_or(client);
            Ok(port_of(key, port)?.map(|port| SocketAddr::new(ip, port)))
        };
        // Proxies talk to the agent of their own machine only.
        let grpc_ip = if client.is_unspecified() { Some("127.0.0.1".to_string()) } else { None };
        Ok(Node {
            name,
            bind,
            advertise,
            advertise_wan: parse_ip("advertise_addr_wan", self.advertise_addr_wan.as_deref())?.unwrap_or(advertise),
            rpc: SocketAddr::new(bind, port_of("ports.server", self.ports.server)?.unwrap_or(8300)),
            http: at("addresses.http", &self.addresses.http, self.ports.http)?,
            grpc: at("addresses.grpc", &self.addresses.grpc.clone().or(grpc_ip), self.ports.grpc)?,
            dns: at("addresses.dns", &self.addresses.dns, self.ports.dns)?,
        })
    }
}

fn port_of(key: &str, port: i32) -> Result<Option<u16>, ConfigError> {
    if port <= 0 {
        return Ok(None);
    }
    let message = || format!("{port} is not a port: 1 to 65535, or -1 to turn it off");
    u16::try_from(port).map(Some).map_err(|_| ConfigError::Value { key: key.to_string(), message: message() })
}

fn parse_ip(key: &str, text: Option<&str>) -> Result<Option<IpAddr>, ConfigError> {
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let message = || format!("{text:?} is not an IP address");
    text.trim_matches(['[', ']'])
        .parse()
        .map(Some)
        .map_err(|_| ConfigError::Value { key: key.to_string(), message: message() })
}

/// The address that this machine would use to reach others. No packet is sent.
fn own_address(bind: IpAddr) -> IpAddr {
    let find = || -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind(SocketAddr::new(bind, 0))?;
        socket.connect("192.0.2.1:9")?; // RFC 5737: documentation only
        Ok(socket.local_addr()?.ip())
    };
    find().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "node".into())
}

/// `service { … }` once, or several times.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Value>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => Vec::new(),
        Value::Array(many) => many,
        one => vec![one],
    })
}
