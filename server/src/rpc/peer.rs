//! `Peer`: from server to server.

use std::time::SystemTime;

use api::proto::peer_server::Peer as PeerService;
use api::proto::{
    FederateReply, FederateRequest, ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest, SignReply,
    SignRequest,
};
use catalog::query::ca;
use identity::Peer;
use tonic::{Request, Response, Status};

use super::{Rpc, caller};

#[tonic::async_trait]
impl PeerService for Rpc {
    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        let commands = request.into_inner().commands;
        Ok(Response::new(self.core.proposer.propose_for_peer(commands).await))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        let reply = self.core.reads.index_for_peer(request.into_inner().confirm).await;
        reply.map(Response::new).ok_or_else(|| Status::failed_precondition("not the leader"))
    }

    async fn federate(&self, request: Request<FederateRequest>) -> Result<Response<FederateReply>, Status> {
        let peer = caller(&request)?;
        let Peer::Server { dc, .. } = &*peer else { return Err(Status::permission_denied("only servers federate")) };
        crate::leader::federation::answer(&self.core, dc, &request.into_inner().datacenter_mp).await.map(Response::new)
    }

    async fn sign_intermediate(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let peer = caller(&request)?;
        let Peer::Server { dc, .. } = &*peer else { return Err(Status::permission_denied("only a server may ask")) };
        if !self.core.config.is_primary() {
            return Err(Status::failed_precondition(format!(
                "the primary datacenter is {:?}",
                self.core.config.primary()
            )));
        }
        let state = self.core.watch.read(|view| ca::ca(view).map(|row| row.value.clone())).0;
        let state =
            state.ok_or_else(|| Status::unavailable("this cluster has no certificate authority yet: try again"))?;
        let authority = crate::ca::load(&state).map_err(|error| Status::internal(error.to_string()))?;
        let signed = authority.sign_intermediate(&request.into_inner().csr_pem, dc, SystemTime::now());
        let chain_pem = signed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(datacenter = dc, "the intermediate CA of another datacenter was signed");
        Ok(Response::new(SignReply { chain_pem, bundle: Some(self.core.trust.bundle().borrow().clone()) }))
    }
}
