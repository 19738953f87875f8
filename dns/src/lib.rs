//! Questions to records: names, answers, and the UDP and TCP listeners.
//!
//! [`name`] tells what a name asks about, a [`Lookup`] finds the facts, [`answer`] writes the records. All of this is free of
//! IO. The listeners around it bring packets and take answers away.

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
