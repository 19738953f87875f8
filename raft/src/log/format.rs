//! What the log's files look like.
//!
//! A segment is a header of 64 bytes and then frames. A frame is what was written and synced at once, so all of a frame is
//! there or none of it is promised, and a frame after it proves that it had been synced. It holds records: entries, votes,
//! and so on. Behind the last frame stands a seal: a frame without records, which is no part of the log and is overwritten
//! by the next frame. Everything is little-endian; each frame begins at a multiple of 8.

use serde::{Deserialize, Serialize};

use crate::consensus::{LogId, Vote};
use crate::types::NodeId;

/// The version of all that is written here. A reader knows it and the one before (there is none yet).
pub(crate) const VERSION: u8 = 1;
/// Where the first frame begins.
pub(crate) const HEADER_BYTES: usize = 64;
/// The length, the checksum, the segment's salt and the frame's number in the segment.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 8;
const LOG_ID_BYTES: usize = 24;
const MAGIC: [u8; 8] = *b"TRBNLOG\n";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Which segment this is: each has the number after the one before.
    pub(crate) number: u64,
    /// Random. Marks this segment's frames, so that those of the file's earlier life are not taken for them.
    pub(crate) salt: u64,
    /// Whose log it is.
    pub(crate) node: NodeId,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = VERSION;
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.node.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, String> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err("it is too short for a segment".into());
        };
        if bytes[..8] != MAGIC {
            return Err("it does not begin as a segment does".into());
        }
        if crc32fast::hash(&bytes[..HEADER_BYTES - 4]) != u32_at(bytes, HEADER_BYTES - 4) {
            return Err("the checksum of its header is wrong".into());
        }
        if bytes[8] != VERSION {
            return Err(format!("it has version {}, this program reads {VERSION}", bytes[8]));
        }
        Ok(Header { number: u64_at(bytes, 16), salt: u64_at(bytes, 24), node: u64_at(bytes, 32) })
    }
}

/// Everything but the entries, at the head of each segment, so that the segments before it can be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// How many frames the segment before this one has: fewer means that it lost some.
    pub(crate) frames_before: u64,
}

/// A record in a frame.
#[derive(Debug, PartialEq)]
pub(crate) enum Record {
    State(State),
    Vote(Vote),
    Committed(LogId),
    /// Entries up to this one are gone.
    Purged(LogId),
    /// Entries from this index on are gone.
    Truncated(u64),
    /// An entry, whose payload lies at this place of the frame's body.
    Entry {
        log_id: LogId,
        at: usize,
        bytes: usize,
    },
}

/// Gathers the records of one frame.
pub(crate) struct FrameWriter {
    bytes: Vec<u8>,
}

impl FrameWriter {
    pub(crate) fn new() -> FrameWriter {
        FrameWriter { bytes: vec![0; FRAME_HEADER_BYTES] }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEADER_BYTES
    }

    /// How many bytes it will take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len().next_multiple_of(8)
    }

    /// Adds an entry; answers where in the frame its payload begins.
    pub(crate) fn entry(&mut self, log_id: &LogId, payload: &[u8]) -> usize {
        self.header(1, LOG_ID_BYTES + payload.len());
        for number in [log_id.leader_id.term, log_id.leader_id.node_id, log_id.index] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        at
    }

    pub(crate) fn vote(&mut self, vote: &Vote) {
        self.named(2, vote);
    }

    pub(crate) fn committed(&mut self, log_id: &LogId) {
        self.named(3, log_id);
    }

    pub(crate) fn purged(&mut self, log_id: &LogId) {
        self.named(4, log_id);
    }

    pub(crate) fn truncated(&mut self, since: u64) {
        self.named(5, &since);
    }

    pub(crate) fn state(&mut self, state: &State) {
        self.named(6, state);
    }

    /// The bytes to write, padded so that the next frame is aligned.
    pub(crate) fn finish(mut self, salt: u64, number: u64) -> Vec<u8> {
        let body = self.bytes.len() - FRAME_HEADER_BYTES;
        self.bytes[..4].copy_from_slice(&bytes32(body).to_le_bytes());
        self.bytes[8..16].copy_from_slice(&salt.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&number.to_le_bytes());
        let crc = frame_crc(&self.bytes);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes
    }

    fn named<T: Serialize>(&mut self, kind: u8, value: &T) {
        // Invariant: these are plain structs of numbers, which MessagePack always holds.
        let payload = rmp_serde::to_vec_named(value).expect("numbers can be encoded");
        self.header(kind, payload.len());
        self.bytes.extend_from_slice(&payload);
    }

    fn header(&mut self, kind: u8, length: usize) {
        self.bytes.extend_from_slice(&[kind, VERSION, 0, 0]);
        self.bytes.extend_from_slice(&bytes32(length).to_le_bytes());
    }
}

/// A frame that is whole.
pub(crate) struct Frame<'a> {
    pub(crate) body: &'a [u8],
    /// With header and padding.
    pub(crate) bytes: usize,
}

impl Frame<'_> {
    /// It proves that the frame before it was synced, and is not counted.
    pub(crate) fn is_seal(&self) -> bool {
        self.body.is_empty()
    }
}

/// What stands behind the last frame, with the number that the next will have.
pub(crate) fn seal(salt: u64, number: u64) -> Vec<u8> {
    FrameWriter::new().finish(salt, number)
}

