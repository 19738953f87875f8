//! Transactions: several operations in one command, all or nothing.

use bytes::Bytes;
use model::{Check, Index, KvEntry, Node, ServiceInstance};
use serde::{Deserialize, Serialize};

use crate::tables::Row;

/// What a transaction in the log may answer with, in bytes: it travels to the server that was asked.
pub const TXN_RESULT_BYTES_MAX: usize = 1024 * 1024;

/// One operation of a transaction. (Consul: `structs.TxnOp`.)
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TxnOp {
    /// On a key.
    Kv(TxnKv),
    /// On a node.
    Node {
        /// What to do.
        verb: TxnVerb,
        /// With which node; to get and delete, its name or (to get) id is enough.
        node: Box<Node>,
        /// For compare-and-set: when it was last changed.
        index: Index,
    },
    /// On an instance.
    Service {
        /// What to do.
        verb: TxnVerb,
        /// The node that it is on.
        node: String,
        /// With which instance; to get and delete, its id is enough.
        service: Box<ServiceInstance>,
        /// For compare-and-set: when it was last changed.
        index: Index,
    },
    /// On a check.
    Check {
        /// What to do.
        verb: TxnVerb,
        /// With which check; to get and delete, its node and id are enough.
        check: Box<Check>,
        /// For compare-and-set: when it was last changed.
        index: Index,
    },
}

/// An operation on a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TxnKv {
    /// What to do.
    pub verb: TxnKvVerb,
    /// The key, or prefix.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The client's own number.
    pub flags: u64,
    /// When it was last changed, where that is compared.
    pub index: Index,
    /// Who locks or holds it.
    pub session: String,
}

/// What to do with a key. The names are Consul's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TxnKvVerb {
    #[default]
    Get,
    GetOrEmpty,
    GetTree,
    CheckIndex,
    CheckSession,
    CheckNotExists,
    Set,
    Cas,
    Lock,
    Unlock,
    Delete,
    DeleteCas,
    DeleteTree,
}

/// What to do with a node, instance or check. The names are Consul's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TxnVerb {
    Get,
    Set,
    Cas,
    Delete,
    DeleteCas,
}

/// A row that an operation read or wrote. Written keys come without their value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TxnResult {
    Kv(Row<KvEntry>),
    Node(Box<Row<Node>>),
    Service(Box<Row<ServiceInstance>>),
    Check(Box<Row<Check>>),
}

/// Why an operation failed, and with it the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnError {
    /// Which operation, from 0.
    pub op_index: u64,
    /// For the user; Consul's text where it has one.
    pub what: String,
}

/// What became of a transaction. With an error, nothing was changed and there are no results.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TxnOutcome {
    /// In the order of the operations.
    pub results: Vec<TxnResult>,
    /// In the order of the operations.
    pub errors: Vec<TxnError>,
}

impl TxnOp {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        match self {
            TxnOp::Kv(op) => op.verb.is_read(),
            TxnOp::Node { verb, .. } | TxnOp::Service { verb, .. } | TxnOp::Check { verb, .. } => *verb == TxnVerb::Get,
        }
    }
}

impl TxnKvVerb {
    /// Whether it changes nothing.
    pub fn is_read(self) -> bool {
        match self {
            TxnKvVerb::Get
            | TxnKvVerb::GetOrEmpty
            | TxnKvVerb::GetTree
            | TxnKvVerb::CheckIndex
            | TxnKvVerb::CheckSession
            | TxnKvVerb::CheckNotExists => true,
            TxnKvVerb::Set
            | TxnKvVerb::Cas
            | TxnKvVerb::Lock
            | TxnKvVerb::Unlock
            | TxnKvVerb::Delete
            | TxnKvVerb::DeleteCas
            | TxnKvVerb::DeleteTree => false,
        }
    }
}

impl TxnOutcome {
    /// Takes in what one operation came to.
    pub(crate) fn take(&mut self, op_index: usize, done: Result<Vec<TxnResult>, String>) {
        match done {
            Ok(results) => self.results.extend(results),
            Err(what) => self.errors.push(TxnError { op_index: op_index as u64, what }),
        }
    }
}

impl TxnResult {
    /// How large it is in an encoded answer, at most.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            // There may be many: what is not text is not counted one by one.
            TxnResult::Kv(row) => {
                let session = row.session.as_ref().map_or(0, |session| session.len());
                KV_ROW_BYTES + row.key.len() + row.value.value.len() + session
            }
            TxnResult::Node(_) | TxnResult::Service(_) | TxnResult::Check(_) => crate::command::encoded_bytes(self),
        }
    }
}

/// The names and numbers of a row of the KV store.
const KV_ROW_BYTES: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_result_is_larger_than_it_is_counted() {
        let largest = KvEntry {
            key: "k".repeat(2048),
            value: vec![0xFF; 512 * 1024].into(),
            flags: u64::MAX,
            lock_index: u64::MAX,
            session: Some("s".repeat(36)),
        };
        let smallest = KvEntry { key: "k".into(), ..KvEntry::default() };
        let results = [
            TxnResult::Kv(row_of(largest)),
            TxnResult::Kv(row_of(smallest)),
            TxnResult::Node(Box::new(row_of(Node { name: "n".repeat(99), ..Node::default() }))),
        ];
        for result in results {
            let encoded = crate::command::encoded_bytes(&result);
            assert!(encoded <= result.bytes(), "{encoded} > {}", result.bytes());
        }
    }

    fn row_of<T>(value: T) -> Row<T> {
        Row { create_index: u64::MAX, modify_index: u64::MAX, value }
    }
}
