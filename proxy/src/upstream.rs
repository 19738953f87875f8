//! Where connections and requests go: the endpoints of one service, how to reach them, and the connections that are open to them.

use crate::balance::{self, Load, Loaded, RetryBudget};
use crate::limits::{
    CONNECT_TIMEOUT, HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_HEADER_LIST_BYTES_MAX, HTTP2_PING_INTERVAL,
    HTTP2_SEND_BUFFER_BYTES_MAX, HTTP2_STREAM_WINDOW_BYTES, IDLE_LINK_TIMEOUT, IDLE_LINKS_MAX, KEPT_LINK_PAUSE_MAX,
    KEPT_LINKS_MAX,
};
use crate::link::Link;
use crate::live::Caller;
use crate::metrics::{Counters, Event};
use crate::stream::Stream;
use api::transport::net::TcpStream;
use arc_swap::{ArcSwap, ArcSwapOption};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::Identity;
use model::SpiffeId;
use model::config_entry::Protocol;
use rustls_pki_types::ServerName;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_rustls::TlsConnector;

/// The next hop of a listener. What it is told changes; its counters and its retry budget stay.
pub(crate) struct Upstream {
    pub(crate) counters: Counters,
    pub(crate) budget: RetryBudget,
    plan: ArcSwap<Plan>,
}

/// What is known about the next hop as of now.
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) answer_timeout: Option<Duration>,
    connect_timeout: Duration,
    dial: Dial,
}

/// How its endpoints are reached.
pub(crate) enum Dial {
    /// The local application, or bytes that are encrypted already: plain TCP.
    Local,
    /// Other proxies.
    Mesh(Box<MeshDial>),
}

/// Mutual TLS with the holders of certain SPIFFE ids, and nobody else.
pub(crate) struct MeshDial {
    /// Who is meant, to know when this must be made anew.
    ids: Vec<SpiffeId>,
    server_name: ServerName<'static>,
    bytes: TlsConnector,
    http1: TlsConnector,
    http2: TlsConnector,
}

/// What is spoken on a connection, as ALPN has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speak {
    /// Anything: no ALPN.
    Bytes,
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

/// An endpoint could not be reached. Nothing has been sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody answered in time.
    #[error("{0} did not answer in time")]
    Timeout(String),
    /// No connection, or the other side is not who is meant.
    #[error("cannot connect to {0}: {1}")]
    Io(String, #[source] io::Error),
    /// It does not speak what is needed.
    #[error("{0} does not speak HTTP/2")]
    NoHttp2(String),
    /// It took the connection and broke it.
    #[error("{0} does not speak HTTP: {1}")]
    Http(String, #[source] hyper::Error),
}

impl Upstream {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        Arc::new(Upstream {
            counters: Counters::default(),
            budget: RetryBudget::default(),
            plan: ArcSwap::from_pointee(plan),
        })
    }

    /// The plan as of now.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Goes by another plan from now on. Endpoints that are in both keep their loads and connections, unless `fresh`.
    pub(crate) fn update(&self, mut plan: Plan, fresh: bool) {
        let before = self.plan();
        if !fresh && plan.dial.is_like(&before.dial) {
            for endpoint in &mut plan.endpoints {
                if let Some(known) = before.endpoints.iter().find(|known| known.is_like(endpoint)) {
                    *endpoint = known.clone();
                }
            }
        }
        self.plan.store(Arc::new(plan));
    }

    /// Whether somebody whom we have called is trusted no more.
    pub(crate) fn has_distrusted(&self, identity: &Identity) -> bool {
        let distrusted = |peer: &Arc<Caller>| !peer.is_trusted(identity, false);
        self.plan().endpoints.iter().any(|endpoint| endpoint.peer.load().as_ref().is_some_and(distrusted))
    }

    /// Closes connections that have rested too long.
    pub(crate) fn sweep(&self) {
        self.plan().endpoints.iter().for_each(|endpoint| endpoint.sweep());
    }
}

impl Plan {
    /// A plan for the local application.
    pub(crate) fn local(inbound: &model::proxy_config::Inbound, name: &str) -> Self {
        Plan {
            name: name.to_string(),
            protocol: inbound.protocol,
            endpoints: vec![Arc::new(Endpoint::new(&inbound.local, 1))],
            answer_timeout: timeout(inbound.request_timeout_ms),
            connect_timeout: timeout(inbound.connect_timeout_ms).unwrap_or(CONNECT_TIMEOUT),
            dial: Dial::Local,
        }
    }

