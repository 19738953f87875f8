//! The services `web` and `api` with their real sidecars, each on a host of its own: `web`, at the first agent, calls `api`, at the second.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use proxy::{ConfigSource, Handle, Options, Sidecar};
use serde_json::json;
use server::HttpLimits;
use turmoil::Sim;
use turmoil::net::TcpListener;

use crate::agents;
use crate::node::{GRPC_PORT, Running};

/// What agents these services need.
pub(crate) const AGENTS: usize = SERVICES.len();

const SERVICES: [&str; 2] = ["web", "api"];

/// Where applications listen, for their sidecars alone.
const APPLICATION_PORT: u16 = 9090;
/// Where sidecars listen for each other.
const SIDECAR_PORT: u16 = 21_000;
/// Where `web`'s sidecar listens for calls to `api`.
const UPSTREAM_PORT: u16 = 9191;

/// A host with an application and its sidecar.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) lives: Arc<AtomicU32>,
    address: IpAddr,
    running: Rc<RefCell<Option<Handle>>>,
}

impl Host {
    /// Both hosts, which have not begun to run.
    pub(crate) fn all(sim: &mut Sim<'static>, agents: &[agents::Host]) -> Vec<Self> {
        let hosts = SERVICES.into_iter().zip(agents).map(|(name, agent)| {
            let host = Self { name, lives: Arc::default(), address: sim.lookup(name), running: Rc::default() };
            sim.host(name, host.software(agent));
            host
        });
        hosts.collect()
    }

    /// What the host runs, each time that it is started.
    fn software(&self, agent: &agents::Host) -> impl Fn() -> Running + use<> {
        let source = ConfigSource::Control {
            agent: SocketAddr::new(agent.address, GRPC_PORT).to_string(),
            proxy_id: format!("{}-sidecar-proxy", self.name),
            node: agent.name.clone(),
        };
        let (name, running, lives) = (self.name, Rc::clone(&self.running), Arc::clone(&self.lives));
        move || {
            lives.fetch_add(1, Ordering::SeqCst);
            Box::pin(run(name, source.clone(), Rc::clone(&running))) as Running
        }
    }

    /// What registers the service with its agent.
    pub(crate) fn registration(&self) -> String {
        let upstream = json!({"DestinationName": "api", "LocalBindAddress": "0.0.0.0", "LocalBindPort": UPSTREAM_PORT});
        let upstreams = if self.name == SERVICES[0] { json!([upstream]) } else { json!([]) };
        let proxy = json!({"Upstreams": upstreams, "Config": {"bind_address": "0.0.0.0"}});
        let sidecar = json!({"Address": self.address, "Port": SIDECAR_PORT, "Proxy": proxy});
        json!({"Name": self.name, "Port": APPLICATION_PORT, "Connect": {"SidecarService": sidecar}}).to_string()
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

/// The application says who it is.
async fn run(name: &'static str, source: ConfigSource, running: Rc<RefCell<Option<Handle>>>) -> turmoil::Result {
    running.replace(Some(Sidecar::start(Options { source })));
    let router = Router::new().fallback(move || async move { format!("{name} was called") });
    let listener = TcpListener::bind(("127.0.0.1", APPLICATION_PORT)).await?;
    server::serve_http(listener, router, HttpLimits::default(), std::future::pending()).await;
    Ok(())
}
