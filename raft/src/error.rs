//! What can go wrong, whose fault it is, whether something changed, and whether one may try again.

use std::io;
use std::path::PathBuf;

use crate::{Member, NodeId};

/// Why a member does not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator's.
    #[error("the settings of Raft do not fit together: {0}")]
    Config(String),
    /// The folder of this member cannot be used.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The disk's: full, gone, or failing.
    #[error("the disk failed at {}: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk's, or somebody edited the files. Entries that were acknowledged may be gone: this member must not vote.
    #[error(
        "the Raft data in {} is damaged ({reason}): do not repair it by hand; remove this server from the cluster, empty its data folder, and join it again as a new one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The consensus core did not start.
    #[error("Raft did not start: {0}")]
    Core(String),
}

/// Why a proposal has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not applied, and will not be. Ask the leader.
    #[error("this server is not the leader{}", at(leader.as_ref()))]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<Member>,
    },
    /// It may be applied, now or later, or never: leadership was lost, or the answer took too long. Only a command that can be
    /// repeated safely may be tried again.
    #[error("no answer in time: the change may or may not have been made")]
    Unknown,
    /// The caller's; not applied.
    #[error("a command of {bytes} bytes is over the limit of {bytes_max} bytes")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Not applied. The disk of the leader is full; try again when there is space.
    #[error("the leader's disk is full: make space on it")]
    DiskFull,
    /// This member was shut down, or its core has failed. Not applied, unless it was under way.
    #[error("this server's Raft has stopped")]
    Stopped,
}

/// Why a read cannot be confirmed. Reads may always be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader.
    #[error("this server is not the leader{}", at(leader.as_ref()))]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<Member>,
    },
    /// A majority of the voters did not answer in time.
    #[error("a majority of the servers cannot be reached")]
    NoQuorum,
    /// This member was shut down, or its core has failed.
    #[error("this server's Raft has stopped")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Nothing was changed. Ask the leader.
    #[error("this server is not the leader{}", at(leader.as_ref()))]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<Member>,
    },
    /// The cluster has its first members already.
    #[error("this cluster is bootstrapped already: add servers to it instead")]
    AlreadyBootstrapped,
    /// The caller's: a cluster begins with voters, this one among them.
    #[error("the first members must contain this server (id {id})")]
    NotAmongMembers {
        /// This member.
        id: NodeId,
    },
    /// The number was removed once and is never used again: a server that lost its data must come back as a new one.
    #[error(
        "server id {id} was removed from this cluster: empty that server's data folder, so that it gets a new id, and join it again"
    )]
    FormerMember {
        /// The number.
        id: NodeId,
    },
    /// The caller's.
    #[error("no server with id {id} in this cluster")]
    UnknownMember {
        /// The number.
        id: NodeId,
    },
    /// The caller's: somebody must decide.
    #[error("the last voter cannot be removed")]
    LastVoter,
    /// Nothing was changed. Try again when the server has caught up.
    #[error("server id {id} is still behind: wait until it has caught up")]
    Behind {
        /// The number.
        id: NodeId,
    },
    /// Nothing was changed. Another change is under way; try again.
    #[error("another change of the membership is under way: try again")]
    Busy,
    /// It may have been changed: look at the membership before trying again.
    #[error("no answer in time: the membership may or may not have changed")]
    Unknown,
    /// This member was shut down, or its core has failed.
    #[error("this server's Raft has stopped")]
    Stopped,
}

fn at(leader: Option<&Member>) -> String {
    match leader {
        Some(leader) => format!("; the leader is {} at {}", leader.name, leader.address),
        None => "; no leader is known".into(),
    }
}
