//! What can be asked of the catalog, what it answers, and how both are written down.

use bytes::Bytes;
use model::ca::CaRoot;
use model::config_entry::ConfigEntry;
use model::datacenter::Datacenter;
use model::{Check, Index, Intention, KvEntry, Node, ServiceInstance, Session};
use serde::{Deserialize, Serialize};

use crate::txn::{TxnOp, TxnOutcome};

/// A change of the catalog. Ids and random numbers are in it, and the leader's time is beside it ([`Command::stamp`]), so that
/// every replica does the same with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Puts a node, and with it an instance and checks, all or nothing.
    Register(Box<Registration>),
    /// Removes a node, an instance or a check. What is not there is removed already.
    Deregister(Deregistration),
    /// Makes the catalog agree with an agent.
    Sync(Box<SyncPush>),
    /// Says whether a node's session is alive (the check `serfHealth`). An alive node is registered if it is not known;
    /// a dead one that is not known, or whose id is another by now, is left alone. For a dead node, `node` may hold
    /// only the name and (if known) the id.
    SetNodeHealth {
        /// The node.
        node: Box<Node>,
        /// Whether its session is alive.
        alive: bool,
    },
    /// Removes a node with all that is on it, unless it has another id by now (empty: whatever its id).
    RemoveNode {
        /// The node's name.
        node: String,
        /// Its id.
        id: String,
    },
    /// A change of the key–value store.
    Kv(KvCommand),
    /// Several operations, all or nothing.
    Txn(Vec<TxnOp>),
    /// Begins a session, whose id nobody else has.
    CreateSession(Box<Session>),
    /// Ends a session: what it holds is released or deleted. What is not there has ended already.
    DestroySession {
        /// Its id.
        id: String,
    },
    /// Puts the intention for its source and destination. It keeps the id and creation time of one that it replaces.
    SetIntention(Box<Intention>),
    /// Removes the intention for a source and a destination. What is not there is removed already.
    DeleteIntention {
        /// The caller, or `*`.
        source: String,
        /// The called, or `*`.
        destination: String,
    },
    /// Puts a configuration entry.
    SetConfigEntry {
        /// The entry.
        entry: Box<ConfigEntry>,
        /// Only if the entry was last changed at this index; 0: only if there is none. `None`: in any case.
        cas: Option<Index>,
    },
    /// Removes a configuration entry. What is not there is removed already.
    DeleteConfigEntry {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Only if the entry was last changed at this index.
        cas: Option<Index>,
    },
    /// Puts the certificate authority's state, only if it was last changed at `expected` (0: only if there is none).
    SetCa {
        /// When the state that this one was made from was last changed.
        expected: Index,
        /// The state.
        state: Box<CaState>,
    },
    /// Declares certificates no longer good.
    Revoke(Revocation),
    /// Forgets revocations that time has overtaken.
    ForgetRevoked {
        /// Those that end before this, in seconds since 1970.
        before_secs: u64,
    },
    /// Puts a datacenter of the federation.
    SetDatacenter(Box<Datacenter>),
    /// Removes a datacenter of the federation. What is not there is removed already.
    DeleteDatacenter {
        /// Its name.
        name: String,
    },
}

/// A node, and with it an instance and checks. (Consul: `structs.RegisterRequest`.)
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// The node.
    pub node: Node,
    /// Leave the node as it is if it is known.
    pub skip_node_update: bool,
    /// An instance on it.
    pub service: Option<ServiceInstance>,
    /// Checks on it.
    pub checks: Vec<Check>,
}

/// What to remove: an instance if one is named, else a check if one is named, else the node with all that is on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Deregistration {
    /// The node's name.
    pub node: String,
    /// The instance's id.
    pub service_id: Option<String>,
    /// The check's id.
    pub check_id: Option<String>,
}

