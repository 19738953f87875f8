//! What would be logged too often is logged once in a while for each whom it is about, with how often it was so.

use crate::upstream::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between two lines about the same.
const PAUSE: Duration = Duration::from_secs(10);
/// Most of whom something was said lately. Of further ones nothing is; the counters have them.
const ABOUT_MAX: usize = 1024;

/// When something was said of each, and how often it has been so since.
pub(crate) struct Seldom<K> {
    said: Mutex<BTreeMap<K, (Instant, u64)>>,
}

impl<K> Default for Seldom<K> {
    fn default() -> Self {
        Self { said: Mutex::default() }
    }
}

impl<K: Ord + Clone> Seldom<K> {
    /// It is so once more. If it is to be said: how often it was so since that was said last, this time included.
    pub(crate) fn count(&self, about: &K, now: Instant) -> Option<u64> {
        let mut said = lock(&self.said);
        if let Some((last, times)) = said.get_mut(about) {
            *times += 1;
            if now.duration_since(*last) < PAUSE {
                return None;
            }
            *last = now;
            return Some(std::mem::take(times));
        }
        if said.len() >= ABOUT_MAX {
            said.retain(|_, (last, _)| now.duration_since(*last) < PAUSE);
        }
        if said.len() >= ABOUT_MAX {
            return None;
        }
        said.insert(about.clone(), (now, 0));
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_first_and_then_once_in_a_while_with_the_count() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let count = |about: &str, second| seldom.count(&about.to_string(), start + Duration::from_secs(second));
        assert_eq!(count("web", 0), Some(1));
        assert_eq!([count("web", 1), count("web", 9)], [None, None]);
        assert_eq!(count("db", 9), Some(1), "another one");
        assert_eq!(count("web", 10), Some(3));
        assert_eq!(count("web", 11), None);
        assert_eq!(count("web", 60), Some(2));
    }

    #[test]
    fn those_of_whom_it_was_long_ago_make_room_for_others() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        for about in 0..ABOUT_MAX {
            assert_eq!(seldom.count(&about, start), Some(1));
        }
        assert_eq!(seldom.count(&ABOUT_MAX, start), None, "there is no room");
        assert_eq!(seldom.count(&ABOUT_MAX, start + PAUSE), Some(1));
        assert_eq!(lock(&seldom.said).len(), 1);
    }
}
