//! What a node does for its own services: registrations, health checks, anti-entropy, views and the session.
//!
//! [`Agent::start`] gives an agent its life; [`Agent::router_local`] answers `/v1/agent/*`, [`Agent::forward_fallback`] hands the
//! rest of `/v1/*` to a server, [`Agent::lookup`] answers DNS, and [`Agent::serve_mesh`] serves this machine's proxies.

mod agent;
mod backoff;
mod check;
mod config;
mod enroll;
mod error;
mod forward;
mod http;
mod leaf;
mod local;
mod lookup;
mod mesh;
mod metrics;
mod servers;
mod session;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod views;

pub use agent::{Agent, Deps};
pub use config::{AgentConfig, CONSUL_VERSION, Home, Scripts, Source};
pub use error::{ServerError, StartError};
pub use lookup::ViewLookup;
pub use metrics::{Counter, Metrics};
pub use servers::Servers;
