//! A server for tests: the real protocol over real mutual TLS, strict about its rules, and obedient to the test.

use api::proto::agent_message::Message as Said;
use api::proto::join_server::{Join, JoinServer};
use api::proto::mesh_server::{Mesh, MeshServer};
use api::proto::server_message::Message as Heard;
use api::proto::session_server::{Session, SessionServer};
use api::proto::sync_server::{Sync, SyncServer};
use api::proto::watch_server::{Watch, WatchServer};
use api::proto::*;
use api::transport::{AcceptLimits, Acceptor, PeerInfo, serve};
use axum::Router;
use axum::body::Body;
use axum::routing::any;
use base64::Engine;
use identity::{Ca, Csr, Identity, JoinSecret, LEAF_TTL, LeafName, Peer, Role, RpcIdentity};
use model::{Check, Node, ServiceInstance};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(crate) const TRUST_DOMAIN: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8.consul";
pub(crate) const DC: &str = "dc1";

/// The CA and the join secret of one mesh.
pub(crate) struct Pki {
    ca: Ca,
    secret: JoinSecret,
}

impl Pki {
    pub(crate) fn new() -> Arc<Pki> {
        let secret = base64::engine::general_purpose::STANDARD.encode([7; 32]);
        Arc::new(Pki {
            ca: Ca::new_root(TRUST_DOMAIN, SystemTime::now()).expect("a CA"),
            secret: JoinSecret::parse(&secret).expect("a secret"),
        })
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle {
            trust_domain: TRUST_DOMAIN.into(),
            roots_pem: vec![self.ca.cert_pem()],
            index: 1,
            ..TrustBundle::default()
        }
    }

    /// A node that has not joined.
    pub(crate) fn joiner(&self, role: Role, node: &str) -> RpcIdentity {
        RpcIdentity::new(Identity::new(identity::TrustBundle::empty()), &self.secret, role, DC, node)
            .expect("an identity")
    }

    fn server(&self, node: &str) -> RpcIdentity {
        let rpc = self.joiner(Role::Server, node);
        let name = LeafName::server(TRUST_DOMAIN, DC, node).expect("a name");
        self.give_leaf(rpc.identity(), &name);
        rpc
    }

    pub(crate) fn give_leaf(&self, identity: &Identity, name: &LeafName) {
        let csr = Csr::new(name).expect("a request");
        let chain = self.sign(&csr.pem, name).expect("a leaf");
        identity.update_bundle(crate::trust::bundle(&self.bundle()).expect("a bundle"));
        identity.update_leaf(&csr.with_chain(chain)).expect("a leaf");
    }

    fn sign(&self, csr_pem: &str, name: &LeafName) -> Result<String, Status> {
        let signed = self.ca.sign_leaf(csr_pem, name, LEAF_TTL, SystemTime::now());
        signed.map(|leaf| leaf.cert_chain_pem).map_err(|e| Status::invalid_argument(e.to_string()))
    }

    pub(crate) fn agent_client(&self) -> Arc<rustls::ClientConfig> {
        Arc::new(self.joiner(Role::Client, "n").client_config(DC, &[b"h2"]).expect("a configuration"))
    }
}

/// What the server has been told, and how it is to behave.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) services: Mutex<BTreeMap<String, ServiceInstance>>,
    pub(crate) checks: Mutex<BTreeMap<String, Check>>,
    pub(crate) pushes: AtomicUsize,
    pub(crate) full_pushes: AtomicUsize,
    pub(crate) largest_push: AtomicUsize,
    pub(crate) sessions: AtomicUsize,
    pub(crate) open_sessions: AtomicUsize,
    pub(crate) leaves: AtomicUsize,
    pub(crate) enrolled: AtomicUsize,
    pub(crate) forwarded: AtomicUsize,
    /// Pushes in flight; more than one breaks the protocol.
    in_flight: AtomicUsize,
    pub(crate) broken_rules: Mutex<Vec<String>>,
    /// Does not answer pings, nor anything else in sessions, nor proxies.
    pub(crate) is_mute: AtomicBool,
    /// Refuses so many pushes.
    pub(crate) refuse_pushes: AtomicUsize,
    pub(crate) push_delay_ms: AtomicU64,
    /// The index of the last push.
    pub(crate) last_push: AtomicU64,
    /// Service ids that it refuses.
    pub(crate) refused_ids: Mutex<BTreeSet<String>>,
    /// Its datacenter, if it is not the usual one.
    pub(crate) datacenter: Mutex<Option<String>>,
    pub(crate) has_no_ca: AtomicBool,
    /// Views: question to status and body. Streams follow it.
    pub(crate) answers: watch::Sender<BTreeMap<String, (u32, String)>>,
    pub(crate) streams: AtomicUsize,
    pub(crate) last_mesh_node: Mutex<String>,
    pub(crate) others: Mutex<Vec<ServerInfo>>,
}

