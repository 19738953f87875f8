//! Services with their real sidecars, and gateways, each on a host of its own beside an agent.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use proxy::{ConfigSource, Gateway, Handle, Options, Sidecar};
use serde_json::{Value, json};
use server::HttpLimits;
use turmoil::Sim;
use turmoil::net::TcpListener;

use crate::agents;
use crate::node::{GRPC_PORT, Running};

/// Where applications listen, for their sidecars alone.
const APPLICATION_PORT: u16 = 9090;
/// Where sidecars listen for each other.
const SIDECAR_PORT: u16 = 21_000;
/// Where a sidecar listens for calls to another service.
const UPSTREAM_PORT: u16 = 9191;
/// Consul's port for gateways, by TCP and by UDP.
const GATEWAY_PORT: u16 = 8443;
/// The name, id and kind of a gateway.
const GATEWAY: &str = "mesh-gateway";

/// What such a host is for.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// An application with its sidecar. It answers with the name of its host.
    Service {
        name: &'static str,
        /// The service that it calls, and of which datacenter.
        calls: Option<(&'static str, &'static str)>,
    },
    Gateway,
}

/// A host with a proxy.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) lives: Arc<AtomicU32>,
    role: Role,
    address: IpAddr,
    running: Rc<RefCell<Option<Handle>>>,
}

impl Host {
    /// Adds it; it has not begun to run.
    pub(crate) fn new(sim: &mut Sim<'static>, name: &'static str, role: Role, agent: &agents::Host) -> Self {
        let host = Self { name, lives: Arc::default(), role, address: sim.lookup(name), running: Rc::default() };
        sim.host(name, host.software(agent));
        host
    }

    /// What the host runs, each time that it is started.
    fn software(&self, agent: &agents::Host) -> impl Fn() -> Running + use<> {
        let proxy_id = match self.role {
            Role::Service { name, .. } => format!("{name}-sidecar-proxy"),
            Role::Gateway => GATEWAY.to_owned(),
        };
        let address = SocketAddr::new(agent.address, GRPC_PORT).to_string();
        let source = ConfigSource::Control { agent: address, proxy_id, node: agent.name.clone() };
        let (name, role, running, lives) = (self.name, self.role, Rc::clone(&self.running), Arc::clone(&self.lives));
        move || {
            lives.fetch_add(1, Ordering::SeqCst);
            Box::pin(run(name, role, Options { source: source.clone() }, Rc::clone(&running))) as Running
        }
    }

    /// What registers it with its agent.
    pub(crate) fn registration(&self) -> String {
        match self.role {
            Role::Service { name, calls } => self.service(name, calls),
            Role::Gateway => self.gateway(),
        }
        .to_string()
    }

    fn service(&self, name: &str, calls: Option<(&str, &str)>) -> Value {
        let upstreams = calls.map(|(name, datacenter)| {
            json!({"DestinationName": name, "Datacenter": datacenter, "LocalBindAddress": "0.0.0.0", "LocalBindPort": UPSTREAM_PORT})
        });
        let proxy = json!({"Upstreams": Vec::from_iter(upstreams), "Config": {"bind_address": "0.0.0.0"}});
        let sidecar = json!({"Address": self.address, "Port": SIDECAR_PORT, "Proxy": proxy});
        json!({"Name": name, "Port": APPLICATION_PORT, "Connect": {"SidecarService": sidecar}})
    }

    fn gateway(&self) -> Value {
        let place = json!({"Address": self.address, "Port": GATEWAY_PORT});
        json!({
            "Kind": GATEWAY, "ID": GATEWAY, "Name": GATEWAY, "Address": self.address, "Port": GATEWAY_PORT,
            "TaggedAddresses": {"lan": place, "wan": place},
            "Proxy": {"Config": {"bind_address": "0.0.0.0", "tunnel_port": GATEWAY_PORT}},
        })
    }

    /// Where its sidecar takes calls to the other service.
    pub(crate) fn upstream(&self) -> SocketAddr {
        SocketAddr::new(self.address, UPSTREAM_PORT)
    }

    /// Forgets what runs; the host is ended by whoever says so.
    pub(crate) fn forget(&self) {
        self.running.take();
    }
}

async fn run(
    name: &'static str,
    role: Role,
    options: Options,
    running: Rc<RefCell<Option<Handle>>>,
) -> turmoil::Result {
    match role {
        Role::Service { .. } => {
            running.replace(Some(Sidecar::start(options)));
            let router = Router::new().fallback(move || async move { format!("{name} was called") });
            let listener = TcpListener::bind(("127.0.0.1", APPLICATION_PORT)).await?;
            server::serve_http(listener, router, HttpLimits::default(), std::future::pending()).await;
            Ok(())
        }
        Role::Gateway => {
            running.replace(Some(Gateway::start(options)));
            std::future::pending().await
        }
    }
}
