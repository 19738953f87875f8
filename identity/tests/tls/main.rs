//! Real rustls handshakes in memory: what is taken, what is refused and why, and what changes under living configurations.

mod bad_certs;
mod ca;
mod forge;
mod join;
mod live;
mod shake;