impl Facts {
    pub(crate) fn pushes_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub(crate) fn service(&self, id: &str) -> Option<ServiceInstance> {
        lock(&self.services).get(id).cloned()
    }

    pub(crate) fn check(&self, id: &str) -> Option<Check> {
        lock(&self.checks).get(id).cloned()
    }

    pub(crate) fn answer(&self, question: &str, status: u32, body: &str) {
        self.answers.send_modify(|answers| drop(answers.insert(question.to_string(), (status, body.to_string()))));
    }

    fn break_rule(&self, rule: &str) {
        lock(&self.broken_rules).push(rule.to_string());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with it")
}

/// A server that runs.
pub(crate) struct FakeServer {
    pub(crate) facts: Arc<Facts>,
    pub(crate) address: SocketAddr,
    pub(crate) info: ServerInfo,
    serving: JoinHandle<()>,
}

impl FakeServer {
    pub(crate) async fn start(pki: &Arc<Pki>, name: &str) -> FakeServer {
        Self::start_at(pki, name, "127.0.0.1:0", Arc::default()).await
    }

    pub(crate) async fn start_at(pki: &Arc<Pki>, name: &str, at: &str, facts: Arc<Facts>) -> FakeServer {
        let rpc = pki.server(name);
        let listener = bind(at).await;
        let tls = Arc::new(rpc.server_config(&[b"h2"]).expect("a configuration"));
        let mut acceptor = Acceptor::new(listener, tls, AcceptLimits::default()).expect("accepts");
        let address = acceptor.local_addr();
        let info = ServerInfo {
            id: 1,
            name: name.into(),
            rpc_address: address.to_string(),
            datacenter: DC.into(),
            initialized: true,
            ..ServerInfo::default()
        };
        let fake = Fake { facts: facts.clone(), pki: pki.clone(), info: info.clone() };
        let app = router(fake);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Some(connection) = acceptor.accept().await {
                connections.spawn(serve(connection, app.clone(), std::future::pending()));
            }
        });
        FakeServer { facts, address, info, serving }
    }

    /// Dies at once, with its connections.
    pub(crate) async fn kill(self) -> (SocketAddr, Arc<Facts>) {
        self.serving.abort();
        self.serving.await.ok();
        (self.address, self.facts)
    }
}

fn router(fake: Fake) -> Router {
    let facts = fake.facts.clone();
    let grpc = tonic::service::Routes::new(JoinServer::new(fake.clone()))
        .add_service(SessionServer::new(fake.clone()))
        .add_service(SyncServer::new(fake.clone()).max_decoding_message_size(api::transport::MESSAGE_BYTES_MAX))
        .add_service(WatchServer::new(fake.clone()))
        .add_service(MeshServer::new(fake));
    let http = move |request: axum::extract::Request| answer_http(facts.clone(), request);
    Router::new().route("/v1/{*path}", any(http)).merge(grpc.into_axum_router())
}

/// Known questions get their answer; all others are said back.
async fn answer_http(facts: Arc<Facts>, request: axum::extract::Request) -> axum::response::Response {
    facts.forwarded.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.expect("a body");
    let path = head.uri.path_and_query().map_or("", |p| p.as_str()).to_string();
    let known = facts.answers.borrow().get(&path).cloned();
    let (status, text) = known.unwrap_or_else(|| (200, format!("{} {path} {} bytes", head.method, body.len())));
    let status = u16::try_from(status).expect("a status");
    axum::response::Response::builder()
        .status(status)
        .header("X-Consul-Index", "7")
        .body(Body::from(text))
        .expect("a response")
}

#[derive(Clone)]
struct Fake {
    facts: Arc<Facts>,
    pki: Arc<Pki>,
    info: ServerInfo,
}

impl Fake {
    fn servers(&self) -> Vec<ServerInfo> {
        let mut all = vec![self.info.clone()];
        all.extend(lock(&self.facts.others).clone());
        all
    }
}

