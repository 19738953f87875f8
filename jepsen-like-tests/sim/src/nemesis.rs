//! Carries out the plan of faults on the simulated network, servers and disks.

use std::collections::BTreeMap;

use jlt_core::plan::{Fault, Plan, Planned, Target};
use raft::Role;
use raft::disk::fault::Faults;

use crate::world::{LATENCY, SYNC_US, World};

/// The faults that this world has.
pub(crate) const KINDS: [Fault; 7] =
    [Fault::Partition, Fault::Oneway, Fault::Delay, Fault::Kill, Fault::Pause, Fault::Power, Fault::SlowSync];

/// Begins and ends faults as their time comes.
pub(crate) struct Nemesis {
    plan: Plan,
    start_ms: u64,
    next: usize,
    active: Vec<Active>,
    /// The links that are not as they should be.
    links: BTreeMap<(usize, usize), Link>,
    happened: BTreeMap<&'static str, u64>,
}

struct Active {
    fault: Planned,
    server: usize,
    end_ms: u64,
}

/// What is wrong with the messages from one server to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    /// They arrive, in the end.
    Held,
    Cut,
}

impl Nemesis {
    pub(crate) fn new(plan: Plan, start_ms: u64) -> Self {
        Self { plan, start_ms, next: 0, active: Vec::new(), links: BTreeMap::new(), happened: BTreeMap::new() }
    }

    /// How often each kind of fault happened.
    pub(crate) fn happened(&self) -> &BTreeMap<&'static str, u64> {
        &self.happened
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        let now_ms = world.now_ms() - self.start_ms;
        let (over, active) = self.active.drain(..).partition(|active| active.end_ms <= now_ms);
        self.active = active;
        let mut changed = false;
        for active in Vec::from_iter::<Vec<Active>>(over) {
            self.end(world, &active);
            changed = true;
        }
        while let Some(fault) = self.plan.faults.get(self.next).filter(|fault| fault.at_ms <= now_ms).cloned() {
            self.next += 1;
            self.begin(world, &fault, now_ms);
            changed = true;
        }
        if changed {
            self.set_links(world);
        }
    }

    /// Ends everything.
    pub(crate) fn heal(&mut self, world: &mut World) {
        self.next = self.plan.faults.len();
        for active in std::mem::take(&mut self.active) {
            self.end(world, &active);
        }
        self.set_links(world);
    }

    fn begin(&mut self, world: &mut World, fault: &Planned, now_ms: u64) {
        let servers: Vec<usize> = match fault.target {
            Target::Server(at) => vec![at],
            Target::Leader => vec![leader(world).unwrap_or(fault.degree as usize % world.servers.len())],
            Target::All => (0..world.servers.len()).collect(),
        };
        for server in servers {
            world.trace.note(&format!("fault {} of s{} for {} ms", fault.fault.name(), server + 1, fault.for_ms));
            if self.strike(world, fault, server) {
                *self.happened.entry(fault.fault.name()).or_default() += 1;
                let end_ms = now_ms + fault.for_ms;
                self.active.push(Active { fault: fault.clone(), server, end_ms });
            }
        }
    }

    /// Whether something was done.
    fn strike(&self, world: &mut World, fault: &Planned, server: usize) -> bool {
        let is_down = self.active.iter().any(|other| other.server == server && ends_servers(other.fault.fault));
        match fault.fault {
            Fault::Kill | Fault::Power if is_down => return false,
            Fault::Kill => world.kill(server),
            Fault::Power => world.cut_power(server, self.plan.seed ^ fault.at_ms),
            Fault::SlowSync => {
                let sync_us = SYNC_US + u64::from(fault.degree) * 1_000;
                world.servers[server].disk.set(Faults { sync_us, ..Faults::default() });
            }
            Fault::Delay => set_latency(world, server, Some(fault.degree)),
            // These are of links, which are set by what is active.
            Fault::Partition | Fault::Oneway | Fault::Pause => {}
            // Not here.
            Fault::Loss | Fault::DiskFull | Fault::Eio | Fault::Skew | Fault::Strobe | Fault::RestartAll => {
                return false;
            }
        }
        true
    }

    fn end(&self, world: &mut World, over: &Active) {
        let server = over.server;
        world.trace.note(&format!("end of {} of s{}", over.fault.fault.name(), server + 1));
        match over.fault.fault {
            Fault::Kill | Fault::Power => world.start(server),
            Fault::SlowSync => {
                world.servers[server].disk.set(Faults { sync_us: SYNC_US, ..Faults::default() });
            }
            Fault::Delay => set_latency(world, server, None),
            _ => {}
        }
    }

    /// Makes the links what the active faults say.
    fn set_links(&mut self, world: &mut World) {
        let servers = world.servers.len();
        let mut wanted: BTreeMap<(usize, usize), Link> = BTreeMap::new();
        for active in &self.active {
            for (link, state) in broken(active, servers) {
                let worst = wanted.get(&link).copied().map_or(state, |other| other.max(state));
                wanted.insert(link, worst);
            }
        }
        for (from, to) in (0..servers).flat_map(|from| (0..servers).map(move |to| (from, to))) {
            let (before, after) = (self.links.get(&(from, to)).copied(), wanted.get(&(from, to)).copied());
            if before != after {
                set_link(world, from, to, before, after);
            }
        }
        self.links = wanted;
    }
}

