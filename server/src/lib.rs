//! The control plane's surface: HTTP and gRPC, the one watch, proposals, leader duties, federation.
//!
//! [`Server::start`] starts a server. Where to look: `watch` (who waits for what), `propose` (how the catalog changes), `reads`
//! (how fresh an answer is), `http` (`/v1/*`), `rpc` (the port between nodes), `join` and `bootstrap` (how servers find each
//! other), `leader` (what only the leader does), `trust` (certificates), `lookup` (what DNS asks).

mod as_of;
mod bootstrap;
mod ca;
mod clock;
mod config;
mod core;
mod cut_off;
mod http;
mod join;
mod leader;
mod leave;
mod local_sessions;
mod lookup;
mod machine;
mod members;
mod propose;
mod reads;
mod rpc;
mod server;
mod time;
mod trust;
mod watch;

pub use crate::config::{RaftLog, RaftTiming, ServerConfig, StartError};
pub use crate::http::{HttpLimits, serve_http, serve_https};
pub use crate::lookup::ServerLookup;
pub use crate::server::{Server, ServerStatus};