fn peer<T>(request: &Request<T>) -> Peer {
    let info = request.extensions().get::<PeerInfo>().expect("a peer");
    identity::peer_of_chain(&info.certificates).expect("a certificate")
}

#[tonic::async_trait]
impl Join for Fake {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let datacenter = lock(&self.facts.datacenter).clone().unwrap_or_else(|| DC.to_string());
        let trust_domain =
            if self.facts.has_no_ca.load(Ordering::SeqCst) { String::new() } else { TRUST_DOMAIN.to_string() };
        let me = ServerInfo { datacenter, ..self.info.clone() };
        Ok(Response::new(HelloReply { me: Some(me), known: self.servers(), trust_domain, ..HelloReply::default() }))
    }

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let Peer::Joiner { node, .. } = peer(&request) else {
            return Err(Status::permission_denied("not with a joiner's certificate"));
        };
        let request = request.into_inner();
        if request.node != node {
            return Err(Status::permission_denied("a joiner speaks for its own node"));
        }
        let name = LeafName::agent(TRUST_DOMAIN, DC, &node).expect("a name");
        let chain_pem = self.pki.sign(&request.csr_pem, &name)?;
        self.facts.enrolled.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(EnrollReply { chain_pem, bundle: Some(self.pki.bundle()), servers: self.servers() }))
    }
}

/// Counts a session for as long as it lives.
struct Open(Arc<Facts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open_sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Session for Fake {
    type OpenStream = ReceiverStream<Result<ServerMessage, Status>>;
    type ReportStream = ReceiverStream<Result<ReportAck, Status>>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        if !matches!(peer(&request), Peer::Agent { .. } | Peer::Server { .. }) {
            return Err(Status::permission_denied("only members have sessions"));
        }
        let mut said = request.into_inner();
        let Some(AgentMessage { message: Some(Said::Hello(hello)) }) = said.message().await? else {
            self.facts.break_rule("a session begins with a hello");
            return Err(Status::invalid_argument("say hello first"));
        };
        api::mp::decode::<Node>(&hello.node_mp).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (say, heard) = mpsc::channel(8);
        let welcome = Welcome {
            server: self.info.name.clone(),
            servers: Some(Servers { servers: self.servers() }),
            bundle: Some(self.pki.bundle()),
        };
        say.send(Ok(ServerMessage { message: Some(Heard::Welcome(welcome)) })).await.ok();
        self.facts.sessions.fetch_add(1, Ordering::SeqCst);
        self.facts.open_sessions.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(converse(Open(self.facts.clone()), said, say));
        Ok(Response::new(ReceiverStream::new(heard)))
    }

    async fn report(&self, _: Request<Streaming<SessionReport>>) -> Result<Response<Self::ReportStream>, Status> {
        Err(Status::unimplemented("not for agents"))
    }
}

async fn converse(open: Open, mut said: Streaming<AgentMessage>, say: mpsc::Sender<Result<ServerMessage, Status>>) {
    while let Ok(Some(word)) = said.message().await {
        match word.message {
            Some(Said::Ping(_)) if open.0.is_mute.load(Ordering::SeqCst) => {}
            Some(Said::Ping(ping)) => {
                say.send(Ok(ServerMessage { message: Some(Heard::Pong(Pong { seq: ping.seq })) })).await.ok();
            }
            Some(Said::Leave(_)) => {
                open.0.leaves.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Some(Said::Hello(_)) | None => open.0.break_rule("a session has one hello"),
        }
    }
}

#[tonic::async_trait]
impl Sync for Fake {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let facts = &self.facts;
        let _in_flight = InFlight::new(facts);
        if facts.open_sessions.load(Ordering::SeqCst) == 0 {
            facts.break_rule("a push needs a session");
        }
        tokio::time::sleep(Duration::from_millis(facts.push_delay_ms.load(Ordering::SeqCst))).await;
        let result =
            if facts.refuse_pushes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                Err(Status::unavailable("no leader"))
            } else {
                self.apply(request.into_inner())
            };
        result.map(Response::new)
    }
}

/// A push that is under way; one that the agent has given up is not any more.
struct InFlight<'f>(&'f Facts);

