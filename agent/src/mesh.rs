//! gRPC for the proxies of this machine (8502): `Mesh`, handed on to a server in this node's name.

use crate::error::reason;
use crate::servers::Servers;
use api::proto::mesh_client::MeshClient;
use api::proto::mesh_server::{Mesh, MeshServer};
use api::proto::{ConfigureReply, ConfigureRequest, SignReply, SignRequest};
use api::transport::{Channel, MESSAGE_BYTES_MAX};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Most time to sign a certificate, or to begin a stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Hands `Mesh` on. The node of a request is always this one, whatever the caller says.
pub(crate) struct MeshProxy {
    pub(crate) servers: Servers,
    pub(crate) node: String,
}

impl MeshProxy {
    /// Serves a loopback listener until `stop` is done.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .max_concurrent_streams(api::transport::STREAMS_PER_CONNECTION_MAX)
            .add_service(MeshServer::new(self))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
            .await
    }

    /// The server that is asked. A proxy that is told `Unavailable` comes back.
    fn client(&self) -> Result<MeshClient<Channel>, Status> {
        let (_, channel) = self.servers.first().map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(MeshClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }
}

#[tonic::async_trait]
impl Mesh for MeshProxy {
    type ConfigureStream = Streaming<ConfigureReply>;

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let request = SignRequest { node: self.node.clone(), ..request.into_inner() };
        answer(self.client()?.sign(request)).await
    }

    async fn configure(&self, request: Request<ConfigureRequest>) -> Result<Response<Self::ConfigureStream>, Status> {
        let request = ConfigureRequest { node: self.node.clone(), ..request.into_inner() };
        answer(self.client()?.configure(request)).await
    }
}

/// The answer of a server. Its own words go on; the error of a connection becomes one that says to try again.
async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<Response<T>, Status> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(Response::new(reply.into_inner())),
        Ok(Err(status)) if std::error::Error::source(&status).is_some() || status.code() == Code::Unknown => {
            Err(Status::unavailable(format!("no server answers: {}", reason(&status))))
        }
        Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
        Err(_) => Err(Status::unavailable(format!("no server has answered within {CALL_TIMEOUT:?}"))),
    }
}
