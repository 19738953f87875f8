//! Reads the log when a member starts: finds where it ends, and tells a write that the power cut short (dropped: it was
//! never acknowledged) from damage (refused: something acknowledged is gone). They look the same in the last write, unless
//! its seal is behind it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{FRAME_HEADER_BYTES, Frame, HEADER_BYTES, Header, Record, frame_at, later_frame, records, seal};
use super::index::{Index, Place};
use crate::StartError;
use crate::disk::{Disk, DiskFile};
use crate::types::NodeId;

/// A file of the log.
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) header: Header,
    /// How many frames it holds.
    pub(crate) frames: u64,
    /// Where the next frame goes.
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    /// The highest index of its entries.
    pub(crate) last_index: Option<u64>,
}

impl Segment {
    /// Writes behind the last frame that it is synced. The next frame takes its place, so it costs no sync of its own; only a power cut may lose it.
    pub(crate) fn seal(&self) {
        let seal = seal(self.header.salt, self.frames);
        // Without room for it the next segment tells how many frames there were.
        if self.end + seal.len() as u64 <= self.bytes {
            // Nothing was promised that depends on it; on a disk that fails, the next frame finds out.
            let _ = self.file.write_at(&seal, self.end);
        }
    }
}

/// The log as it was found: the segments in order, and what is in them.
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Segment>,
    pub(crate) index: Index,
}

/// The name of the segment of that number.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// Reads all segments in `dir`. What was left over from an interrupted change of files is removed.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<Recovered, StartError> {
    let mut recovered = Recovered { segments: Vec::new(), index: Index::default() };
    let paths = segment_paths(disk, dir)?;
    for (at, path) in paths.iter().enumerate() {
        let is_last = at + 1 == paths.len();
        recovered.read(disk, path, node, is_last)?;
    }
    recovered.check(dir)?;
    Ok(recovered)
}

/// The log's files in order. What an interrupted change of files left behind is removed.
pub(crate) fn segment_paths(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, StartError> {
    let failed = |source| StartError::Disk { path: dir.to_owned(), source };
    disk.create_dir(dir).map_err(failed)?;
    let mut paths = Vec::new();
    for path in disk.list(dir).map_err(failed)? {
        match path.extension().and_then(|e| e.to_str()) {
            Some("log") => paths.push(path),
            Some("tmp") => disk.remove(&path).map_err(failed)?,
            Some(_) | None => {}
        }
    }
    // The names are numbers of fixed width: their order is the order of the segments.
    paths.sort();
    Ok(paths)
}

impl Recovered {
    fn read(&mut self, disk: &dyn Disk, path: &Path, node: NodeId, is_last: bool) -> Result<(), StartError> {
        let failed = |source| StartError::Disk { path: path.to_owned(), source };
        let damaged = |reason| StartError::Damaged { path: path.to_owned(), reason };
        let file: Arc<dyn DiskFile> = Arc::from(disk.open(path).map_err(failed)?);
        let bytes = file.len().map_err(failed)?;
        let mut content = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        file.read_at(&mut content, 0).map_err(failed)?;

        let header = Header::decode(&content).map_err(damaged)?;
        self.check_header(&header, path, node).map_err(damaged)?;
        let end = HEADER_BYTES as u64;
        let mut segment = Segment { path: path.to_owned(), file, header, frames: 0, end, bytes, last_index: None };
        self.read_frames(&mut segment, &content).map_err(damaged)?;
        if is_last {
            rewrite_last_frame(&segment, &content).map_err(failed)?;
        }
        self.segments.push(segment);
        Ok(())
    }

    fn check_header(&self, header: &Header, path: &Path, node: NodeId) -> Result<(), String> {
        if header.node != node {
            return Err(format!("it belongs to server id {}, this server is {node}", header.node));
        }
        if segment_path(path.parent().unwrap_or(Path::new("")), header.number) != path {
            return Err(format!("its name does not fit its number {}", header.number));
        }
        match self.segments.last() {
            Some(before) if before.header.number + 1 != header.number => {
                Err(format!("the file of number {} before it is missing", header.number - 1))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn read_frames(&mut self, segment: &mut Segment, content: &[u8]) -> Result<(), String> {
        let salt = segment.header.salt;
        loop {
            let at = usize::try_from(segment.end).map_err(|e| e.to_string())?;
            let Some(frame) = frame_at(content, at, salt, segment.frames).filter(|frame| !frame.is_seal()) else {
                break;
            };
            self.read_records(segment, &frame)?;
            segment.frames += 1;
            segment.end += frame.bytes as u64;
        }
        if segment.frames == 0 {
            return Err("its first record is gone".into());
        }
        let at = usize::try_from(segment.end).map_err(|e| e.to_string())?;
        match later_frame(content, at, salt, segment.frames) {
            Some(later) => {
                Err(format!("write {} at byte {at} cannot be read, but the later write {later} can", segment.frames))
            }
            None => Ok(()),
        }
    }

    fn read_records(&mut self, segment: &mut Segment, frame: &Frame<'_>) -> Result<(), String> {
        for record in records(frame.body)? {
            match record {
                Record::State(state) => {
                    let frames = self.segments.last().map_or(state.frames_before, |before| before.frames);
                    if frames != state.frames_before {
                        return Err(format!("the file before it has {frames} writes, of {}", state.frames_before));
                    }
                    self.index.recover_state(state);
                }
                Record::Vote(vote) => self.index.state.vote = Some(vote),
                Record::Committed(log_id) => self.index.state.committed = Some(log_id),
                Record::Purged(log_id) => self.index.purge(log_id),
                Record::Truncated(since) => self.index.truncate(since),
                Record::Entry { log_id, at, bytes } => {
                    let crc = crc32fast::hash(&frame.body[at..at + bytes]);
                    let offset = segment.end + (FRAME_HEADER_BYTES + at) as u64;
                    let place = Place { file: Arc::clone(&segment.file), offset, bytes, crc };
                    self.index.recover(log_id, place)?;
                    segment.last_index = segment.last_index.max(Some(log_id.index));
                }
            }
        }
        Ok(())
    }

    fn check(&self, dir: &Path) -> Result<(), StartError> {
        let damaged = |reason: &str| Err(StartError::Damaged { path: dir.to_owned(), reason: reason.into() });
        if !self.index.is_complete() {
            return damaged("entries are missing between the snapshot and the log");
        }
        match self.segments.first() {
            Some(first) if self.index.state.purged.is_none() && first.header.number != 1 => {
                damaged("the first file of the log is missing")
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The last frame may have been written and not synced before the process died. After a failed sync the kernel may hold
/// such bytes as clean, and a sync now would do nothing: so they are written once more.
fn rewrite_last_frame(segment: &Segment, content: &[u8]) -> std::io::Result<()> {
    let mut at = HEADER_BYTES;
    for number in 0..segment.frames {
        let Some(frame) = frame_at(content, at, segment.header.salt, number) else {
            break;
        };
        if number + 1 == segment.frames {
            segment.file.write_at(&content[at..at + frame.bytes], at as u64)?;
        }
        at += frame.bytes;
    }
    segment.file.sync()?;
    segment.seal();
    Ok(())
}
