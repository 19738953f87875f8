//! Machines on one Ethernet that obeys us: each in a network namespace of its own, joined by a switch in user space that delays, loses,
//! doubles, reorders and cuts, each direction of each pair by itself.
//!
//! Needs root and `/dev/net/tun`; neither `ip` nor the kernel's netem. Nothing outlives the process: namespaces and devices have no names
//! in the system, and go when it ends, however it ends.

mod namespace;
mod shape;
mod switch;

use std::io;
use std::net::Ipv4Addr;

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

pub use crate::namespace::Namespace;
pub use crate::shape::{Fates, Link, Links};
use crate::switch::{Switch, mac_of};

/// The most machines; the last byte of their addresses tells them apart.
const MACHINES_MAX: usize = 250;

/// Machines `0..n`, all on one wire.
pub struct Network {
    switch: Switch,
    machines: Vec<Namespace>,
}

impl Network {
    /// Makes the machines and joins them with perfect wires. The seed decides which frames faults hit.
    pub fn new(machines: usize, seed: u64) -> io::Result<Self> {
        if machines > MACHINES_MAX {
            return Err(io::Error::other(format!("{machines} machines; {MACHINES_MAX} are the most")));
        }
        let machines: Vec<Namespace> = (0..machines).map(|_| Namespace::new()).collect::<io::Result<_>>()?;
        let devices = machines.iter().enumerate().map(|(at, machine)| machine.inside(|| plug_in(at)));
        let devices = devices.collect::<io::Result<Vec<_>>>()?;
        Ok(Self { switch: Switch::start(devices, seed)?, machines })
    }

    /// A machine's address.
    pub fn address(machine: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, machine as u8 + 1)
    }

    /// A machine: what runs inside it has its address.
    pub fn machine(&self, machine: usize) -> &Namespace {
        &self.machines[machine]
    }

    /// Perfect wires, to be spoilt and given to [`Network::set`].
    pub fn perfect(&self) -> Links {
        Links::perfect(self.machines.len())
    }

    /// From now on frames travel so.
    pub fn set(&self, links: Links) {
        self.switch.set(links);
    }

    /// What became of all frames so far.
    pub fn fates(&self) -> Fates {
        self.switch.fates()
    }
}

/// The network card of a machine; called inside of it.
fn plug_in(machine: usize) -> io::Result<SyncDevice> {
    DeviceBuilder::new()
        .name("eth0")
        .layer(Layer::L2)
        .mac_addr(mac_of(machine))
        .ipv4(Network::address(machine), 24, None)
        .build_sync()
        .map_err(|error| io::Error::new(error.kind(), format!("a TAP device (needs root and /dev/net/tun): {error}")))
}

#[cfg(test)]
mod tests;
