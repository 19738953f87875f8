//! Tests of whole servers: one, three, and two datacenters, over real sockets.

mod single;
mod support;
