//! What is done to those who are no servers of the first datacenter: agents, proxies, and all of the second one. Each agent with what is beside it has
//! its own row of troubles, and so has the second datacenter, so that troubles overlap.

use jlt_core::rng::Rng;

use crate::far::Far;
use crate::world::World;

/// Between two troubles.
const CALM_MS: (u64, u64) = (2_000, 8_000);
/// How long one lasts.
const TROUBLE_MS: (u64, u64) = (200, 5_000);

/// One trouble after the other.
pub(crate) struct Troubles {
    rng: Rng,
    whose: Whose,
    next_ms: u64,
    /// What ends then.
    active: Option<(u64, Trouble)>,
}

#[derive(Clone, Copy)]
enum Whose {
    Agent(usize),
    Far,
}

/// Each has its hosts, or pairs of hosts.
enum Trouble {
    /// It is killed.
    Down(String),
    /// They do not reach each other.
    Apart(Vec<(String, String)>),
}

impl Troubles {
    /// One for each agent, and one for the other datacenter.
    pub(crate) fn all(seed: u64, world: &World) -> Vec<Self> {
        let far = world.far.iter().map(|_| Whose::Far);
        let whose = (0..world.agents.len()).map(Whose::Agent).chain(far);
        let next_ms = world.now_ms() + CALM_MS.0;
        (500..).zip(whose).map(|(row, whose)| Self { rng: Rng::new(seed, row), whose, next_ms, active: None }).collect()
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        let now_ms = world.now_ms();
        if self.active.as_ref().is_some_and(|(end_ms, _trouble)| *end_ms <= now_ms) {
            self.heal(world);
        }
        if self.active.is_some() || self.next_ms > now_ms {
            return;
        }
        let Some(trouble) = self.choose(world) else { return };
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

    fn choose(&mut self, world: &World) -> Option<Trouble> {
        match (self.whose, &world.far) {
            (Whose::Agent(agent), _) => Some(self.of_agent(world, agent)),
            (Whose::Far, Some(far)) => Some(self.of_datacenters(world, far)),
            (Whose::Far, None) => None,
        }
    }

    fn of_agent(&mut self, world: &World, at: usize) -> Trouble {
        let agent = &world.agents[at].name;
        let server = &self.rng.pick(&world.servers).name;
        let servers = world.servers.iter().map(|server| &server.name);
        match (self.rng.below(4), world.services.get(at)) {
            (0, Some(service)) => Trouble::Down(service.name.to_owned()),
            (0 | 1, _) => Trouble::Down(agent.clone()),
            (2, _) => Trouble::Apart(vec![(agent.clone(), server.clone())]),
            _ => Trouble::Apart(servers.map(|server| (agent.clone(), server.clone())).collect()),
        }
    }

    fn of_datacenters(&mut self, world: &World, far: &Far) -> Trouble {
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
