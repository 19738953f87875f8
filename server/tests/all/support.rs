//! Real servers in this process, on addresses of the loopback network, and a bare HTTP client.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use identity::JoinSecret;
use server::{HttpLimits, RaftTiming, Server, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

/// The longest that anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A server with its HTTP port.
pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) http: SocketAddr,
    pub(crate) config: ServerConfig,
    stop: tokio_util::sync::CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn index(&self) -> u64 {
        self.headers["x-consul-index"].to_str().expect("text").parse().expect("a number")
    }
}

/// A secret that all servers of these tests know.
pub(crate) fn secret() -> JoinSecret {
    JoinSecret::parse("AAECAwQFBgcICQoLDA0ODw==").expect("a secret")
}

/// A free port on an address of 127.0.0.0/8.
pub(crate) fn free_address(ip: IpAddr) -> SocketAddr {
    std::net::TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

/// An address of 127.0.0.0/8 that no other server of this process has.
pub(crate) fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = u8::try_from(std::process::id() % 200).expect("small") + 20;
    let [high, low] = number.to_be_bytes();
    IpAddr::from([127, process, high, low])
}

/// How a server of a test is set up. Elections are slower than by default: the machine may be loaded.
pub(crate) fn config(folder: &Path, name: &str, datacenter: &str) -> ServerConfig {
    let mut config = ServerConfig::new(folder.join(name), name, datacenter, free_address(fresh_ip()), secret());
    config.node_id = format!("00000000-0000-0000-0000-{:012}", name.bytes().map(u64::from).sum::<u64>());
    config.timing = RaftTiming { heartbeat_ms: 100, election_ms_min: 500, election_ms_max: 1_000 };
    config.retry_interval = Duration::from_millis(100);
    config.hold_timeout = Duration::from_secs(20);
    config
}

impl Node {
    pub(crate) async fn start(config: ServerConfig) -> Node {
        let server = Server::start(config.clone()).await.expect("the server starts");
        Node::serve(server, config).await
    }

    async fn serve(server: Server, config: ServerConfig) -> Node {
        let listener = TcpListener::bind((config.rpc_bind.ip(), 0)).await.expect("listens");
        let http = listener.local_addr().expect("address");
        let stop = tokio_util::sync::CancellationToken::new();
        let limits = HttpLimits { connections_per_client_max: 10_000, drain_timeout_ms: 500, ..HttpLimits::default() };
        let served =
            tokio::spawn(server::serve_http(listener, server.http_router(), limits, stop.clone().cancelled_owned()));
        Node { server, http, config, stop, served }
    }

    /// One server that is ready.
    pub(crate) async fn single(folder: &TempDir) -> Node {
        let node = Node::start(config(folder.path(), "s1", "dc1")).await;
        node.ready().await;
        node
    }

    pub(crate) async fn ready(&self) {
        assert!(
            self.server.ready(PATIENCE).await,
            "{} is not ready: {:?}",
            self.config.node_name,
            self.server.status()
        );
    }

    pub(crate) async fn stop(self) -> ServerConfig {
        self.server.shutdown().await;
        self.stop.cancel();
        self.served.await.expect("served");
        self.config
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(Method::GET, target, "").await
    }

    pub(crate) async fn put(&self, target: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Method::PUT, target, body).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Answer {
        self.send(Method::DELETE, target, "").await
    }

    pub(crate) async fn send(&self, method: Method, target: &str, body: impl Into<Bytes>) -> Answer {
        send(self.http, method, target, body.into()).await
    }

    pub(crate) fn is_leader(&self) -> bool {
        let raft = self.server.status().raft;
        raft.leader.is_some_and(|leader| leader.id == raft.id)
    }
}

/// One request on a connection of its own.
pub(crate) async fn send(to: SocketAddr, method: Method, target: &str, body: Bytes) -> Answer {
    let stream = TcpStream::connect(to).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(target).header("host", "test").body(Full::new(body)).expect("request");
    let response =
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer");
    let (head, body) = response.into_parts();
    Answer { status: head.status, headers: head.headers, body: body.collect().await.expect("body").to_bytes() }
}

/// Waits until something is so.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let until = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Servers that begin a cluster together, ready.
pub(crate) async fn cluster(folder: &TempDir, datacenter: &str, count: u32) -> Vec<Node> {
    cluster_of(folder, datacenter, count, |config| config).await
}

/// The same with servers that are set up otherwise.
pub(crate) async fn cluster_of(
    folder: &TempDir,
    datacenter: &str,
    count: u32,
    change: impl Fn(ServerConfig) -> ServerConfig,
) -> Vec<Node> {
    let configs = (1..=count).map(|i| config(folder.path(), &format!("{datacenter}-s{i}"), datacenter));
    let mut configs: Vec<ServerConfig> = configs.map(change).collect();
    let addresses: Vec<String> = configs.iter().map(|config| config.rpc_bind.to_string()).collect();
    for config in &mut configs {
        config.bootstrap_expect = count;
        config.retry_join.clone_from(&addresses);
    }
    let nodes = futures_util::future::join_all(configs.into_iter().map(Node::start)).await;
    for node in &nodes {
        node.ready().await;
    }
    nodes
}
