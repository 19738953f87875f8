//! Transactions: every operation in turn; if one fails, it is as if none had been.

use super::Step;
use crate::command::{KvCommand, Refusal, Response};
use crate::key::{At, folded};
use crate::query::txn::{check_row, node_row, read_op, service_row, without_value};
use crate::txn::{TXN_RESULT_BYTES_MAX, TxnKv, TxnKvVerb, TxnOp, TxnOutcome, TxnResult, TxnVerb};
use model::{Check, Index, Node, ServiceInstance};

type Done = Result<Vec<TxnResult>, String>;

impl Step<'_> {
    /// As in Consul, operations after one that failed run as well, so that the user hears of all that fail.
    pub(super) fn txn(&mut self, ops: Vec<TxnOp>) -> Response {
        let (before, touched) = (self.catalog.clone(), self.touched.len());
        let (mut outcome, mut bytes) = (TxnOutcome::default(), 0);
        for (at, op) in ops.into_iter().enumerate() {
            let done = read_op(self.catalog, &op).unwrap_or_else(|| self.txn_write(op));
            bytes += done.iter().flatten().map(TxnResult::bytes).sum::<usize>();
            outcome.take(at, done);
            if bytes > TXN_RESULT_BYTES_MAX {
                let what = format!(
                    "the results are larger than {TXN_RESULT_BYTES_MAX} bytes: read in a transaction that only reads"
                );
                outcome.results.clear();
                outcome.take(at, Err(what));
                bytes = 0;
            }
        }
        if !outcome.errors.is_empty() {
            if !faults::has(faults::Bug::TransactionHalfDone) {
                *self.catalog = before;
                self.touched.truncate(touched);
            }
            outcome.results.clear();
        }
        Response::Txn(Box::new(outcome))
    }

    fn txn_write(&mut self, op: TxnOp) -> Done {
        match op {
            TxnOp::Kv(op) => self.txn_kv(op),
            TxnOp::Node { verb, node, index } => self.txn_node(verb, *node, index),
            TxnOp::Service { verb, node, service, index } => self.txn_service(verb, &node, *service, index),
            TxnOp::Check { verb, check, index } => self.txn_check(verb, *check, index),
        }
    }

    fn txn_kv(&mut self, op: TxnKv) -> Done {
        let TxnKv { verb, key, value, flags, index, session } = op;
        if key.is_empty() && verb != TxnKvVerb::DeleteTree {
            return Err("Must provide key".into());
        }
        let name = key.clone();
        let (command, failure) = match verb {
            TxnKvVerb::Set => (KvCommand::Set { key, value, flags }, String::new()),
            TxnKvVerb::Cas => (
                KvCommand::Cas { key, value, flags, cas: index },
                format!("failed to set key {name:?}, index is stale"),
            ),
            TxnKvVerb::Lock => {
                let reason = if self.is_lock_delayed(&key) { " due to lock delay" } else { ", lock is already held" };
                (KvCommand::Lock { key, value, flags, session }, format!("failed to lock key {name:?}{reason}"))
            }
            TxnKvVerb::Unlock => (
                KvCommand::Unlock { key, value, flags, session },
                format!("failed to unlock key {name:?}, lock isn't held, or is held by another session"),
            ),
            TxnKvVerb::Delete => (KvCommand::Delete { key }, String::new()),
            TxnKvVerb::DeleteCas => {
                (KvCommand::DeleteCas { key, cas: index }, format!("failed to delete key {name:?}, index is stale"))
            }
            TxnKvVerb::DeleteTree => (KvCommand::DeleteTree { prefix: key }, String::new()),
            TxnKvVerb::Get
            | TxnKvVerb::GetOrEmpty
            | TxnKvVerb::GetTree
            | TxnKvVerb::CheckIndex
            | TxnKvVerb::CheckSession
            | TxnKvVerb::CheckNotExists => return Err("this operation reads".into()),
        };
        let is_delete = matches!(verb, TxnKvVerb::Delete | TxnKvVerb::DeleteCas | TxnKvVerb::DeleteTree);
        match self.kv(command).map_err(|refusal| refusal.to_string())? {
            Response::CasFailed | Response::LockFailed => Err(failure),
            _ if is_delete => Ok(Vec::new()),
            _ => Ok(self.catalog.kv.get(name.as_str()).map(|row| without_value(row)).into_iter().collect()),
        }
    }

    fn txn_node(&mut self, verb: TxnVerb, node: Node, index: Index) -> Done {
        let key = folded(&node.name).into_owned();
        let known = self.catalog.nodes.get(&*key).map(|row| row.modify_index);
        let stale = |what: &str| format!("failed to {what} node {:?}, index is stale", node.name);
        match verb {
            TxnVerb::Cas if known.unwrap_or(0) != index => Err(stale("set")),
            TxnVerb::DeleteCas if known != Some(index) => Err(stale("delete")),
            TxnVerb::Delete | TxnVerb::DeleteCas => {
                self.remove_node(&key);
                Ok(Vec::new())
            }
            TxnVerb::Set | TxnVerb::Cas | TxnVerb::Get => {
                self.may_put_node(&node).map_err(|refusal| refusal.to_string())?;
                let wanted = Node { name: node.name.clone(), ..Node::default() };
                self.put_node(node);
                Ok(node_row(self.catalog, &wanted).into_iter().collect())
            }
        }
    }

    /// An instance that somebody else has changed meanwhile is left alone, also where Consul wrote it all the same
    /// (<https://github.com/hashicorp/consul/issues/5971>).
    fn txn_service(&mut self, verb: TxnVerb, node: &str, service: ServiceInstance, index: Index) -> Done {
        let (node_key, id) = (folded(node).into_owned(), service.id.clone());
        let known = self.catalog.instances.get(&At([&*node_key, &*id])).map(|row| row.modify_index);
        let stale = |what: &str| format!("failed to {what} service {id:?} on node {node:?}, index is stale");
        match verb {
            TxnVerb::Cas if known.unwrap_or(0) != index => Err(stale("set")),
            TxnVerb::DeleteCas if known != Some(index) => Err(stale("delete")),
            TxnVerb::Delete | TxnVerb::DeleteCas => {
                self.remove_service(&node_key, &id);
                Ok(Vec::new())
            }
            TxnVerb::Set | TxnVerb::Cas | TxnVerb::Get => {
                self.may_put_service(&service).map_err(|refusal| refusal.to_string())?;
                let node_key = self.node_for_txn(&node_key)?;
                self.put_service(&node_key, service);
                Ok(service_row(self.catalog, node, &id).into_iter().collect())
            }
        }
    }

    fn txn_check(&mut self, verb: TxnVerb, check: Check, index: Index) -> Done {
        let node_key = folded(&check.node).into_owned();
        let wanted = Check { node: check.node.clone(), check_id: check.check_id.clone(), ..Check::default() };
        let known = self.catalog.check(&node_key, &check.check_id).map(|(_, row)| row.modify_index);
        let stale = |what: &str| {
            format!("failed to {what} check {:?} on node {:?}, index is stale", check.check_id, check.node)
        };
        match verb {
            TxnVerb::Cas if known.unwrap_or(0) != index => Err(stale("set")),
            TxnVerb::DeleteCas if known != Some(index) => Err(stale("delete")),
            TxnVerb::Delete | TxnVerb::DeleteCas => {
                self.remove_check(&node_key, &wanted.check_id);
                Ok(Vec::new())
            }
            TxnVerb::Set | TxnVerb::Cas | TxnVerb::Get => {
                let node_key = self.node_for_txn(&node_key)?;
                self.may_put_check(&node_key, &check, None).map_err(|refusal: Refusal| refusal.to_string())?;
                self.put_check(&node_key, check);
                Ok(check_row(self.catalog, &wanted).into_iter().collect())
            }
        }
    }

    fn node_for_txn(&self, key: &str) -> Result<std::sync::Arc<str>, String> {
        let known = self.catalog.nodes.get_key_value(key).map(|(key, _)| key.clone());
        known.ok_or_else(|| "Missing node registration".into())
    }
}
