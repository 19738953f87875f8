//! From the operator's settings to those of each part.

use super::{Folder, NodeError};
use crate::config::{Node, Settings};
use agent::{AgentConfig, Home, Scripts};
use identity::JoinSecret;
use model::intention::Action;
use model::{GoDuration, JsonMap};
use server::{HttpLimits, RaftLog, ServerConfig};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The join secret, or the one that everybody knows.
pub(super) fn join_secret(settings: &Settings) -> Result<JoinSecret, NodeError> {
    match settings.encrypt.as_deref().map(str::trim).filter(|secret| !secret.is_empty()) {
        None => Ok(JoinSecret::open()),
        Some(secret) => JoinSecret::parse(secret).map_err(|error| NodeError::Setting {
            setting: "encrypt",
            message: format!("{error}; make one with `tribune keygen`"),
        }),
    }
}

/// A server's part.
pub(super) fn server(settings: &Settings, node: &Node, folder: &Folder) -> Result<ServerConfig, NodeError> {
    let base = ServerConfig::new(folder.path(), &node.name, &settings.datacenter, node.rpc, join_secret(settings)?);
    Ok(ServerConfig {
        node_id: folder.node_id().to_string(),
        node_meta: settings.node_meta.clone(),
        tagged_addresses: tagged_addresses(settings, node),
        primary_datacenter: settings.primary_datacenter.clone(),
        rpc_advertise: Some(SocketAddr::new(node.advertise, node.rpc.port())),
        bootstrap_expect: if settings.bootstrap { 1 } else { settings.bootstrap_expect },
        retry_join: with_port(joins(&settings.retry_join, &settings.start_join), node.rpc.port()),
        retry_join_wan: with_port(joins(&settings.retry_join_wan, &settings.start_join_wan), node.rpc.port()),
        default_intention_policy: default_action(settings),
        log: log(settings, base.log),
        // As in Consul, 0 is the default.
        session_ttl_min: Some(settings.session_ttl_min.0).filter(|min| !min.is_zero()).unwrap_or(base.session_ttl_min),
        version: env!("CARGO_PKG_VERSION").into(),
        ..base
    })
}

/// How much of the log is kept.
fn log(settings: &Settings, usual: RaftLog) -> RaftLog {
    RaftLog {
        snapshot_every_entries: settings.raft_snapshot_threshold.unwrap_or(usual.snapshot_every_entries),
        entries_kept: settings.raft_trailing_logs.unwrap_or(usual.entries_kept),
        ..usual
    }
}

/// What becomes of calls that no intention names: Consul without access control lists allows them.
fn default_action(settings: &Settings) -> Action {
    // `Settings` has refused every other word.
    if settings.default_intention_policy == "deny" { Action::Deny } else { Action::Allow }
}

/// The agent's part.
pub(super) fn agent(settings: &Settings, node: &Node, folder: &Folder) -> AgentConfig {
    let noun = model::Node {
        id: folder.node_id().to_string(),
        name: node.name.clone(),
        address: node.advertise.to_string(),
        datacenter: settings.datacenter.clone(),
        tagged_addresses: tagged_addresses(settings, node),
        meta: settings.node_meta.clone(),
        peer_name: String::new(),
    };
    let home = if settings.server {
        Home::Own(SocketAddr::new(node.advertise, node.rpc.port()).to_string())
    } else {
        Home::Join(with_port(joins(&settings.retry_join, &settings.start_join), node.rpc.port()))
    };
    AgentConfig {
        primary_datacenter: settings.primary_datacenter.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        rpc_port: if settings.server { node.rpc.port() } else { 0 },
        scripts: match (settings.enable_script_checks, settings.enable_local_script_checks) {
            (true, _) => Scripts::All,
            (false, true) => Scripts::Local,
            (false, false) => Scripts::Off,
        },
        check_update_interval: settings.check_update_interval.0,
        sidecar_ports: settings.ports.sidecar_min_port..=settings.ports.sidecar_max_port,
        debug: shown(settings, node),
        ..AgentConfig::new(noun, home)
    }
}

/// DNS.
pub(super) fn dns(settings: &Settings) -> Result<dns::Config, NodeError> {
    let given = &settings.dns_config;
    let base = dns::Config::default();
    let recursors = settings.recursors.iter().map(|text| recursor(text)).collect::<Result<_, _>>()?;
    Ok(dns::Config {
        domain: settings.domain.clone(),
        alt_domain: Some(settings.alt_domain.clone()).filter(|domain| !domain.is_empty()),
        node_ttl_s: seconds(given.node_ttl),
        service_ttl_s: given.service_ttl.iter().map(|(name, ttl)| (name.clone(), seconds(*ttl))).collect(),
        soa: dns::Soa {
            refresh_s: given.soa.refresh,
            retry_s: given.soa.retry,
            expire_s: given.soa.expire,
            min_ttl_s: given.soa.min_ttl,
        },
        only_passing: given.only_passing,
        udp_answer_limit: given.udp_answer_limit.unwrap_or(base.udp_answer_limit),
        a_record_limit: given.a_record_limit.unwrap_or(base.a_record_limit),
        enable_truncate: given.enable_truncate.unwrap_or(base.enable_truncate),
        enable_additional_node_meta_txt: given
            .enable_additional_node_meta_txt
            .unwrap_or(base.enable_additional_node_meta_txt),
        recursors,
        recursor_timeout: given.recursor_timeout.map_or(base.recursor_timeout, |timeout| timeout.0),
        ..base
    })
}

