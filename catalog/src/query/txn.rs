//! Transactions that only read, and the reads of those that write. Nobody waits for them, so no topics are noted.

use crate::key::{At, folded};
use crate::tables::{Catalog, Row};
use crate::txn::{TxnKv, TxnKvVerb, TxnOp, TxnOutcome, TxnResult, TxnVerb};
use crate::view::View;
use model::{Check, KvEntry, Node, ServiceInstance};
use std::ops::Bound;

/// Runs the operations, which must all be reads ([`TxnOp::is_read`]); one that writes fails.
pub fn read(view: &View<'_>, ops: &[TxnOp]) -> TxnOutcome {
    let mut outcome = TxnOutcome::default();
    for (at, op) in ops.iter().enumerate() {
        let done = read_op(view.catalog(), op);
        outcome.take(at, done.unwrap_or_else(|| Err("this operation writes: it needs a place in the log".into())));
    }
    if !outcome.errors.is_empty() {
        outcome.results.clear();
    }
    outcome
}

/// What an operation reads; `None` if it is none that only reads. The texts are Consul's.
pub(crate) fn read_op(catalog: &Catalog, op: &TxnOp) -> Option<Result<Vec<TxnResult>, String>> {
    match op {
        TxnOp::Kv(op) => op.verb.is_read().then(|| read_kv(catalog, op)),
        TxnOp::Node { verb: TxnVerb::Get, node, .. } => Some(
            node_row(catalog, node).ok_or_else(|| format!("node {:?} doesn't exist", node.name)).map(|row| vec![row]),
        ),
        TxnOp::Service { verb: TxnVerb::Get, node, service, .. } => Some(
            service_row(catalog, node, &service.id)
                .ok_or_else(|| format!("service {:?} on node {node:?} doesn't exist", service.id))
                .map(|row| vec![row]),
        ),
        TxnOp::Check { verb: TxnVerb::Get, check, .. } => Some(
            check_row(catalog, check)
                .ok_or_else(|| format!("check {:?} on node {:?} doesn't exist", check.check_id, check.node))
                .map(|row| vec![row]),
        ),
        TxnOp::Node { .. } | TxnOp::Service { .. } | TxnOp::Check { .. } => None,
    }
}

fn read_kv(catalog: &Catalog, op: &TxnKv) -> Result<Vec<TxnResult>, String> {
    let TxnKv { verb, key, index, session, .. } = op;
    if key.is_empty() {
        return Err("Must provide key".into());
    }
    let row = catalog.kv.get(key.as_str()).map(|row| &**row);
    match (verb, row) {
        (TxnKvVerb::GetTree, _) => Ok(tree(catalog, key)),
        (TxnKvVerb::Get | TxnKvVerb::GetOrEmpty, Some(row)) => Ok(vec![TxnResult::Kv(row.clone())]),
        (TxnKvVerb::Get, None) => Err(format!("key {key:?} doesn't exist")),
        (TxnKvVerb::GetOrEmpty, None) => {
            let value = KvEntry { key: key.clone(), flags: op.flags, ..KvEntry::default() };
            Ok(vec![TxnResult::Kv(Row { create_index: 0, modify_index: 0, value })])
        }
        (TxnKvVerb::CheckIndex, None) => Err(format!("failed to check index, key {key:?} doesn't exist")),
        (TxnKvVerb::CheckIndex, Some(row)) if row.modify_index != *index => {
            Err(format!("failed index check for key {key:?}, current modify index {} != {index}", row.modify_index))
        }
        (TxnKvVerb::CheckSession, None) => Err(format!("failed to check session, key {key:?} doesn't exist")),
        (TxnKvVerb::CheckSession, Some(row)) if row.session.as_deref().unwrap_or_default() != session => Err(format!(
            "failed session check for key {key:?}, current session {:?} != {session:?}",
            row.session.as_deref().unwrap_or_default()
        )),
        (TxnKvVerb::CheckIndex | TxnKvVerb::CheckSession, Some(row)) => Ok(vec![without_value(row)]),
        (TxnKvVerb::CheckNotExists, None) => Ok(Vec::new()),
        (TxnKvVerb::CheckNotExists, Some(_)) => Err(format!("key {key:?} exists")),
        (
            TxnKvVerb::Set
            | TxnKvVerb::Cas
            | TxnKvVerb::Lock
            | TxnKvVerb::Unlock
            | TxnKvVerb::Delete
            | TxnKvVerb::DeleteCas
            | TxnKvVerb::DeleteTree,
            _,
        ) => Err("this operation writes".into()),
    }
}

fn tree(catalog: &Catalog, prefix: &str) -> Vec<TxnResult> {
    let range = catalog.kv.range::<_, str>((Bound::Included(prefix), Bound::Unbounded));
    let rows = range.take_while(|(key, _)| key.starts_with(prefix));
    rows.map(|(_, row)| TxnResult::Kv(Row::clone(row))).collect()
}

/// A key as those see it who wrote it.
pub(crate) fn without_value(row: &Row<KvEntry>) -> TxnResult {
    let KvEntry { key, flags, lock_index, session, .. } = &row.value;
    let value = KvEntry {
        key: key.clone(),
        flags: *flags,
        lock_index: *lock_index,
        session: session.clone(),
        ..KvEntry::default()
    };
    TxnResult::Kv(Row { create_index: row.create_index, modify_index: row.modify_index, value })
}

/// A node by its id, or its name if none is given.
pub(crate) fn node_row(catalog: &Catalog, node: &Node) -> Option<TxnResult> {
    let row: &Row<Node> = match node.id.as_str() {
        "" => catalog.nodes.get(&*folded(&node.name))?,
        id => catalog.nodes.get(&**catalog.node_ids.get(id)?)?,
    };
    Some(TxnResult::Node(Box::new(row.clone())))
}

pub(crate) fn service_row(catalog: &Catalog, node: &str, id: &str) -> Option<TxnResult> {
    let row: &Row<ServiceInstance> = catalog.instances.get(&At([&*folded(node), id]))?;
    Some(TxnResult::Service(Box::new(row.clone())))
}

pub(crate) fn check_row(catalog: &Catalog, check: &Check) -> Option<TxnResult> {
    let (_, row) = catalog.check(&folded(&check.node), &check.check_id)?;
    Some(TxnResult::Check(Box::new(Row::clone(row))))
}