/// What an agent has. Items that cannot be kept are answered one by one; the others are kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncPush {
    /// The agent's node.
    pub node: Node,
    /// Instances to put.
    pub services: Vec<ServiceInstance>,
    /// Checks to put.
    pub checks: Vec<Check>,
    /// Ids of instances to remove, with their checks.
    pub deregister_services: Vec<String>,
    /// Ids of checks to remove.
    pub deregister_checks: Vec<String>,
    /// Remove also everything on the node that is not named here, but for the session's check.
    pub full: bool,
    /// Only if the agent's last push was at this index; 0: only if there was none since the node is there. `None`: in any case.
    /// So a push that was under way for long does not undo what came after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Index>,
}

/// A change of the key–value store. `cas` means: only if the key was last changed at this index; 0: only if there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvCommand {
    /// Puts a key.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The client's own number.
        flags: u64,
    },
    /// Puts a key if nobody was faster.
    Cas {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The client's own number.
        flags: u64,
        /// When the key was last changed.
        cas: Index,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Removes a key if nobody was faster. Index 0, as in Consul, never matches a key that is there.
    DeleteCas {
        /// The key.
        key: String,
        /// When the key was last changed.
        cas: Index,
    },
    /// Removes all keys with a prefix.
    DeleteTree {
        /// The prefix; empty means all keys.
        prefix: String,
    },
    /// Puts a key and locks it, unless another session holds it or it was taken from one a moment ago.
    Lock {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The client's own number.
        flags: u64,
        /// Who locks it.
        session: String,
    },
    /// Puts a key and unlocks it, if this session holds it.
    Unlock {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The client's own number.
        flags: u64,
        /// Who has locked it.
        session: String,
    },
    /// Puts an entry as it is, lock and all (a restore or an import). Who holds it must be there.
    Put(KvEntry),
}

/// The certificate authority of this datacenter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CaState {
    /// `<uuid>.consul`.
    pub trust_domain: String,
    /// All roots that are trusted; one is active.
    pub roots: Vec<CaRoot>,
    /// The signing chain and key. Only `identity` reads it.
    pub secret: Bytes,
    /// `GET /v1/connect/ca/configuration`: provider and settings. Opaque here.
    pub configuration: Bytes,
}

/// Certificates that are no longer good.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Revocation {
    /// Serial numbers, lower-case hex.
    pub serials: Vec<String>,
    /// SPIFFE ids.
    pub ids: Vec<String>,
    /// When the revocation may be forgotten, because the certificates have expired: seconds since 1970.
    pub until_secs: u64,
}

/// What the catalog answers to a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// It is so now (and may have been so before).
    Done,
    /// Nothing was changed, because the index that was given is not that of the last change. Look again.
    CasFailed,
    /// Nothing was changed: the key is locked by another session, or was until a moment ago; or it is not locked by this one.
    LockFailed,
    /// What became of a transaction.
    Txn(Box<TxnOutcome>),
    /// What an agent pushed is in the catalog.
    Synced {
        /// The index of this push, for the next one to follow.
        at: Index,
        /// But for these.
        errors: Vec<ItemError>,
    },
    /// Nothing was changed: the agent's last push is not the one that this one follows. Compare everything.
    Outdated {
        /// The index of the last push; 0: there is none.
        last: Index,
    },
    /// Nothing was changed, by the caller's fault.
    Refused(Refusal),
}

/// Why nothing was changed. The caller's fault; to repeat the command does not help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// What is asked for cannot be. The text is for the user.
    #[error("{0}")]
    Invalid(String),
    /// Another node has the name. The text is Consul's, for clients compare it.
    #[error("Node name {name} is reserved by node {holder_id} with name {holder} ({address})")]
    NodeNameTaken {
        /// The name that was asked for.
        name: String,
        /// The id of the node that has it.
        holder_id: String,
        /// How that node spells it.
        holder: String,
        /// That node's address.
        address: String,
    },
    /// A check names an instance that is not on its node. The text is Consul's.
    #[error("Missing service registration")]
    NoSuchService {
        /// The check.
        check_id: String,
        /// The instance that it names.
        service_id: String,
    },
}