/// Limits of the HTTP port.
pub(super) fn http(settings: &Settings) -> HttpLimits {
    HttpLimits { connections_per_client_max: settings.limits.http_max_conns_per_client, ..HttpLimits::default() }
}

fn seconds(duration: GoDuration) -> u32 {
    u32::try_from(duration.0.as_secs()).unwrap_or(u32::MAX)
}

fn recursor(text: &str) -> Result<SocketAddr, NodeError> {
    let ip = || text.parse().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| ip()).map_err(|_| NodeError::Setting {
        setting: "recursors",
        message: format!("{text:?} is not an IP address, or one with a port"),
    })
}

fn joins(retry: &[String], start: &[String]) -> Vec<String> {
    retry.iter().chain(start).cloned().collect()
}

/// Addresses without a port get that of this node: clusters use one port throughout.
fn with_port(addresses: Vec<String>, port: u16) -> Vec<String> {
    let complete = |address: String| match address.parse::<std::net::IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if address.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) => address,
        Err(_) => format!("{address}:{port}"),
    };
    addresses.into_iter().map(complete).collect()
}

fn tagged_addresses(settings: &Settings, node: &Node) -> BTreeMap<String, String> {
    let mut tagged = settings.tagged_addresses.clone();
    for (name, ip) in [("lan", node.advertise), ("wan", node.advertise_wan)] {
        let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
        tagged.entry(name.to_string()).or_insert_with(|| ip.to_string());
        tagged.entry(format!("{name}_{family}")).or_insert_with(|| ip.to_string());
    }
    tagged
}

/// What `/v1/agent/self` shows of the settings: nothing secret.
fn shown(settings: &Settings, node: &Node) -> JsonMap {
    let address = |at: Option<SocketAddr>| serde_json::json!(at.map(|a| a.to_string()));
    JsonMap::from([
        ("BindAddr".to_string(), serde_json::json!(node.bind)),
        ("AdvertiseAddrLAN".into(), serde_json::json!(node.advertise)),
        ("Bootstrap".into(), serde_json::json!(settings.bootstrap)),
        ("BootstrapExpect".into(), serde_json::json!(settings.bootstrap_expect)),
        ("DNSDomain".into(), serde_json::json!(settings.domain)),
        ("EncryptKey".into(), serde_json::json!(if settings.encrypt.is_some() { "hidden" } else { "" })),
        ("DNSAddr".into(), address(node.dns)),
        ("HTTPAddr".into(), address(node.http)),
        ("GRPCAddr".into(), address(node.grpc)),
        ("ServerMode".into(), serde_json::json!(settings.server)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_addresses_get_this_nodes_port() {
        let given = ["10.0.0.1", "10.0.0.2:9300", "::1", "[::2]:9300", "srv.example.com", "srv.example.com:9300"]
            .map(String::from);
        let want = [
            "10.0.0.1:8300",
            "10.0.0.2:9300",
            "[::1]:8300",
            "[::2]:9300",
            "srv.example.com:8300",
            "srv.example.com:9300",
        ];
        assert_eq!(with_port(given.to_vec(), 8300), want);
    }

    #[test]
    fn calls_without_an_intention_are_allowed_unless_denied() {
        for (word, action) in [("", Action::Allow), ("allow", Action::Allow), ("deny", Action::Deny)] {
            let settings = Settings { default_intention_policy: word.into(), ..Settings::default() };
            assert_eq!(default_action(&settings), action, "{word:?}");
        }
    }

    #[test]
    fn sessions_have_the_shortest_ttl_that_is_set_or_ten_seconds() {
        let home = tempfile::tempdir().expect("a scratch folder");
        for (text, expected_s) in [("", 10), (r#""session_ttl_min": "0s""#, 10), (r#""session_ttl_min": "1m""#, 60)] {
            let path = home.path().join("tribune.json");
            std::fs::write(&path, format!("{{{text}}}")).expect("a file");
            let settings = crate::config::load(&[crate::config::Source::File(path)]).expect("valid").settings;
            let node = settings.node().expect("addresses");
            let folder = Folder::open(&home.path().join("data"), &node.name, "dc1", None).expect("a folder");
            let server = server(&settings, &node, &folder).expect("settings of a server");
            assert_eq!(server.session_ttl_min.as_secs(), expected_s, "{text}");
        }
    }

    #[test]
    fn recursors_have_port_53_unless_told_otherwise() {
        assert_eq!(recursor("10.0.0.1").expect("an address").to_string(), "10.0.0.1:53");
        assert_eq!(recursor("10.0.0.1:5353").expect("an address").to_string(), "10.0.0.1:5353");
        assert!(recursor("dns.example").is_err());
    }
}
