//! Taking connections: TLS handshakes on the side, limits, and who is at the other end.

use super::net::{TcpListener, TcpStream};
use super::{CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, HEADER_BYTES_MAX, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use super::{STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::codegen::{Body as HttpBody, StdError as BoxError};
use tonic::transport::server::Connected;

/// How long to rest when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptLimits {
    /// At a time, those that shake hands included. Further ones wait in the system's queue.
    pub connections_max: usize,
    /// From one IP address. Further ones are closed at once. (Consul: `rpc_max_conns_per_client`.)
    pub connections_per_client_max: usize,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        AcceptLimits { connections_max: 16_384, connections_per_client_max: 1_024 }
    }
}

/// Who is at the other end of a connection. In the extensions of each request that [`serve`] (or tonic) hands on.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Where it calls from.
    pub address: SocketAddr,
    /// Its certificates, its own first, as TLS has verified them.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// A listener that does the TLS handshakes on the side, so that a slow client keeps nobody waiting.
pub struct Acceptor {
    address: SocketAddr,
    ready: mpsc::Receiver<Connection>,
    accepting: JoinHandle<()>,
}

impl Acceptor {
    /// Takes connections from a listener. `tls` decides whom to trust.
    pub fn new(listener: TcpListener, tls: Arc<rustls::ServerConfig>, limits: AcceptLimits) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(64);
        let gate = Gate {
            tls: TlsAcceptor::from(tls),
            all: Arc::new(Semaphore::new(limits.connections_max)),
            clients: Arc::default(),
            per_client_max: limits.connections_per_client_max,
            ready: sender,
        };
        Ok(Acceptor { address, ready, accepting: tokio::spawn(gate.run(listener)) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection whose handshake is done. Safe to cancel. None only if the listener has died.
    pub async fn accept(&mut self) -> Option<Connection> {
        self.ready.recv().await
    }

    /// As [`Acceptor::accept`], for those who poll.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        self.ready.poll_recv(cx)
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Gate {
    tls: TlsAcceptor,
    all: Arc<Semaphore>,
    clients: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    per_client_max: usize,
    ready: mpsc::Sender<Connection>,
}

impl Gate {
    async fn run(self, listener: TcpListener) {
        while let Ok(permit) = self.all.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((tcp, address)) => self.admit(tcp, address, permit),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; is the limit of open files too low?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, tcp: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
        let Some(seat) = Seat::take(&self.clients, address.ip(), self.per_client_max) else {
            tracing::warn!(client = %address.ip(), max = self.per_client_max, "too many connections from one client: one was closed");
            return;
        };
        let (tls, ready) = (self.tls.clone(), self.ready.clone());
        tokio::spawn(async move {
            match timeout(CONNECT_TIMEOUT, handshake(tls, tcp, address)).await {
                Ok(Ok((stream, peer))) => {
                    // Nobody accepts any more: the connection is closed.
                    ready.send(Connection { stream, peer, _permit: permit, _seat: seat }).await.ok();
                }
                Ok(Err(error)) => {
                    tracing::debug!(client = %address, %error, "TLS handshake refused");
                }
                Err(_) => tracing::debug!(client = %address, "TLS handshake took too long"),
            }
        });
    }
}

async fn handshake(
    tls: TlsAcceptor,
    tcp: TcpStream,
    address: SocketAddr,
) -> io::Result<(Box<TlsStream<TcpStream>>, PeerInfo)> {
    tcp.set_nodelay(true)?;
    let stream = tls.accept(tcp).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
    Ok((Box::new(stream), PeerInfo { address, certificates }))
}

/// One client's place among those of its address.
struct Seat {
    clients: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Seat {
    fn take(clients: &Arc<Mutex<BTreeMap<IpAddr, usize>>>, ip: IpAddr, max: usize) -> Option<Seat> {
        let mut counts = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Seat { clients: clients.clone(), ip })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

/// A connection whose handshake is done. It counts against the limits until it is dropped.
pub struct Connection {
    stream: Box<TlsStream<TcpStream>>,
    peer: PeerInfo,
    _permit: OwnedSemaphorePermit,
    _seat: Seat,
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// The state of TLS: ALPN, and what a revocation check of a standing connection needs.
    pub fn tls(&self) -> &rustls::ServerConnection {
        self.stream.get_ref().1
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Answers the requests of one connection (HTTP/2) until it ends, with the limits of this module. Each request has the
/// connection's [`PeerInfo`] among its extensions.
///
/// When `ending` is over, the peer is told to send no more requests on this connection (so it knows of each that it was not
/// sent), and what is under way has as long as `ending` says; then the connection is cut. With no time it is cut at once.
pub async fn serve<S, B>(
    connection: Connection,
    service: S,
    ending: impl Future<Output = Duration>,
) -> Result<(), hyper::Error>
where
    S: tonic::codegen::Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let peer = connection.peer.clone();
    let answer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let mut service = service.clone();
        async move {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(connection), answer);
    let mut served = std::pin::pin!(served);
    let grace = tokio::select! {
        ended = &mut served => return ended,
        grace = ending => grace,
    };
    if grace.is_zero() {
        return Ok(());
    }
    served.as_mut().graceful_shutdown();
    timeout(grace, served).await.unwrap_or(Ok(()))
}
