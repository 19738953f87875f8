//! Who waits for what: from topics to the tasks that are to be woken.
//!
//! A waiter is one small allocation that is listed under each topic it waits for. Waking a topic takes its whole list
//! out of the table, so a thousand waiters cost one look-up, and nobody is woken twice.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

/// The table of those who wait.
pub(crate) struct Waiters<T> {
    topics: Mutex<HashMap<T, HashMap<u64, Arc<Waiter>>>>,
    next_id: AtomicU64,
}

/// One who waits. Dropping it takes it off the table.
pub(crate) struct Registration<T: Hash + Eq> {
    table: Arc<Waiters<T>>,
    topics: Arc<[T]>,
    id: u64,
    waiter: Arc<Waiter>,
}

#[derive(Default)]
struct Waiter {
    woken: AtomicBool,
    waker: AtomicWaker,
}

impl<T: Hash + Eq> Default for Waiters<T> {
    fn default() -> Self {
        Waiters { topics: Mutex::new(HashMap::new()), next_id: AtomicU64::new(0) }
    }
}

impl<T: Hash + Eq + Clone> Waiters<T> {
    /// Lists a new waiter under these topics. What is woken from now on wakes it, also before anybody awaits it.
    pub(crate) fn register(self: &Arc<Self>, topics: Arc<[T]>) -> Registration<T> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::new(Waiter::default());
        let mut table = self.lock();
        for topic in topics.iter() {
            table.entry(topic.clone()).or_default().insert(id, waiter.clone());
        }
        drop(table);
        Registration { table: self.clone(), topics, id, waiter }
    }

    /// Wakes whoever waits for any of these topics.
    pub(crate) fn wake<'t>(&self, topics: impl IntoIterator<Item = &'t T>)
    where
        T: 't,
    {
        let lists: Vec<_> = {
            let mut table = self.lock();
            topics.into_iter().filter_map(|topic| table.remove(topic)).collect()
        };
        lists.iter().flat_map(HashMap::values).for_each(|waiter| waiter.wake());
    }

    /// Wakes everybody.
    pub(crate) fn wake_all(&self) {
        let table = std::mem::take(&mut *self.lock());
        table.values().flat_map(HashMap::values).for_each(|waiter| waiter.wake());
    }

    /// How many topics are waited for.
    #[cfg(test)]
    pub(crate) fn topics_len(&self) -> usize {
        self.lock().len()
    }
}

impl<T: Hash + Eq> Waiters<T> {
    /// A poisoned lock is no reason to stop: each change of the table is a single call that leaves it whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<T, HashMap<u64, Arc<Waiter>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Hash + Eq> Registration<T> {
    /// Whether one of the topics was woken since the registration.
    pub(crate) fn is_woken(&self) -> bool {
        self.waiter.woken.load(Ordering::Acquire)
    }

    /// Ends when one of the topics was woken since the registration.
    pub(crate) async fn woken(&self) {
        std::future::poll_fn(|context| {
            self.waiter.waker.register(context.waker());
            match self.is_woken() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

impl<T: Hash + Eq> Drop for Registration<T> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        for topic in self.topics.iter() {
            if let Some(list) = table.get_mut(topic) {
                list.remove(&self.id);
                if list.is_empty() {
                    table.remove(topic);
                }
            }
        }
    }
}

impl Waiter {
    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn topics(names: &[&'static str]) -> Arc<[&'static str]> {
        names.into()
    }

    #[tokio::test]
    async fn only_those_who_wait_for_the_topic_are_woken() {
        let table = Arc::new(Waiters::default());
        let (a, b) = (table.register(topics(&["x", "y"])), table.register(topics(&["z"])));
        table.wake(&["y"]);
        a.woken().await;
        assert!(timeout(SOON, b.woken()).await.is_err());
    }

    #[tokio::test]
    async fn a_wake_up_before_the_wait_is_kept() {
        let table = Arc::new(Waiters::default());
        let a = table.register(topics(&["x"]));
        table.wake_all();
        a.woken().await;
        a.woken().await;
    }

    #[tokio::test]
    async fn the_table_is_empty_when_nobody_waits() {
        let table = Arc::new(Waiters::default());
        let (a, b) = (table.register(topics(&["x", "y"])), table.register(topics(&["x"])));
        assert_eq!(table.topics_len(), 2);
        drop(a);
        assert_eq!(table.topics_len(), 1);
        table.wake(&["x"]);
        assert_eq!(table.topics_len(), 0);
        b.woken().await;
        drop(b);
        assert_eq!(table.topics_len(), 0);
    }
}
