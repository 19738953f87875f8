//! Questions to records: names, answers, and the UDP and TCP listeners.
//!
//! [`name`] tells what a name asks about, a [`Lookup`] finds the facts, [`answer`] writes the records. All of this is free of
//! IO. The listeners around it bring packets and take answers away.
//!
//! Answers are Consul's, down to the order of sections and what is left out first. It differs where Consul breaks the protocol
//! or invites abuse: the domain itself always exists (Consul says NXDOMAIN to some types), UDP answers stay below
//! [`config::UDP_UNFRAGMENTED_BYTES`] unless set otherwise, and `TXT` is told once per node. Prepared queries (`.query`),
//! virtual addresses (`.virtual`) and peers (`.peer`) do not exist, and are answered so: NXDOMAIN.

pub mod answer;
pub mod client;
pub mod config;
mod counters;
mod error;
mod forward;
mod lookup;
pub mod name;
mod records;
mod reply;
mod request;
mod serve;
mod shared;
mod shuffle;
mod tcp;
mod udp;
mod wire;
mod zone;

pub use config::{Config, Soa};
pub use counters::Counters;
pub use error::Error;
pub use lookup::{Found, Lookup, LookupKind, ReverseName, ServiceQuery};
pub use records::{EndpointRecord, Endpoints, NodeRecord};
pub use serve::{Handle, serve};
pub use zone::Zone;
