//! A cluster in one process: real sockets, a network that can be cut, a state machine that keeps every command.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use raft::disk::fault::FaultDisk;
use raft::disk::{Disk, RealDisk};
use raft::{Bytes, Config, Dial, Member, ProposeError, Raft, Snapshot, StateMachine};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Server, Uri};

/// Keeps every command; answers each with its place.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) values: Arc<Mutex<Vec<Bytes>>>,
}

impl StateMachine for Ledger {
    type Response = u64;

    fn apply(&mut self, commands: &[Bytes]) -> Vec<u64> {
        let mut values = self.values.lock().unwrap();
        let first = values.len() as u64;
        values.extend_from_slice(commands);
        (first..values.len() as u64).collect()
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(Captured(self.values.lock().unwrap().clone()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut values = Vec::new();
        let mut length = [0; 4];
        loop {
            match from.read_exact(&mut length) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(e),
            }
            let mut value = vec![0; u32::from_le_bytes(length) as usize];
            from.read_exact(&mut value)?;
            values.push(value.into());
        }
        *self.values.lock().unwrap() = values;
        Ok(())
    }
}

/// A command of which no snapshot can be written.
pub(crate) const UNWRITABLE: &[u8] = b"unwritable";

struct Captured(Vec<Bytes>);

impl Snapshot for Captured {
    fn write_to(self: Box<Self>, to: &mut dyn Write) -> io::Result<()> {
        if self.0.iter().any(|command| &command[..] == UNWRITABLE) {
            return Err(io::Error::other("this cannot be written"));
        }
        for value in &self.0 {
            to.write_all(&u32::try_from(value.len()).unwrap().to_le_bytes())?;
            to.write_all(value)?;
        }
        Ok(())
    }
}

/// Which addresses are cut off: nothing goes to them or comes from them.
#[derive(Clone, Default)]
pub(crate) struct Net {
    cut: Arc<Mutex<HashSet<String>>>,
    /// How often each address was stopped: its connections of before are dead.
    stops: Arc<Mutex<HashMap<String, u64>>>,
}

impl Net {
    fn is_cut(&self, a: &str, b: &str) -> bool {
        let cut = self.cut.lock().unwrap();
        cut.contains(a) || cut.contains(b)
    }

    fn stops(&self, address: &str) -> u64 {
        self.stops.lock().unwrap().get(address).copied().unwrap_or(0)
    }
}

/// Dials over [`Net`].
struct NetDial {
    net: Net,
    from: String,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Dial for NetDial {
    fn channel(&self, to: &Member) -> Channel {
        let mut channels = self.channels.lock().unwrap();
        let channel = channels.entry(to.address.clone()).or_insert_with(|| {
            let (net, from, to) = (self.net.clone(), self.from.clone(), to.address.clone());
            let connector = tower::service_fn(move |_uri: Uri| {
                let (net, from, to) = (net.clone(), from.clone(), to.clone());
                async move {
                    if net.is_cut(&from, &to) {
                        return Err(io::Error::other("cut"));
                    }
                    let stream = TcpStream::connect(&to).await?;
                    stream.set_nodelay(true)?;
                    let stops = net.stops(&to);
                    Ok(TokioIo::new(Link { net, from, to, stops, stream }))
                }
            });
            Endpoint::from_static("http://member").connect_with_connector_lazy(connector)
        });
        channel.clone()
    }
}

struct Link {
    net: Net,
    from: String,
    to: String,
    stops: u64,
    stream: TcpStream,
}

impl Link {
    fn check(&self) -> io::Result<()> {
        if self.net.is_cut(&self.from, &self.to) || self.net.stops(&self.to) != self.stops {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One server.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) ledger: Ledger,
    /// Its disk, if it is one that can fail; the store is always on a real one.
    pub(crate) disk: Option<FaultDisk>,
    running: Option<(Raft<Ledger>, JoinHandle<()>)>,
}

impl Node {
    pub(crate) fn raft(&self) -> &Raft<Ledger> {
        &self.running.as_ref().expect("a running node").0
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn values(&self) -> Vec<Bytes> {
        self.ledger.values.lock().unwrap().clone()
    }
}

/// Several servers.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) net: Net,
    pub(crate) adjust: fn(&mut Config),
    pub(crate) has_fault_disks: bool,
}

/// What writes to the folders ends before they go.
impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.nodes.iter().any(Node::is_running) {
            return;
        }
        let stop = async {
            for at in 0..self.nodes.len() {
                if self.nodes[at].is_running() {
                    self.stop(at).await;
                }
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(stop));
    }
}

impl Cluster {
    /// Starts that many servers and bootstraps them.
    pub(crate) async fn start(size: usize) -> Cluster {
        Cluster::start_with(size, |_config| {}).await
    }

    pub(crate) async fn start_with(size: usize, adjust: fn(&mut Config)) -> Cluster {
        Cluster::begin(size, adjust, false).await
    }

