//! One method for each thing that the CLI does.

use super::{CatalogServiceRow, Client, ClientError, segment};
use crate::agent::{CheckRegistration, ServiceRegistration};
use crate::reply::{AgentSelf, Allowed, CaRoots, Indexed, Member, RaftConfiguration, ServiceEntryOwned};
use http::Method;
use model::config_entry::ConfigEntry;
use model::intention::Action;
use model::{Check, Intention, Node, ServiceInstance};
use std::collections::BTreeMap;

/// The catalog and health.
impl Client {
    /// The datacenters that the agent knows.
    pub async fn datacenters(&self) -> Result<Vec<String>, ClientError> {
        Ok(self.get("/v1/catalog/datacenters").await?.value)
    }

    /// All nodes. `query` begins with `?` or is empty.
    pub async fn nodes(&self, query: &str) -> Result<Vec<Indexed<Node>>, ClientError> {
        Ok(self.get(&format!("/v1/catalog/nodes{query}")).await?.value)
    }

    /// All services with the tags that their instances have.
    pub async fn services(&self, query: &str) -> Result<BTreeMap<String, Vec<String>>, ClientError> {
        Ok(self.get(&format!("/v1/catalog/services{query}")).await?.value)
    }

    /// The instances of a service.
    pub async fn service(&self, name: &str, query: &str) -> Result<Vec<CatalogServiceRow>, ClientError> {
        Ok(self.get(&format!("/v1/catalog/service/{}{query}", segment(name))).await?.value)
    }

    /// The instances of a service with their nodes and checks.
    pub async fn health_service(&self, name: &str, query: &str) -> Result<Vec<ServiceEntryOwned>, ClientError> {
        Ok(self.get(&format!("/v1/health/service/{}{query}", segment(name))).await?.value)
    }

    /// The checks in a state (`any`, `passing`, `warning`, `critical`).
    pub async fn health_state(&self, state: &str, query: &str) -> Result<Vec<Indexed<Check>>, ClientError> {
        Ok(self.get(&format!("/v1/health/state/{}{query}", segment(state))).await?.value)
    }

    /// `ip:port` of the leader; empty if there is none.
    pub async fn leader(&self) -> Result<String, ClientError> {
        Ok(self.get("/v1/status/leader").await?.value)
    }
}

/// The agent.
impl Client {
    /// Who the agent is.
    pub async fn agent_self(&self) -> Result<AgentSelf, ClientError> {
        Ok(self.get("/v1/agent/self").await?.value)
    }

    /// The nodes that the agent knows; with `wan`, the servers of all datacenters.
    pub async fn members(&self, wan: bool) -> Result<Vec<Member>, ClientError> {
        Ok(self.get(if wan { "/v1/agent/members?wan=1" } else { "/v1/agent/members" }).await?.value)
    }

    /// The agent's own instances by id.
    pub async fn agent_services(&self) -> Result<BTreeMap<String, ServiceInstance>, ClientError> {
        Ok(self.get("/v1/agent/services").await?.value)
    }

    /// The agent's own checks by id.
    pub async fn agent_checks(&self) -> Result<BTreeMap<String, Check>, ClientError> {
        Ok(self.get("/v1/agent/checks").await?.value)
    }

    /// Registers an instance with the agent.
    pub async fn register_service(&self, registration: &ServiceRegistration) -> Result<(), ClientError> {
        self.put("/v1/agent/service/register", registration).await.map(drop)
    }

    /// Removes one of the agent's instances, by id.
    pub async fn deregister_service(&self, id: &str) -> Result<(), ClientError> {
        self.put_empty(&format!("/v1/agent/service/deregister/{}", segment(id))).await.map(drop)
    }

    /// Registers a check with the agent.
    pub async fn register_check(&self, registration: &CheckRegistration) -> Result<(), ClientError> {
        self.put("/v1/agent/check/register", registration).await.map(drop)
    }

    /// Removes one of the agent's checks.
    pub async fn deregister_check(&self, id: &str) -> Result<(), ClientError> {
        self.put_empty(&format!("/v1/agent/check/deregister/{}", segment(id))).await.map(drop)
    }

    /// Puts the node (no id) or one of its instances into maintenance, or out of it.
    pub async fn maintenance(&self, service_id: Option<&str>, enable: bool, reason: &str) -> Result<(), ClientError> {
        let what =
            service_id.map_or_else(|| "maintenance".to_string(), |id| format!("service/maintenance/{}", segment(id)));
        self.put_empty(&format!("/v1/agent/{what}?enable={enable}&reason={}", segment(reason))).await.map(drop)
    }