fn ends_servers(fault: Fault) -> bool {
    matches!(fault, Fault::Kill | Fault::Power)
}

/// The links that a fault breaks.
fn broken(active: &Active, servers: usize) -> Vec<((usize, usize), Link)> {
    let (server, degree) = (active.server, active.fault.degree as usize);
    let others = (0..servers).filter(|other| *other != server);
    match active.fault.fault {
        // From all others, or from one of them.
        Fault::Partition => {
            let one = (degree % 3 == 0).then_some((server + 1 + degree % (servers - 1)) % servers);
            let cut = others.filter(|other| one.is_none_or(|one| one == *other));
            cut.flat_map(|other| [((server, other), Link::Cut), ((other, server), Link::Cut)]).collect()
        }
        Fault::Oneway if degree % 2 == 0 => others.map(|other| ((server, other), Link::Cut)).collect(),
        Fault::Oneway => others.map(|other| ((other, server), Link::Cut)).collect(),
        Fault::Pause => {
            others.flat_map(|other| [((server, other), Link::Held), ((other, server), Link::Held)]).collect()
        }
        _ => Vec::new(),
    }
}

fn set_link(world: &World, from: usize, to: usize, before: Option<Link>, after: Option<Link>) {
    let (a, b) = (world.servers[from].name.as_str(), world.servers[to].name.as_str());
    // What is held is held in both directions, and each pair comes twice.
    if before == Some(Link::Held) {
        world.sim.release(a, b);
    }
    match after {
        Some(Link::Cut) => world.sim.partition_oneway(a, b),
        Some(Link::Held) => world.sim.hold(a, b),
        None => world.sim.repair_oneway(a, b),
    }
}

/// Slow links to and from a server, by a degree, or links as they were.
fn set_latency(world: &World, server: usize, degree: Option<u32>) {
    let name = world.servers[server].name.as_str();
    for other in world.servers.iter().filter(|other| other.name != name) {
        match degree {
            Some(degree) => {
                let most = LATENCY.1 + std::time::Duration::from_millis(u64::from(degree) / 4);
                world.sim.set_link_max_message_latency(name, other.name.as_str(), most);
            }
            None => world.sim.set_link_max_message_latency(name, other.name.as_str(), LATENCY.1),
        }
    }
}

/// Who leads in the newest term.
pub(crate) fn leader(world: &World) -> Option<usize> {
    let statuses = world.servers.iter().enumerate().filter_map(|(at, node)| Some((at, node.server()?.status().raft)));
    let leaders = statuses.filter(|(_at, status)| status.role == Role::Leader);
    leaders.max_by_key(|(_at, status)| status.term).map(|(at, _status)| at)
}
