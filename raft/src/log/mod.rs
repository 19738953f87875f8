//! The log on disk: entries and the vote, in segments that are written by one thread, read by index, dropped at the head.

mod format;
mod index;
mod recover;
#[cfg(feature = "sim")]
mod task;
#[cfg(not(feature = "sim"))]
mod thread;
#[cfg(feature = "sim")]
mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{AnyError, EntryPayload as Payload, OptionalSend};
use tokio::sync::oneshot;

use self::index::{Found, Index, Place};
#[cfg(feature = "sim")]
use self::task::Writing;
#[cfg(not(feature = "sim"))]
use self::thread::Writing;
#[cfg(feature = "sim")]
pub use self::view::{EntryId, LogView};
pub(crate) use self::writer::sync_parents;
use self::writer::{Encoded, Request, Writer};
use crate::StartError;
use crate::consensus::{Entry, EntryPayload, LogId, StorageError, StorageIoError, TypeConfig, Vote};
use crate::disk::Disk;
use crate::types::NodeId;
use crate::work::blocking;

/// Entries in one answer to a reader, which makes one message to a follower.
pub(crate) const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How the log is laid out.
pub(crate) struct LogConfig {
    pub(crate) segment_bytes: u64,
    pub(crate) cache_bytes_max: usize,
}

/// A handle on the log. Clones read the same log.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    index: Arc<Mutex<Index>>,
    writing: Writing,
    disk_full: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
}

impl Log {
    /// Whether there is a log in `dir`.
    pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, StartError> {
        Ok(!recover::segment_paths(disk, dir)?.is_empty())
    }

    /// Reads the log in `dir`, or begins one, and starts its thread.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, node: NodeId, config: &LogConfig) -> Result<Log, StartError> {
        let failed = |source| StartError::Disk { path: dir.to_owned(), source };
        let recovered = recover::recover(&*disk, dir, node)?;
        sync_parents(&*disk, dir).map_err(failed)?;
        let mut index = recovered.index;
        index.cache_bytes_max = config.cache_bytes_max;
        index.state.vote = index.state.vote.map(|vote| to_be_elected_again(vote, node));
        let state = index.state.clone();
        let index = Arc::new(Mutex::new(index));
        let (disk_full, stopping) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut writer = Writer {
            disk,
            dir: dir.to_owned(),
            node,
            segment_bytes: config.segment_bytes,
            segments: recovered.segments.into(),
            spares: Vec::new(),
            index: Arc::clone(&index),
            state,
            disk_full: Arc::clone(&disk_full),
            stopping: Arc::clone(&stopping),
        };
        if writer.segments.is_empty() {
            writer.begin_segment(0).map_err(failed)?;
        }
        let writing = Writing::start(writer).map_err(failed)?;
        Ok(Log { shared: Arc::new(Shared { index, writing, disk_full, stopping }) })
    }

    /// The disk has no room for another segment.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.shared.disk_full.load(Ordering::Acquire)
    }

    /// The highest index that is known to be agreed on.
    pub(crate) fn committed(&self) -> Option<LogId> {
        held(&self.shared.index).state.committed
    }

    /// The last index to drop if the entries after it are to have no more than `bytes_max`.
    pub(crate) fn beyond(&self, bytes_max: u64) -> Option<u64> {
        held(&self.shared.index).beyond(bytes_max)
    }

    /// Makes the log fit the snapshot that is on the disk. A snapshot that was received and not installed before the process
    /// ended may contradict entries that were never agreed on: they go.
    pub(crate) async fn fit(&self, snapshot: Option<LogId>, dir: &Path) -> Result<(), StartError> {
        let Some(snapshot) = self.contradicting(snapshot, dir)? else {
            return Ok(());
        };
        let failed = |source| StartError::Disk { path: dir.to_owned(), source };
        self.send(Request::Truncate(0, Box::new(|| ()))).map_err(failed)?;
        self.wait(|done| Request::Purge(snapshot, done)).await.map_err(failed)
    }

    /// The snapshot, if it contradicts the entries; then they are forgotten here.
    fn contradicting(&self, snapshot: Option<LogId>, dir: &Path) -> Result<Option<LogId>, StartError> {
        let mut index = held(&self.shared.index);
        if index.state.purged > snapshot {
            let reason = "entries were dropped that the snapshot does not hold".into();
            return Err(StartError::Damaged { path: dir.to_owned(), reason });
        }
        let contradicting = snapshot.filter(|snapshot| index.contradicts(*snapshot));
        if let Some(snapshot) = contradicting {
            index.truncate(0);
            index.purge(snapshot);
        }
        Ok(contradicting)
    }

    /// Says that the end is near: from now on it waits no longer for space on a full disk.
    pub(crate) fn stop_waiting(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Writes what waits and ends the thread. Blocks.
    pub(crate) fn stop(&self) {
        self.shared.stop();
    }

    fn send(&self, request: Request) -> io::Result<()> {
        self.shared.writing.send(request)
    }

    async fn wait(&self, request: impl FnOnce(writer::Done) -> Request) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move || {
            // Who waited may have been cancelled.
            let _ = tx.send(());
        });
        self.send(request(done))?;
        rx.await.map_err(|_gone| io::Error::other("the log has stopped"))
    }

    async fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(at) => at + 1,
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        let found = held(&self.shared.index).find(start..end, bytes_max);
        if found.iter().all(|entry| matches!(entry, Found::Cached(_))) {
            return found.into_iter().map(load).collect::<io::Result<_>>().map_err(read_failed);
        }
        let read = blocking(move || found.into_iter().map(load).collect::<io::Result<_>>());
        read.await.and_then(|entries| entries).map_err(read_failed)
    }
}

