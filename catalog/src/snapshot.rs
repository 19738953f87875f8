//! The catalog as a stream of bytes, and back.
//!
//! A version byte, then records: a byte that says which kind, four bytes of length (big-endian), the noun as MessagePack
//! with field names. The last record holds how many there were and a checksum of all bytes before it. Indexes that can be
//! made from other tables are not in it.

use crate::command::{CaState, FORMAT};
use crate::key::{Key, folded_arc};
use crate::tables::{Catalog, Row};
use crate::topic::Topic;
use faults::Bug;
use model::config_entry::ConfigEntry;
use model::datacenter::Datacenter;
use model::{Check, Index, Intention, KvEntry, Node, ServiceInstance, Session};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::Arc;

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The stream failed. A read may be tried again; the catalog that was asked for does not exist.
    #[error("snapshot stream: {0}")]
    Io(#[from] std::io::Error),
    /// Written by a newer release: upgrade this server.
    #[error("snapshot format {found} is newer than this release reads ({FORMAT}): upgrade this server")]
    Newer {
        /// The version byte.
        found: u8,
    },
    /// A newer release has put something in that this one does not know: upgrade this server.
    #[error("snapshot has records of the unknown kind {0}: upgrade this server")]
    UnknownKind(u8),
    /// Damaged: fetch it again from another server.
    #[error("snapshot is damaged ({0}): fetch it again")]
    Damaged(String),
}

/// Kinds of records. Their numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Head = 1,
    Node = 2,
    Instance = 3,
    Check = 4,
    Kv = 5,
    KvGone = 6,
    Intention = 7,
    ConfigEntry = 8,
    Datacenter = 9,
    Ca = 10,
    RevokedSerial = 11,
    RevokedId = 12,
    Topic = 13,
    TopicGone = 14,
    Session = 15,
    LockDelay = 16,
    Pushed = 17,
    End = 255,
}

const KINDS: [Kind; 18] = [
    Kind::Head,
    Kind::Node,
    Kind::Instance,
    Kind::Check,
    Kind::Kv,
    Kind::KvGone,
    Kind::Intention,
    Kind::ConfigEntry,
    Kind::Datacenter,
    Kind::Ca,
    Kind::RevokedSerial,
    Kind::RevokedId,
    Kind::Topic,
    Kind::TopicGone,
    Kind::Session,
    Kind::LockDelay,
    Kind::Pushed,
    Kind::End,
];

