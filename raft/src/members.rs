//! Who belongs to the cluster, and who leads it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, ServerState};
use tokio::sync::Mutex;

use crate::consensus::{Core, TypeConfig};
use crate::raft::Raft;
use crate::types::{Member, NodeId, StateMachine};
use crate::{MembershipError, ReadError, Status};

/// A change of the membership is two entries of the log; this is ample.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Before the end of a change that a former leader began is tried again.
const FINISH_PAUSE: Duration = Duration::from_millis(200);
/// A learner may be this many entries behind when it becomes a voter.
const LAG_MAX: u64 = 1_000;
/// How often a transfer of leadership asks the other member to stand.
const TRANSFER_TRIES: u32 = 5;

type ServerMetrics = openraft::metrics::RaftServerMetrics<NodeId, Member>;
type WriteError = RaftError<NodeId, ClientWriteError<NodeId, Member>>;

impl<S: StateMachine> Raft<S> {
    /// Begins a new cluster of these voters. Done on one or on all of them, with the same members, and once.
    ///
    /// # Errors
    /// [`MembershipError::AlreadyBootstrapped`] if this member has a log; then nothing was changed.
    pub async fn bootstrap(&self, members: Vec<Member>) -> Result<(), MembershipError> {
        let id = self.id();
        if !members.iter().any(|member| member.id == id) {
            return Err(MembershipError::NotAmongMembers { id });
        }
        let members: BTreeMap<_, _> = members.into_iter().map(|member| (member.id, member)).collect();
        self.core().initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => MembershipError::AlreadyBootstrapped,
            RaftError::APIError(InitializeError::NotInMembers(_)) => MembershipError::NotAmongMembers { id },
            RaftError::Fatal(_) => MembershipError::Stopped,
        })
    }

    /// Adds a member that follows and does not vote; also renews the name or address of one that is there.
    ///
    /// # Errors
    /// [`MembershipError::FormerMember`] if that id was removed once: ids are never used again.
    pub async fn add_learner(&self, member: Member) -> Result<(), MembershipError> {
        // A new leader may not have applied yet what tells who was removed.
        self.read_index().await.map_err(|error| match error {
            ReadError::NotLeader { leader } => MembershipError::NotLeader { leader },
            ReadError::NoQuorum => MembershipError::Unknown,
            ReadError::Stopped => MembershipError::Stopped,
        })?;
        if self.is_former(member.id) {
            return Err(MembershipError::FormerMember { id: member.id });
        }
        let is_known = self.status().member(member.id).is_some();
        let nodes = BTreeMap::from([(member.id, member)]);
        let change = if is_known { ChangeMembers::SetNodes(nodes) } else { ChangeMembers::AddNodes(nodes) };
        self.change(change, true).await
    }

    /// Gives a learner a vote, when it has caught up.
    ///
    /// # Errors
    /// [`MembershipError::Behind`]: try again later. [`MembershipError::UnknownMember`]: add it first.
    pub async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        self.check_leader()?;
        let status = self.status();
        status.member(id).ok_or(MembershipError::UnknownMember { id })?;
        if status.lag(id).is_none_or(|lag| lag > LAG_MAX) {
            return Err(MembershipError::Behind { id });
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
    }

    /// Takes a voter's vote; it goes on following.
    ///
    /// # Errors
    /// [`MembershipError::LastVoter`], [`MembershipError::UnknownMember`].
    pub async fn demote(&self, id: NodeId) -> Result<(), MembershipError> {
        self.check_removable(id)?;
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])), true).await
    }

    /// Removes a member for good. A leader may remove itself: it leads until that is agreed on.
    ///
    /// # Errors
    /// [`MembershipError::LastVoter`], [`MembershipError::UnknownMember`].
    pub async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        let is_voter = self.check_removable(id)?;
        let ids = BTreeSet::from([id]);
        let change = if is_voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
        self.change(change, false).await
    }

    /// Hands the leadership to another voter, or to the one that is furthest if none is named. Proposals and reads wait for
    /// about `election_ms_max`. Fails if the other does not win; then this member leads on, or somebody else does.
    ///
    /// # Errors
    /// [`MembershipError::UnknownMember`] if there is no such voter, [`MembershipError::Behind`] if it did not catch up or win,
    /// [`MembershipError::Busy`] if it is being handed over already.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<(), MembershipError> {
        self.check_leader()?;
        let _turn = self.handing_over().try_lock().map_err(|_busy| MembershipError::Busy)?;
        let status = self.status();
        let to = pick_successor(&status, to)?;
        let _pause = self.pause();
        self.hand_over(&to).await
    }

    async fn hand_over(&self, to: &Member) -> Result<(), MembershipError> {
        let mut client = self.client(to);
        let lease = Duration::from_millis(self.election_ms_max());
        let mut leadership = self.watch();
        for _try in 0..TRANSFER_TRIES {
            // The others do not vote for anybody until they have heard nothing of this leader for so long.
            tokio::time::sleep(lease + lease / 8).await;
            if self.status().lag(to.id) != Some(0) {
                self.core().trigger().heartbeat().await.map_err(|_stopped| MembershipError::Stopped)?;
                continue;
            }
            // It may not answer, or not win: then it is asked again.
            let _ = client.elect(lease).await;
            let won = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|leader| leader.id == to.id));
            if tokio::time::timeout(lease, won).await.is_ok() {
                return Ok(());
            }
            if !self.is_leader() {
                break;
            }
        }
        Err(MembershipError::Behind { id: to.id })
    }

    fn check_leader(&self) -> Result<(), MembershipError> {
        if self.is_leader() { Ok(()) } else { Err(MembershipError::NotLeader { leader: self.leader() }) }
    }

    /// Whether it is a voter that may go, or a learner.
    fn check_removable(&self, id: NodeId) -> Result<bool, MembershipError> {
        self.check_leader()?;
        let status = self.status();
        status.member(id).ok_or(MembershipError::UnknownMember { id })?;
        let is_voter = status.voters.iter().any(|voter| voter.id == id);
        if is_voter && status.voters.len() == 1 {
            return Err(MembershipError::LastVoter);
        }
        Ok(is_voter)
    }

    async fn change(&self, change: ChangeMembers<NodeId, Member>, retain: bool) -> Result<(), MembershipError> {
        // In a task of its own: a caller that goes away must not leave the members between two sets of voters.
        let (core, changing) = (self.core().clone(), self.changing());
        let changed = tokio::spawn(tokio::time::timeout(CHANGE_TIMEOUT, async move {
            let _turn = changing.lock().await;
            core.change_membership(change, retain).await
        }));
        match changed.await {
            Ok(Ok(outcome)) => outcome.map(|_: ClientWriteResponse<TypeConfig>| ()).map_err(refusal),
            Ok(Err(_elapsed)) => Err(MembershipError::Unknown),
            Err(_ended) => Err(MembershipError::Stopped),
        }
    }
}

