//! Wiring: an agent, and on a server node a server, from settings; HTTP, DNS and gRPC around them.

mod definitions;
mod folder;
mod settings;

pub(crate) use definitions::Definitions;

use crate::config::{Node, Settings};
use crate::signals::Stop;
use agent::{Agent, Deps, Source};
use folder::Folder;
use identity::{Identity, Role, RpcIdentity, TrustBundle};
use server::Server;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// How long the listeners have to end what is under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a config entry of the configuration is tried.
const ENTRY_RETRY: Duration = Duration::from_secs(1);

/// Why a node does not start, or stopped. Nothing was changed but what the text says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(
        "no data folder: give -data-dir=FOLDER (or data_dir in a file), where this node keeps what it must not forget; -dev makes a temporary one"
    )]
    NoDataDir,
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    #[error("{0}")]
    Definition(String),
    #[error("{setting}: {message}")]
    Setting { setting: &'static str, message: String },
    #[error(
        "cannot listen on {address} for {what}: {source}; is another agent running? choose another port or address with `{setting}`, or turn it off with -1"
    )]
    Listen { what: &'static str, address: SocketAddr, setting: &'static str, source: std::io::Error },
    #[error(transparent)]
    Server(#[from] server::StartError),
    #[error(transparent)]
    Agent(#[from] agent::StartError),
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    Dns(#[from] dns::Error),
    #[error("cannot write the process id to {path}: {error}")]
    PidFile { path: PathBuf, error: std::io::Error },
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Runs a node until it is told to stop.
pub(crate) fn run(settings: Settings) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(NodeError::Runtime)?;
    let outcome = runtime.block_on(run_node(settings));
    // A read of standard input (a child of the demo) cannot be cancelled; it must not keep the process alive.
    runtime.shutdown_background();
    outcome
}

async fn run_node(settings: Settings) -> Result<(), NodeError> {
    let mut stop = std::pin::pin!(crate::signals::stop_asked());
    let node = settings.node()?;
    let definitions = Definitions::parse(&settings).map_err(NodeError::Definition)?;
    let data_dir = settings.data_dir.clone().ok_or(NodeError::NoDataDir)?;
    let folder = Folder::open(&data_dir, &node.name, &settings.datacenter, settings.node_id.as_deref())?;
    let ports = Ports::open(&node)?;
    let _pid_file = settings.pid_file.as_deref().map(PidFile::write).transpose()?;
    let running = tokio::select! {
        running = Running::start(settings, node, definitions, &folder, ports) => running?,
        // Nothing was promised to anybody yet.
        _ = &mut stop => {
            tracing::info!("stopped before it had started");
            return Ok(());
        }
    };
    running.until_stopped(stop).await;
    Ok(())
}

/// The ports for local clients, opened before anything else is touched: a port in use changes nothing.
struct Ports {
    http: Option<TcpListener>,
    grpc: Option<TcpListener>,
}

impl Ports {
    fn open(node: &Node) -> Result<Ports, NodeError> {
        Ok(Ports { http: listen("HTTP", "ports.http", node.http)?, grpc: listen("gRPC", "ports.grpc", node.grpc)? })
    }
}

fn listen(
    what: &'static str,
    setting: &'static str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, NodeError> {
    let Some(address) = address else { return Ok(None) };
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restarted agent takes its port back at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map(Some).map_err(|source| NodeError::Listen { what, address, setting, source })
}

/// A node that runs.
struct Running {
    server: Option<Server>,
    agent: Agent,
    leave_on_interrupt: bool,
    leave_on_terminate: bool,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    async fn start(
        settings: Settings,
        node: Node,
        definitions: Definitions,
        folder: &Folder,
        ports: Ports,
    ) -> Result<Running, NodeError> {
        let server = match settings.server {
            true => Some(Server::start(settings::server(&settings, &node, folder)?).await?),
            false => None,
        };
        let rpc = match &server {
            Some(server) => server.rpc_identity().clone(),
            None => client_identity(&settings, &node)?,
        };
        let store = store::Store::open(folder.path().join("agent"))?;
        let agent = Agent::start(settings::agent(&settings, &node, folder), Deps { store, rpc })?;
        let running = Running {
            leave_on_interrupt: !settings.skip_leave_on_interrupt.unwrap_or(settings.server),
            leave_on_terminate: settings.leave_on_terminate.unwrap_or(!settings.server),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            server,
            agent,
        };
        running.serve_dns(&settings, &node).await?;
        running.serve_http(&settings, ports.http);
        running.serve_grpc(ports.grpc);
        running.register(definitions).await?;
        tracing::info!(node = node.name, datacenter = settings.datacenter, server = settings.server, http = ?node.http, dns = ?node.dns, "agent started");
        Ok(running)
    }

    async fn serve_dns(&self, settings: &Settings, node: &Node) -> Result<(), NodeError> {
        let Some(address) = node.dns else { return Ok(()) };
        let lookup: Arc<dyn dns::Lookup> = match &self.server {
            Some(server) => Arc::new(server.dns_lookup()),
            None => self.agent.lookup(),
        };
        // Dropping the handle leaves DNS running until `closing`.
        dns::serve(settings::dns(settings)?, address, lookup, self.closing.clone().cancelled_owned()).await?;
        Ok(())
    }

    /// `/v1/agent/*` is the agent's; the rest the server answers itself, or the agent hands to one.
    fn serve_http(&self, settings: &Settings, listener: Option<TcpListener>) {
        let Some(listener) = listener else { return };
        let router = match &self.server {
            Some(server) => server.http_router().merge(self.agent.router_local()),
            None => self.agent.router_local().fallback_service(self.agent.forward_fallback()),
        };
        self.tasks.spawn(server::serve_http(
            listener,
            router,
            settings::http(settings),
            self.closing.clone().cancelled_owned(),
        ));
    }

    fn serve_grpc(&self, listener: Option<TcpListener>) {
        let Some(listener) = listener else { return };
        let agent = self.agent.clone();
        self.tasks.spawn(async move {
            if let Err(error) = agent.serve_mesh(listener).await {
                tracing::error!(%error, "the gRPC port for proxies is not served any more");
            }
        });
    }

    /// Registers what the configuration defines.
    async fn register(&self, definitions: Definitions) -> Result<(), NodeError> {
        for service in definitions.services {
            let name = service.name.clone();
            let registered = self.agent.register_service(&service, false, Source::File).await;
            registered.map_err(|error| NodeError::Definition(format!("service {name}: {error}")))?;
        }
        for check in definitions.checks {
            let name = check.name.clone();
            let registered = self.agent.register_check(&check, Source::File).await;
            registered.map_err(|error| NodeError::Definition(format!("check {name}: {error}")))?;
        }
        for entry in definitions.config_entries {
            self.tasks.spawn(write_entry(self.agent.clone(), entry, self.closing.clone()));
        }
        Ok(())
    }

    /// Waits for a signal, or for the node to have left, and stops everything.
    async fn until_stopped(self, stop: impl Future<Output = Stop>) {
        let leave = tokio::select! {
            stop = stop => match stop {
                Stop::Interrupt => self.leave_on_interrupt,
                Stop::Terminate => self.leave_on_terminate,
                Stop::Orphan => false,
            },
            () = self.agent.left() => true,
        };
        tracing::info!(leave, "stopping");
        self.closing.cancel();
        self.tasks.close();
        match (&self.server, leave) {
            (Some(server), true) => {
                self.agent.leave().await;
                if let Err(error) = server.leave().await {
                    tracing::warn!(%error, "this server could not leave the cluster: remove it with `tribune operator raft remove-peer`");
                }
            }
            (Some(server), false) => {
                self.agent.shutdown().await;
                server.shutdown().await;
            }
            (None, true) => self.agent.leave().await,
            (None, false) => self.agent.shutdown().await,
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::debug!("some connections did not end in time");
        }
    }
}

/// The identity of a node that is no server.
fn client_identity(settings: &Settings, node: &Node) -> Result<RpcIdentity, NodeError> {
    let secret = settings::join_secret(settings)?;
    Ok(RpcIdentity::new(Identity::new(TrustBundle::empty()), &secret, Role::Client, &settings.datacenter, &node.name)?)
}

/// Writes a config entry of the configuration unless there is one of that kind and name.
async fn write_entry(agent: Agent, entry: model::config_entry::ConfigEntry, closing: CancellationToken) {
    let body = serde_json::to_vec(&entry).unwrap_or_default();
    let written = async {
        // `cas=0` writes only what is not there yet.
        while let Err(error) = agent.servers().ask::<bool>(http::Method::PUT, "/v1/config?cas=0", body.clone()).await {
            tracing::debug!(kind = entry.kind(), name = entry.name(), %error, "config entry not written yet");
            tokio::time::sleep(ENTRY_RETRY).await;
        }
    };
    tokio::select! {
        () = written => {}
        () = closing.cancelled() => {}
    }
}

/// A file with the process id, removed at the end.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<PidFile, NodeError> {
        let written = std::fs::write(path, format!("{}\n", std::process::id()));
        written
            .map(|()| PidFile(path.to_path_buf()))
            .map_err(|error| NodeError::PidFile { path: path.to_path_buf(), error })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}
