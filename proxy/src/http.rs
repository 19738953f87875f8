//! One HTTP request through the proxy: [`handle`]. The outbound and the inbound side differ only in what their [`Client`] says.

use crate::body::{Body, Exchange, Lease};
use crate::headers::{self, Refusal};
use crate::limits::{
    ATTEMPTS_MAX, HTTP1_BUFFER_BYTES_MAX, HTTP1_HEAD_BYTES_MAX, HTTP1_HEADERS_MAX, HTTP2_CONNECTION_WINDOW_BYTES,
    HTTP2_HEADER_LIST_BYTES_MAX, HTTP2_SEND_BUFFER_BYTES_MAX, HTTP2_STREAM_WINDOW_BYTES, HTTP2_STREAMS_MAX,
};
use crate::link::{Link, SendError};
use crate::live::{Connection, Live};
use crate::metrics::{Event, Traffic};
use crate::pipe::pipe;
use crate::upstream::{ConnectError, Endpoint, Plan, Speak, Upstream, now_us};
use http::header::HeaderValue;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config_entry::Protocol;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// The connection that requests come from, and where they go.
pub(crate) struct Client {
    pub(crate) upstream: Arc<Upstream>,
    /// The connections of this listener; tunnels become some too.
    pub(crate) live: Arc<Live>,
    pub(crate) connection: Arc<Connection>,
    /// Inbound: what the application is told about the caller.
    pub(crate) caller: Option<HeaderValue>,
}

/// Passes one request on and its response back.
pub(crate) async fn handle(client: Arc<Client>, mut request: Request<Incoming>) -> Response<Body> {
    let _busy = client.connection.busy();
    let version = request.version();
    client.upstream.counters.count(Event::Request);
    if !client.connection.is_allowed() {
        client.upstream.counters.count(Event::Denied);
        return answer(StatusCode::FORBIDDEN, "denied by an intention\n");
    }

    let protocol = match headers::clean_request(&mut request) {
        Ok(protocol) => protocol,
        Err(refusal) => return refuse(&client, &refusal),
    };
    if let Some(caller) = &client.caller {
        request.headers_mut().insert(headers::CLIENT_CERT, caller.clone());
    }
    let plan = client.upstream.plan();
    let speak = speak(plan.protocol, version);
    let upgrade = match protocol.filter(|_| speak == Speak::Http1) {
        Some(protocol) => {
            headers::ask_upgrade(request.headers_mut(), protocol);
            Some(hyper::upgrade::on(&mut request))
        }
        None => None,
    };
    match speak {
        Speak::Http2 => headers::for_http2(&mut request),
        Speak::Http1 | Speak::Bytes => headers::for_http1(&mut request),
    }

    let sending = send(&client, &plan, speak, request);
    let result = match plan.answer_timeout {
        None => sending.await,
        Some(limit) => tokio::time::timeout(limit, sending).await.unwrap_or(Err(Failure::Timeout)),
    };
    let (mut response, exchange, lease) = match result {
        Ok(answered) => answered,
        Err(failure) => return fail(&client, &plan, &failure),
    };

    headers::clean_response(&mut response, version);
    match upgrade {
        Some(upgrade) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            tunnel(&client, upgrade, response, exchange, lease)
        }
        Some(_) | None => response.map(|body| Body::passed(body, exchange, lease)),
    }
}

type Answered = (Response<Incoming>, Exchange, Option<Lease>);

/// Why there is no response from the next hop.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no endpoint is known")]
    NoEndpoint,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection broke before the answer came: {0}")]
    Broken(hyper::Error),
    #[error("no answer in time")]
    Timeout,
}

/// Sends a request to an endpoint; and, if nothing of it has gone out, to another, while the retry budget lasts.
async fn send(client: &Client, plan: &Plan, speak: Speak, mut request: Request<Incoming>) -> Result<Answered, Failure> {
    client.upstream.budget.earn();
    let mut attempts = ATTEMPTS_MAX.min(plan.endpoints.len());
    loop {
        let endpoint = plan.pick().ok_or(Failure::NoEndpoint)?;
        let unsent = match speak {
            Speak::Http2 => send2(client, plan, endpoint, request).await,
            Speak::Http1 | Speak::Bytes => send1(client, plan, endpoint, request).await,
        };
        let (error, back) = match unsent {
            Ok(answered) => return Ok(answered),
            Err(Unsent { failure, request: None }) => return Err(failure),
            Err(Unsent { failure, request: Some(back) }) => (failure, back),
        };
        attempts = attempts.saturating_sub(1);
        if attempts == 0 || !client.upstream.budget.spend() {
            return Err(error);
        }
        client.upstream.counters.count(Event::Retry);
        request = *back;
    }
}