impl Shared {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.writing.stop();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read((range.start_bound().cloned(), range.end_bound().cloned()), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start..end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let index = held(&self.shared.index);
        Ok(LogState { last_purged_log_id: index.state.purged, last_log_id: index.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.wait(|done| Request::Vote(vote, done)).await.map_err(write_failed)?;
        faults::pass(faults::Point::VoteAfterWrite);
        held(&self.shared.index).state.vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(held(&self.shared.index).state.vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(committed) = committed {
            held(&self.shared.index).state.committed = Some(committed);
            self.send(Request::Committed(committed)).map_err(write_failed)?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(held(&self.shared.index).state.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        for entry in entries {
            if let Payload::Normal(batch) = &entry.payload {
                batch.written.set();
            }
            let payload = encode(&entry.payload).map_err(write_failed)?;
            let log_id = entry.log_id;
            let added = held(&self.shared.index).append(entry, payload.len());
            added.map_err(|reason| write_failed(io::Error::other(reason)))?;
            encoded.push(Encoded { log_id, payload });
        }
        let done = Box::new(move || callback.log_io_completed(Ok(())));
        self.send(Request::Append { entries: encoded, done }).map_err(write_failed)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        held(&self.shared.index).truncate(log_id.index);
        self.wait(|done| Request::Truncate(log_id.index, done)).await.map_err(write_failed)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        held(&self.shared.index).purge(log_id);
        self.wait(|done| Request::Purge(log_id, done)).await.map_err(write_failed)
    }
}

/// openraft lets a member that led when it ended lead on at once, in the same term, and then takes for committed no more
/// than what was noted of it on the disk, which is less than what was acknowledged. As a mere candidate it is elected
/// anew, and confirms no read before an entry of its new term is agreed on, and so all before it.
fn to_be_elected_again(vote: Vote, node: NodeId) -> Vote {
    Vote { committed: vote.committed && vote.leader_id.node_id != node, ..vote }
}

/// One byte of version, then MessagePack with field names.
pub(crate) fn encode(payload: &EntryPayload) -> io::Result<Bytes> {
    let mut bytes = vec![format::VERSION];
    rmp_serde::encode::write_named(&mut bytes, payload).map_err(io::Error::other)?;
    Ok(bytes.into())
}

fn decode(bytes: &[u8]) -> io::Result<EntryPayload> {
    match bytes.split_first() {
        Some((&format::VERSION, payload)) => rmp_serde::from_slice(payload).map_err(io::Error::other),
        Some((version, _payload)) => Err(io::Error::other(format!("an entry has version {version}"))),
        None => Err(io::Error::other("an entry is empty")),
    }
}

fn load(found: Found) -> io::Result<Entry> {
    match found {
        Found::Cached(entry) => Ok(entry),
        Found::OnDisk(log_id, place) => Ok(Entry { log_id, payload: decode(&read_place(&place)?)? }),
    }
}

fn read_place(place: &Place) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; place.bytes];
    place.file.read_at(&mut bytes, place.offset)?;
    if crc32fast::hash(&bytes) != place.crc {
        return Err(io::Error::other("an entry of the log cannot be read: its checksum is wrong"));
    }
    Ok(bytes)
}

fn read_failed(error: io::Error) -> StorageError {
    StorageIoError::read_logs(AnyError::new(&error)).into()
}

fn write_failed(error: io::Error) -> StorageError {
    StorageIoError::write_logs(AnyError::new(&error)).into()
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
