//! Changing the catalog: a Command is proposed here if this server leads, else sent to the leader with others that wait.
//!
//! An election is waited out, but only by commands that were surely not sent: a command that may have been applied is never
//! sent twice. When a command is answered, this server has applied it too: whoever wrote here reads it here.

use std::sync::Arc;
use std::time::Duration;

use api::Error;
use api::proto::outcome::Outcome as Kind;
use api::proto::peer_client::PeerClient;
use api::proto::{Outcome, ProposeReply, ProposeRequest};
use api::transport::is_unsent;
use bytes::Bytes;
use catalog::{Command, Response, TXN_RESULT_BYTES_MAX, TxnOp};
use faults::{Bug, Point};
use raft::{Leadership, NodeId, ProposeError, Raft};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::clock::LeaderClock;
use crate::machine::Machine;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::rpc::dial::Peers;
use crate::watch::Watch;

/// Commands that wait to be sent to the leader. Those beyond wait at the door.
const WAITING_MAX: usize = 16 * 1024;
/// Most commands in one request to the leader.
const BATCH_COMMANDS_MAX: usize = 1024;
/// A request takes no further command once it holds so many bytes (gRPC takes 4 MiB).
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Nor once the answers to what it holds may have so many bytes: they must fit into one message, [`MESSAGE_BYTES_MAX`].
const BATCH_ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long the leader may take; longer than its own limit, so that its words are heard.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(6);
/// A leader whom another has followed has so long to say still what became of a change.
const FAREWELL: Duration = Duration::from_millis(500);
/// Between two looks for a leader.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What became of one attempt.
#[derive(Debug)]
enum Attempt {
    Done(Response),
    /// Surely not applied, and another attempt may succeed.
    NotSent,
    /// Surely not applied, and another attempt fails as well.
    Refused(String),
    /// May have been applied.
    Unknown(String),
}

/// Proposes commands for this server's clients.
#[derive(Clone)]
pub(crate) struct Proposer {
    raft: Raft<Machine>,
    watch: Arc<Watch>,
    clock: Arc<LeaderClock>,
    hold_timeout: Duration,
    queue: mpsc::Sender<Waiting>,
}

struct Waiting {
    command: Bytes,
    answer_bytes_max: usize,
    answer: oneshot::Sender<Attempt>,
}

impl Proposer {
    /// Starts the task that sends commands to the leader; it ends with the last handle.
    pub(crate) fn start(raft: Raft<Machine>, peers: Peers, watch: Arc<Watch>, hold_timeout: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(Forwarder { raft: raft.clone(), peers, watch: watch.clone() }.run(waiting));
        Proposer { raft, watch, clock: Arc::default(), hold_timeout, queue }
    }