/// The frame of that number at `at`, if it is there and whole.
pub(crate) fn frame_at(segment: &[u8], at: usize, salt: u64, number: u64) -> Option<Frame<'_>> {
    let header = segment.get(at..at.checked_add(FRAME_HEADER_BYTES)?)?;
    if u64_at(header, 8) != salt || u64_at(header, 16) != number {
        return None;
    }
    let body = u32_at(header, 0) as usize;
    let whole = segment.get(at..at.checked_add(FRAME_HEADER_BYTES + body)?)?;
    if frame_crc(whole) != u32_at(header, 4) {
        return None;
    }
    Some(Frame { body: &whole[FRAME_HEADER_BYTES..], bytes: whole.len().next_multiple_of(8) })
}

/// A whole frame of a higher number, anywhere after `at`: the one at `at` had been synced then.
pub(crate) fn later_frame(segment: &[u8], at: usize, salt: u64, number: u64) -> Option<u64> {
    let mut offset = at + 8;
    while offset + FRAME_HEADER_BYTES <= segment.len() {
        let found = u64_at(segment, offset + 16);
        if u64_at(segment, offset + 8) == salt && found > number && frame_at(segment, offset, salt, found).is_some() {
            return Some(found);
        }
        offset += 8;
    }
    None
}

/// The records of a frame's body, in order.
pub(crate) fn records(body: &[u8]) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let header = body.get(at..at + RECORD_HEADER_BYTES).ok_or("a record is cut short")?;
        if header[1] != VERSION {
            return Err(format!("a record has version {}, this program reads {VERSION}", header[1]));
        }
        let length = u32_at(header, 4) as usize;
        at += RECORD_HEADER_BYTES;
        let payload = body.get(at..at + length).ok_or("a record is cut short")?;
        records.push(record(header[0], payload, at)?);
        at += length;
    }
    Ok(records)
}

fn record(kind: u8, payload: &[u8], at: usize) -> Result<Record, String> {
    Ok(match kind {
        1 => entry(payload, at)?,
        2 => Record::Vote(named(payload)?),
        3 => Record::Committed(named(payload)?),
        4 => Record::Purged(named(payload)?),
        5 => Record::Truncated(named(payload)?),
        6 => Record::State(named(payload)?),
        other => return Err(format!("a record is of the unknown kind {other}")),
    })
}

fn entry(payload: &[u8], at: usize) -> Result<Record, String> {
    if payload.len() < LOG_ID_BYTES {
        return Err("an entry is cut short".into());
    }
    let leader = openraft::CommittedLeaderId::new(u64_at(payload, 0), u64_at(payload, 8));
    let log_id = LogId::new(leader, u64_at(payload, 16));
    Ok(Record::Entry { log_id, at: at + LOG_ID_BYTES, bytes: payload.len() - LOG_ID_BYTES })
}

fn named<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    rmp_serde::from_slice(payload).map_err(|e| e.to_string())
}

/// Over everything but the checksum itself.
fn frame_crc(frame: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..4]);
    crc.update(&frame[8..]);
    crc.finalize()
}

fn bytes32(length: usize) -> u32 {
    // Invariant: a frame is bounded by the sizes of a batch and of an append, which are megabytes.
    u32::try_from(length).expect("a frame under 4 GiB")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;
    use proptest::prelude::*;

    use super::*;

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, node), index)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8), salt: u64, number: u64) {
            let mut frame = FrameWriter::new();
            let state = State { vote: Some(Vote::new(3, 4)), committed: Some(log_id(1, 2, 3)), purged: None, frames_before: 9 };
            frame.state(&state);
            let mut places = Vec::new();
            for (index, payload) in payloads.iter().enumerate() {
                places.push(frame.entry(&log_id(7, 8, index as u64), payload));
            }
            frame.truncated(5);
            let bytes = frame.finish(salt, number);
            prop_assert_eq!(bytes.len() % 8, 0);
            let frame = frame_at(&bytes, 0, salt, number).unwrap();
            prop_assert_eq!(frame.bytes, bytes.len());
            let found = records(frame.body).unwrap();
            prop_assert_eq!(&found[0], &Record::State(state));
            prop_assert_eq!(found.last(), Some(&Record::Truncated(5)));
            for (index, payload) in payloads.iter().enumerate() {
                let Record::Entry { log_id: id, at, bytes: length } = found[index + 1] else { panic!("an entry") };
                prop_assert_eq!(id, log_id(7, 8, index as u64));
                prop_assert_eq!(&frame.body[at..at + length], &payload[..]);
                prop_assert_eq!(at + FRAME_HEADER_BYTES, places[index]);
            }
        }

        #[test]
        fn a_flipped_bit_is_seen(payload in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, bit in 0u8..8) {
            let mut frame = FrameWriter::new();
            frame.entry(&log_id(1, 1, 1), &payload);
            let length = FRAME_HEADER_BYTES + RECORD_HEADER_BYTES + LOG_ID_BYTES + payload.len();
            let mut bytes = frame.finish(77, 5);
            bytes[at.index(length)] ^= 1 << bit;
            prop_assert!(frame_at(&bytes, 0, 77, 5).is_none());
        }

        #[test]
        fn damage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = records(&bytes);
            let _ = Header::decode(&bytes);
            let _ = frame_at(&bytes, 0, 0, 0);
            let _ = later_frame(&bytes, 0, 0, 0);
        }
    }

    #[test]
    fn a_header_is_read_and_a_damaged_one_refused() {
        let header = Header { number: 7, salt: 8, node: 9 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..HEADER_BYTES {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
    }
}
