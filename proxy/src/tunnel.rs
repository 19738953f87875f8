//! QUIC between gateways: how a stream begins, the settings of the transport, and lines, which are connections that come back by themselves.

mod socket;

use crate::Error;
use crate::balance::{Load, Loaded};
use crate::control::Backoff;
use crate::limits::{
    BACKOFF_MAX, HANDSHAKE_TIMEOUT, TUNNEL_CONNECTION_WINDOW_BYTES, TUNNEL_IDLE_TIMEOUT, TUNNEL_KEEPALIVE,
    TUNNEL_STREAM_WINDOW_BYTES, TUNNEL_STREAMS_MAX,
};
use crate::upstream::now_us;
use arc_swap::ArcSwapOption;
use identity::Identity;
use model::SpiffeId;
use model::spiffe::Subject;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, IdleTimeout, RecvStream, SendStream, ServerConfig, TransportConfig};
use rustls_pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The protocol's name in the handshake (ALPN).
const ALPN: &[u8] = b"tribune-tunnel/1";
/// The version with which each stream begins.
const VERSION: u8 = 1;
/// Longest server name in a stream's header, in bytes: the longest DNS name.
const NAME_BYTES_MAX: u16 = 253;

/// Writes a stream's header: version, length of the name, the server name that the client asked for.
pub(crate) async fn write_header(stream: &mut SendStream, name: &str) -> io::Result<()> {
    let length =
        u16::try_from(name.len()).ok().filter(|&length| length <= NAME_BYTES_MAX).ok_or(io::ErrorKind::InvalidInput)?;
    let mut header = Vec::with_capacity(3 + name.len());
    header.push(VERSION);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(name.as_bytes());
    stream.write_all(&header).await.map_err(io::Error::from)
}

/// Reads it. What follows are the client's bytes.
pub(crate) async fn read_header(stream: &mut RecvStream) -> io::Result<String> {
    let bad = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    let short = |_| bad("the stream ended in its header");
    let mut fixed = [0; 3];
    stream.read_exact(&mut fixed).await.map_err(short)?;
    let length = u16::from_be_bytes([fixed[1], fixed[2]]);
    if fixed[0] != VERSION {
        return Err(bad("another version of the tunnel's protocol"));
    }
    if length == 0 || length > NAME_BYTES_MAX {
        return Err(bad("a server name of an impossible length"));
    }
    let mut name = vec![0; length.into()];
    stream.read_exact(&mut name).await.map_err(short)?;
    String::from_utf8(name).map_err(|_| bad("a server name that is no text"))
}

/// Binds the socket that carries all tunnels, those that we make and those that others make to us.
pub(crate) fn endpoint(listen: &str, identity: &Identity) -> Result<(Endpoint, SocketAddr), Error> {
    let failed =
        |source| Error::Listen { what: "tunnels".into(), address: listen.to_string(), source: Arc::new(source) };
    let address: SocketAddr = listen.parse().map_err(|_| failed(io::Error::other("not of the form ip:port")))?;
    let socket = socket::bind(address).map_err(failed)?;
    let tls = identity.server_config(&[ALPN])?;
    let crypto =
        QuicServerConfig::try_from(tls).map_err(|e| Error::Config(format!("QUIC cannot use the certificates: {e}")))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport());
    let endpoint = socket::endpoint(server, socket).map_err(failed)?;
    let address = endpoint.local_addr().map_err(failed)?;
    Ok((endpoint, address))
}

/// Settings of every tunnel. Congestion control is BBR: Cubic takes each packet that the path loses for a sign of congestion and
/// slows down all streams of the connection. One stream over 80 ms with 0, 1 and 3 % loss: BBR 1480, 551 and 451 Mbit/s,
/// Cubic 1177, 3 and 2 (bench/data).
fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()))
        .max_concurrent_bidi_streams(TUNNEL_STREAMS_MAX.into())
        .max_concurrent_uni_streams(0u8.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(TUNNEL_STREAM_WINDOW_BYTES.into())
        .receive_window(TUNNEL_CONNECTION_WINDOW_BYTES.into())
        .send_window(TUNNEL_CONNECTION_WINDOW_BYTES.into())
        .keep_alive_interval(Some(TUNNEL_KEEPALIVE))
        .max_idle_timeout(IdleTimeout::try_from(TUNNEL_IDLE_TIMEOUT).ok());
    Arc::new(transport)
}