    /// Has a command agreed on and applied, here too, and returns what the catalog answered.
    ///
    /// # Errors
    /// 500 `No cluster leader`: not applied, may be retried. `rpc error making call: …`: the text says whether it may have been applied.
    pub(crate) async fn propose(&self, command: &Command) -> Result<Response, Error> {
        let bytes = Bytes::from(command.encode());
        let answer_bytes_max = answer_bytes_max(command, bytes.len());
        let deadline = Instant::now() + self.hold_timeout;
        loop {
            match self.attempt(bytes.clone(), answer_bytes_max).await {
                Attempt::Done(response) => return Ok(response),
                Attempt::Refused(reason) | Attempt::Unknown(reason) => {
                    return Err(Error::internal(format!("rpc error making call: {reason}")));
                }
                Attempt::NotSent if Instant::now() >= deadline => return Err(Error::no_leader()),
                Attempt::NotSent => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// As [`Proposer::propose`], for the leader's own duties: here or not at all, and without waiting for an election.
    pub(crate) async fn propose_here(&self, command: &Command) -> Result<Response, ProposeError> {
        self.propose_stamped(&command.encode()).await
    }

    /// Proposes what another server sent, all at once, and answers in the same order. Nothing if this server does not lead.
    pub(crate) async fn propose_for_peer(&self, commands: Vec<Bytes>) -> ProposeReply {
        let leader_address = self.raft.leader().map(|leader| leader.address).unwrap_or_default();
        if !self.raft.is_leader() {
            return ProposeReply { leader_address, ..ProposeReply::default() };
        }
        let proposals = commands.iter().map(|command| self.propose_readable(command));
        let outcomes = futures_util::future::join_all(proposals).await;
        faults::pass(Point::ForwardAfter);
        ProposeReply { outcomes, leader_address, index: self.watch.current().index() }
    }

    /// Begins to count this server's reign.
    pub(crate) fn start_clock(&self) {
        self.now_ms();
    }

    /// What this server could not apply must not get into the log: every server that cannot read it would stop at it.
    async fn propose_readable(&self, command: &[u8]) -> Outcome {
        match Command::decode(command) {
            Ok(_) => outcome(self.propose_stamped(command).await),
            Err(error) => {
                Outcome { outcome: Some(Kind::Refused(format!("the leader cannot read this change: {error}"))) }
            }
        }
    }

    /// Here every command gets its time, and nowhere else.
    async fn propose_stamped(&self, command: &[u8]) -> Result<Response, ProposeError> {
        self.raft.propose(Command::stamp(command, self.now_ms()).into()).await
    }

    fn now_ms(&self) -> u64 {
        let term = self.raft.watch().borrow().term;
        self.clock.now_ms(term, self.watch.current().clock_ms(), std::time::Instant::now())
    }

    async fn attempt(&self, command: Bytes, answer_bytes_max: usize) -> Attempt {
        faults::pass(Point::ProposeBefore);
        let attempt = self.attempt_once(command, answer_bytes_max).await;
        faults::pass(Point::ProposeAfter);
        attempt
    }

    async fn attempt_once(&self, command: Bytes, answer_bytes_max: usize) -> Attempt {
        if faults::has(Bug::AckBeforeAgreement) && self.raft.is_leader() {
            let proposer = self.clone();
            tokio::spawn(async move { proposer.propose_stamped(&command).await });
            return Attempt::Done(Response::Done);
        }
        if self.raft.is_leader() {
            return here(self.propose_stamped(&command).await);
        }
        if self.raft.leader().is_none() {
            return Attempt::NotSent;
        }
        let (answer, answered) = oneshot::channel();
        if self.queue.send(Waiting { command, answer_bytes_max, answer }).await.is_err() {
            return Attempt::Refused("this server is shutting down".into());
        }
        answered.await.unwrap_or_else(|_| {
            Attempt::Unknown("this server is shutting down: the change may or may not have been made".into())
        })
    }
}

fn here(outcome: Result<Response, ProposeError>) -> Attempt {
    match outcome {
        Ok(response) => Attempt::Done(response),
        Err(ProposeError::NotLeader { .. }) => Attempt::NotSent,
        Err(error @ ProposeError::Unknown) => Attempt::Unknown(error.to_string()),
        Err(error @ (ProposeError::TooLarge { .. } | ProposeError::DiskFull | ProposeError::Stopped)) => {
            Attempt::Refused(error.to_string())
        }
    }
}

fn outcome(result: Result<Response, ProposeError>) -> Outcome {
    let kind = match here(result) {
        Attempt::Done(response) => Kind::ResponseMp(response.encode().into()),
        // The sender tells this text from other refusals, and may look for the leader again.
        Attempt::NotSent => Kind::Refused(NOT_LEADER.into()),
        Attempt::Refused(reason) => Kind::Refused(reason),
        Attempt::Unknown(reason) => Kind::Unknown(reason),
    };
    Outcome { outcome: Some(kind) }
}

const NOT_LEADER: &str = "not the leader";

/// Sends what waits to the leader, one request at a time, so that those who come meanwhile share the next one.
struct Forwarder {
    raft: Raft<Machine>,
    peers: Peers,
    watch: Arc<Watch>,
}

impl Forwarder {
    async fn run(self, mut inbox: mpsc::Receiver<Waiting>) {
        while let Some(first) = inbox.recv().await {
            let mut batch = gather(first, &mut inbox);
            // A client that went away while the leader was not to be had has perhaps asked elsewhere since.
            batch.retain(|waiting| !waiting.answer.is_closed());
            if batch.is_empty() {
                continue;
            }
            let commands = batch.iter().map(|waiting| waiting.command.clone()).collect();
            let attempts = self.send(commands, batch.len()).await;
            for (waiting, attempt) in batch.into_iter().zip(attempts) {
                // A client that went away needs no answer.
                let _ = waiting.answer.send(attempt);
            }
        }
    }

    async fn send(&self, commands: Vec<Bytes>, count: usize) -> Vec<Attempt> {
        let all =
            |attempt: fn(String) -> Attempt, reason: String| (0..count).map(|_| attempt(reason.clone())).collect();
        let not_sent = |_| Attempt::NotSent;
        let Some(leader) = self.raft.leader() else { return all(not_sent, String::new()) };
        let Ok(channel) = self.peers.local(&leader.address) else { return all(not_sent, String::new()) };
        let mut client = PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = tokio::select! {
            answer = tokio::time::timeout(FORWARD_TIMEOUT, client.propose(ProposeRequest { commands })) => {
                answer.map_err(|_| "the leader did not answer in time")
            }
            () = is_followed(self.raft.watch(), leader.id) => Err("the leader was silent, and another leads now"),
        };
        match answer {
            Ok(Ok(reply)) => self.accept(reply.into_inner(), count).await,
            Ok(Err(status)) if is_unsent(&status) || is_refusal(&status) => all(not_sent, String::new()),
            Ok(Err(_)) | Err(_) if faults::has(Bug::RetriesUnknown) => all(not_sent, String::new()),
            Ok(Err(status)) => all(
                Attempt::Unknown,
                format!("the leader did not answer ({}): the change may or may not have been made", status.message()),
            ),
            Err(reason) => all(Attempt::Unknown, format!("{reason}: the change may or may not have been made")),
        }
    }

    async fn accept(&self, reply: ProposeReply, count: usize) -> Vec<Attempt> {
        if reply.outcomes.len() != count {
            return (0..count).map(|_| Attempt::NotSent).collect();
        }
        // The change is made; if this server does not get it in time, that is no reason to call it unknown.
        self.watch.applied(reply.index, Instant::now() + FORWARD_TIMEOUT).await;
        reply.outcomes.into_iter().map(read_outcome).collect()
    }
}

/// Ends when another has led for a while: what waits here is not to wait for one that is cut off or frozen.
async fn is_followed(mut leadership: watch::Receiver<Leadership>, leader: NodeId) {
    let is_another = |now: &Leadership| now.leader.as_ref().is_some_and(|now| now.id != leader);
    if leadership.wait_for(is_another).await.is_err() {
        // Raft has stopped, and soon this server.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(FAREWELL).await;
}

fn read_outcome(outcome: Outcome) -> Attempt {
    match outcome.outcome {
        Some(Kind::ResponseMp(bytes)) => match Response::decode(&bytes) {
            Ok(response) => Attempt::Done(response),
            Err(error) => Attempt::Unknown(error.to_string()),
        },
        Some(Kind::Refused(reason)) if reason == NOT_LEADER => Attempt::NotSent,
        Some(Kind::Refused(reason)) => Attempt::Refused(reason),
        Some(Kind::Unknown(reason)) => Attempt::Unknown(reason),
        None => Attempt::Unknown("the leader gave no answer".into()),
    }
}

/// The other server looked at our certificate and did nothing else.
fn is_refusal(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated | tonic::Code::Unimplemented)
}

/// How large the answer to a command of `bytes` may become: what its operations read, and what it says of each of them, which
/// quotes no more than names.
fn answer_bytes_max(command: &Command, bytes: usize) -> usize {
    let said = 1024 + 4 * bytes;
    match command {
        Command::Txn(ops) if ops.iter().any(TxnOp::is_read) => TXN_RESULT_BYTES_MAX + 512 * ops.len() + said,
        Command::Txn(ops) => 512 * ops.len() + said,
        _ => said,
    }
}

fn gather(first: Waiting, inbox: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let (mut bytes, mut answers_bytes) = (first.command.len(), first.answer_bytes_max);
    let mut batch = vec![first];
    while batch.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX && answers_bytes < BATCH_ANSWERS_BYTES_MAX {
        let Ok(waiting) = inbox.try_recv() else { break };
        bytes += waiting.command.len();
        answers_bytes += waiting.answer_bytes_max;
        batch.push(waiting);
    }
    batch
}

#[cfg(test)]
mod tests {
    use raft::Member;
    use tokio::time::timeout;

    use super::*;

    /// Whether one waits no more for leader 1, when so much time has passed since who leads became known.
    async fn is_given_up(leader: Option<NodeId>, after: Duration) -> bool {
        let (known, leadership) = watch::channel(Leadership::default());
        let leader = leader.map(|id| Member { id, ..Member::default() });
        known.send_replace(Leadership { leader, ..Leadership::default() });
        timeout(after, is_followed(leadership, 1)).await.is_ok()
    }

    #[tokio::test]
    async fn a_silent_leader_is_waited_for_until_another_has_led_for_a_moment() {
        let long = FAREWELL * 3;
        assert!(!is_given_up(Some(1), long).await, "it leads");
        assert!(!is_given_up(None, long).await, "nobody leads: it may still answer");
        assert!(!is_given_up(Some(2), FAREWELL / 2).await, "its answer may be on the way");
        assert!(is_given_up(Some(2), long).await);
    }
}
