//! Snapshots on disk: written to a temporary file, synced, renamed, and only then recorded as the current one in the store.
//!
//! A file is 16 bytes of magic and version, the length of the head, the head, the state machine's own bytes, and a CRC32
//! over all of it. Members send each other the file as it is.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use faults::{Bug, Point};
use serde::{Deserialize, Serialize};
use store::{Store, Tree};

use crate::StartError;
use crate::consensus::{CoreSnapshot, LogId, SnapshotMeta, StoredMembership};
use crate::disk::{Disk, DiskFile};
use crate::log::held;
use crate::types::{NodeId, Snapshot};

const MAGIC: &[u8; 15] = b"TRIBUNESNAPSHOT";
const VERSION: u8 = 1;
/// The magic, the version, and the length of the head.
const PREFIX_BYTES: usize = 20;
const CRC_BYTES: u64 = 4;
/// Files are written and read in pieces of this size.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;
/// The membership with all former members is far smaller.
const HEAD_BYTES_MAX: u32 = 16 * 1024 * 1024;
const CURRENT: &str = "current";

/// A snapshot's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) snapshot_id: String,
    pub(crate) last_log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Those who were members once and may never be again.
    #[serde(default)]
    pub(crate) former: BTreeSet<NodeId>,
}

impl Head {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last_log_id,
            last_membership: self.membership.clone(),
            snapshot_id: self.snapshot_id.clone(),
        }
    }
}

/// Which file is the current snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    file: String,
    bytes: u64,
    index: u64,
}

/// Where it is recorded which file is current.
struct Record {
    store: Store,
    manifest: Tree<Manifest>,
}

impl Record {
    fn write(&self, named: &Manifest) -> io::Result<()> {
        self.manifest.insert(CURRENT, named).map_err(io::Error::other)?;
        self.store.commit();
        Ok(())
    }
}

/// The folder of snapshots, of which one is current.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// None when this member has stopped, so that its folder is free.
    record: Mutex<Option<Record>>,
    current: Mutex<Option<(Head, SnapshotFile)>>,
}

