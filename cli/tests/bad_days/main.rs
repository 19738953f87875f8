//! What an operator is told when something is wrong, and that nothing was changed: real processes, real sockets, real folders.

mod certificates;
mod clusters;
mod datacenters;
mod disk;
mod requests;
mod starting;
mod support;
