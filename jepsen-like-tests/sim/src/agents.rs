//! The real agents, each on a host of its own.

use std::cell::RefCell;
use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use agent::{Agent, AgentConfig, Home};
use identity::{Identity, JoinSecret, Role, RpcIdentity, TrustBundle};
use turmoil::Sim;

use crate::node::{self, Cluster, Running, SECRET};

/// A host with an agent.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) lives: Arc<AtomicU32>,
    id: String,
    folder: PathBuf,
    running: Rc<RefCell<Option<Agent>>>,
}

impl Host {
    /// The agent of that name, which has no host yet.
    pub(crate) fn new(name: &str, id: &str, sim: &Sim<'static>, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            address: sim.lookup(name),
            lives: Arc::default(),
            id: id.to_owned(),
            folder: folder.join(name),
            running: Rc::default(),
        }
    }

    /// Adds its host, which has not begun to run.
    pub(crate) fn host(&self, sim: &mut Sim<'static>, cluster: &Cluster) -> Result<(), Box<dyn Error>> {
        let home = Home::Join(cluster.servers.iter().copied().map(node::rpc_address).collect());
        let config = node::agent_config(&self.id, &self.name, self.address, cluster, home);
        let secret = JoinSecret::parse(SECRET)?;
        let (folder, running, lives) = (self.folder.clone(), Rc::clone(&self.running), Arc::clone(&self.lives));
        sim.host(self.name.as_str(), move || {
            lives.fetch_add(1, Ordering::SeqCst);
            Box::pin(run(config.clone(), secret.clone(), folder.clone(), Rc::clone(&running))) as Running
        });
        Ok(())
    }

    /// Forgets what runs; the host is ended by whoever says so.
    pub(crate) fn forget(&self) {
        self.running.take();
    }
}

/// The name of an agent's node and host, as the workloads know it.
pub(crate) fn name(number: usize) -> String {
    format!("a{number}")
}

async fn run(
    config: AgentConfig,
    secret: JoinSecret,
    folder: PathBuf,
    running: Rc<RefCell<Option<Agent>>>,
) -> turmoil::Result {
    let identity = Identity::new(TrustBundle::empty());
    let rpc = RpcIdentity::new(identity, &secret, Role::Client, &config.node.datacenter, &config.node.name)?;
    let agent = node::start_agent(config, rpc, &folder)?;
    let router = agent.router_local().fallback_service(agent.forward_fallback());
    running.replace(Some(agent.clone()));
    node::serve(router, agent.lookup(), &agent).await
}
