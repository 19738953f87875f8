//! gRPC for the proxies of this machine (8502): `Mesh`, handed on to a server in this node's name.
//!
//! A proxy listens where this node's session is. Without one it waits here, so that no server is asked by all proxies at once
//! when it comes back; and a stream ends with the session, for a server that is silent would leave the proxy with what held
//! before, intentions too.

use crate::error::reason;
use crate::servers::{Moves, Servers};
use api::proto::mesh_client::MeshClient;
use api::proto::mesh_server::{Mesh, MeshServer};
use api::proto::{ConfigureReply, ConfigureRequest, SignReply, SignRequest};
use api::transport::{Channel, MESSAGE_BYTES_MAX};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

/// Most time to sign a certificate, or to begin a stream, with the wait for a session. Less than proxies wait for us
/// (10 s, `CONTROL_TIMEOUT`), so that they hear why.
const CALL_TIMEOUT: Duration = Duration::from_secs(9);

/// Hands `Mesh` on. The node of a request is always this one, whatever the caller says.
pub(crate) struct MeshProxy {
    pub(crate) servers: Servers,
    pub(crate) node: String,
}

/// Serves a loopback listener until `stop` is done.
pub(crate) async fn serve(
    mesh: Routes,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .max_concurrent_streams(api::transport::STREAMS_PER_CONNECTION_MAX)
        .add_routes(mesh)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
        .await
}

impl MeshProxy {
    /// What is served.
    pub(crate) fn routes(self) -> Routes {
        Routes::new(MeshServer::new(self))
    }

    /// Asks the server that has the session, as soon as there is one; and when the session moves before it has answered, the next: a server
    /// that is silent would keep the proxy waiting with what held before. A proxy that is told `Unavailable` comes back.
    async fn ask<T, Answering>(
        &self,
        call: impl Fn(MeshClient<Channel>) -> Answering,
    ) -> Result<(Arc<String>, T), Status>
    where
        Answering: Future<Output = Result<Response<T>, Status>>,
    {
        let ask = async {
            let mut moves = self.servers.moves();
            loop {
                let current = moves.wait_for(Option::is_some).await.ok().and_then(|current| current.clone());
                let address = current.ok_or_else(|| Status::unavailable("this agent is shutting down"))?;
                let channel = self.servers.channel(&address).map_err(|e| Status::unavailable(e.to_string()))?;
                let client = MeshClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
                tokio::select! {
                    answered = call(client) => return answered.map(|reply| (address, reply.into_inner())),
                    elsewhere = moves.wait_for(|now| now.as_ref() != Some(&address)) => drop(elsewhere),
                }
            }
        };
        match timeout(CALL_TIMEOUT, ask).await {
            Ok(answered) => answered.map_err(|status| of_server(&status)),
            Err(_) => Err(Status::unavailable(format!("no server has answered within {CALL_TIMEOUT:?}"))),
        }
    }
}

#[tonic::async_trait]
impl Mesh for MeshProxy {
    type ConfigureStream = ReceiverStream<Result<ConfigureReply, Status>>;

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let request = SignRequest { node: self.node.clone(), ..request.into_inner() };
        let sign = |mut client: MeshClient<Channel>| {
            let request = request.clone();
            async move { client.sign(request).await }
        };
        let (_, reply) = self.ask(sign).await?;
        Ok(Response::new(reply))
    }

    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<Self::ConfigureStream>, Status> {
        let request = ConfigureRequest { node: self.node.clone(), ..request.into_inner() };
        let moves = self.servers.moves();
        let open = |mut client: MeshClient<Channel>| {
            let request = request.clone();
            async move { client.configure(request).await }
        };
        let (address, replies) = self.ask(open).await?;
        let (sender, stream) = mpsc::channel(1);
        tokio::spawn(hand_on(replies, sender, moves, address));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Hands a server's words on until one of the three is gone: the proxy, the server, the session with that server.
async fn hand_on(
    mut replies: Streaming<ConfigureReply>,
    proxy: mpsc::Sender<Result<ConfigureReply, Status>>,
    mut moves: Moves,
    address: Arc<String>,
) {
    let words = async {
        loop {
            let word = match replies.message().await {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => return,
                Err(status) => Err(of_server(&status)),
            };
            let is_last = word.is_err();
            if proxy.send(word).await.is_err() || is_last {
                return;
            }
        }
    };
    tokio::select! {
        () = words => return,
        () = proxy.closed() => return,
        elsewhere = moves.wait_for(|now| now.as_ref() != Some(&address)) => drop(elsewhere),
    }
    let moved = Status::unavailable(format!("this agent's session with {address} was lost"));
    // A proxy that is gone need not know.
    proxy.send(Err(moved)).await.ok();
}

/// A server's own words go on; the error of a connection becomes one that says to try again.
fn of_server(status: &Status) -> Status {
    if std::error::Error::source(status).is_some() || status.code() == Code::Unknown {
        Status::unavailable(format!("no server answers: {}", reason(status)))
    } else {
        Status::new(status.code(), status.message())
    }
}