/// No response; the request comes back if nothing of it has gone out.
struct Unsent {
    failure: Failure,
    request: Option<Box<Request<Incoming>>>,
}

impl Unsent {
    fn gone(error: hyper::Error) -> Self {
        Unsent { failure: Failure::Broken(error), request: None }
    }

    fn back(error: ConnectError, request: Box<Request<Incoming>>) -> Self {
        Unsent { failure: error.into(), request: Some(request) }
    }
}

/// On a connection that nobody else uses: one that rests, as long as there is one that still lives, else a new one.
async fn send1(
    client: &Client,
    plan: &Plan,
    endpoint: &Arc<Endpoint>,
    mut request: Request<Incoming>,
) -> Result<Answered, Unsent> {
    let exchange = Exchange::begin(endpoint);
    loop {
        let (mut link, is_new) = match client.connection.kept.take(endpoint) {
            Some(link) => (link, false),
            // Boxed, because it is rare and would double the memory of every connection.
            None => match Box::pin(open(client, plan, endpoint)).await {
                Ok(link) => (link, true),
                Err(error) => return Err(Unsent::back(error, Box::new(request))),
            },
        };
        let begun_us = now_us();
        match link.send(request).await {
            Ok(response) => {
                endpoint.load.answered(now_us(), now_us() - begun_us);
                let lease = Lease { link, client: client.connection.clone(), endpoint: endpoint.clone() };
                return Ok((response, exchange, Some(lease)));
            }
            Err(SendError::NotSent(back)) if is_new => {
                let closed = std::io::ErrorKind::ConnectionReset.into();
                return Err(Unsent::back(ConnectError::Io(endpoint.address.clone(), closed), back));
            }
            Err(SendError::NotSent(back)) => request = *back,
            Err(SendError::Broken(error)) => return Err(Unsent::gone(error)),
        }
    }
}

async fn open(client: &Client, plan: &Plan, endpoint: &Endpoint) -> Result<Box<Link>, ConnectError> {
    let stream = plan.connect(endpoint, Speak::Http1, &client.upstream.counters).await?;
    Link::open(stream).await.map_err(|e| ConnectError::Http(endpoint.address.clone(), e))
}

/// On the connection that all share.
async fn send2(
    client: &Client,
    plan: &Plan,
    endpoint: &Arc<Endpoint>,
    request: Request<Incoming>,
) -> Result<Answered, Unsent> {
    let exchange = Exchange::begin(endpoint);
    let mut sender = match Box::pin(plan.shared(endpoint, &client.upstream.counters)).await {
        Ok(sender) => sender,
        Err(error) => return Err(Unsent::back(error, Box::new(request))),
    };
    let begun_us = now_us();
    match sender.try_send_request(request).await {
        Ok(response) => {
            endpoint.load.answered(now_us(), now_us() - begun_us);
            Ok((response, exchange, None))
        }
        Err(mut error) => match error.take_message() {
            Some(back) => {
                Err(Unsent::back(ConnectError::Http(endpoint.address.clone(), error.into_error()), Box::new(back)))
            }
            None => Err(Unsent::gone(error.into_error())),
        },
    }
}

/// The version to the next hop: what the service speaks, else what the client speaks.
fn speak(protocol: Protocol, version: Version) -> Speak {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Speak::Http2,
        Protocol::Http | Protocol::Tcp | Protocol::Unset if version == Version::HTTP_2 => Speak::Http2,
        Protocol::Http | Protocol::Tcp | Protocol::Unset => Speak::Http1,
    }
}

