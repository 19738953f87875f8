//! When deleted things were deleted, for as long as is worth remembering.
//!
//! A reader that asks for a deleted thing must be told an index that is not older than the deletion. Remembering every
//! deletion for ever would leak, so the older half is forgotten when there are too many, and from then on the newest
//! forgotten deletion is the *floor* for everything that is not remembered: it costs a reader one wake-up too many.

use imbl::OrdMap;
use model::Index;

/// When deleted things were deleted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tombstones<K: Ord + Clone> {
    map: OrdMap<K, Index>,
    floor: Index,
}

impl<K: Ord + Clone> Default for Tombstones<K> {
    fn default() -> Self {
        Tombstones { map: OrdMap::new(), floor: 0 }
    }
}

impl<K: Ord + Clone> Tombstones<K> {
    /// Most deletions that are remembered one by one.
    pub(crate) const COUNT_MAX: usize = 8192;

    pub(crate) fn map(&self) -> &OrdMap<K, Index> {
        &self.map
    }

    pub(crate) fn floor(&self) -> Index {
        self.floor
    }

    pub(crate) fn restore_floor(&mut self, floor: Index) {
        self.floor = floor;
    }

    /// Remembers that a thing was deleted at this index.
    pub(crate) fn bury(&mut self, key: K, index: Index) {
        self.map.insert(key, index);
        if self.map.len() > Self::COUNT_MAX {
            self.forget_older_half();
        }
    }

    /// Forgets a deletion, because the thing is there again.
    pub(crate) fn raise(&mut self, key: &K) {
        if !self.map.is_empty() {
            self.map.remove(key);
        }
    }

    fn forget_older_half(&mut self) {
        let mut indexes: Vec<Index> = self.map.values().copied().collect();
        indexes.sort_unstable();
        let last_forgotten = indexes[indexes.len() / 2];
        self.map =
            self.map.iter().filter(|(_, index)| **index > last_forgotten).map(|(k, i)| (k.clone(), *i)).collect();
        self.floor = self.floor.max(last_forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_raises_the_floor() {
        let mut tombstones = Tombstones::<u64>::default();
        let max = Tombstones::<u64>::COUNT_MAX as u64;
        for n in 0..=max {
            assert_eq!(tombstones.floor(), 0);
            tombstones.bury(n, n + 10);
        }
        assert_eq!(tombstones.floor(), max / 2 + 10);
        assert_eq!(tombstones.map().len() as u64, max / 2);
        assert!(tombstones.map().values().all(|index| *index > tombstones.floor()));
    }

    #[test]
    fn a_thing_that_is_back_is_not_dead() {
        let mut tombstones = Tombstones::<u64>::default();
        tombstones.bury(1, 7);
        tombstones.raise(&1);
        assert_eq!(tombstones, Tombstones::default());
    }
}
