//! Replies with Consul's exact JSON names. They borrow the nouns, so that a list is written without a copy of anything.
//!
//! A noun with its indexes is [`Indexed`]: nodes, checks, instances, intentions, config entries, roots. What has a shape
//! of its own has a type of its own. Write them with [`crate::json::to_bytes`].

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use model::ca::CaRoot;
use model::service::{Connect, Locality, Proxy, ServiceAddress, Weights};
use model::{Check, Index, JsonMap, KvEntry, Meta, Node, ServiceInstance, ServiceKind};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// A noun with the indexes of its creation and last change. `T` is borrowed (`&Node`) to write and owned to read.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Indexed<T> {
    /// The noun.
    #[serde(flatten)]
    pub noun: T,
    /// When it was made.
    #[serde(rename = "CreateIndex", default)]
    pub create_index: Index,
    /// When it was last changed.
    #[serde(rename = "ModifyIndex", default)]
    pub modify_index: Index,
}

impl<T> Indexed<T> {
    /// A noun with its indexes.
    pub fn new(noun: T, create_index: Index, modify_index: Index) -> Self {
        Indexed { noun, create_index, modify_index }
    }
}

/// A list that is written while it is walked. Written once: an iterator that can be cloned cheaply.
pub struct List<I>(pub I);

impl<I> Serialize for List<I>
where
    I: Iterator + Clone,
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for item in self.0.clone() {
            list.serialize_element(&item)?;
        }
        list.end()
    }
}

/// A map that is written while it is walked.
pub struct Map<I>(pub I);

impl<I, K, V> Serialize for Map<I>
where
    I: Iterator<Item = (K, V)> + Clone,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.clone())
    }
}

/// A row of `/v1/catalog/service/:name`: an instance with its node, flat. (Consul: `structs.ServiceNode`.)
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogService<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: &'a BTreeMap<String, String>,
    node_meta: &'a Meta,
    service_kind: ServiceKind,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: &'a BTreeMap<String, ServiceAddress>,
    service_weights: Weights,
    service_meta: &'a Meta,
    service_port: u16,
    service_socket_path: &'a str,
    service_enable_tag_override: bool,
    service_proxy: &'a Proxy,
    service_connect: Connect,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_locality: Option<&'a Locality>,
    #[serde(skip_serializing_if = "str::is_empty")]
    peer_name: &'a str,
    create_index: Index,
    modify_index: Index,
}

impl<'a> CatalogService<'a> {
    /// The row of an instance; the indexes are the instance's.
    pub fn new(node: &'a Node, service: &'a ServiceInstance, create_index: Index, modify_index: Index) -> Self {
        CatalogService {
            id: &node.id,
            node: &node.name,
            address: &node.address,
            datacenter: &node.datacenter,
            tagged_addresses: &node.tagged_addresses,
            node_meta: &node.meta,
            service_kind: service.kind,
            service_id: &service.id,
            service_name: &service.service,
            service_tags: &service.tags,
            service_address: &service.address,
            service_tagged_addresses: &service.tagged_addresses,
            service_weights: service.weights,
            service_meta: &service.meta,
            service_port: service.port,
            service_socket_path: &service.socket_path,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: &service.proxy,
            service_connect: service.connect,
            service_locality: service.locality.as_ref(),
            peer_name: &service.peer_name,
            create_index,
            modify_index,
        }
    }
}

/// A row of `/v1/health/service/:name`. `C` is a list of checks (`Vec`, slice, [`List`]).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceEntry<N, S, C> {
    /// The node, with indexes.
    pub node: N,
    /// The instance, with indexes.
    pub service: S,
    /// The checks of the instance and of its node.
    pub checks: C,
}

/// A row of `/v1/health/service/:name` as it is written.
pub type ServiceEntryRef<'a> = ServiceEntry<Indexed<&'a Node>, Indexed<&'a ServiceInstance>, Vec<Indexed<&'a Check>>>;
/// A row of `/v1/health/service/:name` as it is read.
pub type ServiceEntryOwned = ServiceEntry<Indexed<Node>, Indexed<ServiceInstance>, Vec<Indexed<Check>>>;

/// `/v1/catalog/node/:node`: a node and its instances by id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeServices<N, S> {
    /// The node; `null` if there is none.
    pub node: N,
    /// By id ([`Map`], `BTreeMap`), or a list for `/v1/catalog/node-services/:node`.
    pub services: S,
}

/// An entry of `/v1/kv`. The value is base64, or `null` if it is empty. (Consul: `api.KVPair`.)
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KvPair<'a> {
    lock_index: u64,
    key: &'a str,
    flags: u64,
    #[serde(serialize_with = "base64_or_null")]
    value: &'a Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    create_index: Index,
    modify_index: Index,
}

impl<'a> KvPair<'a> {
    /// An entry with its indexes.
    pub fn new(entry: &'a KvEntry, create_index: Index, modify_index: Index) -> Self {
        KvPair {
            lock_index: entry.lock_index,
            key: &entry.key,
            flags: entry.flags,
            value: &entry.value,
            session: entry.session.as_deref(),
            create_index,
            modify_index,
        }
    }
}

