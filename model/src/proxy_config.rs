//! Everything that a proxy needs to know. The server compiles it; the proxy obeys. It can also be loaded from a file.

mod delta;
mod validate;

pub use delta::{Change, ProxyDelta, ProxyIdentity, apply, diff};
pub use validate::InvalidProxyConfig;

use crate::config_entry::Protocol;
use crate::intention::{Action, Decision, names};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that one sidecar or gateway needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProxyConfig {
    /// The proxy's own instance id (`web-1-sidecar-proxy`).
    #[serde(rename = "ID")]
    pub id: String,
    /// The datacenter that it is in.
    pub datacenter: String,
    /// `<uuid>.consul`.
    pub trust_domain: String,
    /// The service that it speaks for; a gateway's own service name for a gateway.
    pub service: String,
    /// Roots that it trusts, PEM.
    pub roots: Vec<String>,
    /// Certificates that are no longer good, by serial number in lower-case hex.
    pub revoked_serials: Vec<String>,
    /// SPIFFE ids that are no longer good.
    pub revoked_ids: Vec<String>,
    /// What it accepts for its application. None for a gateway.
    pub inbound: Option<Inbound>,
    /// What its application may call, by upstream name (`db`, `db.dc2`).
    pub upstreams: BTreeMap<String, UpstreamConfig>,
    /// Set for a gateway between datacenters.
    pub gateway: Option<GatewayConfig>,
}

/// What a sidecar accepts for its application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Inbound {
    /// `ip:port` where it listens for mutual TLS.
    pub listen: String,
    /// `ip:port` of the application.
    pub local: String,
    /// What the application speaks.
    pub protocol: Protocol,
    /// Rules that name this service (or `*`) as the destination, most exact first.
    pub intentions: Vec<Rule>,
    /// What happens when no rule matches.
    pub default_action: Action,
    /// Most connections at a time; 0 means the proxy's own limit.
    pub max_connections: u32,
    /// Time limit for connecting to the application, in milliseconds.
    pub connect_timeout_ms: u32,
    /// Time limit for its answer, in milliseconds; 0 means none.
    pub request_timeout_ms: u32,
}

impl Inbound {
    /// Decides whether a service may call the application: the first rule that names it wins.
    pub fn decide(&self, source: &str) -> Decision<&Rule> {
        let rule = self.intentions.iter().find(|rule| names(&rule.source, source));
        Decision { action: rule.map_or(self.default_action, |rule| rule.action), rule }
    }
}

/// An intention as a proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Rule {
    /// The caller's service name, or `*`.
    pub source: String,
    /// Allow or deny.
    pub action: Action,
}

/// One service that the application may call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpstreamConfig {
    /// `ip:port` where the sidecar listens for the application.
    pub listen: String,
    /// The service's name.
    pub service: String,
    /// The service's datacenter.
    pub datacenter: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Name that is sent in the TLS handshake: `<service>.default.<dc>.internal.<trust domain>`.
    pub sni: String,
    /// The only SPIFFE ids that are accepted from the other side.
    pub spiffe_ids: Vec<String>,
    /// Where it can be reached now: sidecars here, or gateways when it is in another datacenter.
    pub endpoints: Vec<Endpoint>,
    /// Time limit for connecting, in milliseconds.
    pub connect_timeout_ms: u32,
}

/// A place where a service can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Endpoint {
    /// `ip:port`, mutual TLS over TCP.
    pub address: String,
    /// The instance's id, for logs and metrics.
    pub instance: String,
    /// The node that it is on.
    pub node: String,
    /// Relative weight, 1 to 65535.
    pub weight: u16,
}

/// What a gateway between datacenters needs to know. It never decrypts the connections that it passes on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GatewayConfig {
    /// `ip:port` (TCP) where sidecars of this datacenter connect for services elsewhere.
    pub listen: String,
    /// `ip:port` (UDP) where gateways of other datacenters connect by QUIC.
    pub tunnel_listen: String,
    /// Gateways of the other datacenters: name → public `ip:port` (UDP) of each.
    pub datacenters: BTreeMap<String, Vec<String>>,
    /// Services of this datacenter that others may reach: SNI → sidecars.
    pub services: BTreeMap<String, Vec<Endpoint>>,
}

/// The name that is sent in the TLS handshake for a service, so that gateways can route without decrypting.
/// (Consul: `connect.ServiceSNI`.)
pub fn service_sni(service: &str, datacenter: &str, trust_domain: &str) -> String {
    format!("{service}.default.{datacenter}.internal.{trust_domain}")
}