/// Largest record that is read, in bytes. A larger one would be damage, and must not take all memory.
const RECORD_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Bytes that are written and read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Head {
    index: Index,
    kv_floor: Index,
    topic_floor: Index,
    clock_ms: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct End {
    count: u64,
    checksum: u32,
}

impl Catalog {
    /// Writes the catalog. The same catalog gives the same bytes.
    pub fn write_snapshot(&self, stream: impl Write) -> Result<(), SnapshotError> {
        let stream = BufWriter::with_capacity(BUFFER_BYTES, stream);
        let mut out = Writer { stream, checksum: crc32fast::Hasher::new(), count: 0, record: Vec::new() };
        out.bytes(&[FORMAT])?;
        let head = Head {
            index: self.index,
            kv_floor: self.kv_gone.floor(),
            topic_floor: self.indexes.gone.floor(),
            clock_ms: self.clock_ms,
        };
        out.record(Kind::Head, &head)?;
        self.nodes.values().try_for_each(|row| out.record(Kind::Node, &**row))?;
        self.pushed.iter().try_for_each(|(key, index)| out.record(Kind::Pushed, &(&**key, index)))?;
        self.instances.iter().try_for_each(|(key, row)| out.record(Kind::Instance, &(&*key.0[0], &**row)))?;
        self.checks.iter().try_for_each(|(key, row)| out.record(Kind::Check, &(&*key.0[0], &**row)))?;
        self.kv.values().try_for_each(|row| out.record(Kind::Kv, &**row))?;
        self.kv_gone.map().iter().try_for_each(|(key, index)| out.record(Kind::KvGone, &(&**key, index)))?;
        self.sessions.values().try_for_each(|row| out.record(Kind::Session, &**row))?;
        self.lock_delays.iter().try_for_each(|(key, until)| out.record(Kind::LockDelay, &(&**key, until)))?;
        self.intentions.values().try_for_each(|row| out.record(Kind::Intention, &**row))?;
        self.config_entries.values().try_for_each(|row| out.record(Kind::ConfigEntry, &**row))?;
        self.datacenters.values().try_for_each(|row| out.record(Kind::Datacenter, &**row))?;
        self.ca.iter().try_for_each(|row| out.record(Kind::Ca, &**row))?;
        self.revoked_serials.iter().try_for_each(|(name, until)| out.record(Kind::RevokedSerial, &(&**name, until)))?;
        self.revoked_ids.iter().try_for_each(|(name, until)| out.record(Kind::RevokedId, &(&**name, until)))?;
        self.indexes.live.iter().try_for_each(|(topic, index)| out.record(Kind::Topic, &(topic, index)))?;
        self.indexes.gone.map().iter().try_for_each(|(topic, index)| out.record(Kind::TopicGone, &(topic, index)))?;
        let end = End { count: out.count, checksum: out.checksum.clone().finalize() };
        out.record(Kind::End, &end)?;
        Ok(out.stream.flush()?)
    }

    /// Reads what [`Catalog::write_snapshot`] wrote, in this release or an older one.
    pub fn read_snapshot(stream: impl Read) -> Result<Catalog, SnapshotError> {
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut input = Reader { stream, checksum: crc32fast::Hasher::new(), count: 0 };
        let mut version = [0];
        input.bytes(&mut version)?;
        if version[0] > FORMAT {
            return Err(SnapshotError::Newer { found: version[0] });
        }
        let mut catalog = Catalog::new();
        loop {
            let expected = End { count: input.count, checksum: input.checksum.clone().finalize() };
            let (kind, record) = input.record()?;
            if kind == Kind::End {
                return match unpack::<End>(&record)? == expected {
                    true => Ok(catalog),
                    false => Err(SnapshotError::Damaged("the checksum does not fit".into())),
                };
            }
            catalog.restore(kind, &record)?;
        }
    }

    /// A number that two catalogs share if (but for luck) they are equal, in every release that writes the same format.
    pub fn state_hash(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        // Invariant: hashing does not fail, so writing to the hash does not.
        self.write_snapshot(&mut hash).expect("a hash takes all bytes");
        hash.0
    }

    fn restore(&mut self, kind: Kind, record: &[u8]) -> Result<(), SnapshotError> {
        match kind {
            Kind::Head => {
                let head: Head = unpack(record)?;
                self.index = head.index;
                self.clock_ms = head.clock_ms;
                self.kv_gone.restore_floor(head.kv_floor);
                self.indexes.gone.restore_floor(head.topic_floor);
            }
            Kind::Node => {
                let row: Row<Node> = unpack(record)?;
                self.put_node(&folded_arc(&row.name), Arc::new(row));
            }
            Kind::Instance => {
                let (node, row): (String, Row<ServiceInstance>) = unpack(record)?;
                self.put_instance(Key([self.node_key(&node), Arc::from(&*row.id)]), Arc::new(row));
            }
            Kind::Check => {
                let (node, row): (String, Row<Check>) = unpack(record)?;
                let key = Key([self.node_key(&node), Arc::from(&*row.service_id), Arc::from(&*row.check_id)]);
                self.put_check(key, Arc::new(row));
            }
            Kind::Kv => {
                let mut row: Row<KvEntry> = unpack(record)?;
                if faults::has(Bug::SnapshotForgetsFlags) {
                    row.value.flags = 0;
                }
                if faults::has(Bug::SnapshotForgetsIndex) {
                    row.modify_index = self.index;
                }
                self.put_kv(Arc::from(&*row.key), Arc::new(row));
            }
            Kind::Session => self.put_session(Arc::new(unpack::<Row<Session>>(record)?)),
            Kind::Intention => {
                let row: Row<Intention> = unpack(record)?;
                self.intentions
                    .insert(Key([folded_arc(&row.destination_name), Arc::from(&*row.source_name)]), Arc::new(row));
            }
            Kind::ConfigEntry => {
                let row: Row<ConfigEntry> = unpack(record)?;
                self.config_entries.insert(Key([Arc::from(row.kind()), folded_arc(row.name())]), Arc::new(row));
            }
            Kind::Datacenter => {
                let row: Row<Datacenter> = unpack(record)?;
                self.datacenters.insert(Arc::from(&*row.name), Arc::new(row));
            }
            Kind::Ca => self.ca = Some(Arc::new(unpack::<Row<CaState>>(record)?)),
            Kind::Pushed
            | Kind::KvGone
            | Kind::LockDelay
            | Kind::RevokedSerial
            | Kind::RevokedId
            | Kind::Topic
            | Kind::TopicGone
            | Kind::End => {
                self.restore_index(kind, record)?;
            }
        }
        Ok(())
    }

    fn restore_index(&mut self, kind: Kind, record: &[u8]) -> Result<(), SnapshotError> {
        match kind {
            Kind::Pushed => {
                let (node, index): (String, Index) = unpack(record)?;
                self.pushed.insert(self.node_key(&node), index);
            }
            Kind::KvGone if faults::has(Bug::SnapshotForgetsGone) => {}
            Kind::KvGone => {
                let (key, index): (String, Index) = unpack(record)?;
                self.kv_gone.bury(Arc::from(key), index);
            }
            Kind::LockDelay if faults::has(Bug::LockDelayForgotten) => {}
            Kind::LockDelay => {
                let (key, until_ms): (String, u64) = unpack(record)?;
                self.lock_delays.set(Arc::from(key), until_ms);
            }
            Kind::RevokedSerial => {
                let (name, until): (String, u64) = unpack(record)?;
                self.revoked_serials.insert(Arc::from(name), until);
            }
            Kind::RevokedId => {
                let (name, until): (String, u64) = unpack(record)?;
                self.revoked_ids.insert(Arc::from(name), until);
            }
            Kind::Topic => {
                let (topic, index): (Topic, Index) = unpack(record)?;
                self.indexes.live.insert(topic, index);
            }
            Kind::TopicGone => {
                let (topic, index): (Topic, Index) = unpack(record)?;
                self.indexes.gone.bury(topic, index);
            }
            Kind::Head
            | Kind::Node
            | Kind::Instance
            | Kind::Check
            | Kind::Kv
            | Kind::Session
            | Kind::Intention
            | Kind::ConfigEntry
            | Kind::Datacenter
            | Kind::Ca
            | Kind::End => {}
        }
        Ok(())
    }

    /// The key of a node that was restored before, shared.
    fn node_key(&self, key: &str) -> Arc<str> {
        self.nodes.get_key_value(key).map_or_else(|| Arc::from(key), |(known, _)| known.clone())
    }
}

struct Writer<W: Write> {
    stream: BufWriter<W>,
    checksum: crc32fast::Hasher,
    count: u64,
    record: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.checksum.update(bytes);
        Ok(self.stream.write_all(bytes)?)
    }

    fn record<T: Serialize>(&mut self, kind: Kind, value: &T) -> Result<(), SnapshotError> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        record.extend_from_slice(&[kind as u8, 0, 0, 0, 0]);
        rmp_serde::encode::write_named(&mut record, value).map_err(|e| SnapshotError::Damaged(e.to_string()))?;
        let too_long = |_| SnapshotError::Damaged("a record is longer than 4 GiB".into());
        let len = u32::try_from(record.len() - 5).map_err(too_long)?;
        record[1..5].copy_from_slice(&len.to_be_bytes());
        self.bytes(&record)?;
        self.count += 1;
        self.record = record;
        Ok(())
    }
}

