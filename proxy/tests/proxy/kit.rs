//! A mesh for tests: a CA, an agent that serves `Mesh` as real ones do, and configurations of proxies.

use api::proto::mesh_server::{Mesh, MeshServer};
use api::proto::{ConfigureReply, ConfigureRequest, SignReply, SignRequest};
use identity::{Ca, LeafName};
use model::ProxyConfig;
use model::config_entry::Protocol;
use model::intention::Action;
use model::proxy_config::{Endpoint, GatewayConfig, Inbound, ProxyDelta, Rule, UpstreamConfig, diff, service_sni};
use proxy::{ConfigSource, Gateway, Handle, Options, Sidecar};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub(crate) const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";
/// Longest wait for anything. Nothing takes so long but on a machine that is in trouble.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Fails loudly instead of hanging.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what}: not within {LONG:?}"))
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What the agent knows: shared with the server, which may be stopped and started.
pub(crate) struct Knowledge {
    ca: Mutex<Arc<Ca>>,
    configs: Mutex<BTreeMap<String, watch::Sender<Option<ProxyConfig>>>>,
    pub(crate) signed: AtomicUsize,
    pub(crate) leaf_ttl_ms: AtomicU64,
}

/// An agent on a port of its own, on threads of its own, so that it can be killed.
pub(crate) struct Agent {
    pub(crate) knowledge: Arc<Knowledge>,
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Agent {
    pub(crate) fn start() -> Self {
        let ca = Ca::new_root(TRUST_DOMAIN, SystemTime::now()).expect("a CA");
        let knowledge = Arc::new(Knowledge {
            ca: Mutex::new(Arc::new(ca)),
            configs: Mutex::default(),
            signed: AtomicUsize::new(0),
            leaf_ttl_ms: AtomicU64::new(3_600_000),
        });
        let mut agent = Agent { knowledge, address: ([127, 0, 0, 1], 0).into(), runtime: None };
        agent.resume();
        agent
    }

    /// Serves (again), on the same port as before.
    pub(crate) fn resume(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind(self.address).expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        self.address = listener.local_addr().expect("address");
        let service = MeshServer::from_arc(self.knowledge.clone());
        runtime.spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(
                tokio::net::TcpListener::from_std(listener).expect("listener"),
            );
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        self.runtime = Some(runtime);
    }

    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The PEM of its root.
    pub(crate) fn root(&self) -> String {
        self.knowledge.ca().cert_pem()
    }

    /// Signs with another root from now on.
    pub(crate) fn replace_ca(&self) {
        let ca = Ca::new_root(TRUST_DOMAIN, SystemTime::now()).expect("a CA");
        *self.knowledge.ca.lock().expect("lock") = Arc::new(ca);
    }

    /// A leaf for anybody, made without asking.
    pub(crate) fn leaf(&self, name: &LeafName) -> identity::LeafPem {
        let csr = identity::Csr::new(name).expect("a request");
        let signed = self
            .knowledge
            .ca()
            .sign_leaf(&csr.pem, name, Duration::from_secs(3600), SystemTime::now())
            .expect("signed");
        csr.with_chain(signed.cert_chain_pem)
    }

    /// Gives a proxy its configuration.
    pub(crate) fn tell(&self, config: &ProxyConfig) {
        self.knowledge.slot(&config.id).send_replace(Some(config.clone()));
    }

    pub(crate) fn source(&self, id: &str) -> ConfigSource {
        ConfigSource::Control { agent: self.address.to_string(), proxy_id: id.to_string(), node: "n1".to_string() }
    }

    /// A sidecar that serves.
    pub(crate) async fn sidecar(&self, config: &ProxyConfig) -> Handle {
        self.tell(config);
        let handle = Sidecar::start(Options { source: self.source(&config.id) });
        within("the sidecar is ready", handle.ready()).await.expect("ready");
        handle
    }

    /// A gateway that serves.
    pub(crate) async fn gateway(&self, config: &ProxyConfig) -> Handle {
        self.tell(config);
        let handle = Gateway::start(Options { source: self.source(&config.id) });
        within("the gateway is ready", handle.ready()).await.expect("ready");
        handle
    }

    /// The sidecar of a service, with nothing to do yet.
    pub(crate) fn config(&self, service: &str, dc: &str) -> ProxyConfig {
        ProxyConfig {
            id: format!("{service}-{dc}-sidecar-proxy"),
            datacenter: dc.into(),
            trust_domain: TRUST_DOMAIN.into(),
            service: service.into(),
            roots: vec![self.root()],
            ..ProxyConfig::default()
        }
    }

    /// A sidecar in front of an application, which lets everybody in.
    pub(crate) fn server(&self, service: &str, dc: &str, protocol: Protocol, local: SocketAddr) -> ProxyConfig {
        let inbound = Inbound {
            listen: "127.0.0.1:0".into(),
            local: local.to_string(),
            protocol,
            default_action: Action::Allow,
            connect_timeout_ms: 5_000,
            ..Inbound::default()
        };
        ProxyConfig { inbound: Some(inbound), ..self.config(service, dc) }
    }

    /// A sidecar whose application calls `service` at these addresses.
    pub(crate) fn client(
        &self,
        name: &str,
        service: &str,
        dc: &str,
        protocol: Protocol,
        endpoints: &[SocketAddr],
    ) -> ProxyConfig {
        let upstreams = BTreeMap::from([(service.to_string(), upstream(service, dc, protocol, endpoints))]);
        ProxyConfig { upstreams, ..self.config(name, "dc1") }
    }

    /// A gateway of a datacenter.
    pub(crate) fn gateway_config(
        &self,
        dc: &str,
        number: usize,
        datacenters: &[(&str, Vec<SocketAddr>)],
        services: &[(&str, SocketAddr)],
    ) -> ProxyConfig {
        let text = |addresses: &Vec<SocketAddr>| addresses.iter().map(ToString::to_string).collect();
        let gateway = GatewayConfig {
            listen: "127.0.0.1:0".into(),
            tunnel_listen: "127.0.0.1:0".into(),
            datacenters: datacenters.iter().map(|(dc, addresses)| ((*dc).to_string(), text(addresses))).collect(),
            services: services
                .iter()
                .map(|(service, at)| (service_sni(service, dc, TRUST_DOMAIN), vec![endpoint(*at)]))
                .collect(),
        };
        let mut config = ProxyConfig { gateway: Some(gateway), ..self.config("mesh-gateway", dc) };
        config.id = format!("gateway-{dc}-{number}");
        config
    }
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address: address.to_string(), weight: 1, ..Endpoint::default() }
}

