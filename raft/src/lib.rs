//! Agreement on an ordered log of opaque commands, for any [`StateMachine`].
//!
//! [`Raft::start`] gives a handle and a gRPC service to mount for the other members. [`Raft::propose`] has a command agreed
//! on and applied; [`Raft::read_index`] makes a read linearizable. The log, the vote and the snapshots are on this member's
//! disk and survive a power cut; what was answered to a proposer is on a majority of disks.
//!
//! Where to look: `raft` (the handle), `propose` (batches), `read` (coalesced confirmations), `members` (who belongs),
//! `log` (segments on disk), `snapshot`, `machine` (under openraft), `client` and `service` (between members), `disk` (the
//! file operations, replaceable in tests).

pub mod disk;

mod client;
mod consensus;
mod elections;
mod error;
mod leadership;
mod log;
mod machine;
mod members;
mod propose;
mod raft;
mod read;
mod service;
mod snapshot;
mod start;
mod status;
mod types;
mod wire;
mod work;

pub use bytes::Bytes;

pub use crate::error::{MembershipError, ProposeError, ReadError, StartError};
#[cfg(feature = "sim")]
pub use crate::log::{EntryId, LogView};
pub use crate::raft::Raft;
pub use crate::service::Service;
pub use crate::status::{Leadership, MembersVersion, Role, Status};
pub use crate::types::{Config, Dial, Member, NodeId, Snapshot, StateMachine};
pub use crate::wire::RaftServer;
