//! Breaks the cluster as the plan says. Faults overlap as they please; after each beginning and end the network, processes, disks and clocks
//! are put into the state that all faults of the moment ask for. Some faults are operations of several steps, one of which is carried out at a time.

mod members;
mod operate;
mod script;

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jlt_core::plan::{Fault, Plan, Planned, Target};
use jlt_fs::Survivors;
use jlt_net::{Link, Links, Network};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use self::members::Book;
use self::operate::Operation;
use crate::cluster::{Cluster, MACHINES, SERVERS, name};
use crate::http;

/// How often the cluster is looked at between faults.
const TICK: Duration = Duration::from_millis(20);

/// A server that ended because of its disk is started again after this time, as a service manager would.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// So long after a fault of its disk a server may end because of it.
const DISK_MEMORY: Duration = Duration::from_secs(10);

/// A clock is wrong from here on; below, the answer may have been under way.
const CLOCK_WRONG_S: u64 = 3;

/// A fault as it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Happened {
    pub(crate) fault: Fault,
    /// Whom it hit.
    pub(crate) servers: Vec<usize>,
    pub(crate) start_ms: u64,
    pub(crate) end_ms: u64,
    /// What it did, in words.
    pub(crate) effect: String,
}

/// What came of all faults.
#[derive(Debug, Default)]
pub(crate) struct Havoc {
    pub(crate) happened: Vec<Happened>,
    /// Servers that ended by themselves though nothing was wrong with their disk.
    pub(crate) violations: Vec<String>,
    /// Servers that ended by themselves because of their disk.
    pub(crate) notes: Vec<String>,
    /// What the faults did, counted where they act; for what network and disks do not count themselves.
    pub(crate) effects: BTreeMap<&'static str, u64>,
    /// The crash points that fired, and how often.
    points: BTreeMap<String, u64>,
}

impl Havoc {
    fn count(&mut self, effect: &'static str, by: u64) {
        *self.effects.entry(effect).or_default() += by;
    }
}

pub(crate) struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    network: Arc<Network>,
    started: Instant,
    active: Vec<Active>,
    havoc: Havoc,
    hosts: Vec<Host>,
    /// The operation that is carried out, and those that come after it.
    operation: Option<Operation>,
    waiting: VecDeque<Planned>,
    /// Since when there is no other fault.
    calm: Instant,
    book: Book,
    /// The names of the points at which the binary can be told to die.
    points: Vec<String>,
}

/// What is known of a server.
#[derive(Default, Clone)]
struct Host {
    /// Until when it may end because of its disk.
    excused: Option<Instant>,
    /// When it is started again, having ended by itself.
    revive: Option<Instant>,
    /// Since when it is stopped.
    paused: Option<Instant>,
    /// So many seconds its clock is ahead.
    clock: i64,
    /// An operation has it down.
    out: bool,
    /// How it ended since it was told to.
    left: Option<(ExitStatus, String)>,
    /// The id of its former life, on a disk that is gone.
    former: Option<String>,
}

struct Active {
    planned: Planned,
    servers: Vec<usize>,
    start_ms: u64,
    effect: String,
    /// Of a crash: which point's turn it is; none before the first, and none comes after [`FIRED`].
    turn: Option<u64>,
}

/// It died.
const FIRED: u64 = u64::MAX;

/// A point that was not passed within this time makes room for the next.
const TURN_MS: u64 = 2_000;

