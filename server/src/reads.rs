//! How fresh an answer is: `default` as the leader knows it, `consistent` as a quorum confirms it, `stale` as it is here.
//!
//! A follower asks the leader for the index that it must have applied. Questions that wait share one request, and a question
//! is only answered by a request that was sent after it was asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::Error;
use api::proto::peer_client::PeerClient;
use api::proto::{ReadIndexReply, ReadIndexRequest};
use api::query::Consistency;
use faults::{Bug, Point};
use raft::{Member, Raft};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::as_of::AsOf;
use crate::config::RaftTiming;
use crate::machine::Machine;
use crate::rpc::dial::Peers;

/// Questions that wait for the leader. Those beyond wait at the door.
const WAITING_MAX: usize = 64 * 1024;
/// How long one question to the leader may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How fresh the answer is that may now be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Freshness {
    pub(crate) consistency: Consistency,
    pub(crate) known_leader: bool,
    /// The answer holds everything that was acknowledged so long before it was asked for. 0 if the leader was asked for this
    /// answer; and on the leader itself, which is as fresh as its followers' answers can be as long as a majority answers it.
    /// It says nothing of what was acknowledged since, which may be there or not.
    pub(crate) last_contact_ms: u64,
}

/// Makes this server as fresh as a reader wants.
pub(crate) struct Reads {
    raft: Raft<Machine>,
    hold_timeout: Duration,
    plain: mpsc::Sender<oneshot::Sender<bool>>,
    confirmed: mpsc::Sender<oneshot::Sender<bool>>,
    /// The newest term in which this server, as the leader, has applied all that was agreed on before.
    settled_term: AtomicU64,
    /// Who has not heard of the leader for so long does not know of one.
    lease: Duration,
    as_of: AsOf,
    /// A leader asks a majority once each heartbeat, and the answer takes a moment: it is fresh as long as that goes on.
    leader_age_max: Duration,
}

impl Reads {
    /// Starts the two tasks that ask the leader; they end with this value.
    pub(crate) fn start(raft: Raft<Machine>, peers: Peers, hold_timeout: Duration, timing: RaftTiming) -> Self {
        let asker = |confirm| {
            let (queue, inbox) = mpsc::channel(WAITING_MAX);
            tokio::spawn(Asker { raft: raft.clone(), peers: peers.clone(), confirm }.run(inbox));
            queue
        };
        let (plain, confirmed) = (asker(false), asker(true));
        Reads {
            raft,
            hold_timeout,
            plain,
            confirmed,
            settled_term: AtomicU64::new(0),
            lease: 2 * Duration::from_millis(timing.election_ms_max),
            as_of: AsOf::default(),
            leader_age_max: 2 * Duration::from_millis(timing.heartbeat_ms),
        }
    }

