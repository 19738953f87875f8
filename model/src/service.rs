//! A service instance: one process of a service, on one node.

use crate::{JsonMap, Meta, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name and id of the instances that servers are, one on each server's node. The leader keeps them. (Consul:
/// `structs.ConsulServiceID`.)
pub const SERVER_SERVICE: &str = "consul";

/// One process of a service, on one node. (Consul: `structs.NodeService`, `api.AgentService`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceInstance {
    /// What kind of thing it is.
    #[serde(skip_serializing_if = "is_default")]
    pub kind: ServiceKind,
    /// Unique on its node; the service's name if none was given.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    pub service: String,
    /// The operator's labels, searchable by DNS.
    pub tags: Vec<String>,
    /// Where it is reached; empty means the node's address.
    pub address: String,
    /// Addresses by network: `lan`, `wan`, `consul-virtual`…
    #[serde(skip_serializing_if = "is_default")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// The operator's key–value labels.
    pub meta: Meta,
    /// The port; 0 means none.
    pub port: u16,
    /// A Unix socket instead of address and port.
    #[serde(skip_serializing_if = "is_default")]
    pub socket_path: String,
    /// For DNS SRV, by status.
    pub weights: Weights,
    /// Whether others may change the tags in the catalog.
    pub enable_tag_override: bool,
    /// Set on sidecars and gateways.
    #[serde(skip_serializing_if = "is_default")]
    pub proxy: Proxy,
    /// Whether the instance speaks the mesh's protocol itself.
    #[serde(skip_serializing_if = "is_default")]
    pub connect: Connect,
    /// Region and zone.
    #[serde(skip_serializing_if = "is_default")]
    pub locality: Option<Locality>,
    /// Set on instances imported from a peer.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_name: String,
}

/// What kind of thing a service instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// An application.
    #[default]
    #[serde(rename = "")]
    Typical,
    /// A sidecar.
    ConnectProxy,
    /// A gateway between datacenters.
    MeshGateway,
    /// A gateway to services outside the mesh.
    TerminatingGateway,
    /// A gateway from clients outside the mesh.
    IngressGateway,
    /// A gateway with routes (Gateway API).
    ApiGateway,
}

impl ServiceKind {
    /// Consul's name of it; empty for an application.
    pub const fn as_str(self) -> &'static str {
        match self {
            ServiceKind::Typical => "",
            ServiceKind::ConnectProxy => "connect-proxy",
            ServiceKind::MeshGateway => "mesh-gateway",
            ServiceKind::TerminatingGateway => "terminating-gateway",
            ServiceKind::IngressGateway => "ingress-gateway",
            ServiceKind::ApiGateway => "api-gateway",
        }
    }
}

/// An address of a service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceAddress {
    /// IP address or host name.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// Weights for DNS SRV by the status of the instance, 0 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    /// While every check passes.
    pub passing: u16,
    /// While a check warns.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { passing: 1, warning: 1 }
    }
}

/// Whether an instance speaks the mesh's protocol itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Connect {
    /// It does mutual TLS without a sidecar.
    #[serde(skip_serializing_if = "is_default")]
    pub native: bool,
}

/// Region and zone of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone in the region.
    pub zone: String,
}

/// What a sidecar or gateway stands for. (Consul: `ConnectProxyConfig`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Proxy {
    /// The service that a sidecar stands for.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_service_name: String,
    /// The instance that a sidecar stands for, on the same node.
    #[serde(rename = "DestinationServiceID", skip_serializing_if = "is_default")]
    pub destination_service_id: String,
    /// Where the application listens; empty means `127.0.0.1`.
    #[serde(skip_serializing_if = "is_default")]
    pub local_service_address: String,
    /// The application's port; 0 means that of the instance that it stands for.
    #[serde(skip_serializing_if = "is_default")]
    pub local_service_port: u16,
    /// `""`, `direct` or `transparent`.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: String,
    /// Opaque settings.
    #[serde(skip_serializing_if = "is_default")]
    pub config: JsonMap,
    /// What the application may call.
    #[serde(skip_serializing_if = "is_default")]
    pub upstreams: Vec<Upstream>,
    /// How calls to other datacenters go.
    #[serde(skip_serializing_if = "is_default")]
    pub mesh_gateway: MeshGateway,
}

/// A service that an application calls through its sidecar.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Upstream {
    /// `service` or `prepared_query`; empty means `service`.
    #[serde(skip_serializing_if = "is_default")]
    pub destination_type: String,
    /// The service's name.
    pub destination_name: String,
    /// Its datacenter; empty means the caller's.
    #[serde(skip_serializing_if = "is_default")]
    pub datacenter: String,
    /// Where the sidecar listens for the application; empty means `127.0.0.1`.
    #[serde(skip_serializing_if = "is_default")]
    pub local_bind_address: String,
    /// The port that the application calls.
    #[serde(skip_serializing_if = "is_default")]
    pub local_bind_port: u16,
    /// Opaque settings.
    #[serde(skip_serializing_if = "is_default")]
    pub config: JsonMap,
    /// How calls to other datacenters go.
    #[serde(skip_serializing_if = "is_default")]
    pub mesh_gateway: MeshGateway,
}

/// How calls to other datacenters go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MeshGateway {
    /// The mode.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: MeshGatewayMode,
}

/// Which gateways a call to another datacenter passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeshGatewayMode {
    /// The default: as `Local`.
    #[default]
    #[serde(rename = "")]
    Default,
    /// Straight to the instance.
    None,
    /// Through a gateway here, then one there.
    Local,
    /// Straight to a gateway there.
    Remote,
}
