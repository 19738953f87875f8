//! Lazy channels that reconnect by themselves.

use super::net::TcpStream;
use super::stream::Stream;
use super::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, HEADER_BYTES_MAX, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// The text is no address to connect to. The operator's fault; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address:?} is not an address to connect to: write host:port ({reason})")]
pub struct InvalidAddress {
    /// The text.
    pub address: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A connection could not be made, so nothing was sent. Retrying, or asking another server, is safe.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection: nobody listens there, or the network is in the way.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The other side is not who it should be, or did not take our certificate.
    #[error("TLS handshake with {address} failed: {source}")]
    Handshake {
        /// Where to.
        address: String,
        /// What TLS says.
        source: io::Error,
    },
    /// Too slow.
    #[error("no connection to {address} within {CONNECT_TIMEOUT:?}")]
    Timeout {
        /// Where to.
        address: String,
    },
}

/// A channel to `host:port` over TLS. It connects when it is first used, and again after a loss; clones share the connection.
///
/// The configuration says whom to trust; `server_name` is sent in the handshake (SNI). Requests have no deadline
/// unless the caller gives one (`tonic::Request::set_timeout`, `tokio::time::timeout`): streams and long polls live long.
pub fn connect(address: &str, tls: Arc<rustls::ClientConfig>, server_name: &str) -> Result<Channel, InvalidAddress> {
    let invalid =
        |reason: &dyn std::fmt::Display| InvalidAddress { address: address.to_string(), reason: reason.to_string() };
    let name = ServerName::try_from(server_name.to_string()).map_err(|e| invalid(&e))?;
    let endpoint = endpoint("https", address)?;
    let tls = Some((TlsConnector::from(tls), name));
    Ok(endpoint.connect_with_connector_lazy(Connector { address: address.to_string(), tls }))
}

/// As [`connect`], without TLS: for the loopback interface only.
pub fn connect_plain(address: &str) -> Result<Channel, InvalidAddress> {
    let endpoint = endpoint("http", address)?;
    Ok(endpoint.connect_with_connector_lazy(Connector { address: address.to_string(), tls: None }))
}

fn endpoint(scheme: &str, address: &str) -> Result<Endpoint, InvalidAddress> {
    let invalid =
        |reason: &dyn std::fmt::Display| InvalidAddress { address: address.to_string(), reason: reason.to_string() };
    let uri: Uri = format!("{scheme}://{address}").parse().map_err(|e| invalid(&e))?;
    if uri.port_u16().is_none() || uri.path() != "/" {
        return Err(invalid(&"the port is missing"));
    }
    Ok(Endpoint::from(uri)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX))
}

struct Connector {
    address: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl tonic::codegen::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (address, tls) = (self.address.clone(), self.tls.clone());
        Box::pin(async move {
            match timeout(CONNECT_TIMEOUT, open(&address, tls)).await {
                Ok(done) => done.map(TokioIo::new),
                Err(_) => Err(ConnectError::Timeout { address }),
            }
        })
    }
}

async fn open(address: &str, tls: Option<(TlsConnector, ServerName<'static>)>) -> Result<Stream, ConnectError> {
    let refused = |source| ConnectError::Connect { address: address.to_string(), source };
    let tcp = TcpStream::connect(address).await.map_err(refused)?;
    tcp.set_nodelay(true).map_err(refused)?;
    let Some((connector, name)) = tls else {
        return Ok(Stream::new(tcp));
    };
    let handshake = connector.connect(name, tcp).await;
    handshake.map(Stream::new).map_err(|source| ConnectError::Handshake { address: address.to_string(), source })
}
