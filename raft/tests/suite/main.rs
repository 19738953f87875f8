//! Whole clusters over real sockets. One program, so that it is linked once.

mod cluster;
mod common;
mod disks;
mod membership;
mod trouble;
