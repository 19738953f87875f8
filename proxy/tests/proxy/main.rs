//! Whole proxies on real sockets: sidecars, gateways, an agent that signs and configures, applications at both ends.

mod apps;
mod balance;
mod control;
mod files;
mod gateways;
mod http;
mod intentions;
mod kit;
mod l4;
mod smuggling;
