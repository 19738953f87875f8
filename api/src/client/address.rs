//! Where an agent is, and how to connect to it.

use crate::transport::ConnectError;
use crate::transport::stream::Stream;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Where an agent's HTTP API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, plain HTTP.
    Http(String),
    /// `host:port`, HTTP over TLS.
    Https(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// The text is no address of an agent. The caller's fault; nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of an agent: write host:port, http://host:port, https://host:port or unix:///path")]
pub struct InvalidClientAddress(pub String);

/// Consul's default.
const DEFAULT: &str = "127.0.0.1:8500";

impl Address {
    /// What the environment says (`TRIBUNE_HTTP_ADDR`, `CONSUL_HTTP_ADDR`, `CONSUL_HTTP_SSL`), else `127.0.0.1:8500`.
    pub fn from_env() -> Result<Address, InvalidClientAddress> {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let ssl = var("CONSUL_HTTP_SSL").and_then(|v| crate::query::parse_bool(&v)).unwrap_or(false);
        let text = var("TRIBUNE_HTTP_ADDR").or_else(|| var("CONSUL_HTTP_ADDR")).unwrap_or_else(|| DEFAULT.to_string());
        let address: Address = text.parse()?;
        Ok(match address {
            Address::Http(host) if ssl => Address::Https(host),
            other => other,
        })
    }

    /// What stands in the `Host` header.
    pub(super) fn authority(&self) -> &str {
        match self {
            Address::Http(host) | Address::Https(host) => host,
            Address::Unix(_) => "localhost",
        }
    }
}

impl FromStr for Address {
    type Err = InvalidClientAddress;

    fn from_str(text: &str) -> Result<Self, InvalidClientAddress> {
        let invalid = || InvalidClientAddress(text.to_string());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.is_empty() { Err(invalid()) } else { Ok(Address::Unix(path.into())) };
        }
        let (make, rest): (fn(String) -> Address, _) = match text.strip_prefix("https://") {
            Some(rest) => (Address::Https, rest),
            None => (Address::Http, text.strip_prefix("http://").unwrap_or(text)),
        };
        let uri: Uri = format!("http://{}", rest.trim_end_matches('/')).parse().map_err(|_| invalid())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        let has_port = uri.authority().is_some_and(|a| a.as_str().len() > host.len());
        if has_port && uri.port_u16().is_none() {
            return Err(invalid());
        }
        if uri.path() != "/" || uri.query().is_some() || rest.contains('@') {
            return Err(invalid());
        }
        Ok(make(format!("{host}:{}", uri.port_u16().unwrap_or(8500))))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Http(host) => write!(f, "http://{host}"),
            Address::Https(host) => write!(f, "https://{host}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Connects to one agent, whatever URI is asked for.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) address: Arc<Address>,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// A connection as the HTTP client wants it.
pub(super) struct Wire(TokioIo<Stream>);

impl tonic::codegen::Service<Uri> for Connector {
    type Response = Wire;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(crate::transport::CONNECT_TIMEOUT, this.open()).await {
                Ok(stream) => Ok(Wire(TokioIo::new(stream?))),
                Err(_) => Err(ConnectError::Timeout { address: this.address.to_string() }),
            }
        })
    }
}

impl Connector {
    async fn open(&self) -> Result<Stream, ConnectError> {
        let refused = |source| ConnectError::Connect { address: self.address.to_string(), source };
        match &*self.address {
            Address::Http(host) => TcpStream::connect(host).await.map(Stream::new).map_err(refused),
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::new).map_err(refused),
            Address::Https(host) => {
                let tcp = TcpStream::connect(host).await.map_err(refused)?;
                let handshake = self.handshake(host, tcp).await;
                handshake.map_err(|source| ConnectError::Handshake { address: self.address.to_string(), source })
            }
        }
    }

    async fn handshake(&self, host: &str, tcp: TcpStream) -> io::Result<Stream> {
        let tls = self.tls.clone().ok_or_else(|| io::Error::other("no CA to trust: give -ca-file"))?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let name = ServerName::try_from(name.to_string()).map_err(io::Error::other)?;
        TlsConnector::from(tls).connect(name, tcp).await.map(Stream::new)
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
