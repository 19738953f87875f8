//! Tests of the transport over real sockets.

use super::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpListener;

/// A CA and what both sides make of it.
struct Pki {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn pki() -> Pki {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).expect("a CA");
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let leaf = || {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["server.test".to_string()]).expect("parameters");
        let cert = params.signed_by(&key, &issuer).expect("a leaf");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (vec![cert.der().clone()], key)
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca_cert.der().clone()).expect("a root");
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().expect("a verifier");
    let (chain, key) = leaf();
    let server =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut server =
        server.expect("TLS 1.3").with_client_cert_verifier(verifier).with_single_cert(chain, key).expect("a server");
    server.alpn_protocols = vec![b"h2".to_vec()];
    let (chain, key) = leaf();
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut client =
        client.expect("TLS 1.3").with_root_certificates(roots).with_client_auth_cert(chain, key).expect("a client");
    client.alpn_protocols = vec![b"h2".to_vec()];
    Pki { server: Arc::new(server), client: Arc::new(client) }
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

/// Says back what it was asked; `/trailers` ends with trailers, `/slow` streams two parts.
async fn echo(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let peer = head.extensions.get::<PeerInfo>().expect("the peer").clone();
    if head.uri.path() == "/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        let frames = vec![Ok(Frame::data(Bytes::from("x"))), Ok(Frame::trailers(trailers))];
        return Ok(Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()));
    }
    let body = body.collect().await?.to_bytes();
    let text = format!(
        "{} {} certs={} host={:?} x={:?} body={}",
        head.method,
        head.uri.path_and_query().map_or("", |p| p.as_str()),
        peer.certificates.len(),
        head.headers.get("host"),
        head.headers.get("x-consul-token"),
        String::from_utf8_lossy(&body)
    );
    Ok(Response::new(Full::new(Bytes::from(text)).boxed_unsync()))
}

#[derive(Clone)]
struct Echo;

impl tonic::codegen::Service<Request<Incoming>> for Echo {
    type Response = Answer;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        Box::pin(echo(request))
    }
}

/// Takes a port, perhaps one whose last listener is just going.
async fn bind(at: &str) -> TcpListener {
    for _ in 0..500 {
        if let Ok(listener) = TcpListener::bind(at).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{at} was never free");
}

async fn listen(at: &str, pki: &Pki, limits: AcceptLimits) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    listen_for(at, pki, limits, Duration::MAX).await
}

/// Each connection is told to end after `life`.
async fn listen_for(
    at: &str,
    pki: &Pki,
    limits: AcceptLimits,
    life: Duration,
) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = bind(at).await;
    let mut acceptor = Acceptor::new(listener, pki.server.clone(), limits).expect("accepts");
    let address = acceptor.local_addr();
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Some(connection) = acceptor.accept().await {
            let ending = async move {
                tokio::time::sleep(life).await;
                Duration::from_secs(20)
            };
            connections.spawn(serve(connection, Echo, ending));
        }
    });
    (address, serving)
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).body(Full::default()).expect("a request")
}

