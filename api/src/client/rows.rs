//! Rows that are flat on the wire, as they are read.

use model::{Index, Meta};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A row of `/v1/catalog/service/:name`. (Consul: `api.CatalogService`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CatalogServiceRow {
    /// The node's UUID.
    #[serde(rename = "ID")]
    pub id: String,
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub address: String,
    /// The node's datacenter.
    pub datacenter: String,
    /// The node's labels.
    pub node_meta: Meta,
    /// The node's addresses by network.
    pub tagged_addresses: BTreeMap<String, String>,
    /// The instance's id.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The service.
    pub service_name: String,
    /// Its tags.
    pub service_tags: Vec<String>,
    /// Its own address, if it has one.
    pub service_address: String,
    /// Its port.
    pub service_port: u16,
    /// Its labels.
    pub service_meta: Meta,
    /// When it was made.
    pub create_index: Index,
    /// When it was last changed.
    pub modify_index: Index,
}
