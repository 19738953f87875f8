//! `/v1/operator/*`.

use api::Error;
use api::reply::{RaftConfiguration, RaftServer};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use raft::{Member, Status};
use serde_json::json as value;
use tokio::sync::Semaphore;

use super::read::{Read, plain_json};
use super::write::Write;
use super::{Refusal, Reply, Shared};

pub(super) async fn configuration(State(core): State<Shared>, read: Read) -> Response {
    plain_json(&describe(&core.raft.status()), read.options.pretty)
}

fn describe(status: &Status) -> RaftConfiguration {
    let server = |member: &Member, voter: bool| RaftServer {
        id: member.id.to_string(),
        node: member.name.clone(),
        address: member.address.clone(),
        leader: status.leader.as_ref().is_some_and(|leader| leader.id == member.id),
        protocol_version: "3".into(),
        voter,
        last_index: last_index(status, member.id),
    };
    let voters = status.voters.iter().map(|member| server(member, true));
    let learners = status.learners.iter().map(|member| server(member, false));
    RaftConfiguration { servers: voters.chain(learners).collect(), index: status.applied }
}

/// Known for all members on the leader, elsewhere for this server only.
fn last_index(status: &Status, id: u64) -> u64 {
    let matched = status.matched.iter().find(|(member, _)| *member == id).map(|(_, index)| *index);
    matched.unwrap_or(if status.id == id { status.last_log } else { 0 })
}

/// What this server has applied, as a number that servers share if (but for luck) their catalogs are equal at the same index.
/// Every server answers for itself.
pub(super) async fn state_hash(State(core): State<Shared>, read: Read) -> Reply {
    // One at a time: it walks the whole catalog.
    let _turn = HASHING.acquire().await.map_err(|_| Error::internal("this server is shutting down"))?;
    let catalog = core.watch.current();
    let hashed = blocking(move || (catalog.index(), catalog.state_hash())).await;
    let (index, hash) = hashed.ok_or_else(|| Error::internal("this server is shutting down"))?;
    Ok(plain_json(&value!({ "Index": index, "Hash": format!("{hash:016x}") }), read.options.pretty))
}

static HASHING: Semaphore = Semaphore::const_new(1);

/// Does this on a thread that may be held up. None if the runtime ends before.
#[cfg(not(feature = "sim"))]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// In a simulation at once: threads take their turns differently each time.
#[cfg(feature = "sim")]
async fn blocking<T>(work: impl FnOnce() -> T) -> Option<T> {
    Some(work())
}

/// Hands the leadership to `?id=`, or to the server that is furthest.
pub(super) async fn transfer_leader(State(core): State<Shared>, write: Write) -> Reply {
    let to = match write.query.non_empty("id") {
        Some(text) => Some(text.parse().map_err(|_| Error::bad_request("id must be the Raft id of a server"))?),
        None => None,
    };
    core.members.transfer_leader(to).await?;
    Ok(plain_json(&value!({ "Success": true }), write.pretty()))
}

/// Removes a server that will not come back, by `?id=` or `?address=`.
pub(super) async fn remove_peer(State(core): State<Shared>, write: Write) -> Result<(), Refusal> {
    let (id, address) = (write.query.non_empty("id"), write.query.non_empty("address"));
    let wanted = |member: &Member| match (id, address) {
        (Some(id), _) => member.id.to_string() == id,
        (None, address) => address == Some(member.address.as_str()),
    };
    if id.is_none() == address.is_none() {
        let text = if id.is_none() {
            "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove"
        } else {
            "Must specify only one of ?id or ?address"
        };
        return Err(Error::bad_request(text).into());
    }
    let status = core.raft.status();
    let Some(member) = status.voters.iter().chain(&status.learners).find(|member| wanted(member)) else {
        let what = id.map_or_else(|| format!("address {:?}", address.unwrap_or_default()), |id| format!("id {id:?}"));
        return Err(Error::internal(format!("{what} was not found in the Raft configuration")).into());
    };
    Ok(core.members.remove(member.id).await?)
}

/// 200 while every voter is heard of, else 429. Only the leader knows of the others; a follower answers for itself.
pub(super) async fn autopilot_health(State(core): State<Shared>, read: Read) -> Response {
    let status = core.raft.status();
    let healthy = status.leader.is_some();
    let servers: Vec<_> = status
        .voters
        .iter()
        .map(|member| {
            value!({
                "ID": member.id.to_string(),
                "Name": member.name,
                "Address": member.address,
                "Leader": status.leader.as_ref().is_some_and(|leader| leader.id == member.id),
                "Voter": true,
                "LastIndex": last_index(&status, member.id),
                "Healthy": healthy,
            })
        })
        .collect();
    let tolerance = servers.len().saturating_sub(1) / 2;
    let body = plain_json(
        &value!({ "Healthy": healthy, "FailureTolerance": tolerance, "Servers": servers }),
        read.options.pretty,
    );
    let code = if healthy { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
    (code, body).into_response()
}
