//! Bodies of requests to the catalog.

use model::{Check, Meta, Node, ServiceInstance};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The body of `PUT /v1/catalog/register`. (Consul: `structs.RegisterRequest`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Register {
    /// The datacenter to write in; empty means the server's.
    pub datacenter: String,
    /// The node's UUID.
    #[serde(rename = "ID")]
    pub id: String,
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub address: String,
    /// The node's addresses by network.
    pub tagged_addresses: BTreeMap<String, String>,
    /// The node's labels.
    pub node_meta: Meta,
    /// An instance on it.
    pub service: Option<ServiceInstance>,
    /// A check.
    pub check: Option<Check>,
    /// More checks.
    pub checks: Vec<Check>,
    /// Leave the node as it is if it exists.
    pub skip_node_update: bool,
}

/// The body of `PUT /v1/catalog/deregister`. (Consul: `structs.DeregisterRequest`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Deregister {
    /// The datacenter to write in; empty means the server's.
    pub datacenter: String,
    /// The node's name.
    pub node: String,
    /// Not used; clients send it.
    pub address: String,
    /// Only this instance and its checks.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// Only this check.
    #[serde(rename = "CheckID")]
    pub check_id: String,
}

impl Register {
    /// The node that it describes.
    pub fn take_node(&mut self) -> Node {
        Node {
            id: std::mem::take(&mut self.id),
            name: std::mem::take(&mut self.node),
            address: std::mem::take(&mut self.address),
            datacenter: std::mem::take(&mut self.datacenter),
            tagged_addresses: std::mem::take(&mut self.tagged_addresses),
            meta: std::mem::take(&mut self.node_meta),
            peer_name: String::new(),
        }
    }

    /// `Check` and `Checks` together.
    pub fn take_checks(&mut self) -> Vec<Check> {
        let mut checks = std::mem::take(&mut self.checks);
        checks.extend(self.check.take());
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::from_slice;

    #[test]
    fn a_registration_gives_its_parts() {
        let body = br#"{"Node": "n1", "Address": "10.0.0.1", "NodeMeta": {"Rack": "r1"},
            "Service": {"Service": "web", "Port": 80}, "Check": {"CheckID": "a", "Status": "passing"}, "Checks": [{"CheckID": "b"}]}"#;
        let mut register: Register = from_slice(body).expect("reads");
        let node = register.take_node();
        assert_eq!((node.name.as_str(), node.address.as_str(), node.meta["Rack"].as_str()), ("n1", "10.0.0.1", "r1"));
        let ids: Vec<String> = register.take_checks().into_iter().map(|c| c.check_id).collect();
        assert_eq!(ids, ["b", "a"]);
        assert_eq!(register.service.expect("a service").port, 80);
    }

    #[test]
    fn snake_case_is_understood() {
        let body: Deregister = from_slice(br#"{"node": "n1", "service_id": "web-1"}"#).expect("reads");
        assert_eq!((body.node.as_str(), body.service_id.as_str()), ("n1", "web-1"));
    }

    #[test]
    fn a_check_without_a_status_is_critical() {
        for check in [r#"{"CheckID": "a"}"#, r#"{"CheckID": "a", "Status": ""}"#, r#"{"CheckID": "a", "Status": null}"#]
        {
            let body = format!(r#"{{"Node": "n1", "Check": {check}}}"#);
            let register: Register = from_slice(body.as_bytes()).expect(check);
            assert_eq!(register.check.expect("a check").status, model::CheckStatus::Critical);
        }
    }
}
