//! Until when nobody may lock a key, because the session that held it has ended.
//!
//! Who held the lock may not know yet that it has lost it; the delay gives it time to find out. (Consul: `lock_delay.go`,
//! where only the leader knows of it. Here it is part of the catalog, so that it outlives the leader.)

use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// Keys that nobody may lock, and until when by the leaders' clock.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct LockDelays {
    by_key: OrdMap<Arc<str>, u64>,
    by_end: OrdSet<(u64, Arc<str>)>,
}

impl LockDelays {
    /// Nobody may lock the key before then.
    pub(crate) fn set(&mut self, key: Arc<str>, until_ms: u64) {
        if let Some(old_ms) = self.by_key.insert(key.clone(), until_ms) {
            self.by_end.remove(&(old_ms, key.clone()));
        }
        self.by_end.insert((until_ms, key));
    }

    pub(crate) fn until_ms(&self, key: &str) -> Option<u64> {
        self.by_key.get(key).copied()
    }

    /// All of them, by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &u64)> {
        self.by_key.iter()
    }

    /// Forgets the delays that are over, so that only those of the last minute are kept.
    pub(crate) fn forget_past(&mut self, now_ms: u64) {
        while let Some((_, key)) = self.by_end.get_min().filter(|(until_ms, _)| *until_ms <= now_ms).cloned() {
            self.by_end.remove_min();
            self.by_key.remove(&*key);
        }
    }

    /// Whether both tables say the same, and nothing that is over.
    pub(crate) fn is_sound(&self, now_ms: u64) -> bool {
        let ends: OrdSet<(u64, Arc<str>)> =
            self.by_key.iter().map(|(key, until_ms)| (*until_ms, key.clone())).collect();
        ends == self.by_end && self.by_end.get_min().is_none_or(|(until_ms, _)| *until_ms > now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_forgotten() {
        let mut delays = LockDelays::default();
        for (key, until_ms) in [("a", 10), ("b", 20), ("a", 30), ("c", 10)] {
            delays.set(Arc::from(key), until_ms);
            assert!(delays.is_sound(9));
        }
        assert!(!delays.is_sound(10));
        delays.forget_past(10);
        assert_eq!(["a", "b", "c"].map(|key| delays.until_ms(key)), [Some(30), Some(20), None]);
        delays.forget_past(30);
        assert_eq!(delays, LockDelays::default());
    }
}
