//! Questions to records: names, answers, and the UDP and TCP listeners.

pub mod config;
mod lookup;
mod records;

pub use config::{Config, Soa};
pub use lookup::{Found, Lookup, LookupKind, ReverseName, ServiceQuery};
pub use records::{EndpointRecord, Endpoints, NodeRecord};