impl<'f> InFlight<'f> {
    fn new(facts: &'f Facts) -> Self {
        if facts.in_flight.fetch_add(1, Ordering::SeqCst) > 0 {
            facts.break_rule("one push at a time");
        }
        InFlight(facts)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    fn apply(&self, push: PushRequest) -> Result<PushReply, Status> {
        let facts = &self.facts;
        let last = facts.last_push.load(Ordering::SeqCst);
        if push.after != Some(last) {
            return Ok(PushReply { index: last, errors: Vec::new(), outdated: true });
        }
        let bad = |e: api::mp::BadMessage| Status::invalid_argument(e.to_string());
        api::mp::decode::<Node>(&push.node_mp).map_err(bad)?;
        let size = push.services_mp.len()
            + push.checks_mp.len()
            + push.deregister_services.len()
            + push.deregister_checks.len();
        facts.pushes.fetch_add(1, Ordering::SeqCst);
        facts.largest_push.fetch_max(size, Ordering::SeqCst);
        let (mut services, mut checks) = (lock(&facts.services), lock(&facts.checks));
        if push.full {
            facts.full_pushes.fetch_add(1, Ordering::SeqCst);
            services.clear();
            checks.clear();
        }
        let mut errors = Vec::new();
        for bytes in &push.services_mp {
            let service: ServiceInstance = api::mp::decode(bytes).map_err(bad)?;
            if lock(&facts.refused_ids).contains(&service.id) {
                errors.push(ItemError { id: service.id, message: "refused by the test".into() });
            } else {
                services.insert(service.id.clone(), service);
            }
        }
        for bytes in &push.checks_mp {
            let check: Check = api::mp::decode(bytes).map_err(bad)?;
            if !check.service_id.is_empty()
                && !services.contains_key(&check.service_id)
                && !lock(&facts.refused_ids).contains(&check.service_id)
            {
                facts.break_rule(&format!("check {} came before its service", check.check_id));
            }
            checks.insert(check.check_id.clone(), check);
        }
        push.deregister_checks.iter().for_each(|id| drop(checks.remove(id)));
        for id in &push.deregister_services {
            services.remove(id);
            checks.retain(|_, check| check.service_id != *id);
        }
        facts.last_push.store(last + 1, Ordering::SeqCst);
        Ok(PushReply { index: last + 1, errors, outdated: false })
    }
}

#[tonic::async_trait]
impl Watch for Fake {
    type StreamStream = ReceiverStream<Result<WatchReply, Status>>;

    async fn stream(&self, request: Request<WatchRequest>) -> Result<Response<Self::StreamStream>, Status> {
        let target = request.into_inner().target;
        let mut answers = self.facts.answers.subscribe();
        let (send, replies) = mpsc::channel(8);
        self.facts.streams.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let mut before = None;
            let mut index = 0;
            loop {
                let now = answers.borrow_and_update().get(&target).cloned().unwrap_or((200, "[]".to_string()));
                if before.as_ref() != Some(&now) {
                    index += 1;
                    let reply = WatchReply { index, status: now.0, body: now.1.clone().into() };
                    if send.send(Ok(reply)).await.is_err() {
                        return;
                    }
                    before = Some(now);
                }
                if answers.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

#[tonic::async_trait]
impl Mesh for Fake {
    type ConfigureStream = ReceiverStream<Result<ConfigureReply, Status>>;

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let request = request.into_inner();
        lock(&self.facts.last_mesh_node).clone_from(&request.node);
        let services = lock(&self.facts.services);
        let names: BTreeSet<&str> = services.values().map(|s| s.service.as_str()).collect();
        for service in names {
            let name = LeafName::service(TRUST_DOMAIN, DC, service).expect("a name");
            if let Ok(chain_pem) = self.pki.sign(&request.csr_pem, &name) {
                return Ok(Response::new(SignReply { chain_pem, bundle: Some(self.pki.bundle()) }));
            }
        }
        Err(Status::permission_denied("no such service on that node"))
    }

    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<Self::ConfigureStream>, Status> {
        let request = request.into_inner();
        if self.facts.is_mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        lock(&self.facts.last_mesh_node).clone_from(&request.node);
        let (send, replies) = mpsc::channel(8);
        for version in [1, 2] {
            send.send(Ok(ConfigureReply { version, delta_mp: request.proxy_id.clone().into() })).await.ok();
        }
        // It has no more to say, and stays.
        tokio::spawn(async move { send.closed().await });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

/// Takes a port, perhaps one whose last listener is just going.
async fn bind(at: &str) -> TcpListener {
    for _ in 0..500 {
        if let Ok(listener) = TcpListener::bind(at).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{at} was never free");
}

/// Waits until something holds; gives up after half a minute.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
