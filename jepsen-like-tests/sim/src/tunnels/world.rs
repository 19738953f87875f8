//! Two datacenters on the simulated network: in each a real gateway, applications, and somebody who calls.

use std::cell::RefCell;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use identity::{Ca, Csr, Identity, LEAF_TTL, LeafName, LeafPem, TrustBundle};
use model::ProxyConfig;
use model::proxy_config::{Endpoint, GatewayConfig, service_sni};
use proxy::{ConfigSource, Gateway, Handle, Options};
use tokio::sync::Notify;
use turmoil::{Builder, Sim};

use super::apps::{App, Caller, Shared};
use super::{APP_PORT, DATACENTERS, GATEWAY_PORT, SERVICES, TRUST_DOMAIN, TUNNEL_PORT};
use crate::trace::Trace;
use crate::world::LATENCY;

const GATEWAYS: [&str; 2] = ["gateway1", "gateway2"];
const CALLERS: [&str; 2] = ["caller1", "caller2"];

/// What is in hand has so long when a gateway is stopped.
const DRAIN: Duration = Duration::from_secs(1);

/// Everything there is.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    pub(crate) gateways: Vec<GatewayHost>,
    /// Hosts of applications, by datacenter, as in [`SERVICES`].
    pub(crate) apps: Vec<Vec<String>>,
    pub(crate) shared: Shared,
    pub(crate) trace: Trace,
    pub(crate) lines: Lines,
    steps: u64,
}

/// A host with a gateway.
pub(crate) struct GatewayHost {
    pub(crate) name: &'static str,
    running: Rc<RefCell<Option<Handle>>>,
    stop: Rc<Notify>,
    /// Its lines to the other datacenter, when last looked at.
    standing: usize,
}

/// What became of the lines from one gateway to another.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) made: u64,
    /// As a gateway noticed that goes on.
    pub(crate) ended: u64,
}

impl World {
    /// A world in which nothing has begun to run.
    pub(crate) fn new(shared: Shared, trace: Trace) -> Result<Self, Box<dyn Error>> {
        let sim = Builder::new()
            .rng_seed(shared.seed)
            .enable_random_order()
            .simulation_duration(Duration::from_secs(1_000_000))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            // Few, so that a slow reader is felt by its writer, through both gateways.
            .tcp_capacity(16)
            .udp_capacity(1_024)
            .build();
        let apps = (1..).zip(SERVICES).map(|(dc, names)| names.iter().map(|name| format!("{name}{dc}")).collect());
        let mut world =
            Self { sim, gateways: Vec::new(), apps: apps.collect(), shared, trace, lines: Lines::default(), steps: 0 };
        let ca = Ca::new_root(TRUST_DOMAIN, SystemTime::UNIX_EPOCH)?;
        for dc in 0..DATACENTERS.len() {
            world.host_gateway(dc, &ca)?;
            world.host_apps(dc, &ca)?;
            let identity = member(&ca, &LeafName::service(TRUST_DOMAIN, DATACENTERS[dc], "caller")?)?;
            let gateway = world.sim.lookup(GATEWAYS[dc]);
            let caller = Caller { dc, gateway, identity, shared: world.shared.clone() };
            world.sim.host(CALLERS[dc], move || caller.clone().run());
        }
        Ok(world)
    }

