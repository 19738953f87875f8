//! What is in the log: where each entry lies on the disk, and the newest ones themselves.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::format::State;
use crate::consensus::{Entry, LogId};
use crate::disk::DiskFile;

/// Where an entry's payload lies.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
    pub(crate) crc: u32,
}

/// An entry as a reader finds it.
pub(crate) enum Found {
    Cached(Entry),
    OnDisk(LogId, Place),
}

/// The entries of the log, without holes, and the rest of its state.
#[derive(Default)]
pub(crate) struct Index {
    slots: VecDeque<Slot>,
    /// The index of the first slot, or of the next entry if there is none.
    first: u64,
    /// Slots before this index are not cached.
    cached_from: u64,
    cached_bytes: usize,
    pub(crate) cache_bytes_max: usize,
    pub(crate) state: State,
}

struct Slot {
    log_id: LogId,
    bytes: usize,
    /// None until it is written.
    place: Option<Place>,
    cached: Option<Entry>,
}

impl Index {
    /// The index after the last.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(crate) fn last_log_id(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.log_id).or(self.state.purged)
    }

    /// Adds an entry that was read from the disk at start; one of the same index was replaced by it. Fails on a hole, except
    /// where nothing is: what came before may lie in a file that was dropped, because it was purged later on.
    pub(crate) fn recover(&mut self, log_id: LogId, place: Place) -> Result<(), String> {
        self.truncate(log_id.index);
        if self.slots.is_empty() {
            self.first = log_id.index;
        }
        self.expect_next(log_id)?;
        self.slots.push_back(Slot { log_id, bytes: place.bytes, place: Some(place), cached: None });
        self.cached_from = self.end();
        Ok(())
    }

    /// Takes over what a segment says of the time when it was begun.
    pub(crate) fn recover_state(&mut self, state: State) {
        if let Some(purged) = state.purged {
            self.purge(purged);
        }
        self.state = state;
    }

    /// Whether nothing is missing between what was purged and the first entry.
    pub(crate) fn is_complete(&self) -> bool {
        self.slots.is_empty() || self.state.purged.is_none_or(|purged| self.first <= purged.index + 1)
    }

    /// Adds an entry that is about to be written.
    pub(crate) fn append(&mut self, entry: Entry, bytes: usize) -> Result<(), String> {
        self.truncate(entry.log_id.index);
        self.expect_next(entry.log_id)?;
        self.cached_bytes += bytes;
        self.slots.push_back(Slot { log_id: entry.log_id, bytes, place: None, cached: Some(entry) });
        Ok(())
    }

    fn expect_next(&mut self, log_id: LogId) -> Result<(), String> {
        if self.slots.is_empty() && (log_id.index < self.first || self.state.purged.is_none()) {
            self.first = log_id.index;
            self.cached_from = log_id.index;
        }
        if log_id.index == self.end() {
            return Ok(());
        }
        Err(format!("entry {} follows entry {}", log_id.index, self.end().saturating_sub(1)))
    }

    /// The entry was written. From now on the cache may forget it.
    pub(crate) fn placed(&mut self, log_id: LogId, place: Place) {
        let Some(slot) = self.slot_mut(log_id.index) else {
            return;
        };
        if slot.log_id == log_id {
            slot.place = Some(place);
        }
    }

    /// Forgets the oldest entries that are written, until the cache is within its size.
    pub(crate) fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes_max {
            let from = self.cached_from;
            let Some(slot) = self.slot_mut(from) else {
                return;
            };
            if slot.place.is_none() {
                return;
            }
            let forgotten = slot.cached.take().map_or(0, |_entry| slot.bytes);
            self.cached_bytes -= forgotten;
            self.cached_from += 1;
        }
    }

    /// Removes the entries from `since` on.
    pub(crate) fn truncate(&mut self, since: u64) {
        while self.end() > since {
            let Some(slot) = self.slots.pop_back() else {
                return;
            };
            self.forget(&slot);
        }
        self.cached_from = self.cached_from.min(self.end());
    }

    /// Removes the entries up to `upto`, which may lie beyond the last.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.state.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.state.purged = Some(upto);
        while self.first <= upto.index {
            match self.slots.pop_front() {
                Some(slot) => {
                    self.forget(&slot);
                    self.first += 1;
                }
                None => self.first = upto.index + 1,
            }
        }
        self.cached_from = self.cached_from.max(self.first);
    }

    /// Whether another entry than this one, which was agreed on, stands at its index.
    pub(crate) fn contradicts(&self, agreed: LogId) -> bool {
        self.slot(agreed.index).is_some_and(|slot| slot.log_id != agreed)
    }

    /// The last index to drop if the entries after it are to have no more than `bytes_max`; none if all have.
    pub(crate) fn beyond(&self, bytes_max: u64) -> Option<u64> {
        let mut bytes = 0;
        for (at, slot) in self.slots.iter().enumerate().rev() {
            bytes += slot.bytes as u64;
            if bytes > bytes_max {
                return Some(self.first + at as u64);
            }
        }
        None
    }

    /// The entries of a range that are there, in order; no more than `bytes_max` of payload, but at least one.
    pub(crate) fn find(&self, range: Range<u64>, bytes_max: usize) -> Vec<Found> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(self.first)..range.end.min(self.end()) {
            let Some(slot) = self.slot(index) else { break };
            bytes += slot.bytes;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            match (&slot.cached, &slot.place) {
                (Some(entry), _) => found.push(Found::Cached(entry.clone())),
                (None, Some(place)) => found.push(Found::OnDisk(slot.log_id, place.clone())),
                // Invariant: an entry is forgotten by the cache only once it has a place.
                (None, None) => unreachable!("an entry that is nowhere"),
            }
        }
        found
    }

    /// The entries from an index on, with their sizes.
    #[cfg(feature = "sim")]
    pub(crate) fn ids(&self, from: u64) -> impl Iterator<Item = (LogId, usize)> + '_ {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.iter().skip(skipped).map(|slot| (slot.log_id, slot.bytes))
    }

    fn forget(&mut self, slot: &Slot) {
        if slot.cached.is_some() {
            self.cached_bytes -= slot.bytes;
        }
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }
}
