//! A datacenter as the others know it.

use serde::{Deserialize, Serialize};

/// A datacenter of the federation and where its servers are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Datacenter {
    /// Its name.
    pub name: String,
    /// RPC addresses (`ip:port`) of its servers.
    pub servers: Vec<String>,
    /// Public addresses (`ip:port`, UDP) of its mesh gateways.
    pub gateways: Vec<String>,
    /// Whether it is the primary: CA root, intentions, config entries.
    pub primary: bool,
}
