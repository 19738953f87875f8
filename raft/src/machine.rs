//! Puts a [`StateMachine`] under openraft: applies entries, keeps the membership, makes and takes snapshots.

use std::collections::BTreeSet;
use std::io;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use faults::Point;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{AnyError, EntryPayload, OptionalSend};
use tokio::sync::watch;

use crate::consensus::{
    Answers, CoreSnapshot, Entry, LogId, SnapshotMeta, StorageError, StorageIoError, StoredMembership, TypeConfig,
};
use crate::disk::is_full;
use crate::log::held;
use crate::snapshot::{Head, SnapshotFile, Snapshots};
use crate::types::{NodeId, Snapshot, StateMachine};
use crate::work::blocking;

/// How long to wait before asking a full disk again.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// A state machine whose responses are of a type that is not named here.
trait AnyMachine: Send + Sync {
    fn apply(&mut self, commands: &[Bytes]) -> Answers;
    fn snapshot(&self) -> Box<dyn Snapshot>;
    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()>;
}

impl<S: StateMachine> AnyMachine for S {
    fn apply(&mut self, commands: &[Bytes]) -> Answers {
        Answers { answers: Some(Box::new(StateMachine::apply(self, commands))) }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        StateMachine::snapshot(self)
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        StateMachine::restore(self, from)
    }
}

/// A handle; clones are the same machine.
#[derive(Clone)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    snapshots: Arc<Snapshots>,
    applied: watch::Sender<u64>,
    bytes_since_snapshot: AtomicU64,
}

struct State {
    machine: Box<dyn AnyMachine>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    former: BTreeSet<NodeId>,
}

impl Machine {
    /// Brings the machine to the current snapshot, if there is one. Blocks.
    pub(crate) fn open<S: StateMachine>(machine: S, snapshots: Arc<Snapshots>) -> io::Result<Machine> {
        let state = State {
            machine: Box::new(machine),
            last_applied: None,
            membership: StoredMembership::default(),
            former: BTreeSet::new(),
        };
        let machine = Machine {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                snapshots,
                applied: watch::Sender::new(0),
                bytes_since_snapshot: AtomicU64::new(0),
            }),
        };
        if let Some((_head, file)) = machine.shared.snapshots.current() {
            machine.restore(&file)?;
        }
        Ok(machine)
    }

    /// The index of the last applied entry, as it changes.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// Bytes of commands applied since a snapshot was begun.
    pub(crate) fn bytes_since_snapshot(&self) -> u64 {
        self.shared.bytes_since_snapshot.load(Ordering::Relaxed)
    }

    /// Whether that number was removed from the cluster.
    pub(crate) fn is_former(&self, id: NodeId) -> bool {
        held(&self.shared.state).former.contains(&id)
    }

    fn capture(&self) -> Captured {
        let state = held(&self.shared.state);
        self.shared.bytes_since_snapshot.store(0, Ordering::Relaxed);
        let index = state.last_applied.map_or(0, |log_id| log_id.index);
        let head = Head {
            snapshot_id: format!("{index}-{:016x}", rand::random::<u64>()),
            last_log_id: state.last_applied,
            membership: state.membership.clone(),
            former: state.former.clone(),
        };
        (head, state.machine.snapshot())
    }

    fn restore(&self, file: &SnapshotFile) -> io::Result<()> {
        self.shared.snapshots.read(file, |head, body| {
            let mut state = held(&self.shared.state);
            state.machine.restore(body)?;
            state.last_applied = head.last_log_id;
            state.membership = head.membership.clone();
            state.former.clone_from(&head.former);
            self.publish(&state);
            Ok(())
        })
    }

    fn publish(&self, state: &State) {
        self.shared.applied.send_replace(state.last_applied.map_or(0, |log_id| log_id.index));
    }
}

impl State {
    fn apply(&mut self, entry: Entry) -> Answers {
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Answers::default(),
            EntryPayload::Normal(batch) => self.machine.apply(&batch.commands),
            EntryPayload::Membership(membership) => {
                let stays = |id: &NodeId| membership.get_node(id).is_some();
                let gone: Vec<NodeId> = self.membership.nodes().map(|(id, _)| *id).filter(|id| !stays(id)).collect();
                self.former.extend(gone);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Answers::default()
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let state = held(&self.shared.state);
        Ok((state.last_applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answers>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        faults::pass(Point::ApplyBefore);
        let mut state = held(&self.shared.state);
        let mut bytes = 0;
        let answers = entries
            .into_iter()
            .map(|entry| {
                bytes += size(&entry);
                state.apply(entry)
            })
            .collect();
        self.shared.bytes_since_snapshot.fetch_add(bytes, Ordering::Relaxed);
        self.publish(&state);
        faults::pass(Point::ApplyAfter);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { captured: Mutex::new(Some(self.capture())), machine: self.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        // What arrives is written by the service itself; this only gives openraft something to fill in.
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<SnapshotFile>) -> Result<(), StorageError> {
        let machine = self.clone();
        faults::pass(Point::SnapshotBeforeInstall);
        let restored = blocking(move || machine.restore(&machine.shared.snapshots.import(&snapshot)?)).await;
        faults::pass(Point::SnapshotAfterInstall);
        restored
            .and_then(|done| done)
            .map_err(|e| StorageIoError::read_snapshot(Some(meta.signature()), AnyError::new(&e)).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<CoreSnapshot>, StorageError> {
        Ok(self.shared.snapshots.current_snapshot())
    }
}

/// A state that was captured and waits to be written out.
pub(crate) struct Builder {
    machine: Machine,
    captured: Mutex<Option<Captured>>,
}

type Captured = (Head, Box<dyn Snapshot>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    /// A full disk is waited for, with a newer state each time: openraft would stop for any error.
    async fn build_snapshot(&mut self) -> Result<CoreSnapshot, StorageError> {
        let snapshots = Arc::clone(&self.machine.shared.snapshots);
        loop {
            let captured = held(&self.captured).take();
            let (head, state) = captured.unwrap_or_else(|| self.machine.capture());
            let writing = Arc::clone(&snapshots);
            let written = blocking(move || writing.write(&head, state)).await;
            match written.and_then(|written| written) {
                Ok((head, file)) => return Ok(CoreSnapshot { meta: head.meta(), snapshot: Box::new(file) }),
                Err(error) if is_full(&error) && !snapshots.is_closed() => {
                    tracing::error!("the disk is full: no snapshot can be written until there is space");
                    tokio::time::sleep(FULL_RETRY).await;
                }
                Err(error) => return Err(StorageIoError::write_snapshot(None, AnyError::new(&error)).into()),
            }
        }
    }
}

fn size(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.commands.iter().map(|command| command.len() as u64).sum(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}