fn base64_or_null<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_empty() {
        return serializer.serialize_none();
    }
    serializer.collect_str(&Base64Display::new(value, &STANDARD))
}

/// `/v1/connect/ca/roots`. `R` is a list of [`Indexed`] roots. (Consul: `structs.IndexedCARoots`.)
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CaRoots<R = Vec<Indexed<CaRoot>>> {
    /// The root that new leaves chain to.
    #[serde(rename = "ActiveRootID")]
    pub active_root_id: String,
    /// `<uuid>.consul`.
    pub trust_domain: String,
    /// All that are trusted.
    pub roots: R,
}

/// `/v1/agent/connect/ca/leaf/:service`. (Consul: `structs.IssuedCert`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LeafCert {
    /// Hex with colons.
    pub serial_number: String,
    /// The chain, its own first.
    #[serde(rename = "CertPEM")]
    pub cert_pem: String,
    /// Its key.
    #[serde(rename = "PrivateKeyPEM")]
    pub private_key_pem: String,
    /// The service that it is for.
    pub service: String,
    /// Its SPIFFE id.
    #[serde(rename = "ServiceURI")]
    pub service_uri: String,
    /// RFC 3339.
    pub valid_after: String,
    /// RFC 3339.
    pub valid_before: String,
    /// When it was made.
    pub create_index: Index,
    /// When it was last changed.
    pub modify_index: Index,
}

/// `/v1/connect/intentions/check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Allowed {
    /// Whether the call may pass.
    pub allowed: bool,
}

/// `/v1/agent/connect/authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Authorized {
    /// Whether the call may pass.
    pub authorized: bool,
    /// Which rule says so.
    pub reason: String,
}

/// A row of `/v1/agent/members`. (Consul: `serf.Member`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// Its address.
    pub addr: String,
    /// Its port (Consul: of gossip; here, of RPC for a server, else 0).
    pub port: u16,
    /// `role` is `consul` for a server and `node` for others; `dc`, `id`, `build`…
    pub tags: BTreeMap<String, String>,
    /// 1 alive, 2 leaving, 3 left, 4 failed.
    pub status: MemberStatus,
    /// Protocol versions: always those of Consul 1.16.
    pub protocol_min: u8,
    /// See `protocol_min`.
    pub protocol_max: u8,
    /// See `protocol_min`.
    pub protocol_cur: u8,
    /// See `protocol_min`.
    pub delegate_min: u8,
    /// See `protocol_min`.
    pub delegate_max: u8,
    /// See `protocol_min`.
    pub delegate_cur: u8,
}

/// The state of a member, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum MemberStatus {
    /// 1
    #[default]
    Alive,
    /// 2
    Leaving,
    /// 3
    Left,
    /// 4
    Failed,
}

impl From<MemberStatus> for u8 {
    fn from(status: MemberStatus) -> u8 {
        match status {
            MemberStatus::Alive => 1,
            MemberStatus::Leaving => 2,
            MemberStatus::Left => 3,
            MemberStatus::Failed => 4,
        }
    }
}

impl TryFrom<u8> for MemberStatus {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(MemberStatus::Alive),
            2 => Ok(MemberStatus::Leaving),
            3 => Ok(MemberStatus::Left),
            4 => Ok(MemberStatus::Failed),
            other => Err(format!("{other} is no status of a member")),
        }
    }
}

impl Member {
    /// A member with the protocol versions of Consul 1.16.
    pub fn new(name: &str, addr: &str, port: u16, tags: BTreeMap<String, String>, status: MemberStatus) -> Self {
        let (name, addr) = (name.to_string(), addr.to_string());
        let versions = Member {
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
            ..Member::default()
        };
        Member { name, addr, port, tags, status, ..versions }
    }
}

/// `/v1/agent/self`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentSelf {
    /// What clients read.
    pub config: AgentConfig,
    /// All settings, for people.
    pub debug_config: JsonMap,
    /// Network coordinates.
    pub coord: Option<serde_json::Value>,
    /// The node as a member.
    pub member: Member,
    /// Counters by subsystem.
    pub stats: BTreeMap<String, BTreeMap<String, String>>,
    /// The node's labels.
    pub meta: Meta,
}

/// The part of `/v1/agent/self` that clients read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentConfig {
    /// The datacenter.
    pub datacenter: String,
    /// The datacenter of CA root, intentions and config entries.
    pub primary_datacenter: String,
    /// The node's name.
    pub node_name: String,
    /// The node's UUID.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// The commit that was built.
    pub revision: String,
    /// Whether it is a server.
    pub server: bool,
    /// The version of Consul that it is compatible with, such as `1.16.1`.
    pub version: String,
    /// RFC 3339.
    pub build_date: String,
}

/// `/v1/operator/raft/configuration`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftConfiguration {
    /// The members of Raft.
    pub servers: Vec<RaftServer>,
    /// The index of the configuration.
    pub index: Index,
}

/// A member of Raft.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftServer {
    /// Its Raft id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its node's name.
    pub node: String,
    /// `ip:port` of RPC.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// Always `3`.
    pub protocol_version: String,
    /// Whether it votes.
    pub voter: bool,
    /// Its last index.
    pub last_index: Index,
}
