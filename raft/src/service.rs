//! Answers the other members.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::raft::{AppendEntriesResponse, VoteRequest, VoteResponse};
use tonic::{Request, Response, Status, Streaming};

use crate::consensus::{Core, CoreSnapshot, LogId, Vote};
use crate::log::held;
use crate::snapshot::{Head, Incoming, SnapshotFile, Snapshots};
use crate::types::NodeId;
use crate::wire::proto::raft_server;
use crate::wire::{Envelope, pack, unpack};

/// The next piece of a snapshot must come within this time.
const PIECE_DEADLINE: Duration = Duration::from_secs(20);

/// When the leader was last heard of.
pub(crate) type LastContact = Arc<Mutex<Option<Instant>>>;

/// The service that every member mounts for the others.
#[derive(Clone)]
pub struct Service {
    pub(crate) id: NodeId,
    pub(crate) core: Core,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) last_contact: LastContact,
    /// After so long without a word of the leader a member may stand for election.
    pub(crate) silence_max: Duration,
    /// One snapshot is received at a time.
    pub(crate) receiving: Arc<tokio::sync::Mutex<()>>,
}

impl Service {
    /// A member that was wiped has another id, though perhaps the same address: what was promised to the old one is not ours.
    fn meant(&self, envelope: &Envelope) -> Result<(), Status> {
        if envelope.to == self.id {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("this is server id {}, not {}", self.id, envelope.to)))
    }

    /// How often this member stands for election since it had to refuse a candidate.
    ///
    /// openraft 0.9 keeps a member that was once refused for its short log back for `2 * election_ms_max` longer in the next
    /// election, too, even if it has the longer log by then: 1. The leader dies. 2. The other one stands, and is refused.
    /// 3. Both wait for more than a second. So who refuses for that reason, and would be due as well, stands at once.
    fn candidacies(&self, candidate: &(Vote, Option<LogId>), answer: &VoteResponse<NodeId>) -> u64 {
        let silence = held(&self.last_contact).map(|heard| heard.elapsed());
        let is_due = silence.is_none_or(|silence| silence >= self.silence_max);
        if is_due { candidacies(self.id, candidate, answer) } else { 0 }
    }

    async fn receive(&self, stream: &mut Streaming<Envelope>) -> Result<(Head, SnapshotFile), Status> {
        let snapshots = Arc::clone(&self.snapshots);
        let mut incoming = blocking(move || snapshots.begin()).await?;
        let mut offset = 0;
        while let Some(envelope) = next(stream).await? {
            let bytes = envelope.body.len() as u64;
            incoming = write_piece(incoming, envelope.body, offset).await?;
            offset += bytes;
        }
        let snapshots = Arc::clone(&self.snapshots);
        blocking(move || snapshots.receive(&incoming)).await
    }
}

#[tonic::async_trait]
impl raft_server::Raft for Service {
    async fn append(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let envelope = request.into_inner();
        self.meant(&envelope)?;
        let answer = self.core.append_entries(unpack(&envelope)?).await.map_err(stopped)?;
        if matches!(answer, AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) {
            *held(&self.last_contact) = Some(Instant::now());
        }
        pack(envelope.to, &answer).map(Response::new)
    }

    async fn vote(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let envelope = request.into_inner();
        self.meant(&envelope)?;
        let asked: VoteRequest<NodeId> = unpack(&envelope)?;
        let candidate = (asked.vote, asked.last_log_id);
        let answer = self.core.vote(asked).await.map_err(stopped)?;
        for _ in 0..self.candidacies(&candidate, &answer) {
            self.core.trigger().elect().await.map_err(stopped)?;
        }
        pack(envelope.to, &answer).map(Response::new)
    }

    async fn snapshot(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Envelope>, Status> {
        let mut stream = request.into_inner();
        let first = next(&mut stream).await?.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        self.meant(&first)?;
        let vote: Vote = unpack(&first)?;
        let _turn =
            self.receiving.try_lock().map_err(|_busy| Status::resource_exhausted("another snapshot is on its way"))?;
        let (head, file) = self.receive(&mut stream).await?;
        let snapshot = CoreSnapshot { meta: head.meta(), snapshot: Box::new(file) };
        let answer = self.core.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        pack(first.to, &answer).map(Response::new)
    }

    async fn elect(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let envelope = request.into_inner();
        self.meant(&envelope)?;
        self.core.trigger().elect().await.map_err(stopped)?;
        pack(envelope.to, &()).map(Response::new)
    }
}

/// None, one, or two, if the candidate comes first in the term that this member would stand in: of two of a term the higher id wins.
fn candidacies(id: NodeId, (vote, log): &(Vote, Option<LogId>), answer: &VoteResponse<NodeId>) -> u64 {
    if answer.vote_granted || answer.last_log_id <= *log {
        return 0;
    }
    if Vote::new(answer.vote.leader_id.term + 1, id) > *vote { 1 } else { 2 }
}

async fn next(stream: &mut Streaming<Envelope>) -> Result<Option<Envelope>, Status> {
    match tokio::time::timeout(PIECE_DEADLINE, stream.message()).await {
        Ok(message) => message,
        Err(_elapsed) => Err(Status::deadline_exceeded("the next piece of the snapshot did not come")),
    }
}

async fn write_piece(incoming: Incoming, bytes: Bytes, offset: u64) -> Result<Incoming, Status> {
    blocking(move || {
        incoming.file.write_at(&bytes, offset)?;
        Ok(incoming)
    })
    .await
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    let done = crate::work::blocking(run).await;
    done.and_then(|result| result).map_err(|e| Status::internal(e.to_string()))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn who_refuses_a_shorter_log_stands_and_wins_over_the_candidate() {
        let log = |index| Some(LogId::new(CommittedLeaderId::new(7, 1), index));
        // The candidate's id is 5 and its term 8.
        let cases = [
            // It was granted, it has as much, or more.
            (9, 7, 100, true, 0),
            (9, 7, 90, false, 0),
            (9, 7, 80, false, 0),
            // It has less: a higher id is enough, a lower one needs the next term.
            (9, 7, 100, false, 1),
            (2, 7, 100, false, 2),
            // This member is ahead in terms already.
            (2, 8, 100, false, 1),
        ];
        for (id, term, last, granted, expected) in cases {
            let candidate = (Vote::new(8, 5), log(90));
            let answer = VoteResponse::new(Vote::new(term, 1), log(last), granted);
            assert_eq!(candidacies(id, &candidate, &answer), expected, "{id} {term} {last} {granted}");
        }
        let answer = VoteResponse::new(Vote::new(7, 1), log(1), false);
        assert_eq!(candidacies(9, &(Vote::new(8, 5), None), &answer), 1, "an empty log is shorter");
    }
}