    /// Makes the agent join others.
    pub async fn join(&self, address: &str, wan: bool) -> Result<(), ClientError> {
        let wan = if wan { "?wan=1" } else { "" };
        self.put_empty(&format!("/v1/agent/join/{}{wan}", segment(address))).await.map(drop)
    }

    /// Makes the agent say goodbye and stop.
    pub async fn leave(&self) -> Result<(), ClientError> {
        self.put_empty("/v1/agent/leave").await.map(drop)
    }

    /// Removes a node that is gone.
    pub async fn force_leave(&self, node: &str, prune: bool) -> Result<(), ClientError> {
        let prune = if prune { "?prune=1" } else { "" };
        self.put_empty(&format!("/v1/agent/force-leave/{}{prune}", segment(node))).await.map(drop)
    }
}

/// Intentions, certificates, central configuration.
impl Client {
    /// All intentions.
    pub async fn intentions(&self) -> Result<Vec<Indexed<Intention>>, ClientError> {
        Ok(self.get("/v1/connect/intentions").await?.value)
    }

    /// The intention of exactly this pair.
    pub async fn intention(&self, source: &str, destination: &str) -> Result<Option<Indexed<Intention>>, ClientError> {
        Ok(self.find(&exact(source, destination)).await?.map(|reply| reply.value))
    }

    /// Allows or denies a pair.
    pub async fn put_intention(
        &self,
        source: &str,
        destination: &str,
        action: Action,
        description: &str,
    ) -> Result<(), ClientError> {
        let body = serde_json::json!({"SourceType": "consul", "Action": action, "Description": description});
        self.put(&exact(source, destination), &body).await.map(drop)
    }

    /// Removes the intention of a pair.
    pub async fn delete_intention(&self, source: &str, destination: &str) -> Result<(), ClientError> {
        self.delete(&exact(source, destination)).await.map(drop)
    }

    /// Whether one may call the other.
    pub async fn check_intention(&self, source: &str, destination: &str) -> Result<bool, ClientError> {
        let path =
            format!("/v1/connect/intentions/check?source={}&destination={}", segment(source), segment(destination));
        Ok(self.get::<Allowed>(&path).await?.value.allowed)
    }

    /// The roots that the mesh trusts.
    pub async fn ca_roots(&self) -> Result<CaRoots, ClientError> {
        Ok(self.get("/v1/connect/ca/roots").await?.value)
    }

    /// One config entry.
    pub async fn config(&self, kind: &str, name: &str) -> Result<Option<ConfigEntry>, ClientError> {
        let path = format!("/v1/config/{}/{}", segment(kind), segment(name));
        Ok(self.find(&path).await?.map(|reply| reply.value))
    }

    /// All config entries of a kind.
    pub async fn configs(&self, kind: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        Ok(self.get(&format!("/v1/config/{}", segment(kind))).await?.value)
    }

    /// Writes a config entry. False if `cas` did not match.
    pub async fn put_config(&self, entry: &serde_json::Value, cas: Option<u64>) -> Result<bool, ClientError> {
        let path = cas.map_or_else(|| "/v1/config".to_string(), |index| format!("/v1/config?cas={index}"));
        Ok(self.put(&path, entry).await?.json(&path)?.value)
    }

    /// Removes a config entry.
    pub async fn delete_config(&self, kind: &str, name: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/config/{}/{}", segment(kind), segment(name))).await.map(drop)
    }
}

/// The operator's.
impl Client {
    /// The members of Raft.
    pub async fn raft_configuration(&self) -> Result<RaftConfiguration, ClientError> {
        Ok(self.get("/v1/operator/raft/configuration").await?.value)
    }

    /// Removes a member of Raft, by its id.
    pub async fn raft_remove_peer(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&format!("/v1/operator/raft/peer?id={}", segment(id))).await.map(drop)
    }

    /// Lets another server lead; any if no id is given.
    pub async fn raft_transfer_leader(&self, id: Option<&str>) -> Result<(), ClientError> {
        let path = id.map_or_else(String::new, |id| format!("?id={}", segment(id)));
        let path = format!("/v1/operator/raft/transfer-leader{path}");
        self.send(Method::POST, &path, bytes::Bytes::new(), super::TIMEOUT).await?.successful().map(drop)
    }
}

fn exact(source: &str, destination: &str) -> String {
    format!("/v1/connect/intentions/exact?source={}&destination={}", segment(source), segment(destination))
}