/// A leader may be lost between the two entries of a change; the next one writes the second. It does not know whether those
/// who lost their vote were to go, so they stay as learners.
pub(crate) async fn finish_changes(core: Core, changing: Arc<Mutex<()>>) {
    let mut metrics = core.server_metrics();
    loop {
        let is_joint = |now: &ServerMetrics| {
            now.state == ServerState::Leader && now.membership_config.membership().get_joint_config().len() > 1
        };
        if metrics.wait_for(is_joint).await.is_err() {
            return;
        }
        // Who makes a change here holds the turn until both entries are written.
        let turn = changing.lock().await;
        let is_left_over = is_joint(&metrics.borrow());
        if is_left_over {
            let finish = core.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), true);
            if let Ok(Err(RaftError::Fatal(_))) = tokio::time::timeout(CHANGE_TIMEOUT, finish).await {
                return;
            }
        }
        drop(turn);
        tokio::time::sleep(FINISH_PAUSE).await;
    }
}

impl Status {
    /// The member of that id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.voters.iter().chain(&self.learners).find(|member| member.id == id)
    }

    /// How many entries a member is behind the leader, as the leader knows.
    pub fn lag(&self, id: NodeId) -> Option<u64> {
        let (_id, matched) = self.matched.iter().find(|(member, _)| *member == id)?;
        Some(self.last_log.saturating_sub(*matched))
    }
}

fn pick_successor(status: &Status, to: Option<NodeId>) -> Result<Member, MembershipError> {
    let others = || status.voters.iter().filter(|voter| voter.id != status.id);
    let picked = match to {
        Some(id) => others().find(|voter| voter.id == id),
        None => others().min_by_key(|voter| status.lag(voter.id).unwrap_or(u64::MAX)),
    };
    picked.cloned().ok_or(MembershipError::UnknownMember { id: to.unwrap_or(status.id) })
}

fn refusal(error: WriteError) -> MembershipError {
    match error {
        // The first of the two entries may have been agreed on before leadership was lost.
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MembershipError::Unknown,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(refused)) => match refused {
            ChangeMembershipError::InProgress(_) => MembershipError::Busy,
            ChangeMembershipError::EmptyMembership(_) => MembershipError::LastVoter,
            ChangeMembershipError::LearnerNotFound(missing) => MembershipError::UnknownMember { id: missing.node_id },
        },
        RaftError::Fatal(_) => MembershipError::Stopped,
    }
}