    /// Returns when this server's catalog is fresh enough. For `stale` it is at once, unless it is older than the reader wants,
    /// or this server is new and has not caught up yet: then it is as for `default`.
    ///
    /// # Errors
    /// 500 `No cluster leader` if there was none for the whole hold timeout. A read may always be retried.
    pub(crate) async fn prepare(
        &self,
        consistency: Consistency,
        max_stale: Option<Duration>,
    ) -> Result<Freshness, Error> {
        if consistency == Consistency::Stale {
            let freshness = self.stale();
            let is_too_old =
                max_stale.is_some_and(|max| !max.is_zero() && u128::from(freshness.last_contact_ms) > max.as_millis());
            if !is_too_old && !self.is_new() {
                return Ok(freshness);
            }
        }
        let confirm = consistency == Consistency::Consistent;
        let deadline = Instant::now() + self.hold_timeout;
        while !self.is_fresh(confirm).await {
            if Instant::now() >= deadline {
                return Err(Error::no_leader());
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let consistency = if confirm { Consistency::Consistent } else { Consistency::Default };
        Ok(Freshness { consistency, known_leader: true, last_contact_ms: 0 })
    }

    /// The leader, if this server is it or has heard of it lately. A server that was started anew remembers who led, but
    /// that is no knowledge of now.
    pub(crate) fn known_leader(&self) -> Option<Member> {
        let leader = self.raft.leader()?;
        let is_heard = || self.raft.status().last_contact.is_some_and(|contact| contact <= self.lease);
        (self.raft.is_leader() || is_heard()).then_some(leader)
    }

    /// Whether this server still has to catch up for the first time, and was perhaps started again meanwhile: it becomes a voter
    /// after that. What it has not heard of yet is not gone.
    fn is_new(&self) -> bool {
        let is_voter = || {
            let status = self.raft.status();
            status.voters.iter().any(|voter| voter.id == status.id)
        };
        self.as_of.age().is_none() && !is_voter()
    }

    /// What a reader who takes anything is told.
    fn stale(&self) -> Freshness {
        let status = self.raft.status();
        let is_leader = self.raft.is_leader();
        let is_heard = status.last_contact.is_some_and(|contact| contact <= self.lease);
        let is_alone = || status.voters.len() == 1;
        let last_contact_ms = match self.as_of.age() {
            _ if is_leader && is_alone() || faults::has(Bug::LastContactLies) => 0,
            Some(age) if is_leader && age <= self.leader_age_max => 0,
            Some(age) => u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            // Never up to date since the start: as old as anything.
            None => u64::MAX / 2,
        };
        Freshness {
            consistency: Consistency::Stale,
            known_leader: is_leader || (is_heard && status.leader.is_some()),
            last_contact_ms,
        }
    }

    pub(crate) fn as_of(&self) -> &AsOf {
        &self.as_of
    }

    async fn is_fresh(&self, confirm: bool) -> bool {
        if !confirm && faults::has(Bug::DefaultReadAnywhere) {
            return true;
        }
        if self.raft.is_leader() {
            return self.leads_fresh(confirm).await;
        }
        if self.raft.leader().is_none() {
            return false;
        }
        let (answer, answered) = oneshot::channel();
        let queue = if confirm { &self.confirmed } else { &self.plain };
        queue.send(answer).await.is_ok() && answered.await.unwrap_or(false)
    }

    /// A leader answers from its memory, once it has applied what its predecessors have acknowledged.
    async fn leads_fresh(&self, confirm: bool) -> bool {
        let term = self.raft.watch().borrow().term;
        let is_settled = self.settled_term.load(Ordering::Acquire) == term || faults::has(Bug::LeadsTooEarly);
        if !confirm && is_settled {
            return true;
        }
        let is_confirmed = matches!(tokio::time::timeout(ASK_TIMEOUT, self.raft.read_index()).await, Ok(Ok(())));
        if is_confirmed {
            self.settled_term.fetch_max(term, Ordering::AcqRel);
            faults::pass(Point::ReadConfirmed);
        }
        is_confirmed
    }

    /// The index that a follower must have applied, and as of when that is; `None` if this server does not lead (or, with `confirm`, is not
    /// confirmed to).
    pub(crate) async fn index_for_peer(&self, confirm: bool) -> Option<ReadIndexReply> {
        if !self.raft.is_leader() || !self.leads_fresh(confirm).await {
            return None;
        }
        let raft_index = self.raft.leader_applied().ok()?;
        // Rounded up: an age must not be told too small.
        let as_of_ms_ago = self.as_of.age().and_then(|age| u64::try_from(age.as_millis() + 1).ok());
        Some(ReadIndexReply { raft_index, as_of_ms_ago })
    }
}

/// Asks the leader for all that wait, one request at a time.
struct Asker {
    raft: Raft<Machine>,
    peers: Peers,
    confirm: bool,
}

impl Asker {
    async fn run(self, mut inbox: mpsc::Receiver<oneshot::Sender<bool>>) {
        while let Some(first) = inbox.recv().await {
            let mut waiting = vec![first];
            while let Ok(next) = inbox.try_recv() {
                waiting.push(next);
            }
            let is_fresh = matches!(tokio::time::timeout(ASK_TIMEOUT, self.ask()).await, Ok(Some(())));
            for answer in waiting {
                // A reader that went away needs no answer.
                let _ = answer.send(is_fresh);
            }
        }
    }

    async fn ask(&self) -> Option<()> {
        let leader = self.raft.leader()?;
        let mut client = PeerClient::new(self.peers.local(&leader.address).ok()?);
        let reply = client.read_index(ReadIndexRequest { confirm: self.confirm }).await.ok()?;
        if faults::has(Bug::ReadNotAwaited) {
            return Some(());
        }
        self.raft.applied_at_least(reply.into_inner().raft_index).await.ok()
    }
}