    /// A plan for a service of the mesh.
    pub(crate) fn mesh(
        name: &str,
        config: &model::proxy_config::UpstreamConfig,
        identity: &Identity,
    ) -> Result<Self, crate::Error> {
        Ok(Plan {
            name: name.to_string(),
            protocol: config.protocol,
            endpoints: config.endpoints.iter().map(|e| Arc::new(Endpoint::new(&e.address, e.weight))).collect(),
            answer_timeout: None,
            connect_timeout: timeout(config.connect_timeout_ms).unwrap_or(CONNECT_TIMEOUT),
            dial: Dial::Mesh(Box::new(MeshDial::new(config, identity)?)),
        })
    }

    /// A plan for connections that are passed on as they are: the TLS in them is not ours.
    pub(crate) fn passing(name: &str, endpoints: &[model::proxy_config::Endpoint]) -> Self {
        Plan {
            name: name.to_string(),
            protocol: Protocol::Tcp,
            endpoints: endpoints.iter().map(|e| Arc::new(Endpoint::new(&e.address, e.weight))).collect(),
            answer_timeout: None,
            connect_timeout: CONNECT_TIMEOUT,
            dial: Dial::Local,
        }
    }

    /// The endpoint for the next request.
    pub(crate) fn pick(&self) -> Option<&Arc<Endpoint>> {
        let place =
            if self.endpoints.len() < 2 { 0 } else { balance::pick(&self.endpoints, now_us(), rand::random())? };
        self.endpoints.get(place)
    }

    /// A new connection to an endpoint. Its result is remembered in the endpoint's load.
    pub(crate) async fn connect(
        &self,
        endpoint: &Endpoint,
        speak: Speak,
        counters: &Counters,
    ) -> Result<Stream, ConnectError> {
        let begun_us = now_us();
        let connecting = tokio::time::timeout(self.connect_timeout, self.dial.connect(&endpoint.address, speak));
        let result = connecting.await.unwrap_or_else(|_| Err(ConnectError::Timeout(endpoint.address.clone())));
        match &result {
            Ok(stream) => {
                endpoint.load.answered(now_us(), now_us() - begun_us);
                endpoint.remember_peer(stream);
            }
            Err(_) => {
                endpoint.load.failed(now_us(), rand::random());
                counters.count(Event::ConnectFailed);
            }
        }
        result
    }

    /// The HTTP/2 connection to an endpoint, which all requests share. Made if there is none.
    pub(crate) async fn shared(
        &self,
        endpoint: &Endpoint,
        counters: &Counters,
    ) -> Result<SendRequest<Incoming>, ConnectError> {
        if let Some(sender) = endpoint.shared.load().as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.as_ref().clone());
        }
        // One makes the connection, the others wait for it.
        let _one = endpoint.connecting.lock().await;
        if let Some(sender) = endpoint.shared.load().as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.as_ref().clone());
        }
        let stream = self.connect(endpoint, Speak::Http2, counters).await?;
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HTTP2_HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES_MAX)
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(HTTP2_PING_INTERVAL);
        let (sender, connection) =
            http.handshake(TokioIo::new(stream)).await.map_err(|e| ConnectError::Http(endpoint.address.clone(), e))?;
        // It ends when the last sender is dropped, and tells its users if it ends before.
        tokio::spawn(async move { drop(connection.await) });
        endpoint.shared.store(Some(Arc::new(sender.clone())));
        Ok(sender)
    }
}

impl Dial {
    async fn connect(&self, address: &str, speak: Speak) -> Result<Stream, ConnectError> {
        let failed = |error| ConnectError::Io(address.to_string(), error);
        let tcp = TcpStream::connect(address).await.map_err(failed)?;
        crate::listen::tune(&tcp);
        let Dial::Mesh(mesh) = self else {
            return Ok(Stream::Plain(tcp));
        };
        let connector = match speak {
            Speak::Bytes => &mesh.bytes,
            Speak::Http1 => &mesh.http1,
            Speak::Http2 => &mesh.http2,
        };
        let tls = Box::pin(connector.connect(mesh.server_name.clone(), tcp)).await.map_err(failed)?;
        if speak == Speak::Http2 && tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::NoHttp2(address.to_string()));
        }
        Ok(Stream::Tls(Box::new(tls)))
    }

    fn is_like(&self, other: &Dial) -> bool {
        match (self, other) {
            (Dial::Local, Dial::Local) => true,
            (Dial::Mesh(a), Dial::Mesh(b)) => a.ids == b.ids && a.server_name == b.server_name,
            (Dial::Local, Dial::Mesh(_)) | (Dial::Mesh(_), Dial::Local) => false,
        }
    }
}