/// The certificates that the other end of a tunnel has shown.
pub(crate) fn peer_chain(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    identity.map(|chain| *chain).unwrap_or_default()
}

/// One QUIC connection to a gateway of another datacenter. Made anew whenever it ends.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) address: String,
    load: Load,
    connection: Arc<ArcSwapOption<quinn::Connection>>,
    keeper: AbortHandle,
}

impl Line {
    /// Begins to connect. `up` is told each time when the line stands.
    pub(crate) fn start(
        endpoint: &Endpoint,
        address: &str,
        trust_domain: &str,
        dc: &str,
        identity: &Identity,
        up: Arc<Notify>,
    ) -> Result<Self, Error> {
        let id = SpiffeId::new(trust_domain, Subject::Gateway { dc: dc.to_string() });
        let tls = identity.client_config([id], &[ALPN])?;
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|e| Error::Config(format!("QUIC cannot use the certificates: {e}")))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport());
        let connection = Arc::new(ArcSwapOption::empty());
        let keeper =
            tokio::spawn(keep(endpoint.clone(), config, address.to_string(), connection.clone(), up)).abort_handle();
        Ok(Line { address: address.to_string(), load: Load::new(1), connection, keeper })
    }

    /// The connection, while it stands.
    pub(crate) fn connection(&self) -> Option<quinn::Connection> {
        self.connection.load().as_ref().filter(|c| c.close_reason().is_none()).map(|c| c.as_ref().clone())
    }

    /// A new stream. Its delay is the best that we know of the line's speed.
    pub(crate) async fn open(&self) -> Option<(SendStream, RecvStream, quinn::Connection)> {
        let connection = self.connection()?;
        let rtt_us = u64::try_from(connection.rtt().as_micros()).unwrap_or(u64::MAX);
        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, connection.open_bi()).await.ok()?.ok()?;
        self.load.answered(now_us(), rtt_us);
        Some((opened.0, opened.1, connection))
    }

    /// Ends the connection if its peer is trusted no more; it will be made anew, and verified.
    pub(crate) fn recheck(&self, identity: &Identity) {
        if let Some(connection) = self.connection()
            && identity.recheck_chain(&peer_chain(&connection), false, std::time::SystemTime::now()).is_err()
        {
            connection.close(0u8.into(), b"not trusted");
        }
    }
}

impl Loaded for Arc<Line> {
    fn load(&self) -> &Load {
        &self.load
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.keeper.abort();
        if let Some(connection) = self.connection.swap(None) {
            connection.close(0u8.into(), b"gone");
        }
    }
}

/// Connects, waits for the end, and connects again.
async fn keep(
    endpoint: Endpoint,
    config: ClientConfig,
    address: String,
    slot: Arc<ArcSwapOption<quinn::Connection>>,
    up: Arc<Notify>,
) {
    let mut backoff = Backoff::up_to(BACKOFF_MAX);
    loop {
        match connect(&endpoint, &config, &address).await {
            Ok(connection) => {
                backoff = Backoff::up_to(BACKOFF_MAX);
                slot.store(Some(Arc::new(connection.clone())));
                up.notify_waiters();
                let why = connection.closed().await;
                slot.store(None);
                tracing::info!(%address, %why, "a tunnel has ended");
            }
            Err(error) => tracing::debug!(%address, %error, "a gateway cannot be reached"),
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

async fn connect(endpoint: &Endpoint, config: &ClientConfig, address: &str) -> io::Result<quinn::Connection> {
    let resolved = api::transport::net::lookup_host(address).await?.next().ok_or(io::ErrorKind::NotFound)?;
    // The name is of no consequence: the peer is verified by its SPIFFE id.
    let connecting = endpoint.connect_with(config.clone(), resolved, "gateway").map_err(io::Error::other)?;
    tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await?.map_err(io::Error::other)
}
