//! What a member knows about itself and its cluster.

use std::time::Duration;

use crate::{Member, NodeId};

/// What a member knows now. Its own view: a member that is cut off does not know it yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: NodeId,
    /// The newest term it has seen.
    pub term: u64,
    /// What it is.
    pub role: Role,
    /// The leader of that term, if it has one.
    pub leader: Option<Member>,
    /// Index of the last entry in its log; 0 if there is none.
    pub last_log: u64,
    /// Highest index that it knows to be agreed on.
    pub committed: u64,
    /// Index of the last entry that its state machine has applied.
    pub applied: u64,
    /// Index up to which a snapshot is on its disk.
    pub snapshot: u64,
    /// Index up to which its log was dropped.
    pub purged: u64,
    /// A follower's time since the leader's last word came in, a leader's since a majority last answered; `None` if there was
    /// none since the start. It says that there is a leader, and nothing of how old the state is: a follower may have heard and
    /// not yet have what was agreed on, and a word may have been on its way for long.
    pub last_contact: Option<Duration>,
    /// A change of the voters is under way: both the old and the new ones must agree.
    pub is_changing: bool,
    /// Those who vote.
    pub voters: Vec<Member>,
    /// Those who only follow.
    pub learners: Vec<Member>,
    /// The index that each member is known to hold; known to the leader alone.
    pub matched: Vec<(NodeId, u64)>,
    /// The disk has no room for the log. Nothing is accepted until there is.
    pub disk_full: bool,
}

/// What a member is in its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows without a vote; also a member that is not in a cluster yet.
    #[default]
    Learner,
    /// Follows and votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Has stopped.
    Stopped,
}

/// Who leads; sent on when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// Its leader, if it has one.
    pub leader: Option<Member>,
    /// This member leads.
    pub is_leader: bool,
    /// This member has stopped: it was shut down, or something went wrong that only a new start can mend. If nobody asked
    /// for it, end the process.
    pub is_stopped: bool,
}

/// Term and index of the entry that the membership comes from, if there is one: another membership has another.
pub type MembersVersion = Option<(u64, u64)>;