impl MeshDial {
    fn new(config: &model::proxy_config::UpstreamConfig, identity: &Identity) -> Result<Self, crate::Error> {
        let wrong =
            |what: &str, why: String| crate::Error::Config(format!("upstream {:?}: {what}: {why}", config.service));
        let ids: Vec<SpiffeId> = config
            .spiffe_ids
            .iter()
            .map(|id| id.parse())
            .collect::<Result<_, _>>()
            .map_err(|e: model::spiffe::InvalidSpiffeId| wrong("SpiffeIds", e.to_string()))?;
        let server_name = ServerName::try_from(config.sni.clone()).map_err(|e| wrong("Sni", e.to_string()))?;
        let connector = |alpn: &[&[u8]]| -> Result<TlsConnector, crate::Error> {
            Ok(TlsConnector::from(Arc::new(identity.client_config(ids.iter().cloned(), alpn)?)))
        };
        Ok(MeshDial {
            server_name,
            bytes: connector(&[])?,
            http1: connector(&[b"http/1.1"])?,
            http2: connector(&[b"h2"])?,
            ids,
        })
    }
}

/// One place where the service can be reached, and the connections that are open to it.
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) load: Load,
    weight: u16,
    resting: Mutex<VecDeque<Box<Link>>>,
    shared: ArcSwapOption<SendRequest<Incoming>>,
    connecting: tokio::sync::Mutex<()>,
    /// Who answered there last.
    peer: ArcSwapOption<Caller>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).field("load", &self.load).finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(crate) fn new(address: &str, weight: u16) -> Self {
        Endpoint {
            address: address.to_string(),
            load: Load::new(weight),
            weight,
            resting: Mutex::default(),
            shared: ArcSwapOption::empty(),
            connecting: tokio::sync::Mutex::new(()),
            peer: ArcSwapOption::empty(),
        }
    }

    fn remember_peer(&self, stream: &Stream) {
        let Stream::Tls(tls) = stream else { return };
        let Some(chain @ [leaf, ..]) = tls.get_ref().1.peer_certificates() else { return };
        if !self.peer.load().as_ref().is_some_and(|known| known.has_leaf(leaf)) {
            self.peer.store(Caller::of(chain));
        }
    }

    fn is_like(&self, other: &Endpoint) -> bool {
        self.address == other.address && self.weight == other.weight
    }

    /// A link that is ready for a request: the one that was used last, whose peer is the least likely to have closed it.
    fn take(&self) -> Option<Box<Link>> {
        loop {
            let mut link = lock(&self.resting).pop_back()?;
            if link.is_usable() {
                return Some(link);
            }
        }
    }

    fn put(&self, mut link: Box<Link>) {
        link.resting_since = Instant::now();
        let mut resting = lock(&self.resting);
        if resting.len() < IDLE_LINKS_MAX {
            resting.push_back(link);
        }
    }

    fn sweep(&self) {
        let mut resting = lock(&self.resting);
        while resting.front().is_some_and(|link| link.resting_since.elapsed() > IDLE_LINK_TIMEOUT) {
            resting.pop_front();
        }
    }
}

impl Loaded for Arc<Endpoint> {
    fn load(&self) -> &Load {
        &self.load
    }
}

/// The links that one client's connection uses: no other takes them, so that there is nothing to wait for. When the
/// client goes, others may have them; and so they may when it asks but rarely, lest a thousand resting clients hold a
/// thousand links.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Keeping>);

#[derive(Debug, Default)]
struct Keeping {
    links: Vec<(Arc<Endpoint>, Box<Link>)>,
    /// When the client's last request was done. None while the next is in hand.
    done: Option<Instant>,
    /// Whether that next one came soon after it.
    came_soon: bool,
}

impl Kept {
    /// A link to this endpoint: the client's own, else one that rests.
    pub(crate) fn take(&self, endpoint: &Arc<Endpoint>) -> Option<Box<Link>> {
        let own = {
            let Keeping { links, done, came_soon } = &mut *lock(&self.0);
            // From done to asked: how long a request itself lasts does not count.
            if let Some(done) = done.take() {
                *came_soon = done.elapsed() <= KEPT_LINK_PAUSE_MAX;
            }
            links.iter().position(|(to, _)| Arc::ptr_eq(to, endpoint)).map(|place| links.swap_remove(place).1)
        };
        own.and_then(|mut link| link.is_usable().then_some(link)).or_else(|| endpoint.take())
    }

    /// Keeps a link for the client's next request, if that is likely to come soon.
    pub(crate) fn put(&self, endpoint: Arc<Endpoint>, mut link: Box<Link>) {
        let now = Instant::now();
        link.resting_since = now;
        let Keeping { links, done, came_soon } = &mut *lock(&self.0);
        *done = Some(now);
        if !*came_soon {
            return endpoint.put(link);
        }
        links.push((endpoint, link));
        if links.len() > KEPT_LINKS_MAX {
            let (endpoint, link) = links.remove(0);
            endpoint.put(link);
        }
    }
}

