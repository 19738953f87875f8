//! The log as a simulation looks at it, to check Raft's rules.

use super::{Log, held};
use crate::types::NodeId;

/// An entry by term, leader and index.
pub type EntryId = (u64, NodeId, u64);

/// What a member's log holds.
#[derive(Clone, Debug, Default)]
pub struct LogView {
    /// The term and candidate of the vote, once it is on the disk.
    pub vote: Option<(u64, NodeId)>,
    /// The last entry that was dropped.
    pub purged: Option<EntryId>,
    /// The last entry that is known to be agreed on.
    pub committed: Option<EntryId>,
    /// The entries that were asked for, in order, with their payload's size.
    pub entries: Vec<(EntryId, usize)>,
    /// The index after the last.
    pub end: u64,
}

impl Log {
    /// The log from an index on.
    pub(crate) fn view(&self, from: u64) -> LogView {
        let index = held(&self.shared.index);
        let id = |log_id: crate::consensus::LogId| (log_id.leader_id.term, log_id.leader_id.node_id, log_id.index);
        LogView {
            vote: index.state.vote.map(|vote| (vote.leader_id.term, vote.leader_id.node_id)),
            purged: index.state.purged.map(id),
            committed: index.state.committed.map(id),
            entries: index.ids(from).map(|(log_id, bytes)| (id(log_id), bytes)).collect(),
            end: index.end(),
        }
    }
}
