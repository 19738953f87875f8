//! `Join`: the only service for callers that know no more than the join secret.

use std::time::Instant;

use api::proto::join_server::Join;
use api::proto::{EnrollReply, EnrollRequest, HelloReply, HelloRequest, ServerInfo};
use catalog::query::ca;
use identity::{LeafName, Peer, Role};
use tonic::{Request, Response, Status};

use super::{Rpc, caller};
use crate::core::Core;

#[tonic::async_trait]
impl Join for Rpc {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(hello(&self.core, request.into_inner().from).await))
    }

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollReply>, Status> {
        let peer = caller(&request)?;
        enroll(&self.core, &peer, request.into_inner()).await.map(Response::new)
    }
}

async fn hello(core: &Core, from: Option<ServerInfo>) -> HelloReply {
    let me = core.info().await;
    let mut known = Vec::new();
    if me.initialized {
        known = core.members.servers().servers;
    } else if let Ok(mut acquaintances) = core.acquaintances.lock() {
        if let Some(server) = from.filter(|server| server.datacenter == me.datacenter && server.id != 0) {
            acquaintances.meet(server, Instant::now());
        }
        known = acquaintances.known(Instant::now());
        known.retain(|server| server.id != me.id);
        known.push(me.clone());
    }
    HelloReply {
        me: Some(me),
        known,
        leader_address: core.raft.leader().map(|leader| leader.address).unwrap_or_default(),
        primary_datacenter: core.config.primary().into(),
        trust_domain: core.trust.bundle().borrow().trust_domain.clone(),
    }
}

async fn enroll(core: &Core, peer: &Peer, request: EnrollRequest) -> Result<EnrollReply, Status> {
    let state = core.watch.read(|view| ca::ca(view).map(|row| row.value.clone())).0;
    let state = state.ok_or_else(|| Status::unavailable("this cluster has no certificate authority yet: try again"))?;
    let name = leaf_name(peer, &request.node, &state.trust_domain, core)?;
    if let Some(server) = request.server.filter(|server| server.datacenter == core.config.datacenter) {
        add_server(core, peer, server).await?;
    }
    let signed = crate::ca::sign(&state, &request.csr_pem, &name)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    tracing::info!(node = request.node, "a node has enrolled: {name}");
    Ok(EnrollReply {
        chain_pem: signed.cert_chain_pem,
        bundle: Some(core.trust.bundle().borrow().clone()),
        servers: core.members.servers().servers,
    })
}

/// What a caller may be: what it has proven to be, or, by the secret, what it says that it is.
fn leaf_name(peer: &Peer, node: &str, trust_domain: &str, core: &Core) -> Result<LeafName, Status> {
    let (dc, proven, is_server) = match peer {
        Peer::Joiner { role: Role::Server, dc, node } | Peer::Server { dc, node } => (dc, node, true),
        Peer::Joiner { role: Role::Client, dc, node } | Peer::Agent { dc, node } => (dc, node, false),
        Peer::Joiner { role: Role::Gateway, .. } | Peer::Service { .. } | Peer::Gateway { .. } => {
            return Err(Status::permission_denied(
                "gateways and services have their certificates signed by their agent",
            ));
        }
    };
    if !proven.eq_ignore_ascii_case(node) {
        return Err(Status::permission_denied(format!("{proven} asks for the certificate of {node}")));
    }
    // A server of another datacenter gets one, so that it can ask for the intermediate of its datacenter.
    if *dc != core.config.datacenter && !(is_server && core.config.is_primary()) {
        let text =
            format!("this is datacenter {:?}, not {dc:?}: check `datacenter` and `retry_join`", core.config.datacenter);
        return Err(Status::failed_precondition(text));
    }
    let name =
        if is_server { LeafName::server(trust_domain, dc, node) } else { LeafName::agent(trust_domain, dc, node) };
    name.map_err(|error| Status::invalid_argument(error.to_string()))
}

async fn add_server(core: &Core, peer: &Peer, server: ServerInfo) -> Result<(), Status> {
    if !matches!(peer, Peer::Joiner { role: Role::Server, .. } | Peer::Server { .. }) {
        return Err(Status::permission_denied("only a server can join the servers"));
    }
    let member = raft::Member { id: server.id, name: server.name, address: server.rpc_address };
    core.members.add(member).await.map_err(|error| Status::failed_precondition(error.to_string()))
}
