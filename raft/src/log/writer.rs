//! Writes the log: everything that waits goes into one frame and shares one sync.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use faults::{Bug, Point};

use super::format::{FrameWriter, HEADER_BYTES, Header, State};
use super::held;
use super::index::{Index, Place};
use super::recover::{Segment, segment_path};
use crate::consensus::{LogId, Vote};
use crate::disk::{Disk, DiskFile, is_full};
use crate::types::NodeId;

/// A frame takes no further request once it is as large.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Dropped segments that are kept to be written again: overwriting is cheaper for the disk than a new file.
const SPARES_MAX: usize = 1;
/// How long to wait before asking a full disk again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// What the writer is asked to do. `done` is called when it is on the disk, or dropped if it will never be.
pub(crate) enum Request {
    Append {
        entries: Vec<Encoded>,
        done: Done,
    },
    Vote(Vote, Done),
    /// Goes along with the next write: it need not be durable by itself.
    Committed(LogId),
    Truncate(u64, Done),
    Purge(LogId, Done),
    Stop,
}

pub(crate) type Done = Box<dyn FnOnce() + Send>;

/// An entry that is ready to be written.
pub(crate) struct Encoded {
    pub(crate) log_id: LogId,
    pub(crate) payload: Bytes,
}

/// Where it writes to. The last segment is the one that grows.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) node: NodeId,
    pub(crate) segment_bytes: u64,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) spares: Vec<Segment>,
    pub(crate) index: Arc<Mutex<Index>>,
    pub(crate) state: State,
    pub(crate) disk_full: Arc<AtomicBool>,
    pub(crate) stopping: Arc<AtomicBool>,
}

/// Requests that are written together.
#[derive(Default)]
pub(crate) struct Gathered {
    frame: Option<FrameWriter>,
    /// Entries, and where in the frame their payloads begin.
    entries: Vec<(Encoded, usize)>,
    done: Vec<Done>,
    bytes: usize,
    purge: Option<LogId>,
    /// Where in the segment the frame was put.
    put: Option<Range<u64>>,
    pub(crate) stop: bool,
}

impl Writer {
    /// The first request with those that wait behind it.
    pub(crate) fn gather(&mut self, first: Request, mut next: impl FnMut() -> Option<Request>) -> Gathered {
        let mut gathered = Gathered::default();
        self.take(first, &mut gathered);
        while gathered.bytes < FRAME_BYTES_MAX && !gathered.stop {
            let Some(request) = next() else {
                break;
            };
            self.take(request, &mut gathered);
        }
        gathered
    }

    /// Whether the writer may go on after this. Who waits must hear nothing before: drop what was gathered after it.
    pub(crate) fn judge(&self, written: io::Result<()>) -> bool {
        let Err(error) = written else {
            return true;
        };
        if !self.stopping.load(Ordering::Acquire) {
            self.disk.fatal("the Raft log could not be written", &error);
        }
        false
    }

    fn take(&mut self, request: Request, into: &mut Gathered) {
        let frame = into.frame.get_or_insert_with(FrameWriter::new);
        match request {
            Request::Append { entries, done } => {
                for entry in entries {
                    let at = frame.entry(&entry.log_id, &entry.payload);
                    into.bytes += entry.payload.len();
                    into.entries.push((entry, at));
                }
                into.done.push(done);
            }
            Request::Vote(_, done) if faults::has(Bug::VoteNotKept) => done(),
            Request::Vote(vote, done) => {
                faults::pass(Point::VoteBeforeWrite);
                frame.vote(&vote);
                self.state.vote = Some(vote);
                into.done.push(done);
            }
            Request::Committed(log_id) => self.state.committed = Some(log_id),
            Request::Truncate(since, done) => {
                frame.truncated(since);
                into.done.push(done);
            }
            Request::Purge(log_id, done) => {
                frame.purged(&log_id);
                self.state.purged = self.state.purged.max(Some(log_id));
                into.purge = Some(log_id);
                into.done.push(done);
            }
            Request::Stop => {
                if let Some(committed) = &self.state.committed {
                    frame.committed(committed);
                }
                into.stop = true;
            }
        }
    }

    /// Writes the frame, which then is not durable yet.
    pub(crate) fn put(&mut self, gathered: &mut Gathered) -> io::Result<()> {
        let Some(mut frame) = gathered.frame.take().filter(|frame| !frame.is_empty()) else {
            return Ok(());
        };
        if let (Some(committed), false) = (&self.state.committed, gathered.stop) {
            frame.committed(committed);
        }
        let bytes = frame.bytes();
        self.make_room(bytes)?;
        // Invariant: `make_room` leaves a segment to write to.
        let segment = self.segments.back_mut().expect("a segment");
        let offset = segment.end;
        let frame = frame.finish(segment.header.salt, segment.frames);
        faults::pass(Point::LogBeforeWrite);
        segment.file.write_at(&frame, offset)?;
        gathered.put = Some(offset..offset + frame.len() as u64);
        Ok(())
    }

