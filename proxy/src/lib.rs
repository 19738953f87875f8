//! Move bytes as told: listeners, L4 and L7 paths, balancing, QUIC tunnels, gateways.
//!
//! [`Sidecar`] and [`Gateway`] run; [`Handle`] is how others see and stop them. The path of a request, file by file:
//! `outbound` (the application's listener) → `http::handle` → `balance::pick` → `upstream` (connections to endpoints, mutual TLS) →
//! [another datacenter: `gateway` → `tunnel` → `gateway`] → `inbound` (TLS, `policy::decide`) → `http::handle` → the application.
//! `proxy` applies each configuration that `source` hears; `live` holds the connections, so that a change can cut them.

pub mod balance;
mod body;
mod control;
mod error;
mod gateway;
mod headers;
mod http;
mod inbound;
pub mod limits;
mod link;
mod listen;
mod live;
mod metrics;
mod outbound;
mod pipe;
mod policy;
mod proxy;
mod seldom;
pub mod sni;
mod source;
mod stream;
mod tunnel;
mod upstream;

#[cfg(all(feature = "sim", not(tokio_unstable)))]
compile_error!("the feature `sim` is for the simulation alone, which is built with `--cfg tokio_unstable`");

pub use error::Error;
pub use metrics::{GatewaySnapshot, ListenerSnapshot, Snapshot};
pub use proxy::{Addresses, Gateway, GatewayOptions, Handle, Options, Sidecar, SidecarOptions, runtime};
pub use source::ConfigSource;