    /// Their logs and snapshots are on disks that can fail.
    pub(crate) async fn start_on_fault_disks(size: usize, adjust: fn(&mut Config)) -> Cluster {
        Cluster::begin(size, adjust, true).await
    }

    async fn begin(size: usize, adjust: fn(&mut Config), has_fault_disks: bool) -> Cluster {
        let mut cluster = Cluster { nodes: Vec::new(), net: Net::default(), adjust, has_fault_disks };
        for _ in 0..size {
            cluster.add_node().await;
        }
        let members = cluster.nodes.iter().map(|node| node.raft().member()).collect();
        cluster.nodes[0].raft().bootstrap(members).await.unwrap();
        cluster.leader().await;
        cluster
    }

    /// Starts one more server that belongs to no cluster yet.
    pub(crate) async fn add_node(&mut self) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        self.nodes.push(Node {
            dir,
            address,
            ledger: Ledger::default(),
            disk: self.has_fault_disks.then(FaultDisk::new),
            running: None,
        });
        let at = self.nodes.len() - 1;
        self.serve(at, listener).await;
        at
    }

    /// Starts a server again that was stopped.
    pub(crate) async fn start_node(&mut self, at: usize) {
        let address = self.nodes[at].address;
        let mut listener = TcpListener::bind(address).await;
        for _ in 0..100 {
            if listener.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            listener = TcpListener::bind(address).await;
        }
        self.serve(at, listener.unwrap()).await;
    }

    async fn serve(&mut self, at: usize, listener: TcpListener) {
        let node = &mut self.nodes[at];
        node.ledger = Ledger::default();
        let address = node.address.to_string();
        let mut config = Config::new(node.dir.path(), format!("node-{at}"), address.clone());
        // A loaded machine must not make elections that no test asks for.
        (config.election_ms_min, config.election_ms_max) = (400, 700);
        (self.adjust)(&mut config);
        let dial = NetDial { net: self.net.clone(), from: address, channels: Mutex::default() };
        let disk: Arc<dyn Disk> = match &node.disk {
            Some(disk) => Arc::new(disk.clone()),
            None => Arc::new(RealDisk),
        };
        let (raft, service) = Raft::start_on(disk, config, node.ledger.clone(), dial).await.unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tokio::spawn(async move {
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        node.running = Some((raft, server));
    }

    /// Stops a server: its connections break, its log is closed.
    pub(crate) async fn stop(&mut self, at: usize) {
        let (raft, server) = self.nodes[at].running.take().expect("a running node");
        *self.net.stops.lock().unwrap().entry(self.nodes[at].address.to_string()).or_default() += 1;
        server.abort();
        let _ = server.await;
        raft.shutdown().await;
    }

    /// Cuts a server off from all others, in both directions.
    pub(crate) fn cut(&self, at: usize) {
        self.net.cut.lock().unwrap().insert(self.nodes[at].address.to_string());
    }

    pub(crate) fn heal(&self) {
        self.net.cut.lock().unwrap().clear();
    }

    fn reachable(&self) -> impl Iterator<Item = usize> {
        let cut = self.net.cut.lock().unwrap().clone();
        (0..self.nodes.len()).filter(move |at| {
            let node = &self.nodes[*at];
            node.is_running() && !cut.contains(&node.address.to_string())
        })
    }

    /// The reachable server that leads the newest term, when there is one that answers reads.
    pub(crate) async fn leader(&self) -> usize {
        for _ in 0..600 {
            let newest = self
                .reachable()
                .filter(|at| self.nodes[*at].raft().is_leader())
                .max_by_key(|at| self.nodes[*at].raft().status().term);
            if let Some(at) = newest
                && self.nodes[at].raft().read_index().await.is_ok()
            {
                return at;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no leader");
    }

    /// Proposes until it is answered. The value may stand in the log twice.
    pub(crate) async fn propose(&self, value: &str) -> u64 {
        for _ in 0..600 {
            let at = self.leader().await;
            match self.nodes[at].raft().propose(Bytes::copy_from_slice(value.as_bytes())).await {
                Ok(place) => return place,
                Err(ProposeError::TooLarge { .. }) => panic!("too large"),
                Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
        panic!("no answer");
    }

    /// Waits until all running servers hold the same, and answers it.
    pub(crate) async fn agree(&self) -> Vec<Bytes> {
        let leader = self.leader().await;
        let index = self.nodes[leader].raft().applied();
        for at in self.reachable() {
            let reached = self.nodes[at].raft().applied_at_least(index);
            tokio::time::timeout(Duration::from_secs(30), reached).await.expect("caught up").unwrap();
        }
        let expected = self.nodes[leader].values();
        for at in self.reachable() {
            assert_eq!(self.nodes[at].values(), expected, "node {at}");
        }
        expected
    }
}

/// Dials nobody: for a server that is alone.
pub(crate) struct Nobody;

impl Dial for Nobody {
    fn channel(&self, _to: &Member) -> Channel {
        Endpoint::from_static("http://127.0.0.1:9").connect_lazy()
    }
}

/// Waits for something that should come true soon.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}
