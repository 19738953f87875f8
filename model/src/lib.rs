//! Every noun of Tribune, and every rule that is a function of nouns alone.
//!
//! This is the ground floor: no clocks, no randomness, no IO, no threads. The serde shape of each noun is Consul's
//! JSON shape; the log and snapshots use the same shape in MessagePack (docs/adr/0005-one-serde-shape.md).

pub mod agent_check;
pub mod ca;
pub mod check;
pub mod check_machine;
pub mod config_entry;
pub mod datacenter;
pub mod duration;
pub mod filter;
pub mod intention;
pub mod kv;
pub mod limits;
pub mod meta;
pub mod name;
pub mod node;
pub mod proxy_config;
pub mod registration;
pub mod service;
pub mod session;
pub mod spiffe;

pub use agent_check::AgentCheck;
pub use check::{Check, CheckDefinition, CheckStatus};
pub use duration::GoDuration;
pub use filter::Filter;
pub use intention::Intention;
pub use kv::KvEntry;
pub use node::Node;
pub use proxy_config::ProxyConfig;
pub use registration::AgentServiceRegistration;
pub use service::{ServiceInstance, ServiceKind};
pub use session::Session;
pub use spiffe::SpiffeId;

/// A version of the catalog: the number of commands that it has applied. Never 0 on the wire.
pub type Index = u64;

/// Metadata of nodes, services and entries: at most 64 pairs (Consul's limit).
pub type Meta = std::collections::BTreeMap<String, String>;

/// Opaque JSON, kept as it came (proxy and upstream `Config`).
pub type JsonMap = std::collections::BTreeMap<String, serde_json::Value>;

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
