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

/// Why a node was refused. The caller's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNode {
    /// There is no name. The text is Consul's.
    #[error("Must provide node")]
    NoName,
    /// There is no address. The text is Consul's.
    #[error("Must provide address if SkipNodeUpdate is not set")]
    NoAddress,
    /// The name would break logs and headers.
    #[error(transparent)]
    Name(#[from] crate::name::InvalidName),
    /// The id is not a UUID.
    #[error("Bad node ID {0:?}: it must be a UUID")]
    Id(String),
    /// See [`crate::meta`].
    #[error("Invalid Node Meta: {0}")]
    Meta(#[from] crate::meta::InvalidMeta),
}

impl Node {
    /// Whether it can be registered.
    pub fn validate(&self) -> Result<(), InvalidNode> {
        if self.name.is_empty() {
            return Err(InvalidNode::NoName);
        }
        if self.address.is_empty() {
            return Err(InvalidNode::NoAddress);
        }
        crate::name::check_node(&self.name)?;
        if !self.id.is_empty() && !is_uuid(&self.id) {
            return Err(InvalidNode::Id(self.id.clone()));
        }
        Ok(crate::meta::validate(&self.meta)?)
    }
}

/// Whether a text has the form of a UUID: 8-4-4-4-12 hex digits.
pub fn is_uuid(text: &str) -> bool {
    let groups = text.split('-').map(|group| (group.len(), group.bytes().all(|b| b.is_ascii_hexdigit())));
    groups.eq([8, 4, 4, 4, 12].map(|len| (len, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_checked() {
        let good = Node { name: "n1".into(), address: "10.0.0.1".into(), ..Node::default() };
        let cases = [
            (good.clone(), ""),
            (Node { id: "11111111-2222-3333-4444-55555555abCD".into(), ..good.clone() }, ""),
            (Node { name: String::new(), ..good.clone() }, "Must provide node"),
            (Node { address: String::new(), ..good.clone() }, "Must provide address if SkipNodeUpdate is not set"),
            (Node { id: "1-2".into(), ..good.clone() }, "Bad node ID \"1-2\": it must be a UUID"),
            (
                Node { id: "1111111g-2222-3333-4444-555555555555".into(), ..good },
                "Bad node ID \"1111111g-2222-3333-4444-555555555555\": it must be a UUID",
            ),
        ];
        for (node, problem) in cases {
            assert_eq!(node.validate().err().map(|e| e.to_string()).unwrap_or_default(), problem, "{node:?}");
        }
    }
}
