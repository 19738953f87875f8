//! [`Agent`]: all parts of an agent, and what can be asked of it.

mod register;

use crate::check::Runners;
use crate::config::{AgentConfig, Home};
use crate::enroll::Enroller;
use crate::error::StartError;
use crate::forward::Forwarder;
use crate::leaf::Leaves;
use crate::local::Local;
use crate::lookup::ViewLookup;
use crate::mesh::{self, MeshProxy};
use crate::metrics::Metrics;
use crate::servers::Servers;
use crate::session::Session;
use crate::sync::Syncer;
use crate::trust::{Keeper, KeptIdentity};
use api::proto::ServerInfo;
use api::transport::Pool;
use identity::{Identity, JOIN_TRUST_DOMAIN, RpcIdentity};
use model::name::{check_datacenter, check_node};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// What is spoken between nodes.
const ALPN: &[&[u8]] = &[b"h2"];
/// How often a server node looks whether it has its certificate.
const LEAF_LOOK: Duration = Duration::from_millis(20);
/// How long a goodbye may take in all.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What an agent is given by the program.
pub struct Deps {
    /// Where it keeps what it must not forget.
    pub store: Store,
    /// This node's identity and the join secret. On a server node, the server's.
    pub rpc: RpcIdentity,
}

/// An agent. Clones are the same one; it stops with [`Agent::shutdown`] or when the last clone is gone.
#[derive(Clone)]
pub struct Agent {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: AgentConfig,
    pub(crate) local: Local,
    pub(crate) runners: Runners,
    pub(crate) servers: Servers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) identity: Identity,
    pub(crate) leaves: Leaves,
    pub(crate) forwarder: Forwarder,
    lookup: Arc<ViewLookup>,
    leaving: watch::Sender<bool>,
    left: CancellationToken,
    session_over: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Agent {
    /// Starts an agent: checks run and joining begins at once. It does not wait for a server.
    ///
    /// # Errors
    /// A folder that cannot be read or is another node's; names that no certificate can carry; addresses that are none.
    pub fn start(config: AgentConfig, deps: Deps) -> Result<Agent, StartError> {
        check_node(&config.node.name)?;
        check_datacenter(&config.node.datacenter)?;
        let runtime = Handle::current();
        let (metrics, keeper) = (Arc::new(Metrics::default()), Keeper::open(deps.store.clone())?);
        let identity = deps.rpc.identity().clone();
        let kept = restore_identity(&config, &keeper, &identity)?;
        let servers = servers(&config, &deps.rpc, &kept)?;
        let local = Local::open(deps.store, config.check_update_interval, metrics.clone())?;
        let (node, idle) = (&config.node, config.view_idle);
        let lookup = ViewLookup::new(servers.clone(), metrics.clone(), runtime.clone(), idle, &node.datacenter);
        let inner = Inner {
            runners: Runners::new(local.clone(), metrics.clone(), runtime),
            leaves: Leaves::new(servers.clone(), identity.clone(), &node.name, &node.datacenter),
            forwarder: Forwarder { node: config.node.name.clone(), servers: servers.clone(), metrics: metrics.clone() },
            lookup: Arc::new(lookup),
            leaving: watch::Sender::new(false),
            left: CancellationToken::new(),
            session_over: CancellationToken::new(),
            tasks: Mutex::default(),
            config,
            local,
            servers,
            metrics,
            identity,
        };
        let agent = Agent { inner: Arc::new(inner) };
        for check in agent.inner.local.checks() {
            agent.inner.runners.start(&check.check_id);
        }
        agent.spawn_tasks(&deps.rpc, keeper)?;
        Ok(agent)
    }

    fn spawn_tasks(&self, rpc: &RpcIdentity, keeper: Keeper) -> Result<(), StartError> {
        let inner = &self.inner;
        let node_mp = api::mp::encode(&inner.config.node);
        let (opened, strangers) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enrolled, is_enrolled) = watch::channel(false);
        let is_server = inner.config.is_server();
        let session = Session {
            servers: inner.servers.clone(),
            identity: (!is_server).then(|| (inner.identity.clone(), keeper.clone())),
            node_mp: node_mp.clone(),
            version: inner.config.version.clone(),
            metrics: inner.metrics.clone(),
            opened: opened.clone(),
            strangers: strangers.clone(),
            leaving: inner.leaving.subscribe(),
        };
        let syncer = Syncer {
            local: inner.local.clone(),
            servers: inner.servers.clone(),
            node_mp,
            interval: inner.config.sync_interval,
            metrics: inner.metrics.clone(),
            opened,
        };
        let mut tasks = inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if is_server {
            tasks.spawn(wait_for_leaf(inner.identity.clone(), enrolled));
        } else {
            let tls = Arc::new(rpc.join_client_config(ALPN)?);
            let enroller = Enroller {
                joining: Pool::new(tls, JOIN_TRUST_DOMAIN),
                servers: inner.servers.clone(),
                identity: inner.identity.clone(),
                keeper,
                node: inner.config.node.clone(),
                strangers,
                enrolled,
            };
            tasks.spawn(enroller.run());
        }
        tasks.spawn(hold_session(session, is_enrolled, inner.session_over.clone()));
        tasks.spawn(syncer.run());
        tasks.spawn(reap(Arc::downgrade(inner), inner.config.reap_interval));
        Ok(())
    }

    /// How this agent is set up.
    pub fn config(&self) -> &AgentConfig {
        &self.inner.config
    }

    /// Counters of what it did.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// The servers that it knows.
    pub fn servers(&self) -> &Servers {
        &self.inner.servers
    }

    /// Answers DNS from views.
    pub fn lookup(&self) -> Arc<ViewLookup> {
        self.inner.lookup.clone()
    }

    /// Serves `Mesh` to this machine's proxies until the agent stops. The listener must be on the loopback interface:
    /// whoever reaches it may have certificates of this node's services.
    ///
    /// # Errors
    /// When the listener dies.
    pub async fn serve_mesh(&self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        mesh::serve(self.mesh(), listener, self.inner.left.clone().cancelled_owned()).await
    }

    /// What [`Agent::serve_mesh`] serves, for who has another listener.
    pub fn mesh(&self) -> Routes {
        let (servers, node) = (self.inner.servers.clone(), self.inner.config.node.name.clone());
        MeshProxy { servers, node }.routes()
    }

    /// Returns when this node has left (`PUT /v1/agent/leave`, [`Agent::leave`]) or was shut down: the program is to end.
    pub async fn left(&self) {
        self.inner.left.cancelled().await;
    }

    /// Says goodbye, so that the servers remove this node at once, and stops. What is registered stays on disk.
    pub async fn leave(&self) {
        self.inner.leaving.send_replace(true);
        if self.inner.servers.current().is_some() {
            timeout(LEAVE_TIMEOUT, self.inner.session_over.cancelled()).await.ok();
        }
        self.shutdown().await;
    }

    /// Stops without a goodbye: the servers find this node dead until it comes back. What its checks said last is on the disk
    /// when it returns, unless the disk hangs.
    pub async fn shutdown(&self) {
        self.inner.stop();
        timeout(LEAVE_TIMEOUT, self.inner.local.durable()).await.ok();
    }
}

