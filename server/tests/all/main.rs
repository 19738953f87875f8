//! Tests of whole servers: one, three, and two datacenters, over real sockets.

mod agent;
mod cases;
mod cluster;
mod federation;
mod locks;
mod mesh;
mod sessions;
mod single;
mod support;
