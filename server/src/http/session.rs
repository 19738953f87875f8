//! `/v1/session/*`. (Consul: `session_endpoint.go`.)

use std::time::{Duration, Instant};

use api::Error;
use api::session::{CreateSession, SessionId};
use axum::http::StatusCode;
use catalog::query::session as query;
use catalog::{Command, Response as Answered, Row};
use model::Session;
use model::limits::BODY_BYTES_MAX;

use super::catalog::indexed;
use super::read::{Read, list, plain_json};
use super::write::Write;
use super::{Refusal, Reply, Shared};
use crate::leader::leases::{Renewal, is_in_time};

/// Between two looks whether renewals are taken already.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn create(mut write: Write) -> Reply {
    let body = write.take_body(BODY_BYTES_MAX).await?;
    let asked: CreateSession =
        if body.is_empty() { CreateSession::default() } else { api::json::from_slice(&body).map_err(Error::from)? };
    // Who hands a request on says which node was asked.
    let asked_node = write.query.non_empty(api::near::ASKED).unwrap_or(&write.core.config.node_name);
    let id = uuid::Uuid::new_v4().to_string();
    let refuse = |problem: model::session::InvalidSession| Refusal(Error::internal(problem.to_string()));
    let session = asked.into_session(id.clone(), asked_node).map_err(refuse)?;
    session.validate(write.core.config.session_ttl_min).map_err(refuse)?;
    let command = Command::CreateSession(Box::new(session));
    match write.core.proposer.propose(&command).await? {
        Answered::Done => Ok(plain_json(&SessionId { id }, write.pretty())),
        // The words before the catalog's are Consul's, too.
        Answered::Refused(refusal) => Err(Error::internal(format!("apply failed: {refusal}")).into()),
        other @ (Answered::CasFailed
        | Answered::LockFailed
        | Answered::Txn(_)
        | Answered::Synced { .. }
        | Answered::Outdated { .. }) => Err(Error::internal(format!("a session was answered with {other:?}")).into()),
    }
}

pub(super) async fn destroy(write: Write) -> Reply {
    let id = id_after(write.path.after("/v1/session/destroy/"))?;
    write.done(&Command::DestroySession { id }).await
}

pub(super) async fn info(read: Read) -> Reply {
    let id = id_after(read.path.after("/v1/session/info/"))?;
    read.answer(move |view, pretty| list(query::session(view, &id).into_iter().map(indexed), pretty)).await
}

pub(super) async fn of_node(read: Read) -> Reply {
    let node = read.path.after("/v1/session/node/");
    if node.is_empty() {
        return Err(Error::bad_request("Missing node name").into());
    }
    read.answer(move |view, pretty| list(query::of_node(view, &node).into_iter().map(indexed), pretty)).await
}

pub(super) async fn all(read: Read) -> Reply {
    read.answer(move |view, pretty| list(query::list(view).into_iter().map(indexed), pretty)).await
}

/// Runs on the leader, which alone knows of renewals.
pub(super) async fn renew(write: Write) -> Reply {
    let id = id_after(write.path.after("/v1/session/renew/"))?;
    let (core, pretty) = (write.core.clone(), write.pretty());
    let gone = || Refusal(Error::not_found(format!("Session id '{id}' not found")));
    reign(&core).await?;
    let noted = Instant::now();
    let renewal = find(&core, &id).map(|row| core.leases.renew(&row.value, noted));
    // Only now is it asked whether this server still leads: see `leases`. If not, another may know the session, or let it live.
    core.raft.read_index().await.map_err(|_| Error::no_leader())?;
    let row = find(&core, &id).ok_or_else(gone)?;
    match renewal {
        Some(Renewal::Noted) if is_in_time(&row.value, noted.elapsed()) => Ok(plain_json(&[indexed(&row)], pretty)),
        Some(Renewal::Noted) => {
            let why = "the renewal could not be confirmed in time: the servers are slow; try again";
            Err(Error::internal(why).into())
        }
        Some(Renewal::Over) => {
            Err(Error::internal(format!("Session id '{id}' was not renewed in time, and is about to end")).into())
        }
        Some(Renewal::NotLeading) => Err(Error::no_leader().into()),
        None => Err(Error::internal(format!("Session id '{id}' has only begun; try again")).into()),
    }
}

/// Waits for a leader that only begins: it knows all that its predecessors have acknowledged when it takes renewals.
async fn reign(core: &Shared) -> Result<(), Refusal> {
    let deadline = Instant::now() + core.config.hold_timeout;
    while !core.leases.are_taken() {
        if Instant::now() >= deadline || !core.raft.is_leader() {
            return Err(Error::no_leader().into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn find(core: &Shared, id: &str) -> Option<Row<Session>> {
    core.watch.read(|view| query::session(view, id).cloned()).0
}

fn id_after(id: String) -> Result<String, Refusal> {
    if id.is_empty() { Err(Error::new(StatusCode::BAD_REQUEST, "Missing session").into()) } else { Ok(id) }
}
