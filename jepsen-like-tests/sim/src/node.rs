//! What runs on a host, as in the program (`cli/src/node`): an agent, on a server's host a server, and the ports around them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, AgentConfig, Deps, Home};
use axum::Router;
use dns::Lookup;
use identity::RpcIdentity;
use model::Node;
use server::HttpLimits;
use store::Store;
use turmoil::net::TcpListener;

use crate::names;

/// Where nodes serve HTTP.
pub(crate) const HTTP_PORT: u16 = 8500;
/// Where servers listen for each other and for agents.
pub(crate) const RPC_PORT: u16 = 8300;

/// Where agents serve proxies. Not only on the loopback interface, as proxies have hosts of their own here.
pub(crate) const GRPC_PORT: u16 = 8502;

/// Everything is compared with the servers so often.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// What a host runs, until it is ended from without.
pub(crate) type Running = std::pin::Pin<Box<dyn Future<Output = turmoil::Result>>>;

/// What all nodes must know.
pub(crate) const SECRET: &str = "AAECAwQFBgcICQoLDA0ODw==";

/// Servers that are one, and what they are for.
pub(crate) struct Cluster {
    pub(crate) datacenter: &'static str,
    pub(crate) servers: Vec<IpAddr>,
    /// The servers of the primary datacenter, if this is another.
    pub(crate) primary: Vec<IpAddr>,
}

/// Where a server listens.
pub(crate) fn rpc_address(server: IpAddr) -> String {
    SocketAddr::new(server, RPC_PORT).to_string()
}

/// How a node's agent is set up.
pub(crate) fn agent_config(id: &str, name: &str, address: IpAddr, cluster: &Cluster, home: Home) -> AgentConfig {
    let node = Node {
        id: id.to_owned(),
        name: name.to_owned(),
        address: address.to_string(),
        datacenter: cluster.datacenter.to_owned(),
        ..Node::default()
    };
    AgentConfig {
        primary_datacenter: "dc1".to_owned(),
        sync_interval: SYNC_INTERVAL,
        rpc_port: if matches!(home, Home::Own(_)) { RPC_PORT } else { 0 },
        ..AgentConfig::new(node, home)
    }
}

/// Starts an agent that keeps what it must not forget in this folder.
pub(crate) fn start_agent(config: AgentConfig, rpc: RpcIdentity, folder: &Path) -> turmoil::Result<Agent> {
    Ok(Agent::start(config, Deps { store: Store::open(folder)?, rpc })?)
}

/// Serves HTTP and DNS until the host is ended, and proxies too.
pub(crate) async fn serve(router: Router, lookup: Arc<dyn Lookup>, agent: &Agent) -> turmoil::Result {
    names::serve(any(names::PORT), lookup).await?;
    let mesh = serve_http(GRPC_PORT, agent.mesh().into_axum_router()).await?;
    let http = serve_http(HTTP_PORT, router).await?;
    tokio::join!(mesh, http);
    Ok(())
}

async fn serve_http(port: u16, router: Router) -> turmoil::Result<impl Future<Output = ()>> {
    let listener = TcpListener::bind(any(port)).await?;
    let limits = HttpLimits { connections_per_client_max: 10_000, ..HttpLimits::default() };
    Ok(server::serve_http(listener, router, limits, std::future::pending()))
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}
