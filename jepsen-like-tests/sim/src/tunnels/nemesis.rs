//! What goes wrong between two datacenters, by the seed: gateways, the link between them, and the way to applications. Three lanes, so that faults overlap.

use std::collections::BTreeMap;
use std::time::Duration;

use jlt_core::rng::Rng;

use super::world::World;
use super::{DATACENTERS, SERVICES};
use crate::world::LATENCY;

/// Between two faults of one lane. A tunnel is given up after 8 s of silence (`proxy::limits::TUNNEL_IDLE_TIMEOUT`): who was left alone sees
/// that now and then before the next one dies.
const CALM_MS: [(u64, u64); 3] = [(4_000, 12_000), (500, 4_000), (500, 4_000)];
/// How long one lasts.
const FAULT_MS: [(u64, u64); 3] = [(200, 6_000), (200, 11_000), (200, 11_000)];
/// Of a thousand packets so many take with them what is on its way.
const LOSS_PER_MILLE: (u64, u64) = (2, 60);
const DELAY_MS: (u64, u64) = (20, 400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    KillBoth,
    /// Stopped politely, with a little time for what is in hand.
    Stop,
    Cut,
    Oneway,
    Delay,
    Loss,
    /// An application and its gateway do not reach each other.
    Apart,
    /// Applications break off.
    Drop,
}

/// Kinds that are of one lane do not come at the same time: they would undo each other.
const LANES: [&[Kind]; 3] = [
    &[Kind::Kill, Kind::KillBoth, Kind::Stop],
    &[Kind::Cut, Kind::Loss, Kind::Oneway, Kind::Delay],
    &[Kind::Apart, Kind::Drop],
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::KillBoth => "kill both",
            Kind::Stop => "stop",
            Kind::Cut => "cut",
            Kind::Oneway => "oneway",
            Kind::Delay => "delay",
            Kind::Loss => "loss",
            Kind::Apart => "apart",
            Kind::Drop => "drop",
        }
    }
}

/// Begins and ends faults as their time comes.
pub(crate) struct Nemesis {
    lanes: Vec<Lane>,
    happened: BTreeMap<&'static str, u64>,
}

struct Lane {
    number: usize,
    kinds: &'static [Kind],
    rng: Rng,
    /// Each kind comes in its turn, so that a short run has all of them.
    turn: usize,
    next_ms: u64,
    active: Option<Active>,
}

struct Active {
    end_ms: u64,
    kind: Kind,
    /// The datacenter that it is of, or begins in.
    dc: usize,
    /// For [`Kind::Apart`]: which of its applications.
    app: usize,
}

impl Nemesis {
    pub(crate) fn new(seed: u64, now_ms: u64) -> Self {
        let lane = |(number, kinds): (usize, &'static [Kind])| {
            let mut rng = Rng::new(seed, 720 + number as u64);
            let turn = rng.below(kinds.len());
            let next_ms = now_ms + millis(&mut rng, CALM_MS[1]);
            Lane { number, kinds, next_ms, rng, turn, active: None }
        };
        Self { lanes: LANES.into_iter().enumerate().map(lane).collect(), happened: BTreeMap::new() }
    }

    /// How often each kind of fault happened.
    pub(crate) fn happened(&self) -> BTreeMap<&'static str, u64> {
        let all = LANES.iter().flat_map(|kinds| kinds.iter()).map(|kind| kind.name());
        all.map(|name| (name, self.happened.get(name).copied().unwrap_or(0))).collect()
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        let now_ms = world.now_ms();
        for lane in &mut self.lanes {
            if lane.active.as_ref().is_some_and(|active| active.end_ms <= now_ms) {
                lane.heal(world);
            }
            if lane.active.is_none() && lane.next_ms <= now_ms {
                let kind = lane.begin(world);
                *self.happened.entry(kind.name()).or_default() += 1;
            }
        }
    }

    /// Ends everything.
    pub(crate) fn heal(&mut self, world: &mut World) {
        self.lanes.iter_mut().for_each(|lane| lane.heal(world));
    }
}

impl Lane {
    fn begin(&mut self, world: &mut World) -> Kind {
        let kind = self.kinds[self.turn % self.kinds.len()];
        self.turn += 1;
        let dc = self.rng.below(DATACENTERS.len());
        let app = self.rng.below(SERVICES[dc].len());
        world.trace.note(&format!("{} begins at {}", kind.name(), DATACENTERS[dc]));
        let (here, there) = (world.gateways[dc].name, world.gateways[1 - dc].name);
        match kind {
            Kind::Kill => world.kill(dc),
            Kind::KillBoth => (0..DATACENTERS.len()).for_each(|dc| world.kill(dc)),
            Kind::Stop => world.gateways[dc].stop(),
            Kind::Cut => world.sim.partition(here, there),
            Kind::Oneway => world.sim.partition_oneway(here, there),
            Kind::Delay => {
                let most = LATENCY.1 + Duration::from_millis(millis(&mut self.rng, DELAY_MS));
                world.sim.set_link_max_message_latency(here, there, most);
            }
            Kind::Loss => {
                let rate = millis(&mut self.rng, LOSS_PER_MILLE) as f64 / 1_000.0;
                world.sim.set_link_fail_rate(here, there, rate);
            }
            Kind::Apart => world.sim.partition(here, world.apps[dc][app].as_str()),
            Kind::Drop => world.shared.drops.set(true),
        }
        let end_ms = world.now_ms() + millis(&mut self.rng, FAULT_MS[self.number]);
        self.active = Some(Active { end_ms, kind, dc, app });
        kind
    }

    fn heal(&mut self, world: &mut World) {
        let Some(Active { kind, dc, app, .. }) = self.active.take() else { return };
        world.trace.note(&format!("{} ends", kind.name()));
        let (here, there) = (world.gateways[dc].name, world.gateways[1 - dc].name);
        match kind {
            Kind::Kill | Kind::Stop => world.start(dc),
            Kind::KillBoth => (0..DATACENTERS.len()).for_each(|dc| world.start(dc)),
            Kind::Cut | Kind::Oneway => world.sim.repair(here, there),
            Kind::Delay => world.sim.set_link_max_message_latency(here, there, LATENCY.1),
            Kind::Loss => {
                world.sim.set_link_fail_rate(here, there, 0.0);
                // What was lost last may have left it cut.
                world.sim.repair(here, there);
            }
            Kind::Apart => world.sim.repair(here, world.apps[dc][app].as_str()),
            Kind::Drop => world.shared.drops.set(false),
        }
        self.next_ms = world.now_ms() + millis(&mut self.rng, CALM_MS[self.number]);
    }
}

fn millis(rng: &mut Rng, between: (u64, u64)) -> u64 {
    u64::try_from(rng.between_ms(between.0, between.1).as_millis()).unwrap_or(u64::MAX)
}
