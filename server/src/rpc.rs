//! The RPC port (8300): mutual TLS, who may call what, gRPC services, and plain `/v1/…`.

pub(crate) mod admit;
pub(crate) mod dial;
mod join;
mod mesh;
mod peer;
mod session;
mod sync;
mod watch;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use api::proto;
use api::transport::net::TcpListener;
use api::transport::{Acceptor, Connection};
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use identity::Peer;
use tokio::sync::Notify;
use tonic::Status;

use crate::core::Core;
use admit::{Call, admit};

/// A message between nodes: a full report of ten thousand sessions, a large push, or the answers to a batch must fit.
pub(crate) const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What is under way on a joiner's connection of which a call was refused has so long to end.
const JOINER_GRACE: Duration = Duration::from_secs(5);
/// At a shutdown, what is under way has so long to end.
const CLOSING_GRACE: Duration = Duration::from_millis(300);

/// What the gRPC services know.
#[derive(Clone)]
pub(crate) struct Rpc {
    pub(crate) core: Arc<Core>,
    pub(crate) http: Router,
}

/// Who calls. In the extensions of each request.
#[derive(Clone)]
struct Caller(Arc<Peer>);

/// The peer of a request that was admitted.
fn caller<T>(request: &tonic::Request<T>) -> Result<Arc<Peer>, Status> {
    let caller = request.extensions().get::<Caller>();
    caller.map(|caller| caller.0.clone()).ok_or_else(|| Status::unauthenticated("no certificate"))
}

/// Serves the port until this server closes.
pub(crate) async fn serve(
    core: Arc<Core>,
    http: Router,
    raft: raft::RaftServer<raft::Service>,
    listener: TcpListener,
) -> io::Result<()> {
    let tls = core.trust.rpc.server_config(dial::ALPN).map_err(io::Error::other)?;
    let mut acceptor = Acceptor::new(listener, Arc::new(tls), core.config.rpc_limits)?;
    let router = routes(Rpc { core: core.clone(), http }, raft);
    loop {
        let connection = tokio::select! {
            connection = acceptor.accept() => connection,
            () = core.closing.cancelled() => return Ok(()),
        };
        let Some(connection) = connection else { return Err(io::Error::other("the RPC listener has died")) };
        core.tasks.spawn(serve_connection(core.clone(), router.clone(), connection));
    }
}

fn routes(rpc: Rpc, raft: raft::RaftServer<raft::Service>) -> Router {
    macro_rules! limited {
        ($server:ty) => {
            <$server>::new(rpc.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    Router::new()
        .route_service("/tribune.raft.v1.Raft/{method}", raft)
        .route_service("/tribune.v1.Join/{method}", limited!(proto::join_server::JoinServer<Rpc>))
        .route_service("/tribune.v1.Session/{method}", limited!(proto::session_server::SessionServer<Rpc>))
        .route_service("/tribune.v1.Sync/{method}", limited!(proto::sync_server::SyncServer<Rpc>))
        .route_service("/tribune.v1.Watch/{method}", limited!(proto::watch_server::WatchServer<Rpc>))
        .route_service("/tribune.v1.Mesh/{method}", limited!(proto::mesh_server::MeshServer<Rpc>))
        .route_service("/tribune.v1.Peer/{method}", limited!(proto::peer_server::PeerServer<Rpc>))
        .fallback_service(rpc.http)
}

async fn serve_connection(core: Arc<Core>, router: Router, connection: Connection) {
    let certificates = connection.peer().certificates.clone();
    let Ok(peer) = identity::peer_of_chain(&certificates) else { return };
    let (peer, refused) = (Arc::new(peer), Arc::new(Notify::new()));
    let service = Admitted { core: core.clone(), router, peer: peer.clone(), refused: refused.clone() };
    let is_joiner = matches!(*peer, Peer::Joiner { .. });
    let ending = async {
        tokio::select! {
            () = no_longer_trusted(&core, &certificates), if !is_joiner => {
                tracing::warn!(?peer, "a connection was cut: its certificate is no longer trusted");
                Duration::ZERO
            }
            // It was let in with the secret while this server was becoming a member: it comes back as a member (`dial`).
            () = refused.notified(), if is_joiner => JOINER_GRACE,
            () = core.closing.cancelled() => CLOSING_GRACE,
        }
    };
    if let Err(error) = api::transport::serve(connection, service, ending).await {
        tracing::debug!(%error, "RPC connection ended");
    }
}

/// Ends when the peer's certificate is revoked, or its root dropped.
async fn no_longer_trusted(core: &Core, chain: &[rustls_pki_types::CertificateDer<'static>]) {
    let verified_at = SystemTime::now();
    let mut bundle = core.trust.bundle();
    bundle.mark_unchanged();
    while bundle.changed().await.is_ok() {
        if core.trust.identity().recheck_chain(chain, true, verified_at).is_err() {
            return;
        }
    }
}

/// Lets through what the peer may call.
#[derive(Clone)]
struct Admitted {
    core: Arc<Core>,
    router: Router,
    peer: Arc<Peer>,
    /// Told of each call that is refused.
    refused: Arc<Notify>,
}

impl tower::Service<http::Request<Incoming>> for Admitted {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let refusal = match Call::parse(path) {
            None => Some(not_served(path)),
            Some(call) if admit(&self.peer, call, &self.core.config.datacenter, self.core.trust.is_member()) => None,
            Some(call) => Some(not_admitted(call, &self.peer)),
        };
        if let Some(refusal) = refusal {
            self.refused.notify_one();
            return Box::pin(std::future::ready(Ok(refusal)));
        }
        request.extensions_mut().insert(Caller(self.peer.clone()));
        let mut router = self.router.clone();
        Box::pin(async move { router.call(request).await })
    }
}

fn not_served(path: &str) -> Response {
    if path.starts_with("/v1/") {
        return api::Error::unknown_path(path).into_response();
    }
    Status::unimplemented(format!("{path} is not served here")).into_http::<Body>()
}

fn not_admitted(call: Call, peer: &Peer) -> Response {
    tracing::debug!(?call, ?peer, "a call was refused");
    let text = "Permission denied: this certificate may not make this call";
    if call == Call::Http {
        return api::Error::forbidden(text).into_response();
    }
    Status::permission_denied(text).into_http::<Body>()
}
