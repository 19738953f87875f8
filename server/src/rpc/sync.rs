//! `Sync`: an agent makes the catalog agree with what it has.

use api::proto::sync_server::Sync as SyncService;
use api::proto::{ItemError, PushReply, PushRequest};
use bytes::Bytes;
use catalog::{Command, Response as Answered, SyncPush};
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::admit::may_speak_for;
use super::{Rpc, caller};

#[tonic::async_trait]
impl SyncService for Rpc {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let peer = caller(&request)?;
        let push = read(request.into_inner())?;
        if !may_speak_for(&peer, &push.node.name, &self.core.config.datacenter) {
            return Err(Status::permission_denied(format!(
                "this certificate does not speak for node {:?}",
                push.node.name
            )));
        }
        let answered = self.core.proposer.propose(&Command::Sync(Box::new(push))).await;
        match answered.map_err(|error| Status::unavailable(error.text))? {
            Answered::Synced { at, errors } => {
                let errors = errors.into_iter().map(|error| ItemError { id: error.id, message: error.message });
                Ok(Response::new(PushReply { index: at, errors: errors.collect(), outdated: false }))
            }
            Answered::Outdated { last } => {
                Ok(Response::new(PushReply { index: last, errors: Vec::new(), outdated: true }))
            }
            Answered::Refused(refusal) => Err(Status::invalid_argument(refusal.to_string())),
            other @ (Answered::Done | Answered::CasFailed | Answered::LockFailed | Answered::Txn(_)) => {
                Err(Status::internal(format!("the catalog answered a push with {other:?}")))
            }
        }
    }
}

fn read(push: PushRequest) -> Result<SyncPush, Status> {
    Ok(SyncPush {
        node: noun(&push.node_mp)?,
        services: nouns(&push.services_mp)?,
        checks: nouns(&push.checks_mp)?,
        deregister_services: push.deregister_services,
        deregister_checks: push.deregister_checks,
        full: push.full,
        after: push.after,
    })
}

pub(super) fn noun<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    api::mp::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn nouns<T: DeserializeOwned>(list: &[Bytes]) -> Result<Vec<T>, Status> {
    list.iter().map(|bytes| noun(bytes)).collect()
}