struct Reader<R> {
    stream: BufReader<R>,
    checksum: crc32fast::Hasher,
    count: u64,
}

impl<R: Read> Reader<R> {
    fn bytes(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.stream.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => SnapshotError::Damaged("it ends too early".into()),
            _ => SnapshotError::Io(e),
        })?;
        self.checksum.update(bytes);
        Ok(())
    }

    fn record(&mut self) -> Result<(Kind, Vec<u8>), SnapshotError> {
        let mut head = [0; 5];
        self.bytes(&mut head)?;
        let [number, len @ ..] = head;
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == number).ok_or(SnapshotError::UnknownKind(number))?;
        let len = u32::from_be_bytes(len);
        if len > RECORD_BYTES_MAX {
            return Err(SnapshotError::Damaged(format!("a record of {len} bytes")));
        }
        let mut record = vec![0; len as usize];
        self.bytes(&mut record)?;
        self.count += 1;
        Ok((kind, record))
    }
}

fn unpack<T: DeserializeOwned>(record: &[u8]) -> Result<T, SnapshotError> {
    rmp_serde::from_slice(record).map_err(|e| SnapshotError::Damaged(e.to_string()))
}

/// FNV-1a, 64 bits: the same on every machine and in every release.
struct Fnv(u64);

impl Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
