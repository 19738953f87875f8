//! A server that goes for good.

use std::path::Path;
use std::time::Duration;

use api::Error;
use api::transport::forward;
use axum::body::Body;

use crate::core::Core;

/// How long another server has to take over.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Has this server removed from Raft by whoever leads then. False for the last server, which cannot leave.
pub(crate) async fn leave(core: &Core) -> Result<bool, Error> {
    let status = core.raft.status();
    let is_last = status.voters.len() == 1 && status.voters.iter().any(|voter| voter.id == core.raft.id());
    if is_last {
        return Ok(false);
    }
    if core.raft.is_leader() {
        core.members.transfer_leader(None).await?;
    }
    let mut leadership = core.raft.watch();
    let other = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|leader| leader.id != core.raft.id()));
    let leader = match tokio::time::timeout(HANDOVER_TIMEOUT, other).await {
        Ok(Ok(now)) => now.leader.clone().map(|leader| leader.address).unwrap_or_default(),
        Ok(Err(_)) | Err(_) => return Err(Error::no_leader()),
    };
    remove_at(core, &leader).await?;
    Ok(true)
}

/// Forgets the cluster, so that this server can join as a new one: a Raft id is never used again.
pub(crate) fn forget(data_dir: &Path) {
    for folder in ["raft", "identity"].map(|name| data_dir.join(name)) {
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(%error, folder = %folder.display(), "this server has left: remove the folder before it joins again");
        }
    }
}

async fn remove_at(core: &Core, leader: &str) -> Result<(), Error> {
    let failed = |reason: String| Error::internal(format!("rpc error making call: {reason}"));
    let channel = core.peers.local(leader).map_err(|error| failed(error.to_string()))?;
    let target = format!("/v1/operator/raft/peer?id={}", core.raft.id());
    let request = http::Request::delete(target).body(Body::empty()).map_err(|error| failed(error.to_string()))?;
    let removed = tokio::time::timeout(HANDOVER_TIMEOUT, forward(&channel, request)).await;
    let response =
        removed.map_err(|_| failed("no answer in time".into()))?.map_err(|error| failed(error.to_string()))?;
    match response.status().is_success() {
        true => Ok(()),
        false => Err(failed(format!("the leader answered {}", response.status()))),
    }
}
