//! What the users of this crate give it, and the nouns they share with it.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A member's number: random, made at its first start, kept in its data folder, never used again.
pub type NodeId = u64;

/// A member of the cluster, voter or learner.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where the others reach it, as [`Dial`] understands it.
    pub address: String,
}

/// What the log's commands change. Every member applies the same commands in the same order, so `apply` must depend on
/// nothing but the state and the commands: no clock, no randomness, no iteration in hash order.
pub trait StateMachine: Send + Sync + 'static {
    /// What a command answers. It never travels: only the leader's own answers are used.
    type Response: Send + Sync + 'static;

    /// Applies the commands of one entry of the log, in order, and publishes the result once, at the end.
    /// Answers one response for each command, in the same order.
    fn apply(&mut self, commands: &[Bytes]) -> Vec<Self::Response>;

    /// Captures the state as it is now. Called between two entries, so it must be cheap; it is written out later, elsewhere.
    fn snapshot(&self) -> Box<dyn Snapshot>;

    /// Becomes the state that was written by [`Snapshot::write_to`], here or on another member, and publishes it.
    ///
    /// # Errors
    /// If the bytes are not a state; then this member stops.
    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()>;
}

/// A state that was captured and is not written out yet.
pub trait Snapshot: Send {
    /// Writes the state out, on a thread that may block.
    ///
    /// # Errors
    /// Those of `to`.
    fn write_to(self: Box<Self>, to: &mut dyn Write) -> io::Result<()>;
}

/// How to reach another member. Called often: give a clone of a pooled channel that connects by itself when it is used.
pub trait Dial: Send + Sync + 'static {
    /// A handle on the channel to that member.
    fn channel(&self, to: &Member) -> tonic::transport::Channel;
}

/// Where a member lives and how it behaves. [`Config::new`] gives good values for one datacenter.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder that belongs to this member alone: its identity, its log, its snapshots.
    pub dir: PathBuf,
    /// This member's name, for people.
    pub name: String,
    /// Where the others reach this member.
    pub address: String,
    /// How often a leader is heard of when there is nothing to say; about 1.5 times this in practice. An append that is not answered in this time is sent again.
    pub heartbeat_ms: u64,
    /// A follower stands for election after `election_ms_max` plus a time between `election_ms_min` and
    /// `election_ms_max`, drawn at start, without a word of the leader. A vote must be on the voter's disk within
    /// `election_ms_min`, so disks whose syncs take longer elect nobody.
    pub election_ms_min: u64,
    /// See `election_ms_min`. For this long after a word of the leader nobody votes for another.
    pub election_ms_max: u64,
    /// A snapshot is made after so many entries (each a batch of commands).
    pub snapshot_every_entries: u64,
    /// A snapshot is made after so many bytes of entries.
    pub snapshot_every_bytes: u64,
    /// Entries kept behind the snapshot, so that a follower that was away for a moment need not take the whole snapshot.
    pub log_entries_kept: u64,
    /// Largest command.
    pub command_bytes_max: usize,
    /// A batch takes no further command once it holds so many bytes.
    pub batch_bytes_max: usize,
    /// Most commands in a batch.
    pub batch_commands_max: usize,
    /// Most proposals that wait for their batch. Those beyond wait at the door.
    pub proposals_waiting_max: usize,
    /// A proposal that has no answer after this time is answered with [`crate::ProposeError::Unknown`].
    pub propose_timeout_ms: u64,
    /// A file of the log. The disk space of one or two of them is taken from the start.
    pub segment_bytes: u64,
    /// The newest entries of the log are kept in memory up to this size; older ones are read from the disk.
    pub cache_bytes_max: usize,
}

impl Config {
    /// A member in `dir`, reached at `address`, with defaults for one datacenter: a dead leader is replaced within a second.
    pub fn new(dir: impl Into<PathBuf>, name: impl Into<String>, address: impl Into<String>) -> Config {
        Config {
            dir: dir.into(),
            name: name.into(),
            address: address.into(),
            heartbeat_ms: 100,
            election_ms_min: 300,
            election_ms_max: 400,
            snapshot_every_entries: 10_000,
            snapshot_every_bytes: 64 * 1024 * 1024,
            log_entries_kept: 1_000,
            command_bytes_max: 1024 * 1024,
            batch_bytes_max: 1024 * 1024,
            batch_commands_max: 4096,
            proposals_waiting_max: 16 * 1024,
            propose_timeout_ms: 5_000,
            segment_bytes: 8 * 1024 * 1024,
            cache_bytes_max: 8 * 1024 * 1024,
        }
    }
}
