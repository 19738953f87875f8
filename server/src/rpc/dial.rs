//! Channels to other servers: as a member of the mesh where both sides are, with the join secret before that.
//!
//! A new cluster makes its CA while its servers already speak Raft by join certificates, and Raft keeps its channels for
//! long. So a channel within the datacenter decides anew at each connection: as a member if this server is one and the other
//! side proves to be one too, else by the secret. A server that has become a member closes a joiner's connection with the first
//! call that it refuses (`rpc::serve`), and it comes back as a member's.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use api::transport::net::TcpStream;
use api::transport::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, Channel, ConnectError, HEADER_BYTES_MAX, InvalidAddress,
};
use api::transport::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Pool, STREAM_WINDOW_BYTES};
use http::Uri;
use hyper_util::rt::TokioIo;
use identity::{JOIN_TRUST_DOMAIN, RpcIdentity};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Endpoint;

/// HTTP/2 is all that is spoken between nodes.
pub(crate) const ALPN: &[&[u8]] = &[b"h2"];
/// How long one question to another server may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Most addresses, and most other datacenters, that are remembered.
const REMEMBERED_MAX: usize = 512;

/// Channels to other servers.
#[derive(Clone)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    identity: RpcIdentity,
    datacenter: String,
    joining: Pool,
    switching: Connector,
    local: Mutex<BTreeMap<String, Channel>>,
    remote: Mutex<BTreeMap<String, Pool>>,
}

impl Peers {
    /// Channels of this server. Refuses only a name that cannot be in a certificate.
    pub(crate) fn new(identity: RpcIdentity, datacenter: &str) -> Result<Self, identity::Error> {
        let join_tls = Arc::new(identity.join_client_config(ALPN)?);
        let switching = Connector {
            member: TlsConnector::from(Arc::new(identity.client_config(datacenter, ALPN)?)),
            member_name: RpcIdentity::server_name(datacenter, "consul")?,
            joiner: TlsConnector::from(join_tls.clone()),
            identity: identity.clone(),
            address: String::new(),
        };
        let joining = Pool::new(join_tls, JOIN_TRUST_DOMAIN);
        let inner = Inner {
            identity,
            datacenter: datacenter.to_string(),
            joining,
            switching,
            local: Mutex::default(),
            remote: Mutex::default(),
        };
        Ok(Peers { inner: Arc::new(inner) })
    }

    /// With the join secret: only `Join` may be called on it.
    pub(crate) fn joining(&self, address: &str) -> Result<Channel, InvalidAddress> {
        self.inner.joining.channel(address)
    }

    /// To a server of this datacenter.
    pub(crate) fn local(&self, address: &str) -> Result<Channel, InvalidAddress> {
        let mut channels = self.inner.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let connector = Connector { address: address.to_string(), ..self.inner.switching.clone() };
        let channel = endpoint(address)?.connect_with_connector_lazy(connector);
        if channels.len() >= REMEMBERED_MAX {
            channels.clear();
        }
        channels.insert(address.to_string(), channel.clone());
        Ok(channel)
    }

    /// To a server of any datacenter, as a member.
    pub(crate) fn remote(&self, datacenter: &str, address: &str) -> Result<Channel, InvalidAddress> {
        if datacenter == self.inner.datacenter {
            return self.local(address);
        }
        let mut pools = self.inner.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(datacenter) {
            return pool.channel(address);
        }
        let config = self.inner.identity.client_config(datacenter, ALPN);
        let config =
            config.map_err(|error| InvalidAddress { address: address.to_string(), reason: error.to_string() })?;
        if pools.len() >= REMEMBERED_MAX {
            pools.clear();
        }
        let pool = Pool::new(Arc::new(config), &format!("server.{datacenter}.consul"));
        pools.entry(datacenter.to_string()).or_insert(pool).channel(address)
    }
}

impl raft::Dial for Peers {
    fn channel(&self, to: &raft::Member) -> Channel {
        // Invariant: the second address is one; nobody listens there, so that a member without a good address is unreachable.
        self.local(&to.address).unwrap_or_else(|_| api::transport::connect_plain("127.0.0.1:1").expect("an address"))
    }
}

fn endpoint(address: &str) -> Result<Endpoint, InvalidAddress> {
    let invalid = |reason: String| InvalidAddress { address: address.to_string(), reason };
    let uri: Uri = format!("https://{address}").parse().map_err(|e: http::uri::InvalidUri| invalid(e.to_string()))?;
    if uri.port_u16().is_none() {
        return Err(invalid("the port is missing".into()));
    }
    Ok(Endpoint::from(uri)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX))
}

/// Connects as a member if both sides are, else by the join secret.
#[derive(Clone)]
struct Connector {
    identity: RpcIdentity,
    member: TlsConnector,
    member_name: ServerName<'static>,
    joiner: TlsConnector,
    address: String,
}

impl Connector {
    async fn open(self) -> Result<TlsStream<TcpStream>, ConnectError> {
        if self.identity.identity().leaf().is_some()
            && let Ok(stream) = self.member.connect(self.member_name.clone(), self.tcp().await?).await
        {
            return Ok(stream);
        }
        let stream = self.joiner.connect(RpcIdentity::join_server_name(), self.tcp().await?).await;
        stream.map_err(|source| ConnectError::Handshake { address: self.address.clone(), source })
    }

    async fn tcp(&self) -> Result<TcpStream, ConnectError> {
        let failed = |source: io::Error| ConnectError::Connect { address: self.address.clone(), source };
        let tcp = TcpStream::connect(&self.address).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        Ok(tcp)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let address = connector.address.clone();
            match tokio::time::timeout(CONNECT_TIMEOUT, connector.open()).await {
                Ok(opened) => opened.map(TokioIo::new),
                Err(_) => Err(ConnectError::Timeout { address }),
            }
        })
    }
}
