//! Central configuration.

use super::{Step, invalid};
use crate::command::{Refusal, Response};
use crate::key::{At, Key, folded, folded_arc};
use crate::tables::Row;
use crate::topic::Topic;
use model::Index;
use model::config_entry::ConfigEntry;
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn set_config_entry(&mut self, entry: ConfigEntry, cas: Option<Index>) -> Result<Response, Refusal> {
        entry.validate().map_err(invalid)?;
        let key = Key([Arc::from(entry.kind()), folded_arc(entry.name())]);
        let old = self.catalog.config_entries.get(&key).cloned();
        if cas.is_some_and(|cas| cas != old.as_ref().map_or(0, |row| row.modify_index)) {
            return Ok(Response::CasFailed);
        }
        if old.as_ref().is_some_and(|old| old.value == entry) {
            return Ok(Response::Done);
        }
        let row = Row::after(old.as_deref(), self.index, entry);
        self.touch_config_entry(&key);
        self.catalog.config_entries.insert(key, row);
        Ok(Response::Done)
    }

    pub(super) fn delete_config_entry(
        &mut self,
        kind: &str,
        name: &str,
        cas: Option<Index>,
    ) -> Result<Response, Refusal> {
        let name = &*folded(name);
        let Some(old) = self.catalog.config_entries.get(&At([kind, name])) else {
            return Ok(Response::Done);
        };
        if cas.is_some_and(|cas| cas != old.modify_index) {
            return Ok(Response::CasFailed);
        }
        if let Some((key, _)) = self.catalog.config_entries.remove_with_key(&At([kind, name])) {
            self.touch_config_entry(&key);
        }
        Ok(Response::Done)
    }

    fn touch_config_entry(&mut self, key: &Key<2>) {
        let [kind, name] = &key.0;
        self.touch(Topic::ConfigEntries(kind.clone()));
        self.touch(Topic::ConfigEntry(kind.clone(), name.clone()));
    }
}