    fn host_gateway(&mut self, dc: usize, ca: &Ca) -> Result<(), Box<dyn Error>> {
        let leaf = leaf(ca, &LeafName::gateway(TRUST_DOMAIN, DATACENTERS[dc])?)?;
        let fixed = Box::new((self.gateway_config(dc, ca), leaf));
        let running = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&running);
        let stop = Rc::new(Notify::new());
        let stopped = Rc::clone(&stop);
        self.sim.host(GATEWAYS[dc], move || {
            let options = Options { source: ConfigSource::Fixed(fixed.clone()) };
            let (slot, stopped) = (Rc::clone(&slot), Rc::clone(&stopped));
            async move {
                let handle = Gateway::start(options);
                slot.replace(Some(handle.clone()));
                handle.ready().await?;
                // The world holds the last one, and drops it to end the gateway.
                drop(handle);
                stopped.notified().await;
                let handle = slot.take();
                if let Some(handle) = handle {
                    handle.shutdown(DRAIN).await;
                }
                Ok(())
            }
        });
        self.gateways.push(GatewayHost { name: GATEWAYS[dc], running, stop, standing: 0 });
        Ok(())
    }

    fn gateway_config(&self, dc: usize, ca: &Ca) -> ProxyConfig {
        let other = 1 - dc;
        let at = |host: &str, port: u16| SocketAddr::new(self.sim.lookup(host), port).to_string();
        let endpoint = |host: &String| Endpoint { address: at(host, APP_PORT), weight: 1, ..Endpoint::default() };
        let services = SERVICES[dc].iter().zip(&self.apps[dc]);
        let gateway = GatewayConfig {
            listen: format!("0.0.0.0:{GATEWAY_PORT}"),
            tunnel_listen: format!("0.0.0.0:{TUNNEL_PORT}"),
            datacenters: [(DATACENTERS[other].to_owned(), vec![at(GATEWAYS[other], TUNNEL_PORT)])].into(),
            services: services
                .map(|(name, host)| (service_sni(name, DATACENTERS[dc], TRUST_DOMAIN), vec![endpoint(host)]))
                .collect(),
        };
        ProxyConfig {
            id: GATEWAYS[dc].to_owned(),
            datacenter: DATACENTERS[dc].to_owned(),
            trust_domain: TRUST_DOMAIN.to_owned(),
            service: "mesh-gateway".to_owned(),
            roots: vec![ca.cert_pem()],
            gateway: Some(gateway),
            ..ProxyConfig::default()
        }
    }

    fn host_apps(&mut self, dc: usize, ca: &Ca) -> Result<(), Box<dyn Error>> {
        for (service, host) in SERVICES[dc].iter().zip(&self.apps[dc]) {
            let identity = member(ca, &LeafName::service(TRUST_DOMAIN, DATACENTERS[dc], service)?)?;
            let name = format!("{service}@{}", DATACENTERS[dc]);
            let app = App { name, identity, shared: self.shared.clone() };
            self.sim.host(host.as_str(), move || app.clone().run());
        }
        Ok(())
    }

    /// Lets a millisecond pass. `Err` says which host has ended, and why.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        self.trace.set_time(self.steps);
        self.shared.now_ms.set(self.steps);
        self.sim.step().map(|_finished| ()).map_err(|error| error.to_string())
    }

    /// Simulated milliseconds since all began.
    pub(crate) fn now_ms(&self) -> u64 {
        self.steps
    }

    /// Ends a gateway as `kill -9` does: to the others it says nothing on its tunnels.
    pub(crate) fn kill(&mut self, dc: usize) {
        let gateway = &mut self.gateways[dc];
        gateway.standing = 0;
        drop(gateway.running.take());
        self.sim.crash(gateway.name);
    }

    /// Starts a gateway that was ended.
    pub(crate) fn start(&mut self, dc: usize) {
        self.sim.bounce(self.gateways[dc].name);
    }

    /// Counts what became of the lines.
    pub(crate) fn look(&mut self) {
        for gateway in &mut self.gateways {
            let Some(now) = gateway.lines() else { continue };
            self.lines.made += now.saturating_sub(gateway.standing) as u64;
            self.lines.ended += gateway.standing.saturating_sub(now) as u64;
            gateway.standing = now;
        }
    }

    /// Whether all lines stand, as far as their gateways know.
    pub(crate) fn is_joined(&self) -> bool {
        self.gateways.iter().all(|gateway| gateway.lines() == Some(proxy::limits::TUNNEL_CONNECTIONS))
    }
}

impl GatewayHost {
    /// Stops it as SIGTERM does.
    pub(crate) fn stop(&mut self) {
        self.standing = 0;
        self.stop.notify_one();
    }

    /// Its lines that stand; none while it is down.
    fn lines(&self) -> Option<usize> {
        let running = self.running.borrow();
        let tunnels = running.as_ref()?.metrics().gateway?.tunnels;
        Some(tunnels.values().sum())
    }
}

fn leaf(ca: &Ca, name: &LeafName) -> Result<LeafPem, identity::Error> {
    let csr = Csr::new(name)?;
    let signed = ca.sign_leaf(&csr.pem, name, LEAF_TTL, SystemTime::UNIX_EPOCH)?;
    Ok(csr.with_chain(signed.cert_chain_pem))
}

fn member(ca: &Ca, name: &LeafName) -> Result<Identity, identity::Error> {
    let identity = Identity::new(TrustBundle::new(TRUST_DOMAIN, [ca.cert_pem()])?);
    identity.update_leaf(&leaf(ca, name)?)?;
    Ok(identity)
}