    /// Makes what was put durable, and tells those who wait for it.
    pub(crate) fn settle(&mut self, gathered: &mut Gathered) -> io::Result<()> {
        let (Some(at), Some(segment)) = (gathered.put.take(), self.segments.back_mut()) else {
            return Ok(());
        };
        faults::pass(Point::LogBeforeSync);
        if !faults::has(Bug::AckBeforeSync) {
            segment.file.sync()?;
        }
        faults::pass(Point::LogAfterSync);
        segment.frames += 1;
        segment.end = at.end;
        segment.seal();
        place(&self.index, segment, at.start, std::mem::take(&mut gathered.entries));
        for done in gathered.done.drain(..) {
            done();
        }
        if let Some(upto) = gathered.purge {
            faults::pass(Point::PurgeBeforeDrop);
            self.drop_segments(upto)?;
        }
        Ok(())
    }

    /// Begins a new segment if the frame does not fit into the one that grows. Waits while the disk is full.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        if self.segments.back().is_some_and(|segment| segment.end + bytes <= segment.bytes) {
            return Ok(());
        }
        loop {
            match self.begin_segment(bytes) {
                Err(error) if is_full(&error) => {
                    self.wait_for_space(error)?;
                }
                other => {
                    self.disk_full.store(false, Ordering::Release);
                    return other;
                }
            }
        }
    }

    fn wait_for_space(&mut self, error: io::Error) -> io::Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(error);
        }
        if !self.disk_full.swap(true, Ordering::AcqRel) {
            tracing::error!(dir = %self.dir.display(), "the disk is full: nothing can be written to the Raft log until there is space");
        }
        std::thread::sleep(FULL_RETRY);
        Ok(())
    }

    /// A segment gets its name when its head is on the disk, so one that has a name is whole.
    pub(crate) fn begin_segment(&mut self, room: u64) -> io::Result<()> {
        let number = self.segments.back().map_or(1, |segment| segment.header.number + 1);
        let header = Header { number, salt: rand::random(), node: self.node };
        let state =
            State { frames_before: self.segments.back().map_or(0, |segment| segment.frames), ..self.state.clone() };
        let mut first = FrameWriter::new();
        first.state(&state);
        let first = first.finish(header.salt, 0);
        let end = (HEADER_BYTES + first.len()) as u64;
        let bytes = self.segment_bytes.max(end + room);

        let (temporary, file) = self.blank_file(bytes)?;
        file.write_at(&[&header.encode()[..], &first].concat(), 0)?;
        file.sync()?;
        let path = segment_path(&self.dir, number);
        faults::pass(Point::SegmentBeforeRename);
        self.disk.rename(&temporary, &path)?;
        faults::pass(Point::SegmentAfterRename);
        self.disk.sync_dir(&self.dir)?;
        self.segments.push_back(Segment { path, file, header, frames: 1, end, bytes, last_index: None });
        Ok(())
    }

    /// A dropped segment if there is one, else a new file with its space taken.
    fn blank_file(&mut self, bytes: u64) -> io::Result<(PathBuf, Arc<dyn DiskFile>)> {
        if bytes == self.segment_bytes
            && let Some(spare) = self.spares.pop()
        {
            return Ok((spare.path, spare.file));
        }
        let path = self.dir.join("new.tmp");
        let file = self.disk.create(&path)?;
        if let Err(error) = file.allocate(bytes) {
            drop(file);
            self.disk.remove(&path)?;
            return Err(error);
        }
        Ok((path, Arc::from(file)))
    }

    /// Drops the segments whose entries are all purged. What else was in them stands at the head of those that stay.
    fn drop_segments(&mut self, upto: LogId) -> io::Result<()> {
        while self.segments.len() > 1 && self.segments[0].last_index.is_none_or(|last| last <= upto.index) {
            let Some(mut segment) = self.segments.pop_front() else {
                break;
            };
            // A reader may still hold the file: then it must not be written again.
            let is_free = Arc::strong_count(&segment.file) == 1;
            if is_free && self.spares.len() < SPARES_MAX && segment.bytes == self.segment_bytes {
                let spare = self.dir.join(format!("{}.tmp", segment.header.number));
                self.disk.rename(&segment.path, &spare)?;
                segment.path = spare;
                self.spares.push(segment);
            } else {
                self.disk.remove(&segment.path)?;
            }
            faults::pass(Point::PurgeAfterDrop);
            // One after the other: after a power cut no older one may be there with a younger one gone.
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

/// Tells the readers where the entries lie.
fn place(index: &Mutex<Index>, segment: &mut Segment, offset: u64, entries: Vec<(Encoded, usize)>) {
    if entries.is_empty() {
        return;
    }
    segment.last_index = segment.last_index.max(entries.iter().map(|(entry, _at)| entry.log_id.index).max());
    let file = &segment.file;
    let places = entries.into_iter().map(|(entry, at)| {
        let (bytes, crc) = (entry.payload.len(), crc32fast::hash(&entry.payload));
        (entry.log_id, Place { file: Arc::clone(file), offset: offset + at as u64, bytes, crc })
    });
    // Checksums first: readers and appenders wait for the lock.
    let places: Vec<_> = places.collect();
    let mut index = held(index);
    for (log_id, place) in places {
        index.placed(log_id, place);
    }
    index.evict();
}

/// Makes the folder itself survive a power cut.
pub(crate) fn sync_parents(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.sync_dir(dir)?;
    dir.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}