impl Inner {
    fn stop(&self) {
        self.left.cancel();
        self.runners.stop_all();
        self.lookup.stop();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What was kept of this node's identity, given to `identity` if the node has to join.
fn restore_identity(config: &AgentConfig, keeper: &Keeper, identity: &Identity) -> Result<KeptIdentity, StartError> {
    let kept = keeper.kept();
    if !kept.node.is_empty() && kept.node != config.node.name {
        return Err(StartError::OtherNode { kept: kept.node, asked: config.node.name.clone() });
    }
    keeper.change(|kept| kept.node.clone_from(&config.node.name));
    if !config.is_server() && !kept.chain_pem.is_empty() && identity.leaf().is_none() {
        kept.restore(identity);
    }
    Ok(kept)
}

fn servers(config: &AgentConfig, rpc: &RpcIdentity, kept: &KeptIdentity) -> Result<Servers, StartError> {
    let datacenter = &config.node.datacenter;
    let tls = Arc::new(rpc.client_config(datacenter, ALPN)?);
    let name = RpcIdentity::server_name(datacenter, "consul")?.to_str().into_owned();
    let known = kept.servers.iter().map(|address| ServerInfo {
        rpc_address: address.clone(),
        datacenter: datacenter.clone(),
        ..ServerInfo::default()
    });
    if let Home::Own(address) = &config.servers {
        // Says at once if it is no address.
        api::transport::connect(address, tls.clone(), &name)?;
    }
    Ok(Servers::new(Pool::new(tls, &name), &config.servers, known.collect()))
}

async fn wait_for_leaf(identity: Identity, enrolled: watch::Sender<bool>) {
    while identity.leaf().is_none() {
        sleep(LEAF_LOOK).await;
    }
    enrolled.send_replace(true);
    // The receiver must not see the sender go.
    std::future::pending::<()>().await;
}

async fn hold_session(session: Session, mut is_enrolled: watch::Receiver<bool>, over: CancellationToken) {
    let _over = over.drop_guard();
    if is_enrolled.wait_for(|enrolled| *enrolled).await.is_ok() {
        session.run().await;
    }
}

/// Removes services that have been critical for longer than they may.
async fn reap(inner: std::sync::Weak<Inner>, interval: Duration) {
    loop {
        sleep(interval).await;
        let Some(inner) = inner.upgrade() else { return };
        let agent = Agent { inner };
        for id in agent.inner.local.overdue(tokio::time::Instant::now()) {
            tracing::info!(service = id, "critical for too long: deregistered");
            match agent.deregister_service(&id).await {
                Ok(_) => agent.inner.metrics.reaped.add_one(),
                Err(error) => tracing::warn!(service = id, %error, "cannot deregister"),
            }
        }
    }
}
