//! The replicated truth: commands in, views out, deterministic to the last bit.
//!
//! A [`Command`] changes the [`Catalog`]; the change says which [`Topic`]s it touched. A [`View`] is the only way to read:
//! it remembers the topics that were read and the index at which they last changed. [`compile`] turns a view into what a
//! proxy obeys. Nothing here knows of clocks, randomness, IO or threads: two catalogs that applied the same commands are
//! equal, whoever they are and whenever it was.

mod apply;
mod command;
pub mod compile;
mod indexes;
mod invariants;
mod key;
mod lock_delays;
pub mod query;
mod snapshot;
mod tables;
mod tombstones;
mod topic;
mod txn;
mod view;

pub use command::{
    CaState, Command, DecodeError, Deregistration, ItemError, ItemKind, KvCommand, Refusal, Registration, Response,
    Revocation, SyncPush,
};
pub use snapshot::SnapshotError;
pub use tables::{Catalog, Row};
pub use topic::{Changes, Topic};
pub use txn::{TXN_RESULT_BYTES_MAX, TxnError, TxnKv, TxnKvVerb, TxnOp, TxnOutcome, TxnResult, TxnVerb};
pub use view::View;