impl Snapshots {
    /// Finds the current snapshot and removes what is left of others.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf, store: Store) -> Result<Snapshots, StartError> {
        let failed = |source| StartError::Disk { path: dir.clone(), source };
        disk.create_dir(&dir).map_err(failed)?;
        crate::log::sync_parents(&*disk, &dir).map_err(failed)?;
        let manifest = store.tree::<Manifest>("raft/snapshot")?;
        let current = match manifest.get(CURRENT)? {
            Some(named) => Some(check(&*disk, &dir, &named)?),
            None => None,
        };
        let record = Mutex::new(Some(Record { store, manifest }));
        let snapshots = Snapshots { disk, dir: dir.clone(), record, current: Mutex::new(current) };
        let current = snapshots.current().map(|(_head, file)| file);
        snapshots.sweep(current.as_ref(), true).map_err(failed)?;
        Ok(snapshots)
    }

    /// Gives the store back. No snapshot becomes current any more.
    pub(crate) fn close(&self) {
        held(&self.record).take();
    }

    pub(crate) fn is_closed(&self) -> bool {
        held(&self.record).is_none()
    }

    pub(crate) fn current(&self) -> Option<(Head, SnapshotFile)> {
        held(&self.current).clone()
    }

    pub(crate) fn current_snapshot(&self) -> Option<CoreSnapshot> {
        let (head, file) = self.current()?;
        Some(CoreSnapshot { meta: head.meta(), snapshot: Box::new(file) })
    }

    /// Writes a state out and makes it current, unless a newer one is. Answers what was written in any case: a newer one that
    /// was received and never installed says nothing of what this member has applied. Blocks.
    pub(crate) fn write(&self, head: &Head, state: Box<dyn Snapshot>) -> io::Result<(Head, SnapshotFile)> {
        faults::pass(Point::SnapshotBegun);
        let incoming = self.begin()?;
        let (_current, file) = self.write_to(&incoming, head, state)?;
        Ok((head.clone(), file))
    }

    fn write_to(&self, incoming: &Incoming, head: &Head, state: Box<dyn Snapshot>) -> io::Result<(Head, SnapshotFile)> {
        let mut writer = Writer { file: &*incoming.file, offset: 0, buffer: Vec::new(), crc: crc32fast::Hasher::new() };
        let encoded = rmp_serde::to_vec_named(head).map_err(io::Error::other)?;
        let length = u32::try_from(encoded.len()).map_err(io::Error::other)?;
        writer.write_all(MAGIC)?;
        writer.write_all(&[VERSION])?;
        writer.write_all(&length.to_le_bytes())?;
        writer.write_all(&encoded)?;
        state.write_to(&mut writer)?;
        let bytes = writer.finish()?;
        self.adopt(incoming, head, bytes)
    }

    /// A temporary file for a snapshot that is being written or received.
    pub(crate) fn begin(&self) -> io::Result<Incoming> {
        let path = self.dir.join(format!("{:016x}.tmp", rand::random::<u64>()));
        let file = self.disk.create(&path)?;
        Ok(Incoming { disk: Arc::clone(&self.disk), path, file })
    }

    /// Checks a file that was received, and makes it current if it is newer than the one we have. When this returns, it is
    /// safe to drop the log up to there.
    pub(crate) fn receive(&self, incoming: &Incoming) -> io::Result<(Head, SnapshotFile)> {
        let bytes = incoming.file.len()?;
        let head = verify(&*incoming.file, bytes)?;
        self.adopt(incoming, &head, bytes)
    }

    /// A file in this folder with what is in `file`, which may lie in another one.
    pub(crate) fn import(&self, file: &SnapshotFile) -> io::Result<SnapshotFile> {
        if file.path.parent() == Some(&self.dir) {
            return Ok(file.clone());
        }
        let from = self.open_file(file)?;
        let incoming = self.begin()?;
        let mut body = Body { file: &*from, at: 0, end: file.bytes };
        let mut piece = vec![0; PIECE_BYTES];
        let mut offset = 0;
        loop {
            let read = body.read(&mut piece)?;
            if read == 0 {
                break;
            }
            incoming.file.write_at(&piece[..read], offset)?;
            offset += read as u64;
        }
        let (_head, file) = self.receive(&incoming)?;
        Ok(file)
    }

    /// Makes it current, and answers what is current now: that is another one if that is newer.
    fn adopt(&self, incoming: &Incoming, head: &Head, bytes: u64) -> io::Result<(Head, SnapshotFile)> {
        faults::pass(Point::SnapshotBeforeSync);
        let synced = if faults::has(Bug::SnapshotNotSynced) { Ok(()) } else { incoming.file.sync() };
        if let Err(error) = synced {
            self.disk.fatal("a snapshot could not be synced", &error);
            return Err(error);
        }
        // Held to the end, so that of two snapshots that are ready at once the newer one stays, and neither is swept away.
        let mut current = held(&self.current);
        if let Some(newer) = current.as_ref().filter(|(newer, _file)| newer.last_log_id > head.last_log_id).cloned() {
            return Ok(newer);
        }
        let index = head.last_log_id.map_or(0, |log_id| log_id.index);
        let name = format!("{index:016x}-{:016x}.snapshot", rand::random::<u64>());
        let path = self.dir.join(&name);
        faults::pass(Point::SnapshotBeforeRename);
        self.disk.rename(&incoming.path, &path)?;
        faults::pass(Point::SnapshotAfterRename);
        self.disk.sync_dir(&self.dir)?;
        faults::pass(Point::SnapshotBeforeRecord);
        let named = Manifest { file: name, bytes, index };
        held(&self.record).as_ref().ok_or_else(|| io::Error::other("this member has stopped"))?.write(&named)?;
        let file = SnapshotFile { path, bytes };
        *current = Some((head.clone(), file.clone()));
        faults::pass(Point::SnapshotBeforeSweep);
        if let Err(error) = self.sweep(Some(&file), false) {
            tracing::warn!(%error, "old snapshots could not be removed; the next one will do it");
        }
        Ok((head.clone(), file))
    }

    /// Removes old snapshots, and at start what was half written. Who reads one of them goes on reading.
    fn sweep(&self, current: Option<&SnapshotFile>, at_start: bool) -> io::Result<()> {
        let current = current.map(|file| &file.path);
        for path in self.disk.list(&self.dir)? {
            let is_old = path.extension().is_some_and(|e| e == "snapshot") && Some(&path) != current;
            if is_old || (at_start && path.extension().is_some_and(|e| e == "tmp")) {
                match self.disk.remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Opens a snapshot's file, to send it.
    pub(crate) fn open_file(&self, file: &SnapshotFile) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&file.path).map(Arc::from)
    }

    /// Checks the whole file, then gives the state machine's part of it to `read`. Blocks.
    pub(crate) fn read(
        &self,
        file: &SnapshotFile,
        read: impl FnOnce(&Head, &mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let open = self.open_file(file)?;
        let head = verify(&*open, file.bytes)?;
        let begin = PREFIX_BYTES as u64 + u64::from(head_bytes(&*open)?);
        let mut body =
            io::BufReader::with_capacity(PIECE_BYTES, Body { file: &*open, at: begin, end: file.bytes - CRC_BYTES });
        read(&head, &mut body)
    }
}

/// A file that is not a snapshot yet. It is removed when it is dropped before it became one: a stream may end at any piece.
pub(crate) struct Incoming {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // One that became a snapshot has another name by now. If this fails, the next start removes it.
        let _ = self.disk.remove(&self.path);
    }
}

