//! The types that openraft works with here. They know nothing of the state machine's types: its answers pass through as `Any`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::snapshot::SnapshotFile;
use crate::types::{Member, NodeId};

openraft::declare_raft_types!(
    /// Ours.
    pub(crate) TypeConfig:
        D = Batch,
        R = Answers,
        NodeId = NodeId,
        Node = Member,
        SnapshotData = SnapshotFile,
);

pub(crate) type Core = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type EntryPayload = openraft::EntryPayload<TypeConfig>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
pub(crate) type CoreSnapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type StorageIoError = openraft::StorageIOError<NodeId>;

/// One entry of the log: commands that were proposed at the same time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) commands: Arc<[Bytes]>,
    #[serde(skip)]
    pub(crate) written: Written,
}

/// Tells the proposer whether its batch ever reached the log: only one that did not is surely without effect.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Option<Arc<AtomicBool>>);

impl Written {
    pub(crate) fn watched() -> Written {
        Written(Some(Arc::default()))
    }

    pub(crate) fn set(&self) {
        if let Some(flag) = &self.0 {
            flag.store(true, Ordering::Release);
        }
    }

    pub(crate) fn get(&self) -> bool {
        self.0.as_ref().is_some_and(|flag| flag.load(Ordering::Acquire))
    }
}

/// What the state machine answered to a batch: a `Vec` of its responses. Handed over in memory, never written.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Answers {
    #[serde(skip)]
    pub(crate) answers: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answers")
    }
}
