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
        let errors = match answered.map_err(|error| Status::unavailable(error.text))? {
            Answered::Synced(errors) => {
                errors.into_iter().map(|error| ItemError { id: error.id, message: error.message }).collect()
            }
            Answered::Refused(refusal) => return Err(Status::invalid_argument(refusal.to_string())),
            Answered::Done | Answered::CasFailed | Answered::LockFailed | Answered::Txn(_) => Vec::new(),
        };
        Ok(Response::new(PushReply { index: self.core.watch.current().index(), errors }))
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
    })
}

pub(super) fn noun<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    api::mp::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn nouns<T: DeserializeOwned>(list: &[Bytes]) -> Result<Vec<T>, Status> {
    list.iter().map(|bytes| noun(bytes)).collect()
}
