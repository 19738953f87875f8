//! Applications behind sidecars, and clients in front of them.

use crate::kit::within;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

type Body = BoxBody<Bytes, hyper::Error>;

/// An application. It stops when this is dropped.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    /// Connections that it has taken.
    pub(crate) taken: Arc<AtomicUsize>,
    /// Connections that stand.
    pub(crate) open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl App {
    async fn start<F, R>(run: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address");
        let (taken, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, standing) = (taken.clone(), open.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                standing.fetch_add(1, SeqCst);
                let running = run(tcp);
                let standing = standing.clone();
                connections.spawn(async move {
                    running.await;
                    standing.fetch_sub(1, SeqCst);
                });
            }
        });
        App { address, taken, open, task }
    }

    /// Sends back what it gets; says `bye` when its client has finished.
    pub(crate) async fn echo() -> Self {
        App::start(|mut tcp| async move {
            let mut buffer = vec![0; 8192];
            while let Ok(count @ 1..) = tcp.read(&mut buffer).await {
                if tcp.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            let _ = tcp.write_all(b"bye").await;
        })
        .await
    }

    /// Says its name and hangs up.
    pub(crate) async fn named(name: &'static str) -> Self {
        App::start(move |mut tcp| async move {
            let _ = tcp.write_all(name.as_bytes()).await;
        })
        .await
    }

    /// HTTP/1.1 and HTTP/2.
    pub(crate) async fn http() -> Self {
        App::http_named("app").await
    }

    /// The same; `/name` tells which it is.
    pub(crate) async fn http_named(name: &'static str) -> Self {
        App::start(move |tcp| async move {
            let http = auto::Builder::new(TokioExecutor::new());
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(route(name, request).await) });
            let _ = http.serve_connection_with_upgrades(TokioIo::new(tcp), service).await;
        })
        .await
    }

    /// Answers the first bytes of each connection with these, and hangs up.
    pub(crate) async fn raw(answer: &'static [u8]) -> Self {
        App::start(move |mut tcp| async move {
            let _ = tcp.read(&mut [0; 4096]).await;
            let _ = tcp.write_all(answer).await;
        })
        .await
    }
}

fn text(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed())
}

async fn route(name: &'static str, mut request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/name" => text(name),
        "/echo" => {
            let head = request.headers().get("content-type").cloned();
            let mut response = Response::new(request.into_body().boxed());
            head.map(|head| response.headers_mut().insert("content-type", head));
            response
        }
        "/head" => {
            let mut lines: Vec<String> =
                request.headers().iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap_or("?"))).collect();
            lines.sort();
            text(format!("{} {} {:?}\n{}", request.method(), request.uri(), request.version(), lines.join("\n")))
        }
        "/trailers" => {
            let mut sum = 0usize;
            let body = request.body_mut();
            while let Some(Ok(frame)) = body.frame().await {
                sum += frame.data_ref().map_or(0, |data| data.iter().map(|&b| usize::from(b)).sum());
            }
            trailers(&format!("sum={sum}"))
        }
        "/big" => text(vec![b'x'; 3 << 20]),
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            text("late")
        }
        "/endless" => {
            let ticks = tokio_stream::iter(0..).then_each();
            Response::new(StreamBody::new(ticks).boxed())
        }
        "/upgrade" => {
            let protocol = request.headers().get("upgrade").cloned();
            tokio::spawn(async move {
                let Ok(upgraded) = hyper::upgrade::on(&mut request).await else {
                    return;
                };
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            let mut response = text("");
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().expect("header"));
            protocol.map(|protocol| response.headers_mut().insert("upgrade", protocol));
            response
        }
        "/hops" => {
            let mut response = text("hops");
            for (name, value) in [
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("x-end", "2"),
                ("proxy-authenticate", "x"),
            ] {
                response.headers_mut().insert(name, value.parse().expect("header"));
            }
            response
        }
        _ => {
            let mut response = text("not here");
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// A stream that ticks for ever.
trait Ticks {
    fn then_each(self) -> impl tokio_stream::Stream<Item = Result<Frame<Bytes>, hyper::Error>> + Send + Sync + 'static;
}

impl<S: tokio_stream::Stream<Item = i32> + Send + Sync + 'static> Ticks for S {
    fn then_each(self) -> impl tokio_stream::Stream<Item = Result<Frame<Bytes>, hyper::Error>> + Send + Sync + 'static {
        use tokio_stream::StreamExt;
        self.throttle(Duration::from_millis(5)).map(|_| Ok(Frame::data(Bytes::from_static(b"tick"))))
    }
}

/// As gRPC answers: a message, then its status in trailers.
fn trailers(message: &str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("header"));
    let frames = [Ok(Frame::data(Bytes::from(message.to_string()))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed());
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("header"));
    response.headers_mut().insert("trailer", "grpc-status".parse().expect("header"));
    response
}

/// One HTTP/1.1 request on a connection of its own, as text. Returns all that comes back until the other side closes.
pub(crate) async fn raw(at: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(at).await.expect("connect");
    tcp.write_all(request.as_bytes()).await.expect("write");
    let mut answer = Vec::new();
    // A reset after the answer is a way to close, too.
    let _ = within("an answer", tcp.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// `GET path` on a connection of its own: status and body.
pub(crate) async fn get(at: SocketAddr, path: &str) -> (u16, String) {
    let answer = raw(at, &format!("GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")).await;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}

/// A client that keeps its connection.
pub(crate) struct Client<B>(pub(crate) hyper::client::conn::http1::SendRequest<B>);

impl<B> Client<B>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(crate) async fn connect(at: SocketAddr) -> Self {
        let tcp = TcpStream::connect(at).await.expect("connect");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.expect("handshake");
        tokio::spawn(connection.with_upgrades());
        Client(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<B>) -> hyper::Result<Response<Incoming>> {
        within("ready", self.0.ready()).await?;
        within("a response", self.0.send_request(request)).await
    }
}

/// An HTTP/2 client without TLS.
pub(crate) async fn client2<B>(at: SocketAddr) -> hyper::client::conn::http2::SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let tcp = TcpStream::connect(at).await.expect("connect");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.expect("handshake");
    tokio::spawn(connection);
    sender
}

/// A whole body.
pub(crate) async fn collect(response: Response<Incoming>) -> (u16, Bytes, Option<HeaderMap>) {
    let status = response.status().as_u16();
    let body = within("the body", response.into_body().collect()).await.expect("body");
    let trailers = body.trailers().cloned();
    (status, body.to_bytes(), trailers)
}
