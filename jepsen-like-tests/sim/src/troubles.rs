//! What is done to those who are no servers of the first datacenter: agents, proxies, and all of the second one.

use jlt_core::rng::Rng;

use crate::world::World;

/// Between two troubles.
const CALM_MS: (u64, u64) = (3_000, 9_000);
/// How long one lasts.
const TROUBLE_MS: (u64, u64) = (200, 4_000);

/// Makes one trouble after the other.
pub(crate) struct Troubles {
    rng: Rng,
    next_ms: u64,
    /// What ends then.
    active: Option<(u64, Trouble)>,
}

/// Each has its hosts, or pairs of hosts.
enum Trouble {
    /// It is killed.
    Down(String),
    /// They do not reach each other.
    Apart(Vec<(String, String)>),
}

impl Troubles {
    pub(crate) fn new(seed: u64, now_ms: u64) -> Self {
        Self { rng: Rng::new(seed, 500), next_ms: now_ms + CALM_MS.0, active: None }
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        let now_ms = world.now_ms();
        if self.active.as_ref().is_some_and(|(end_ms, _trouble)| *end_ms <= now_ms) {
            self.heal(world);
        }
        if self.active.is_some() || self.next_ms > now_ms || world.agents.is_empty() {
            return;
        }
        let trouble = self.choose(world);
        match &trouble {
            Trouble::Down(host) => world.kill_host(host),
            Trouble::Apart(pairs) => pairs.iter().for_each(|(one, other)| world.sim.partition(&**one, &**other)),
        }
        self.active = Some((now_ms + self.millis(TROUBLE_MS), trouble));
    }

    /// Ends what is wrong.
    pub(crate) fn heal(&mut self, world: &mut World) {
        match self.active.take() {
            Some((_, Trouble::Down(host))) => world.start_host(&host),
            Some((_, Trouble::Apart(pairs))) => {
                pairs.iter().for_each(|(one, other)| world.sim.repair(&**one, &**other));
            }
            None => {}
        }
        self.next_ms = world.now_ms() + self.millis(CALM_MS);
    }

    fn choose(&mut self, world: &World) -> Trouble {
        if world.far.is_some() && self.rng.below(2) == 0 {
            return self.of_datacenters(world);
        }
        let agent = &self.rng.pick(&world.agents).name;
        let server = &self.rng.pick(&world.servers).name;
        let servers = world.servers.iter().map(|server| &server.name);
        match self.rng.below(4) {
            0 if !world.services.is_empty() => Trouble::Down(self.rng.pick(&world.services).name.to_owned()),
            0 | 1 => Trouble::Down(agent.clone()),
            2 => Trouble::Apart(vec![(agent.clone(), server.clone())]),
            _ => Trouble::Apart(servers.map(|server| (agent.clone(), server.clone())).collect()),
        }
    }

    fn of_datacenters(&mut self, world: &World) -> Trouble {
        let Some(far) = &world.far else { return Trouble::Apart(Vec::new()) };
        let [here, there] = [0, 1].map(|at: usize| far.gateways[at].name.to_owned());
        let server = &far.server.name;
        let near: Vec<String> = world.servers.iter().map(|server| server.name.clone()).collect();
        match self.rng.below(5) {
            0 => Trouble::Down(server.clone()),
            1 => Trouble::Down(self.rng.pick(&[here, there]).clone()),
            2 => Trouble::Apart(vec![(here, there)]),
            3 => Trouble::Apart(near.into_iter().map(|one| (one, server.clone())).collect()),
            _ => {
                let agents = world.agents.iter().map(|agent| agent.name.clone());
                let all = near.into_iter().chain(agents).chain([here]);
                Trouble::Apart(all.flat_map(|one| far.hosts().map(|other| (one.clone(), other.to_owned()))).collect())
            }
        }
    }

    fn millis(&mut self, between: (u64, u64)) -> u64 {
        u64::try_from(self.rng.between_ms(between.0, between.1).as_millis()).unwrap_or(u64::MAX)
    }
}
