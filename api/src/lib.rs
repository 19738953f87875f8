//! The contract on the wire: Consul's JSON, the gRPC protocol, the transport between nodes, and the client library.
//!
//! - [`json`] reads what users send, without regard to the case of keys; [`agent`], [`catalog`], [`session`] and [`txn`] are the bodies of requests.
//! - [`reply`] writes what Consul's clients expect, borrowing the nouns of `model`.
//! - [`query`] parses query strings, [`near`] names the node that was asked; [`Error`] is a refusal with Consul's code and text.
//! - [`proto`] is `tribune.proto`; [`mp`] its MessagePack fields; [`transport`] the channels it travels on.
//! - [`client`] talks to an agent's HTTP API.

pub mod agent;
pub mod catalog;
pub mod client;
mod error;
pub mod json;
pub mod mp;
pub mod near;
pub mod query;
pub mod reply;
pub mod session;
pub mod transport;
pub mod txn;

pub use error::Error;

/// `tribune.proto`, compiled: messages, clients and servers.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    reason = "generated; the words are in proto/tribune.proto"
)]
pub mod proto {
    tonic::include_proto!("tribune.v1");
}
