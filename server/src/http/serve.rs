//! Serving HTTP on a listener: HTTP/1.1, HTTP/2 with prior knowledge, and TLS.
//!
//! hyper is driven directly, because a hundred thousand long polls wait here: one task and two small buffers for each.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::transport::net::{self, TcpListener, TcpStream};
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

/// What one listener takes.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Most connections from one address (Consul: `http_max_conns_per_client`).
    pub connections_per_client_max: usize,
    /// Most connections of all.
    pub connections_max: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout_ms: u64,
    /// When the listener closes, requests that are under way have this long to end.
    pub drain_timeout_ms: u64,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            connections_per_client_max: 200,
            connections_max: 150_000,
            handshake_timeout_ms: 5_000,
            drain_timeout_ms: 3_000,
        }
    }
}

/// Serves plain HTTP/1.1 and HTTP/2 (prior knowledge) until `shutdown` ends, then drains what is under way.
pub async fn serve_http(listener: TcpListener, router: Router, limits: HttpLimits, shutdown: impl Future<Output = ()>) {
    serve(listener, router, None, limits, shutdown).await;
}

/// Serves the same over TLS. The protocol is what ALPN chose.
pub async fn serve_https(
    listener: TcpListener,
    router: Router,
    tls: Arc<rustls::ServerConfig>,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
) {
    serve(listener, router, Some(TlsAcceptor::from(tls)), limits, shutdown).await;
}

/// The request that a connection reads is small (hyper's least is 8 KiB); larger heads are refused with 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// After a failed accept (out of file descriptors) the listener rests, so that it does not spin.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// What a client over its limit is told (Consul: `connlimit`).
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nYour IP is issuing too many concurrent connections, please rate limit your calls\n";

async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
) {
    let (closing, tasks, clients) = (CancellationToken::new(), TaskTracker::new(), Arc::new(Clients::default()));
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, from) = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    rest_after(&error).await;
                    continue;
                }
            },
        };
        let Some(place) = clients.enter(from, &limits) else {
            tasks.spawn(refuse(stream, tls.is_some()));
            continue;
        };
        let (router, tls, closing, limits) = (router.clone(), tls.clone(), closing.clone(), limits.clone());
        tasks.spawn(async move {
            match tls {
                // In a box, so that plain connections do not carry the size of TLS.
                Some(tls) => Box::pin(serve_tls(stream, tls, router, limits.handshake_timeout_ms, closing)).await,
                None => serve_plain(stream, router, closing).await,
            }
            drop(place);
        });
    }
    closing.cancel();
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_millis(limits.drain_timeout_ms), tasks.wait()).await;
}

pub(crate) async fn rest_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection: is the limit of open files too low?");
    tokio::time::sleep(ACCEPT_REST).await;
}

async fn refuse(mut stream: TcpStream, is_tls: bool) {
    if !is_tls {
        let _ = stream.write_all(TOO_MANY).await;
        let _ = stream.shutdown().await;
    }
}

async fn serve_plain(mut stream: TcpStream, router: Router, closing: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let mut preface = [0; 4];
    // HTTP/2's connection preface begins with "PRI ", which is no method of HTTP/1.1 (RFC 9113, 3.4).
    let is_http2 = tokio::select! {
        peeked = net::peek(&mut stream, &mut preface) => peeked.is_ok() && &preface == b"PRI ",
        () = closing.cancelled() => return,
    };
    serve_connection(stream, is_http2, router, closing).await;
}

async fn serve_tls(stream: TcpStream, tls: TlsAcceptor, router: Router, timeout_ms: u64, closing: CancellationToken) {
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(Duration::from_millis(timeout_ms), tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve_connection(stream, is_http2, router, closing).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

/// Serves one connection until it ends, or until `closing` and then only what is under way.
pub(crate) async fn serve_connection<I>(stream: I, is_http2: bool, router: Router, closing: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if is_http2 {
        // In a box, so that the many connections of HTTP/1.1 do not carry the size of this one.
        Box::pin(serve_http2(stream, router, closing)).await;
    } else {
        serve_http1(stream, router, closing).await;
    }
}

async fn serve_http1<I>(stream: I, router: Router, closing: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: http::Request<Incoming>| call(router.clone(), request));
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .half_close(false)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    log_end(ended);
}

async fn serve_http2<I>(stream: I, router: Router, closing: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: http::Request<Incoming>| call(router.clone(), request));
    let mut connection = pin!(http2_builder().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    log_end(ended);
}

/// HTTP/2 between nodes: many streams, windows that do not starve a snapshot.
fn http2_builder() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(16_384)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .keep_alive_interval(Some(Duration::from_secs(10)))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

async fn call(mut router: Router, request: http::Request<Incoming>) -> Result<http::Response<Body>, Infallible> {
    Service::call(&mut router, request).await
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// How many connections each client has.
#[derive(Default)]
struct Clients(Mutex<ClientCounts>);

#[derive(Default)]
struct ClientCounts {
    by_address: HashMap<IpAddr, usize>,
    all: usize,
}

struct Place {
    clients: Arc<Clients>,
    address: IpAddr,
}

impl Clients {
    fn enter(self: &Arc<Self>, from: SocketAddr, limits: &HttpLimits) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = counts.all;
        let of_client = counts.by_address.entry(from.ip()).or_default();
        if all >= limits.connections_max || *of_client >= limits.connections_per_client_max {
            return None;
        }
        *of_client += 1;
        counts.all += 1;
        Some(Place { clients: self.clone(), address: from.ip() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(of_client) = counts.by_address.get_mut(&self.address) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_connections_and_no_more() {
        let clients = Arc::new(Clients::default());
        let limits = HttpLimits { connections_per_client_max: 2, ..HttpLimits::default() };
        let (a, b) = ("127.0.0.1:1".parse().expect("address"), "127.0.0.2:1".parse().expect("address"));
        let first = clients.enter(a, &limits);
        let _second = clients.enter(a, &limits);
        assert!(first.is_some() && clients.enter(a, &limits).is_none());
        assert!(clients.enter(b, &limits).is_some());
        drop(first);
        assert!(clients.enter(a, &limits).is_some());
    }
}
