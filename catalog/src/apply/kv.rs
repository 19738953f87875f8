//! The key–value store.

use super::Step;
use crate::command::{KvCommand, Refusal, Response};
use crate::tables::Row;
use crate::topic::Topic;
use bytes::Bytes;
use faults::Bug;
use model::session::Behavior;
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
            KvCommand::Lock { key, value, flags, session } => self.kv_lock(key, value, flags, session),
            KvCommand::Unlock { key, value, flags, session } => self.kv_unlock(key, value, flags, &session),
            KvCommand::Put(entry) => match &entry.session {
                Some(session) if !self.catalog.sessions.contains_key(session.as_str()) => Err(no_session(session)),
                _ => self.kv_write(entry),
            },
        }
    }

    fn modified(&self, key: &str) -> Option<Index> {
        self.catalog.kv.get(key).map(|row| row.modify_index)
    }

    fn kv_put(&mut self, key: String, value: Bytes, flags: u64, cas: Option<Index>) -> Result<Response, Refusal> {
        let old = self.catalog.kv.get(key.as_str());
        let is_ignored = faults::has(Bug::CasIgnored) && self.index.is_multiple_of(16);
        if cas.is_some_and(|cas| cas != old.map_or(0, |row| row.modify_index)) && !is_ignored {
            return Ok(Response::CasFailed);
        }
        let (lock_index, session) = old.map_or((0, None), |row| (row.lock_index, row.session.clone()));
        self.kv_write(KvEntry { key, flags, value, lock_index, session })
    }

    /// Who holds the key already puts it again, and is not counted again.
    fn kv_lock(&mut self, key: String, value: Bytes, flags: u64, session: String) -> Result<Response, Refusal> {
        if session.is_empty() {
            return Err(Refusal::Invalid("missing session".into()));
        }
        if self.is_lock_delayed(&key) {
            return Ok(Response::LockFailed);
        }
        if !self.catalog.sessions.contains_key(session.as_str()) {
            return Err(no_session(&session));
        }
        let old = self.catalog.kv.get(key.as_str());
        let lock_index = match old.map(|row| (&row.session, row.lock_index)) {
            Some((Some(holder), count)) if *holder == session => count,
            Some((Some(_), count)) if faults::has(Bug::LockStolen) => count + 1,
            Some((Some(_), _)) => return Ok(Response::LockFailed),
            Some((None, count)) => count + 1,
            None => 1,
        };
        self.kv_write(KvEntry { key, flags, value, lock_index, session: Some(session) })
    }

    fn kv_unlock(&mut self, key: String, value: Bytes, flags: u64, session: &str) -> Result<Response, Refusal> {
        if session.is_empty() {
            return Err(Refusal::Invalid("missing session".into()));
        }
        let old = self.catalog.kv.get(key.as_str());
        match old.filter(|row| row.session.as_deref() == Some(session)).map(|row| row.lock_index) {
            Some(lock_index) => self.kv_write(KvEntry { key, flags, value, lock_index, session: None }),
            None => Ok(Response::LockFailed),
        }
    }

    /// Whether a key was taken from a session that ended, so short a time ago that nobody may lock it.
    pub(super) fn is_lock_delayed(&self, key: &str) -> bool {
        self.catalog.lock_delays.until_ms(key).is_some_and(|until_ms| self.catalog.clock_ms < until_ms)
    }

    /// Takes a key from the session that holds it, which has ended.
    pub(super) fn kv_take(&mut self, key: &str, behavior: Behavior) {
        match (behavior, self.catalog.kv.get(key).cloned()) {
            (Behavior::Delete, _) => drop(self.kv_delete(key)),
            (Behavior::Release, Some(row)) => self.kv_put_row(KvEntry { session: None, ..row.value.clone() }),
            (Behavior::Release, None) => {}
        }
    }

    /// Writes an entry, also if it is the same: as in Consul, a write is a change.
    fn kv_write(&mut self, entry: KvEntry) -> Result<Response, Refusal> {
        if entry.key.is_empty() {
            return Err(Refusal::Invalid("Missing key name".into()));
        }
        self.kv_put_row(entry);
        Ok(Response::Done)
    }

    fn kv_put_row(&mut self, entry: KvEntry) {
        let known = self.catalog.kv.get_key_value(entry.key.as_str());
        let key = known.map_or_else(|| Arc::from(&*entry.key), |(key, _)| key.clone());
        let row = Row::after(known.map(|(_, row)| &**row), self.index, entry);
        self.touch_kv(&key);
        self.catalog.kv_gone.raise(&key);
        self.catalog.put_kv(key, row);
    }

    fn kv_delete(&mut self, key: &str) -> Response {
        if let Some(key) = self.catalog.remove_kv(key) {
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

/// The text is Consul's.
fn no_session(id: &str) -> Refusal {
    Refusal::Invalid(format!("invalid session {id:?}"))
}