fn check(disk: &dyn Disk, dir: &Path, named: &Manifest) -> Result<(Head, SnapshotFile), StartError> {
    let path = dir.join(&named.file);
    let damaged = |e: io::Error| StartError::Damaged { path: path.clone(), reason: e.to_string() };
    let open = disk.open(&path).map_err(damaged)?;
    let head = verify(&*open, named.bytes).map_err(damaged)?;
    Ok((head, SnapshotFile { path: path.clone(), bytes: named.bytes }))
}

/// Reads all of the file and compares its checksum.
fn verify(file: &dyn DiskFile, bytes: u64) -> io::Result<Head> {
    let wrong = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    if file.len()? != bytes || bytes < PREFIX_BYTES as u64 + CRC_BYTES {
        return wrong("the snapshot is cut short");
    }
    let mut crc = crc32fast::Hasher::new();
    let mut body = Body { file, at: 0, end: bytes - CRC_BYTES };
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match body.read(&mut piece)? {
            0 => break,
            read => crc.update(&piece[..read]),
        }
    }
    let mut expected = [0; 4];
    file.read_at(&mut expected, bytes - CRC_BYTES)?;
    if u32::from_le_bytes(expected) != crc.finalize() {
        return wrong("the checksum of the snapshot is wrong");
    }
    let mut head = vec![0; head_bytes(file)? as usize];
    file.read_at(&mut head, PREFIX_BYTES as u64)?;
    rmp_serde::from_slice(&head).map_err(io::Error::other)
}

fn head_bytes(file: &dyn DiskFile) -> io::Result<u32> {
    let mut prefix = [0; PREFIX_BYTES];
    file.read_at(&mut prefix, 0)?;
    let (magic, rest) = prefix.split_at(MAGIC.len());
    let wrong = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    if magic != MAGIC {
        return wrong("it is not a snapshot".into());
    }
    if rest[0] != VERSION {
        return wrong(format!("the snapshot has version {}, this program reads {VERSION}", rest[0]));
    }
    match u32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]]) {
        length if length > HEAD_BYTES_MAX => wrong("the head of the snapshot is too long".into()),
        length => Ok(length),
    }
}

struct Writer<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl Writer<'_> {
    fn finish(mut self) -> io::Result<u64> {
        let crc = self.crc.clone().finalize();
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.flush()?;
        Ok(self.offset)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

struct Body<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    end: u64,
}

impl Read for Body<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = left.min(into.len());
        self.file.read_at(&mut into[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