/// An item of a [`SyncPush`] that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemError {
    /// What it is.
    pub kind: ItemKind,
    /// Its id.
    pub id: String,
    /// Why it was not kept, for the operator.
    pub message: String,
}

/// What an item of a [`SyncPush`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemKind {
    /// An instance.
    Service,
    /// A check.
    Check,
}

/// Bytes that are no command or response. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer release: this server must be upgraded before it can take part.
    #[error("format {found} is newer than this release reads ({known}): upgrade this server")]
    Newer {
        /// The format's version byte.
        found: u8,
        /// The newest that this release reads.
        known: u8,
    },
    /// Damaged, or never was one.
    #[error("not in the catalog's format: {0}")]
    Malformed(String),
}

/// The newest format of commands, responses and snapshots.
///
/// Raise it for a new kind of command, and for a field or a rule that changes what `apply` does: a server that does not know
/// it must stop (see [`DecodeError::Newer`]), for if it left it out, its catalog would differ from the others'.
pub(crate) const FORMAT: u8 = 2;

/// The first format in which the leader's time stands before a command.
const FORMAT_WITH_TIME: u8 = 2;
const TIME_BYTES: usize = 8;

impl Command {
    /// A version byte, eight bytes for the leader's time, then MessagePack with field names.
    pub fn encode(&self) -> Vec<u8> {
        encode(self, &[FORMAT, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Reads what [`Command::encode`] wrote, in this release or an older one.
    pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
        decode(parts(bytes)?.1)
    }

    /// The same encoded command with the leader's time (see [`Catalog::apply_at`](crate::Catalog::apply_at)), in place of one
    /// that it had. What is no command stays none.
    pub fn stamp(bytes: &[u8], time_ms: u64) -> Vec<u8> {
        let body = parts(bytes).map_or(&[][..], |(_, body)| body);
        let mut stamped = Vec::with_capacity(1 + TIME_BYTES + body.len());
        stamped.push(FORMAT);
        stamped.extend_from_slice(&time_ms.to_be_bytes());
        stamped.extend_from_slice(body);
        stamped
    }

    /// The time that an encoded command was stamped with; 0 if it was not.
    pub fn time_ms(bytes: &[u8]) -> u64 {
        parts(bytes).map_or(0, |(time_ms, _)| time_ms)
    }
}

/// The leader's time and the command itself.
fn parts(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    match versioned(bytes)? {
        (FORMAT_WITH_TIME.., rest) => match rest.split_first_chunk::<TIME_BYTES>() {
            Some((time, body)) => Ok((u64::from_be_bytes(*time), body)),
            None => Err(DecodeError::Malformed("too short".into())),
        },
        (_, body) => Ok((0, body)),
    }
}

impl Response {
    /// A version byte, then MessagePack with field names.
    pub fn encode(&self) -> Vec<u8> {
        encode(self, &[FORMAT])
    }

    /// Reads what [`Response::encode`] wrote, in this release or an older one.
    pub fn decode(bytes: &[u8]) -> Result<Response, DecodeError> {
        decode(versioned(bytes)?.1)
    }
}

/// How large a part of a command or response is, encoded.
pub(crate) fn encoded_bytes<T: Serialize>(value: &T) -> usize {
    encode(value, &[]).len()
}

fn encode<T: Serialize>(value: &T, head: &[u8]) -> Vec<u8> {
    let mut bytes = head.to_vec();
    // Invariant: writing to memory does not fail, and every type here has string keys only.
    rmp_serde::encode::write_named(&mut bytes, value).expect("commands and responses can be encoded");
    bytes
}

/// The version byte, and what follows it.
fn versioned(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Malformed("empty".into())),
        Some((&found, _)) if found > FORMAT => Err(DecodeError::Newer { found, known: FORMAT }),
        Some((&found, rest)) => Ok((found, rest)),
    }
}

fn decode<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(body).map_err(|e| DecodeError::Malformed(e.to_string()))
}
