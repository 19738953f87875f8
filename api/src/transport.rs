//! Connections between nodes: HTTP/2 over mutual TLS, for gRPC and forwarded HTTP alike.
//!
//! - [`connect`] makes a lazy channel that reconnects by itself; a [`Pool`] hands out the channel of an address.
//! - [`forward`] sends any HTTP request over a channel and streams the answer back, trailers included.
//! - [`net`] is the TCP below: the system's, or a simulated one.
//! - [`Acceptor`] takes connections, with limits, and tells who is at the other end; [`serve`] answers one of them.

mod accept;
mod connect;
mod forward;
pub mod net;
mod pool;
pub(crate) mod stream;
#[cfg(test)]
mod tests;

pub use accept::{AcceptLimits, Acceptor, Connection, PeerInfo, serve};
pub use connect::{ConnectError, InvalidAddress, connect, connect_plain};
pub use forward::{ForwardError, forward, is_unsent};
pub use pool::Pool;
pub use tonic::{body::Body, transport::Channel};

use std::time::Duration;

/// Most time for a TCP connection and its TLS handshake, on both sides.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is probed (HTTP/2 PING).
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a probe may be unanswered before the connection counts as dead.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most requests and streams at a time on one connection. An agent's watches and forwarded long polls share one.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 16_384;
/// How much of one stream may be under way unread.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// How much of one connection may be under way unread.
pub const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Most bytes of a request's headers.
pub const HEADER_BYTES_MAX: u32 = 32 * 1024;
/// Most bytes of one gRPC message: what an agent with very many services pushes at once. Servers must be told to take it
/// (`max_decoding_message_size`), for tonic's default is 4 MiB.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
