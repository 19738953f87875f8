//! What the operator may set, with Consul's defaults, and every limit in one place with its unit in its name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// The largest UDP answer that Consul would ever send, in bytes.
pub const UDP_ANSWER_BYTES_MAX: u16 = 65_467;
/// What a client without EDNS is able to take, in bytes (RFC 1035 §4.2.1).
pub const UDP_PLAIN_BYTES_MAX: u16 = 512;
/// What crosses every path unfragmented, in bytes (DNS flag day 2020).
pub const UDP_UNFRAGMENTED_BYTES: u16 = 1232;
/// Consul's ceiling for `udp_answer_limit`, in records.
pub const UDP_ANSWER_LIMIT_MAX: usize = 8;
/// How many name servers an `NS` answer names, as in Consul.
pub const NAME_SERVERS_MAX: usize = 3;

/// The settings of the DNS interface. (Consul: `dns_config`, `domain`, `alt_domain`, `recursors`.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The zone that is answered. Default `consul.`.
    pub domain: String,
    /// A second name of the same zone: answers are spelled in the domain that was asked.
    pub alt_domain: Option<String>,
    /// Seconds that a node's records may be cached. Default 0.
    pub node_ttl_s: u32,
    /// Seconds that a service's records may be cached, by name: an exact name wins, then the longest `prefix*`, then `*`.
    pub service_ttl_s: BTreeMap<String, u32>,
    /// The zone's timers.
    pub soa: Soa,
    /// Leave out instances that are in warning. Critical ones are always left out. Default false.
    pub only_passing: bool,
    /// Records in a UDP answer to a client without EDNS: 1–8, 0 for no limit. Default 3.
    pub udp_answer_limit: usize,
    /// `A`/`AAAA` records in any answer; 0 for no limit. Default 0.
    pub a_record_limit: usize,
    /// Say so (TC bit) when records were left out of a UDP answer, so that clients ask again by TCP. Consul's default,
    /// false, is kept; true is what RFC 2181 §9 asks for.
    pub enable_truncate: bool,
    /// Write every name in full. Default false.
    pub disable_compression: bool,
    /// Add nodes' metadata as `TXT` records to the additional section. Default true.
    pub enable_additional_node_meta_txt: bool,
    /// Who answers for other domains, asked in this order. Empty: other domains are refused.
    pub recursors: Vec<SocketAddr>,
    /// How long one recursor may take. Default 2 s.
    pub recursor_timeout: Duration,
    /// The largest UDP answer to a client with EDNS: 512 to [`UDP_ANSWER_BYTES_MAX`]. Default 1232: bigger ones are
    /// fragmented, and amplify forged questions.
    pub udp_bytes_max: u16,
    /// Sockets, each with a thread, that share the UDP port. Default: one per core, at most 8.
    pub udp_threads: usize,
    /// TCP connections at a time; further ones wait in the kernel's queue. Default 1024.
    pub tcp_connections_max: usize,
    /// How long a TCP connection may be without a whole question, or its client may take to read answers. Default 10 s.
    pub tcp_idle_timeout: Duration,
    /// Questions at a time that wait for the look-up or a recursor; a further one gets SERVFAIL. Default 1024.
    pub waiting_max: usize,
    /// How long a question may wait for the look-up ([`Found::Wait`](crate::Found::Wait)) before it gets SERVFAIL. Default 2 s.
    pub wait_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            domain: "consul.".into(),
            alt_domain: None,
            node_ttl_s: 0,
            service_ttl_s: BTreeMap::new(),
            soa: Soa::default(),
            only_passing: false,
            udp_answer_limit: 3,
            a_record_limit: 0,
            enable_truncate: false,
            disable_compression: false,
            enable_additional_node_meta_txt: true,
            recursors: Vec::new(),
            recursor_timeout: Duration::from_secs(2),
            udp_bytes_max: UDP_UNFRAGMENTED_BYTES,
            udp_threads: cores.min(8),
            tcp_connections_max: 1024,
            tcp_idle_timeout: Duration::from_secs(10),
            waiting_max: 1024,
            wait_timeout: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// Seconds that the records of `service` may be cached.
    pub fn service_ttl_s(&self, service: &str) -> u32 {
        if self.service_ttl_s.is_empty() {
            return 0;
        }
        if let Some(ttl) = self.service_ttl_s.get(service) {
            return *ttl;
        }
        let prefixes = self.service_ttl_s.iter().filter_map(|(pattern, ttl)| {
            let prefix = pattern.strip_suffix('*')?;
            service.starts_with(prefix).then_some((prefix.len(), *ttl))
        });
        prefixes.max_by_key(|(length, _)| *length).map_or(0, |(_, ttl)| ttl)
    }
}

/// Timers of the zone, in seconds. (Consul: `dns_config.soa`.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soa {
    /// How often a secondary would ask for changes. Default 3600.
    pub refresh_s: u32,
    /// How soon it would ask again after a failure. Default 600.
    pub retry_s: u32,
    /// When it would give up. Default 86 400.
    pub expire_s: u32,
    /// How long "there is none" may be cached. Default 0: a service that just came up must be found.
    pub min_ttl_s: u32,
}

impl Default for Soa {
    fn default() -> Self {
        Self { refresh_s: 3600, retry_s: 600, expire_s: 86_400, min_ttl_s: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_service_ttl_wins_then_the_longest_prefix() {
        let table = [("web", 5), ("web*", 6), ("web-a*", 7), ("*", 8)];
        let service_ttl_s = table.map(|(name, ttl)| (name.to_string(), ttl)).into();
        let config = Config { service_ttl_s, ..Config::default() };
        for (service, ttl) in [("web", 5), ("web-b", 6), ("web-ab", 7), ("api", 8), ("we", 8)] {
            assert_eq!(config.service_ttl_s(service), ttl, "{service}");
        }
        assert_eq!(Config::default().service_ttl_s("web"), 0);
    }
}
