//! The key–value store.

use super::Step;
use crate::command::{KvCommand, Refusal, Response};
use crate::tables::Row;
use crate::topic::Topic;
use faults::Bug;
use model::{Index, KvEntry};
use std::ops::Bound;
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn kv(&mut self, command: KvCommand) -> Result<Response, Refusal> {
        match command {
            KvCommand::Set { key, value, flags } => self.kv_put(key, value, flags, None),
            KvCommand::Cas { key, value, flags, cas } => self.kv_put(key, value, flags, Some(cas)),
            KvCommand::Delete { key } => Ok(self.kv_delete(&key)),
            KvCommand::DeleteCas { key, cas } => match self.modified(&key) {
                // As in Consul: deleting what is not there succeeds.
                None => Ok(Response::Done),
                Some(index) if index == cas => Ok(self.kv_delete(&key)),
                Some(_) => Ok(Response::CasFailed),
            },
            KvCommand::DeleteTree { prefix } => Ok(self.kv_delete_tree(&prefix)),
            KvCommand::Put(entry) => self.kv_write(entry),
        }
    }

    fn modified(&self, key: &str) -> Option<Index> {
        self.catalog.kv.get(key).map(|row| row.modify_index)
    }

    fn kv_put(
        &mut self,
        key: String,
        value: bytes::Bytes,
        flags: u64,
        cas: Option<Index>,
    ) -> Result<Response, Refusal> {
        let old = self.catalog.kv.get(key.as_str());
        let is_ignored = faults::has(Bug::CasIgnored) && self.index.is_multiple_of(16);
        if cas.is_some_and(|cas| cas != old.map_or(0, |row| row.modify_index)) && !is_ignored {
            return Ok(Response::CasFailed);
        }
        let (lock_index, session) = old.map_or((0, None), |row| (row.lock_index, row.session.clone()));
        self.kv_write(KvEntry { key, flags, value, lock_index, session })
    }

    /// Writes an entry, also if it is the same: as in Consul, a write is a change.
    fn kv_write(&mut self, entry: KvEntry) -> Result<Response, Refusal> {
        if entry.key.is_empty() {
            return Err(Refusal::Invalid("Missing key name".into()));
        }
        let known = self.catalog.kv.get_key_value(entry.key.as_str());
        let key = known.map_or_else(|| Arc::from(&*entry.key), |(key, _)| key.clone());
        let row = Row::after(known.map(|(_, row)| &**row), self.index, entry);
        self.touch_kv(&key);
        self.catalog.kv_gone.raise(&key);
        self.catalog.kv.insert(key, row);
        Ok(Response::Done)
    }

    fn kv_delete(&mut self, key: &str) -> Response {
        if let Some((key, _)) = self.catalog.kv.remove_with_key(key) {
            self.touch_kv(&key);
            if !faults::has(Bug::IndexRunsBackwards) {
                self.catalog.kv_gone.bury(key, self.index);
            }
        }
        Response::Done
    }

    fn kv_delete_tree(&mut self, prefix: &str) -> Response {
        let range = self.catalog.kv.range::<_, str>((Bound::Included(prefix), Bound::Unbounded));
        let keys: Vec<Arc<str>> = range.map(|(key, _)| key.clone()).take_while(|key| key.starts_with(prefix)).collect();
        let forgotten = usize::from(faults::has(Bug::DeleteTreeForgetsLast));
        for key in &keys[..keys.len().saturating_sub(forgotten)] {
            self.kv_delete(key);
        }
        Response::Done
    }

    fn touch_kv(&mut self, key: &Arc<str>) {
        self.touched.extend(Topic::kv_ancestors(key));
        self.touch(Topic::Kv(key.clone()));
    }
}