pub(crate) fn upstream(service: &str, dc: &str, protocol: Protocol, endpoints: &[SocketAddr]) -> UpstreamConfig {
    UpstreamConfig {
        listen: "127.0.0.1:0".into(),
        service: service.into(),
        datacenter: dc.into(),
        protocol,
        sni: service_sni(service, dc, TRUST_DOMAIN),
        spiffe_ids: vec![spiffe(service, dc)],
        endpoints: endpoints.iter().copied().map(endpoint).collect(),
        connect_timeout_ms: 5_000,
    }
}

pub(crate) fn spiffe(service: &str, dc: &str) -> String {
    model::SpiffeId::service(TRUST_DOMAIN, dc, service).to_string()
}

pub(crate) fn rule(source: &str, action: Action) -> Rule {
    Rule { source: source.into(), action }
}

pub(crate) fn mesh_address(handle: &Handle) -> SocketAddr {
    handle.addresses().mesh.expect("it listens for the mesh")
}

pub(crate) fn upstream_address(handle: &Handle, name: &str) -> SocketAddr {
    handle.addresses().upstreams[name]
}

/// An application, its sidecar, and a sidecar that calls it: the shortest mesh. Returns where to call.
pub(crate) struct Pair {
    pub(crate) agent: Agent,
    pub(crate) server: Handle,
    pub(crate) client: Handle,
    pub(crate) server_config: ProxyConfig,
    pub(crate) client_config: ProxyConfig,
    pub(crate) at: SocketAddr,
}

impl Pair {
    pub(crate) async fn start(protocol: Protocol, app: SocketAddr) -> Self {
        let agent = Agent::start();
        let server_config = agent.server("web", "dc1", protocol, app);
        let server = agent.sidecar(&server_config).await;
        let client_config = agent.client("api", "web", "dc1", protocol, &[mesh_address(&server)]);
        let client = agent.sidecar(&client_config).await;
        let at = upstream_address(&client, "web");
        Pair { agent, server, client, server_config, client_config, at }
    }

    /// Changes the server's inbound rules.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Inbound)) {
        change(self.server_config.inbound.as_mut().expect("inbound"));
        self.agent.tell(&self.server_config);
    }
}

impl Knowledge {
    fn ca(&self) -> Arc<Ca> {
        self.ca.lock().expect("lock").clone()
    }

    fn slot(&self, id: &str) -> watch::Sender<Option<ProxyConfig>> {
        self.configs.lock().expect("lock").entry(id.to_string()).or_insert_with(|| watch::channel(None).0).clone()
    }
}

#[tonic::async_trait]
impl Mesh for Knowledge {
    type ConfigureStream = ReceiverStream<Result<ConfigureReply, Status>>;

    /// Signs whatever is asked for: who may ask for what is the real agent's matter.
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let csr_pem = request.into_inner().csr_pem;
        let told: Vec<ProxyConfig> =
            self.configs.lock().expect("lock").values().filter_map(|slot| slot.borrow().clone()).collect();
        let name = |config: &ProxyConfig| match config.gateway {
            Some(_) => LeafName::gateway(TRUST_DOMAIN, &config.datacenter),
            None => LeafName::service(TRUST_DOMAIN, &config.datacenter, &config.service),
        };
        let ttl = Duration::from_millis(self.leaf_ttl_ms.load(SeqCst));
        let sign = |config| self.ca().sign_leaf(&csr_pem, &name(config).ok()?, ttl, SystemTime::now()).ok();
        let signed = told.iter().find_map(sign).ok_or_else(|| Status::permission_denied("no such proxy"))?;
        self.signed.fetch_add(1, SeqCst);
        Ok(Response::new(SignReply { chain_pem: signed.cert_chain_pem, bundle: None }))
    }

    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<Self::ConfigureStream>, Status> {
        let mut configs = self.slot(&request.into_inner().proxy_id).subscribe();
        let (replies, stream) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            let mut version = 0;
            let mut before: Option<ProxyConfig> = None;
            loop {
                let now = configs.borrow_and_update().clone();
                if let Some(now) = now {
                    let delta = before.as_ref().map_or_else(|| ProxyDelta::whole(&now), |before| diff(before, &now));
                    version += 1;
                    if replies.send(Ok(ConfigureReply { version, delta_mp: api::mp::encode(&delta) })).await.is_err() {
                        return;
                    }
                    before = Some(now);
                }
                tokio::select! {
                    changed = configs.changed() => if changed.is_err() { return },
                    () = replies.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
