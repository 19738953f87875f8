//! A second datacenter, `dc2`, as in `real/src/world/far.rs`: one server, an agent with the service `api2`, and a gateway in each datacenter. In the first,
//! `web2` calls `api2` there; and there is another `api2` in the first one, which nobody means.

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;

use turmoil::Sim;

use crate::agents;
use crate::clients::At;
use crate::node::Cluster;
use crate::proxies::{self, Role};
use crate::servers;

/// Everything of it, and of the first datacenter what is there for it.
pub(crate) struct Far {
    pub(crate) server: servers::Node,
    pub(crate) agent: agents::Host,
    pub(crate) gateways: [proxies::Host; 2],
    /// The caller comes first.
    pub(crate) services: [proxies::Host; 3],
}

impl Far {
    /// Adds it to the world; nothing has begun to run.
    pub(crate) fn new(
        sim: &mut Sim<'static>,
        primary: &[IpAddr],
        near: &[agents::Host],
        folder: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        let (server, agent) = ("t1", "b1");
        let cluster = Cluster { datacenter: "dc2", servers: vec![sim.lookup(server)], primary: primary.to_vec() };
        let server = servers::Node::new(server, "00000000-0000-0000-0002-000000000001", sim, folder);
        server.host(sim, &cluster, servers::log(0))?;
        let agent = agents::Host::new(agent, "00000000-0000-0000-0002-000000000002", sim, folder);
        agent.host(sim, &cluster)?;
        let gateways = [
            proxies::Host::new(sim, "gateway1", Role::Gateway, &near[0]),
            proxies::Host::new(sim, "gateway2", Role::Gateway, &agent),
        ];
        let caller = Role::Service { name: "web2", calls: Some(("api2", "dc2")) };
        let callee = Role::Service { name: "api2", calls: None };
        let services = [
            proxies::Host::new(sim, "web2", caller, &near[0]),
            proxies::Host::new(sim, "api2", callee, &agent),
            proxies::Host::new(sim, "decoy", callee, &near[1]),
        ];
        Ok(Self { server, agent, gateways, services })
    }

    /// What is registered, and with whom.
    pub(crate) fn registrations(&self) -> Vec<(At, String)> {
        let [gateway1, gateway2] = &self.gateways;
        let [web2, api2, decoy] = &self.services;
        let all = [
            (At::Agent(0), gateway1),
            (At::Far, gateway2),
            (At::Agent(0), web2),
            (At::Far, api2),
            (At::Agent(1), decoy),
        ];
        all.into_iter().map(|(agent, host)| (agent, host.registration())).collect()
    }

    /// Its hosts that speak with the first datacenter.
    pub(crate) fn hosts(&self) -> [&str; 4] {
        [&self.server.name, &self.agent.name, self.gateways[1].name, self.services[1].name]
    }
}
