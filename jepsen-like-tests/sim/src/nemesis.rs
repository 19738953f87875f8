//! Carries out the plan of faults on the simulated network, servers and disks.

use std::collections::BTreeMap;

use faults::Point;
use jlt_core::plan::{Fault, Plan, Planned, Target};
use jlt_core::rng::Rng;
use raft::Role;
use raft::disk::fault::Faults;

use crate::crash;
use crate::servers::SYNC_US;
use crate::world::{LATENCY, World};

/// The faults that this world has.
pub(crate) const KINDS: [Fault; 7] =
    [Fault::Partition, Fault::Oneway, Fault::Delay, Fault::Kill, Fault::Pause, Fault::Power, Fault::SlowSync];

/// A server that is to die at a point has so long to get there; then it is ended from without.
const WAIT_MS_MAX: u64 = 1_500;
/// It passes the point at most so many times before.
const PASSES_MAX: usize = 20;
/// How long a server is down that came to a rare point.
const DOWN_MS: u64 = 700;

/// Begins and ends faults as their time comes.
pub(crate) struct Nemesis {
    plan: Plan,
    rng: Rng,
    start_ms: u64,
    next: usize,
    active: Vec<Active>,
    /// Servers that are to die where their code is at a certain point, and the fault that it is.
    waiting: Vec<Waiting>,
    /// The links that are not as they should be.
    links: BTreeMap<(usize, usize), Link>,
    happened: BTreeMap<&'static str, u64>,
}

struct Active {
    fault: Planned,
    server: usize,
    end_ms: u64,
}

struct Waiting {
    fault: Planned,
    server: usize,
    point: Point,
    until_ms: u64,
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
        let rng = Rng::new(plan.seed, 400);
        let mut nemesis = Self {
            plan,
            rng,
            start_ms,
            next: 0,
            active: Vec::new(),
            waiting: Vec::new(),
            links: BTreeMap::new(),
            happened: BTreeMap::new(),
        };
        if nemesis.plan.kinds.iter().any(|kind| ends_servers(*kind)) {
            (0..nemesis.plan.servers).for_each(|server| nemesis.arm_rare(server));
        }
        nemesis
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
        self.bury(world, now_ms);
        self.hurry(world, now_ms);
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
        self.bury(world, 0);
        self.waiting.iter_mut().for_each(|waiting| waiting.until_ms = 0);
        self.hurry(world, 0);
        self.waiting.clear();
        crash::disarm_all();
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
        let mut servers = servers;
        if let ([one], true) = (&mut servers[..], ends_servers(fault.fault)) {
            *one = self.next_up(*one);
        }
        for server in servers {
            world.trace.note(&format!("fault {} of s{} for {} ms", fault.fault.name(), server + 1, fault.for_ms));
            let is_early = self.is_down(server) && fault.target != Target::All;
            if ends_servers(fault.fault) && (fault.degree % 2 == 1 || is_early) {
                self.wait(fault, server, now_ms);
            } else if self.strike(world, fault, server) {
                self.has_begun(fault, server, now_ms);
            }
        }
    }

    fn has_begun(&mut self, fault: &Planned, server: usize, now_ms: u64) {
        *self.happened.entry(fault.fault.name()).or_default() += 1;
        self.active.push(Active { fault: fault.clone(), server, end_ms: now_ms + fault.for_ms });
    }

    /// Has the server die in the midst of what it does.
    fn wait(&mut self, fault: &Planned, server: usize, now_ms: u64) {
        let point = *self.rng.pick(&crash::FREQUENT);
        crash::arm(server, point, 1 + self.rng.below(PASSES_MAX) as u32);
        self.waiting.push(Waiting { fault: fault.clone(), server, point, until_ms: now_ms + WAIT_MS_MAX });
    }

    /// Has the server die when it comes to a point that it seldom passes.
    fn arm_rare(&mut self, server: usize) {
        crash::arm(server, *self.rng.pick(&crash::RARE), 1 + self.rng.below(2) as u32);
    }

    /// Sees to those who died at a point: they start again after a while.
    fn bury(&mut self, world: &mut World, now_ms: u64) {
        for server in std::mem::take(&mut world.died) {
            self.reconnect(world, server);
            let waiting = self.waiting.iter().position(|waiting| waiting.server == server);
            let fault = match waiting.map(|waiting| self.waiting.remove(waiting)) {
                Some(waiting) => waiting.fault,
                None => {
                    self.arm_rare(server);
                    let target = Target::Server(server);
                    Planned { at_ms: now_ms, for_ms: DOWN_MS, fault: Fault::Kill, target, degree: 0 }
                }
            };
            self.has_begun(&fault, server, now_ms);
        }
    }

    /// That server or the next that is not down, for one that is down cannot be ended.
    fn next_up(&self, server: usize) -> usize {
        let count = self.plan.servers;
        (0..count).map(|step| (server + step) % count).find(|at| !self.is_down(*at)).unwrap_or(server)
    }

    /// Gives a server that died the links that it had. What it had sent in its last milliseconds is lost.
    fn reconnect(&self, world: &World, server: usize) {
        for other in (0..world.servers.len()).filter(|other| *other != server) {
            let state = self.links.get(&(server, other)).copied();
            set_link(world, server, other, None, state);
        }
        for other in world.others() {
            world.sim.repair_oneway(world.servers[server].name.as_str(), other);
        }
    }

    /// Ends those from without who did not come to their point.
    fn hurry(&mut self, world: &mut World, now_ms: u64) {
        let (late, waiting): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|one| one.until_ms <= now_ms);
        self.waiting = waiting;
        for late in late {
            crash::disarm(late.server, late.point);
            let server = self.next_up(late.server);
            if self.strike(world, &late.fault, server) {
                self.has_begun(&late.fault, server, now_ms);
            } else {
                self.waiting.push(Waiting { until_ms: now_ms + WAIT_MS_MAX, ..late });
            }
        }
    }

    /// Whether something was done.
    fn strike(&self, world: &mut World, fault: &Planned, server: usize) -> bool {
        match fault.fault {
            Fault::Kill | Fault::Power if self.is_down(server) => return false,
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
            Fault::Loss
            | Fault::DiskFull
            | Fault::Eio
            | Fault::Skew
            | Fault::Strobe
            | Fault::RestartAll
            | Fault::Member
            | Fault::Flip
            | Fault::Crash => return false,
        }
        true
    }

    fn is_down(&self, server: usize) -> bool {
        self.active.iter().any(|other| other.server == server && ends_servers(other.fault.fault))
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