async fn text(answer: Result<Response<Body>, ForwardError>) -> String {
    let body = answer.expect("an answer").into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

#[tokio::test]
async fn requests_go_on_as_they_came() {
    let pki = pki();
    let (address, _serving) = listen("127.0.0.1:0", &pki, AcceptLimits::default()).await;
    let channel = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    let request = Request::builder()
        .method("PUT")
        .uri("http://elsewhere/v1/kv/a%20b?cas=1")
        .header("host", "elsewhere")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .header("x-consul-token", "t")
        .body(Full::new(Bytes::from("hello")))
        .expect("a request");
    let answer = text(forward(&channel, request).await).await;
    assert_eq!(answer, "PUT /v1/kv/a%20b?cas=1 certs=1 host=None x=Some(\"t\") body=hello");
}

#[tokio::test]
async fn trailers_pass() {
    let pki = pki();
    let (address, _serving) = listen("127.0.0.1:0", &pki, AcceptLimits::default()).await;
    let channel = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    let body =
        forward(&channel, get("/trailers")).await.expect("an answer").into_body().collect().await.expect("a body");
    assert_eq!(body.trailers().expect("trailers")["grpc-status"], "5");
}

#[tokio::test]
async fn a_channel_comes_back_after_its_server() {
    let pki = pki();
    let (address, serving) = listen("127.0.0.1:0", &pki, AcceptLimits::default()).await;
    let channel = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    text(forward(&channel, get("/a")).await).await;
    serving.abort();
    drop(serving.await);
    let refused = |e: &ForwardError| matches!(e, ForwardError::Unsent(why) if why.contains("cannot connect to"));
    let mut attempts = 0;
    while !forward(&channel, get("/b")).await.is_err_and(|e| refused(&e)) {
        attempts += 1;
        assert!(attempts < 100, "the loss was never noticed");
    }
    let (_, _serving) = listen(&address.to_string(), &pki, AcceptLimits::default()).await;
    assert!(text(forward(&channel, get("/c")).await).await.starts_with("GET /c"));
}

/// The client of a connection that ends knows of each request whether it was sent: none is lost on the way.
#[tokio::test]
async fn requests_on_a_connection_that_ends_are_answered_or_surely_not_sent() {
    let pki = pki();
    let life = Duration::from_millis(5);
    let (address, _serving) = listen_for("127.0.0.1:0", &pki, AcceptLimits::default(), life).await;
    let channel = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    let body = "x".repeat(100_000);
    let (mut answered, begun) = (0, std::time::Instant::now());
    while answered < 200 {
        let put = || Request::builder().method("PUT").uri("/a").body(Full::new(Bytes::from(body.clone())));
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (channel, request) = (channel.clone(), put().expect("a request"));
            requests.spawn(async move { forward(&channel, request).await });
        }
        while let Some(answer) = requests.join_next().await {
            match answer.expect("no panic") {
                Ok(answer) => {
                    assert!(text(Ok(answer)).await.ends_with(&body));
                    answered += 1;
                }
                Err(ForwardError::Unsent(_)) => {}
                Err(error @ ForwardError::Broken(_)) => panic!("{error} after {answered} answers"),
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "only {answered} answers");
    }
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let (pki, other) = (pki(), pki());
    let (address, _serving) = listen("127.0.0.1:0", &pki, AcceptLimits::default()).await;
    let stranger = connect(&address.to_string(), other.client.clone(), "server.test").expect("an address");
    let error = forward(&stranger, get("/")).await.expect_err("refused");
    assert!(matches!(&error, ForwardError::Unsent(reason) if reason.contains("TLS handshake with")), "{error:?}");
    let wrong_name = connect(&address.to_string(), pki.client.clone(), "other.test").expect("an address");
    assert!(matches!(forward(&wrong_name, get("/")).await, Err(ForwardError::Unsent(_))));
}

#[tokio::test]
async fn one_client_takes_only_its_share() {
    let pki = pki();
    let limits = AcceptLimits { connections_per_client_max: 1, ..AcceptLimits::default() };
    let (address, _serving) = listen("127.0.0.1:0", &pki, limits).await;
    let first = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    text(forward(&first, get("/")).await).await;
    let second = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    assert!(forward(&second, get("/")).await.is_err());
    drop(first);
    for _ in 0..500 {
        if forward(&second, get("/")).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place of the first was never free");
}

#[tokio::test]
async fn a_client_that_says_nothing_delays_nobody() {
    let pki = pki();
    let (address, _serving) = listen("127.0.0.1:0", &pki, AcceptLimits::default()).await;
    let _silent = tokio::net::TcpStream::connect(address).await.expect("connects");
    let channel = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    text(forward(&channel, get("/")).await).await;
}

#[tokio::test]
async fn a_pool_shares_and_forgets() {
    let pki = pki();
    let (address, _serving) =
        listen("127.0.0.1:0", &pki, AcceptLimits { connections_per_client_max: 1, ..AcceptLimits::default() }).await;
    let pool = Pool::new(pki.client.clone(), "server.test");
    for _ in 0..3 {
        text(forward(&pool.channel(&address.to_string()).expect("an address"), get("/")).await).await;
    }
    pool.retain(|kept| kept != address.to_string());
    pool.forget("never seen:1");
    assert!(pool.channel("no port").is_err());
    assert!(connect_plain("127.0.0.1").expect_err("no port").to_string().contains("write host:port"));
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let pki = pki();
    let (address, _serving) =
        listen("127.0.0.1:0", &pki, AcceptLimits { connections_per_client_max: 1, ..AcceptLimits::default() }).await;
    let channel = connect(&address.to_string(), pki.client.clone(), "server.test").expect("an address");
    let mut asking = tokio::task::JoinSet::new();
    for i in 0..300 {
        let channel = channel.clone();
        asking.spawn(async move { text(forward(&channel, get(&format!("/{i}"))).await).await });
    }
    assert_eq!(asking.join_all().await.len(), 300);
}