impl Kept {
    /// Lets others have the links that have rested for so long.
    pub(crate) fn release(&self, resting: Duration) {
        for (endpoint, link) in lock(&self.0).links.extract_if(.., |(_, link)| link.resting_since.elapsed() >= resting)
        {
            endpoint.put(link);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.release(Duration::ZERO);
    }
}

/// Microseconds since some moment before the first call.
pub(crate) fn now_us() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A mutex of ours guards data that is whole after each statement: a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timeout(ms: u32) -> Option<Duration> {
    (ms != 0).then(|| Duration::from_millis(ms.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link to somebody who takes the connection and says nothing.
    async fn link() -> (Box<Link>, TcpStream) {
        let listener = crate::listen::bind("a test", "127.0.0.1:0").expect("a port");
        let connecting = TcpStream::connect(listener.local_addr().expect("address"));
        let (near, far) = tokio::join!(connecting, listener.accept());
        let link = Link::open(Stream::Plain(near.expect("connected"))).await.expect("a link");
        (link, far.expect("accepted").0)
    }

    /// Its client asks again right after its last request, however slow this machine is.
    fn ask_again(kept: &Kept, endpoint: &Arc<Endpoint>) -> Option<Box<Link>> {
        lock(&kept.0).done = Some(Instant::now() + Duration::from_secs(3600));
        kept.take(endpoint)
    }

    #[tokio::test]
    async fn links_are_kept_for_their_client_and_then_for_all() {
        let (here, there) = (Arc::new(Endpoint::new("a:1", 1)), Arc::new(Endpoint::new("a:2", 1)));
        let (one, other) = (Kept::default(), Kept::default());
        let (first, _far) = link().await;
        one.put(here.clone(), first);
        let first = other.take(&here).expect("whoever has asked once need not ask again");
        assert!(ask_again(&one, &here).is_none());
        one.put(here.clone(), first);
        assert!(
            other.take(&here).is_none() && one.take(&there).is_none(),
            "it is another client's, and goes elsewhere"
        );
        one.release(Duration::from_secs(3600));
        assert!(other.take(&here).is_none(), "it has not rested for so long");
        one.release(Duration::ZERO);
        let taken = ask_again(&one, &here).expect("it is for all now");
        one.put(here.clone(), taken);
        drop(one);
        assert!(other.take(&here).is_some(), "whoever goes leaves its links");
    }

    #[tokio::test]
    async fn only_the_rest_between_requests_counts_and_not_how_long_they_last() {
        let (here, kept, other) = (Arc::new(Endpoint::new("a:1", 1)), Kept::default(), Kept::default());
        let (first, _far) = link().await;
        kept.put(here.clone(), first);
        let link = ask_again(&kept, &here).expect("it rests");
        tokio::time::sleep(KEPT_LINK_PAUSE_MAX + Duration::from_millis(100)).await;
        kept.put(here.clone(), link);
        assert!(other.take(&here).is_none(), "a long poll that comes back at once keeps its link");
        tokio::time::sleep(KEPT_LINK_PAUSE_MAX + Duration::from_millis(100)).await;
        let link = kept.take(&here).expect("it is its own");
        kept.put(here.clone(), link);
        assert!(other.take(&here).is_some(), "whoever asks rarely keeps none");
    }

    #[tokio::test]
    async fn a_link_that_its_peer_has_closed_is_not_handed_out() {
        let (endpoint, kept) = (Arc::new(Endpoint::new("a:1", 1)), Kept::default());
        let (link, far) = link().await;
        kept.put(endpoint.clone(), link);
        let link = ask_again(&kept, &endpoint).expect("it rests");
        kept.put(endpoint.clone(), link);
        drop(far);
        // The kernel tells of it a moment later.
        for _ in 0..1_000 {
            let Some(link) = kept.take(&endpoint) else { return };
            kept.put(endpoint.clone(), link);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it is handed out for ever");
    }

    #[tokio::test]
    async fn a_client_keeps_few_links_and_an_endpoint_so_many() {
        let kept = Kept::default();
        let endpoints: Vec<_> = (0..KEPT_LINKS_MAX + 2).map(|_| Arc::new(Endpoint::new("a:1", 1))).collect();
        let mut far = Vec::new();
        for endpoint in &endpoints {
            let (link, end) = link().await;
            far.push(end);
            ask_again(&kept, endpoint);
            kept.put(endpoint.clone(), link);
        }
        assert_eq!(lock(&kept.0).links.len(), KEPT_LINKS_MAX);
        assert!(endpoints[..2].iter().all(|endpoint| lock(&endpoint.resting).len() == 1), "the oldest are for all");
    }
}
