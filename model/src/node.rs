//! A node: a machine (or container) that services run on.

use crate::{Meta, is_default};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A machine that services run on. (Consul: `structs.Node`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// A UUID, or empty for a node that was registered through the API without one.
    #[serde(rename = "ID")]
    pub id: String,
    /// Unique in the datacenter, compared without case.
    #[serde(rename = "Node")]
    pub name: String,
    /// Where it is reached: an IP address or a host name.
    pub address: String,
    /// Its datacenter.
    pub datacenter: String,
    /// Addresses by network: `lan`, `wan`, `lan_ipv4`, `wan_ipv4`.
    pub tagged_addresses: BTreeMap<String, String>,
    /// The operator's labels.
    pub meta: Meta,
    /// Set on nodes imported from a peer.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_name: String,
}
