//! Machines on one Ethernet that obeys us: each in a network namespace of its own, joined by a switch in user space that delays, loses,
//! doubles, reorders and cuts, each direction of each pair by itself.
//!
//! Needs root and `/dev/net/tun`; neither `ip` nor the kernel's netem. Nothing outlives the process: namespaces and devices have no names
//! in the system, and go when it ends, however it ends.

mod namespace;
mod shape;
mod switch;

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

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
    wires: Mutex<Wires>,
}

/// What was asked for: the switch has both together.
struct Wires {
    links: Links,
    apart: BTreeSet<(usize, usize)>,
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
        let wires = Mutex::new(Wires { links: Links::perfect(machines.len()), apart: BTreeSet::new() });
        Ok(Self { switch: Switch::start(devices, seed)?, machines, wires })
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

    /// From now on frames travel so; machines that were parted stay parted.
    pub fn set(&self, links: Links) {
        self.change(|wires| wires.links = links);
    }

    /// Cuts the wire between two machines whatever else is set for it, or takes that back.
    pub fn part(&self, one: usize, other: usize, is_cut: bool) {
        self.change(|wires| {
            if is_cut {
                wires.apart.insert((one, other))
            } else {
                wires.apart.remove(&(one, other))
            };
        });
    }

    fn change(&self, change: impl FnOnce(&mut Wires)) {
        let mut wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut wires);
        let mut links = wires.links.clone();
        wires.apart.iter().for_each(|(one, other)| links.cut(*one, *other));
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