/// Both sides have agreed to speak something else: from now on only bytes.
fn tunnel(
    client: &Client,
    near: OnUpgrade,
    mut response: Response<Incoming>,
    exchange: Exchange,
    lease: Option<Lease>,
) -> Response<Body> {
    let far = hyper::upgrade::on(&mut response);
    client.live.spawn_beside(&client.connection, move |connection| async move {
        let (_busy, _exchange) = (connection.busy(), exchange);
        let finishing = async {
            if let Some(lease) = lease {
                lease.link.finish().await;
            }
        };
        if let (Ok(near), Ok(far), ()) = tokio::join!(near, far, finishing) {
            pass_bytes(near, far).await;
        }
    });
    response.map(|_| Body::Text(None))
}

async fn pass_bytes(near: Upgraded, far: Upgraded) {
    // Whoever breaks off ends it for both; there is nobody to tell.
    let _ = pipe(&mut TokioIo::new(near), &mut TokioIo::new(far), &Traffic::default()).await;
}

fn refuse(client: &Client, refusal: &Refusal) -> Response<Body> {
    client.upstream.counters.count(Event::RequestFailed);
    let mut response = answer(refusal.status, refusal.text);
    // What follows a request that is in doubt is in doubt too.
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(http::header::CONNECTION, close);
    response
}

fn fail(client: &Client, plan: &Plan, failure: &Failure) -> Response<Body> {
    client.upstream.counters.count(Event::RequestFailed);
    tracing::debug!(upstream = %plan.name, %failure, "a request was not answered");
    match failure {
        Failure::NoEndpoint => answer(StatusCode::SERVICE_UNAVAILABLE, "no healthy instance of the service is known\n"),
        Failure::Connect(_) => answer(StatusCode::SERVICE_UNAVAILABLE, "the service cannot be reached\n"),
        Failure::Broken(error) if error.is_user() => refuse(client, &headers::bad("the body is malformed")),
        Failure::Broken(_) => answer(StatusCode::BAD_GATEWAY, "the service broke the connection\n"),
        Failure::Timeout => answer(StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time\n"),
    }
}

fn answer(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Text(Some(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Takes requests from a connection until it ends; once `drain` is cancelled, until those in hand are answered.
pub(crate) async fn serve<S>(stream: S, is_http2: bool, client: Client, drain: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Arc::new(client);
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { Ok::<_, Infallible>(handle(client, request).await) }
    });
    let stream = TokioIo::new(stream);
    // How a client's connection ends is the client's matter: errors are not ours to report.
    if is_http2 {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.max_concurrent_streams(HTTP2_STREAMS_MAX)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HTTP2_HEADER_LIST_BYTES_MAX)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES_MAX)
            .auto_date_header(false);
        let mut connection = pin!(http.serve_connection(stream, service));
        tokio::select! {
            _ = &mut connection => return,
            () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let mut http = http1::Builder::new();
        http.max_buf_size(HTTP1_BUFFER_BYTES_MAX)
            .max_header_size(HTTP1_HEAD_BYTES_MAX)
            .max_headers(HTTP1_HEADERS_MAX)
            .auto_date_header(false);
        let mut connection = pin!(http.serve_connection(stream, service).with_upgrades());
        tokio::select! {
            _ = &mut connection => return,
            () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of two arguments returns.
    fn size_of_result<A, B, R>(_: impl Fn(A, B) -> R) -> usize {
        size_of::<R>()
    }

    /// hyper keeps the memory of one for each connection, also while it rests.
    #[test]
    fn a_request_in_hand_is_small() {
        let bytes = size_of_result(handle);
        assert!(bytes <= 2_560, "{bytes} bytes");
    }

    #[test]
    fn the_version_to_the_next_hop() {
        use Protocol::{Grpc, Http, Http2, Tcp};
        let cases = [
            (Http, Version::HTTP_11, Speak::Http1),
            (Http, Version::HTTP_10, Speak::Http1),
            (Http, Version::HTTP_2, Speak::Http2),
            (Http2, Version::HTTP_11, Speak::Http2),
            (Grpc, Version::HTTP_2, Speak::Http2),
            (Tcp, Version::HTTP_11, Speak::Http1),
        ];
        for (protocol, version, expected) in cases {
            assert_eq!(speak(protocol, version), expected, "{protocol:?} {version:?}");
        }
    }
}