impl<'a> Nemesis<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, network: Arc<Network>, started: Instant) -> Self {
        Self {
            cluster,
            network,
            started,
            active: Vec::new(),
            havoc: Havoc::default(),
            hosts: (0..MACHINES).map(|server| Host { out: server >= SERVERS, ..Host::default() }).collect(),
            book: Book::default(),
            points: Vec::new(),
            operation: None,
            waiting: VecDeque::new(),
            calm: started,
        }
    }

    /// Carries the plan out, ends all faults, and returns what happened. `tell` hears about once a second what is broken.
    pub(crate) fn run(mut self, plan: &Plan, tell: impl Fn(&str)) -> Result<Havoc, String> {
        if plan.kinds.contains(&Fault::Crash) {
            self.points = self.cluster.crash_points()?;
        }
        let mut coming = plan.faults.iter().peekable();
        let (mut looked_ms, mut told_ms) = (0, 0);
        while coming.peek().is_some() || self.is_busy() || self.now_ms() < plan.duration_ms {
            let now_ms = self.now_ms();
            let ended = self.end_due(now_ms)?;
            let mut begun = false;
            while let Some(planned) = coming.next_if(|planned| planned.at_ms <= now_ms) {
                self.begin(planned, now_ms);
                begun = true;
            }
            if ended || begun {
                self.apply()?;
            }
            self.look_after()?;
            self.set_clocks()?;
            self.aim()?;
            self.operate(now_ms < plan.duration_ms)?;
            if now_ms >= looked_ms {
                looked_ms = now_ms + 300;
                self.look_at_clocks();
            }
            if now_ms >= told_ms {
                told_ms = now_ms + 1000;
                tell(&self.describe());
            }
            std::thread::sleep(TICK);
        }
        self.settle()?;
        let points = self.havoc.points.iter().map(|(point, times)| format!("{point} ×{times}"));
        let points = points.collect::<Vec<_>>().join(", ");
        self.havoc.notes.extend((!points.is_empty()).then(|| format!("crash points fired: {points}")));
        Ok(self.havoc)
    }

    fn is_busy(&self) -> bool {
        !self.active.is_empty() || self.operation.is_some() || !self.waiting.is_empty()
    }

    /// A server may still be about to end because of its disk; that is not a failure to heal.
    fn settle(&mut self) -> Result<(), String> {
        let calm = Instant::now() + RESTART_AFTER;
        while Instant::now() < calm || self.hosts.iter().any(|host| host.revive.is_some()) {
            self.look_after()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Ends the faults whose time is over; `true` if there was one.
    fn end_due(&mut self, now_ms: u64) -> Result<bool, String> {
        let before = self.active.len();
        for at in (0..before).rev() {
            if self.active[at].start_ms + self.active[at].planned.for_ms <= now_ms {
                let Active { planned, servers, start_ms, effect, .. } = self.active.remove(at);
                if planned.fault == Fault::Crash {
                    servers.iter().try_for_each(|server| self.cluster.arm(*server, ""))?;
                }
                self.havoc.happened.push(Happened { fault: planned.fault, servers, start_ms, end_ms: now_ms, effect });
            }
        }
        Ok(self.active.len() < before)
    }

    /// What happens once happens here; what lasts is done by [`Nemesis::apply`].
    fn begin(&mut self, planned: &Planned, start_ms: u64) {
        if script::is_operation(planned.fault) {
            return self.waiting.push_back(planned.clone());
        }
        let servers = self.victims(planned);
        let mut effect = String::new();
        match planned.fault {
            Fault::Kill => {
                let killed = servers.iter().filter(|server| self.cluster.kill(**server)).count();
                self.havoc.count(Fault::Kill.effect(), killed as u64);
            }
            Fault::Power => {
                let survivors = survivors(planned.degree);
                servers.iter().for_each(|server| self.cluster.hold_syncs(*server));
                std::thread::sleep(Duration::from_millis(u64::from(planned.degree) / 10));
                let lost = self.cluster.cut_power(&servers, survivors);
                self.havoc.count(Fault::Power.effect(), lost.bytes);
                self.havoc.count("torn bytes kept", lost.torn_bytes);
                let (bytes, names, torn) = (lost.bytes, lost.names, lost.torn_bytes);
                effect = format!("{survivors:?}: {bytes} bytes and {names} names lost, {torn} torn");
            }
            Fault::DiskFull | Fault::Eio | Fault::SlowSync => {
                let until = Instant::now() + Duration::from_millis(planned.for_ms) + DISK_MEMORY;
                servers.iter().for_each(|server| self.hosts[*server].excused = Some(until));
            }
            Fault::Partition | Fault::Oneway | Fault::Delay | Fault::Loss | Fault::Pause | Fault::Crash => {}
            Fault::Skew | Fault::Strobe | Fault::RestartAll | Fault::Member | Fault::Flip => {}
        }
        self.active.push(Active { planned: planned.clone(), servers, start_ms, effect, turn: None });
    }

    fn victims(&self, planned: &Planned) -> Vec<usize> {
        match planned.target {
            Target::Server(server) => vec![server],
            Target::Leader => vec![self.leader().unwrap_or(planned.degree as usize % SERVERS)],
            Target::All => (0..SERVERS).collect(),
        }
    }

    /// Who leads, as the first server that answers knows it.
    fn leader(&self) -> Option<usize> {
        let ask = |server| {
            let address = self.cluster.http_address(server);
            let reply = http::request(address, "GET", "/v1/status/leader", b"", Duration::from_millis(300)).ok()?;
            let text = String::from_utf8(reply.body).ok()?;
            (0..MACHINES).find(|server| text.contains(&format!("{}:", Network::address(server + 1))))
        };
        self.within_reach().find_map(ask)
    }

    /// The servers that can answer.
    fn within_reach(&self) -> impl Iterator<Item = usize> {
        (0..MACHINES).filter(|server| self.cluster.is_running(*server) && self.hosts[*server].paused.is_none())
    }

    /// Puts everything into the state that the faults of the moment ask for.
    fn apply(&mut self) -> Result<(), String> {
        self.network.set(links(self.network.perfect(), &self.active));
        for server in 0..MACHINES {
            let hit = |fault: Fault| {
                let mut active = self.active.iter();
                active.find(|active| active.planned.fault == fault && active.servers.contains(&server))
            };
            let slow = hit(Fault::SlowSync).map_or(0, |active| 200 + 2 * u64::from(active.planned.degree));
            let is_down = hit(Fault::Kill).is_some() || hit(Fault::Power).is_some();
            let is_paused = hit(Fault::Pause).is_some();
            let (full, failing_syncs) = (hit(Fault::DiskFull).is_some(), hit(Fault::Eio).is_some());
            let slow_sync = Duration::from_millis(slow);
            self.cluster.set_disk(server, jlt_fs::Faults { full, failing_syncs, slow_sync });
            if !is_down && self.hosts[server].revive.is_none() && !self.hosts[server].out {
                self.cluster.restart(server)?;
            }
            self.pause(server, is_paused)?;
        }
        Ok(())
    }

    /// Stops a server or lets it go on. Only the time in which the kernel held it stopped counts: it may have been killed meanwhile.
    fn pause(&mut self, server: usize, is_paused: bool) -> Result<(), String> {
        match self.hosts[server].paused {
            None if is_paused => {
                self.cluster.freeze(server)?;
                self.hosts[server].paused = Some(Instant::now());
            }
            Some(since) if !is_paused => {
                if self.cluster.is_frozen(server) {
                    self.havoc.count(Fault::Pause.effect(), millis(since.elapsed()));
                }
                self.cluster.thaw(server)?;
                self.hosts[server].paused = None;
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Skewed clocks are wrong for as long as the fault lasts; others jump there and back.
    fn set_clocks(&mut self) -> Result<(), String> {
        let now_ms = self.now_ms();
        for server in 0..self.hosts.len() {
            let seconds = wrong_by(&self.active, server, now_ms);
            if seconds != self.hosts[server].clock {
                self.hosts[server].clock = seconds;
                self.havoc.count("jumps of clocks", 1);
                self.cluster.set_clock(server, seconds)?;
            }
        }
        Ok(())
    }

    /// Tells servers where to die, one point after the other until one is passed.
    fn aim(&mut self) -> Result<(), String> {
        let now_ms = self.now_ms();
        for active in self.active.iter_mut().filter(|active| active.planned.fault == Fault::Crash) {
            let turn = (now_ms - active.start_ms) / TURN_MS;
            if active.turn.is_none_or(|before| before < turn) {
                active.turn = Some(turn);
                let point = point(&self.points, active.planned.degree + turn as u32);
                active.servers.iter().try_for_each(|server| self.cluster.arm(*server, &point))?;
            }
        }
        Ok(())
    }

    /// Clocks that were set must be seen to be wrong by who asks the server.
    fn look_at_clocks(&mut self) {
        let wrong = self.active.iter().filter(|active| matches!(active.planned.fault, Fault::Skew | Fault::Strobe));
        let servers: Vec<usize> = wrong.flat_map(|active| active.servers.iter().copied()).collect();
        let seen = servers.iter().filter(|server| self.cluster.clock_off_by(**server) >= Some(CLOCK_WRONG_S)).count();
        self.havoc.count(Fault::Skew.effect(), seen as u64);
    }

    /// Servers that ended by themselves: excused by their disk or a finding, and started again either way.
    fn look_after(&mut self) -> Result<(), String> {
        for (server, status) in self.cluster.ended() {
            let words = self.cluster.last_words(server);
            let what = format!("server: {} ended by itself at {} ms ({status}): {words}", name(server), self.now_ms());
            if let Some(point) = died_at(&words).filter(|_| status.signal() == Some(Signal::SIGABRT as i32)) {
                self.crashed(server, point)?;
            } else if self.hosts[server].out {
                self.hosts[server].left = Some((status, words));
                continue;
            } else if self.is_excused(server) {
                self.havoc.notes.push(what);
            } else {
                self.havoc.violations.push(what);
            }
            self.hosts[server].revive = Some(Instant::now() + RESTART_AFTER);
        }
        for server in 0..self.hosts.len() {
            if self.hosts[server].revive.is_some_and(|when| Instant::now() >= when) {
                self.hosts[server].revive = None;
                self.apply()?;
            }
        }
        Ok(())
    }

    /// It died where it was told to, and is started again without that.
    fn crashed(&mut self, server: usize, point: &str) -> Result<(), String> {
        self.havoc.count(Fault::Crash.effect(), 1);
        *self.havoc.points.entry(point.to_owned()).or_default() += 1;
        let at_ms = self.now_ms();
        let armed = |active: &&mut Active| active.planned.fault == Fault::Crash && active.servers.contains(&server);
        if let Some(active) = self.active.iter_mut().find(armed) {
            active.effect = format!("died at {point} at {at_ms} ms");
            active.turn = Some(FIRED);
        }
        self.cluster.arm(server, "")
    }

    fn is_excused(&self, server: usize) -> bool {
        self.hosts[server].excused.is_some_and(|until| Instant::now() < until)
    }

    fn describe(&self) -> String {
        let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for active in &self.active {
            names.entry(active.planned.fault.name()).or_default().extend(active.servers.iter().map(|at| name(*at)));
        }
        if let Some(operation) = &self.operation {
            names.entry(operation.planned.fault.name()).or_default().push(operation.describe());
        }
        let faults: Vec<String> =
            names.iter().map(|(fault, servers)| format!("{fault}({})", servers.join(","))).collect();
        if faults.is_empty() { "quiet".to_owned() } else { faults.join(" ") }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Two in five cuts lose all that was not synced; in one of five some blocks survive, and in two the last write is torn.
fn survivors(degree: u32) -> Survivors {
    match degree % 5 {
        0 | 1 => Survivors::Nothing,
        2 => Survivors::Some,
        3 => Survivors::Torn(1),
        _ => Survivors::Torn(512),
    }
}

/// How many seconds a server's clock has to be ahead now.
fn wrong_by(active: &[Active], server: usize, now_ms: u64) -> i64 {
    let seconds = active.iter().filter(|active| active.servers.contains(&server)).map(|active| {
        let Planned { fault, degree, .. } = active.planned;
        let period_ms = 200 + u64::from(degree) * 8 / 10;
        let is_away = ((now_ms - active.start_ms) / period_ms).is_multiple_of(2);
        match fault {
            Fault::Skew => skew_seconds(degree),
            // The size of the jumps must not come with their pace.
            Fault::Strobe if is_away => skew_seconds(degree * 7 % 1000),
            _ => 0,
        }
    });
    seconds.sum()
}

/// Which point, and after how many passes: often the first, for some points are rarely passed.
fn point(points: &[String], degree: u32) -> String {
    const PASSES: [u32; 8] = [1, 1, 1, 2, 3, 8, 20, 50];
    let (count, degree) = (points.len().max(1), degree as usize);
    let name = points.get(degree % count).map_or("", String::as_str);
    format!("{name}:{}", PASSES[degree / count % PASSES.len()])
}

/// What a process says that was told to die.
fn died_at(words: &str) -> Option<&str> {
    words.rsplit_once("the process dies at ")?.1.split_whitespace().next()
}

/// From five minutes behind to five minutes ahead.
fn skew_seconds(degree: u32) -> i64 {
    i64::from(degree) * 600 / 999 - 300
}

/// The wires between servers; those of the clients' machine, the first, stay whole.
fn links(mut links: Links, active: &[Active]) -> Links {
    for active in active {
        for server in &active.servers {
            let others: Vec<usize> = (0..MACHINES).filter(|other| other != server).collect();
            for other in &others {
                spoil(&mut links, &active.planned, (server + 1, other + 1), *other == others[0]);
            }
        }
    }
    links
}

/// What a fault of `one` does to the wires between it and `other`.
fn spoil(links: &mut Links, planned: &Planned, (one, other): (usize, usize), is_first: bool) {
    let degree = u64::from(planned.degree);
    match planned.fault {
        // A quarter of the partitions cut one pair only: the third server sees both.
        Fault::Partition if planned.degree.is_multiple_of(4) && !is_first => {}
        Fault::Partition => links.cut(one, other),
        Fault::Oneway if planned.degree.is_multiple_of(2) => links.link(one, other).cut = true,
        Fault::Oneway => links.link(other, one).cut = true,
        Fault::Delay => {
            for (from, to) in [(one, other), (other, one)] {
                let link = links.link(from, to);
                link.delay = Duration::from_millis(10 + degree / 4);
                link.jitter = Duration::from_millis(degree / 10);
            }
        }
        Fault::Loss => {
            for (from, to) in [(one, other), (other, one)] {
                let link = links.link(from, to);
                let delay = link.delay.max(Duration::from_millis(2));
                let (loss_per_mille, cut) = (20 + planned.degree / 4, link.cut);
                let jitter = link.jitter;
                *link = Link { delay, jitter, loss_per_mille, duplicate_per_mille: 50, reorder_per_mille: 100, cut };
            }
        }
        Fault::Kill | Fault::Pause | Fault::Power | Fault::DiskFull | Fault::SlowSync | Fault::Eio => {}
        Fault::Skew | Fault::Strobe | Fault::RestartAll | Fault::Member | Fault::Flip | Fault::Crash => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(fault: Fault, server: usize, degree: u32) -> Active {
        let planned = Planned { at_ms: 0, for_ms: 1, fault, target: Target::Server(server), degree };
        Active { planned, servers: vec![server], start_ms: 0, effect: String::new(), turn: None }
    }

    fn cuts(fault: Fault, degree: u32) -> Vec<(usize, usize)> {
        let mut links = links(Links::perfect(MACHINES + 1), &[active(fault, 0, degree)]);
        let pairs = (0..=MACHINES).flat_map(|from| (0..=MACHINES).map(move |to| (from, to)));
        pairs.filter(|(from, to)| links.link(*from, *to).cut).collect()
    }

    #[test]
    fn partitions_have_shapes_and_spare_the_clients() {
        assert_eq!(cuts(Fault::Partition, 1), [(1, 2), (1, 3), (1, 4), (1, 5), (2, 1), (3, 1), (4, 1), (5, 1)]);
        assert_eq!(cuts(Fault::Partition, 4), [(1, 2), (2, 1)]);
        assert_eq!(cuts(Fault::Oneway, 2), [(1, 2), (1, 3), (1, 4), (1, 5)]);
        assert_eq!(cuts(Fault::Oneway, 1), [(2, 1), (3, 1), (4, 1), (5, 1)]);
        assert_eq!(cuts(Fault::Delay, 1), []);
    }

    #[test]
    fn faults_of_the_network_overlap() {
        let all = [active(Fault::Partition, 0, 1), active(Fault::Loss, 0, 400), active(Fault::Delay, 1, 999)];
        let mut links = links(Links::perfect(MACHINES + 1), &all);
        let (cut, late) = (*links.link(1, 3), *links.link(2, 3));
        assert!(cut.cut && cut.loss_per_mille == 120);
        assert!(!late.cut && late.delay == Duration::from_millis(259));
    }

    #[test]
    fn clocks_jump_both_ways() {
        assert_eq!((skew_seconds(0), skew_seconds(999)), (-300, 300));
    }

    #[test]
    fn each_point_has_its_turn_and_tells_its_name() {
        let points = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(["a:1", "b:1", "c:1"].map(str::to_owned), [0, 1, 2].map(|degree| point(&points, degree)));
        assert_eq!((point(&points, 9), point(&points, 23)), ("a:2".to_owned(), "c:50".to_owned()));
        assert_eq!(died_at("INFO all is well | the process dies at log-before-sync"), Some("log-before-sync"));
        assert_eq!(died_at("error: the disk failed"), None);
    }

    #[test]
    fn a_strobe_comes_and_goes_and_a_skew_stays() {
        let strobe = [active(Fault::Strobe, 1, 100)];
        let at = |now_ms| wrong_by(&strobe, 1, now_ms);
        assert_eq!((at(0), at(279), at(280), at(559), at(560)), (120, 120, 0, 0, 120));
        assert_eq!(wrong_by(&strobe, 0, 0), 0, "another server's");
        assert_eq!(wrong_by(&[active(Fault::Skew, 1, 999)], 1, 5_000), 300);
    }
}
