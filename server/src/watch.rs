//! The one subscription mechanism: the current catalog, and who waits for a change of what.
//!
//! A query runs on the current version. If its index is not higher than the one that the client has, the query waits for
//! the topics that it read, and runs again when one of them changes. Nothing is kept for a waiting query but its topics
//! and a place in the table of waiters: no version of the catalog, no answer.
//!
//! No wake-up is lost: a waiter is listed *before* it looks whether a newer version was published since it ran, and
//! a publisher shows the new version *before* it wakes those who are listed.

mod shared;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use catalog::{Catalog, Topic, View};
use faults::Bug;
use model::Index;
use tokio::time::Instant;

pub(crate) use shared::Answer;
use shared::{Found, SharedAnswers};
use waiters::{Registration, Waiters};

/// The current catalog and those who wait for changes of it.
pub(crate) struct Watch {
    current: ArcSwap<Catalog>,
    waiters: Arc<Waiters<Topic>>,
    shared: SharedAnswers,
    closed: AtomicBool,
    /// The index of `current`, for those who wait for a version and not for a topic.
    applied: tokio::sync::watch::Sender<Index>,
}

impl Watch {
    /// A watch over a catalog that changes only by [`Watch::publish`].
    pub(crate) fn new(catalog: Catalog) -> Self {
        Watch {
            applied: tokio::sync::watch::Sender::new(catalog.index()),
            current: ArcSwap::from_pointee(catalog),
            waiters: Arc::default(),
            shared: SharedAnswers::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// The newest version.
    pub(crate) fn current(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// Shows a newer version and wakes those who read what changed. Once per batch of commands.
    pub(crate) fn publish(&self, catalog: Catalog, topics: &[Topic]) {
        self.show(catalog);
        if !faults::has_each(Bug::LostWakeUp, 16) {
            self.waiters.wake(topics);
        }
    }

    /// Shows a version that may differ in anything (a restored snapshot), and wakes everybody.
    pub(crate) fn replace(&self, catalog: Catalog) {
        self.show(catalog);
        self.waiters.wake_all();
    }

    /// Nobody waits from now on: every query answers with what there is.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waiters.wake_all();
    }

    /// Runs a query once. The index is that of the newest change of what it read, at least 1.
    pub(crate) fn read<R>(&self, run: impl FnOnce(&View<'_>) -> R) -> (R, Index) {
        let catalog = self.current.load();
        let view = View::new(&catalog);
        let answer = run(&view);
        let index = view.index();
        (answer, index)
    }

    /// Runs a query until its index is higher than `min_index` or the deadline is there, whichever is first.
    pub(crate) async fn query<R>(
        &self,
        min_index: Index,
        deadline: Instant,
        run: impl Fn(&View<'_>) -> R,
    ) -> (R, Index) {
        loop {
            let (answer, index, topics, ran_on) = self.run(&run);
            if index > min_index || self.is_over(deadline) {
                self.rest_if_closed().await;
                return (answer, index);
            }
            drop(answer);
            self.wait(topics, ran_on, deadline).await;
        }
    }

    /// As [`Watch::query`], for HTTP answers. Polls of the same `target` share what the first one to be woken by a change
    /// found: a thousand waiters cost one query, and so do the thousand polls that they come back with.
    pub(crate) async fn query_shared(
        &self,
        target: &str,
        min_index: Index,
        deadline: Instant,
        run: impl Fn(&View<'_>) -> Answer,
    ) -> (Answer, Index) {
        let mut was_woken = false;
        loop {
            let version = self.current.load().index();
            let (found, ran_on) = match self.shared.find(target, version) {
                Some(found) => (found, version),
                None => {
                    let (answer, index, topics, ran_on) = self.run(&run);
                    let found = Found { answer, index, topics };
                    if was_woken {
                        self.shared.keep(target, ran_on, &found);
                    }
                    (found, ran_on)
                }
            };
            if found.index > min_index || self.is_over(deadline) {
                self.rest_if_closed().await;
                return (found.answer, found.index);
            }
            let Found { topics, .. } = found;
            self.wait(topics, ran_on, deadline).await;
            was_woken = true;
        }
    }

    /// Runs a query, and gives with its answer what tells when it is out of date.
    pub(crate) fn follow<R>(&self, run: impl Fn(&View<'_>) -> R) -> (R, Following) {
        loop {
            let (answer, _, topics, ran_on) = self.run(&run);
            let registration = self.waiters.register(topics);
            if self.current.load().index() == ran_on {
                return (answer, Following(registration));
            }
        }
    }

    /// Waits until the catalog has applied so many commands. False if that did not happen before the deadline.
    pub(crate) async fn applied(&self, commands: Index, deadline: Instant) -> bool {
        let mut applied = self.applied.subscribe();
        let reached = tokio::time::timeout_at(deadline, applied.wait_for(|index| *index >= commands)).await;
        matches!(reached, Ok(Ok(_)))
    }

    fn show(&self, catalog: Catalog) {
        let index = catalog.index();
        self.current.store(Arc::new(catalog));
        self.applied.send_replace(index);
    }

    fn run<R>(&self, run: &impl Fn(&View<'_>) -> R) -> (R, Index, Arc<[Topic]>, Index) {
        let catalog = self.current.load();
        let view = View::new(&catalog);
        let answer = run(&view);
        let index = view.index();
        (answer, index, view.into_topics().into(), catalog.index())
    }

    /// Waits until one of the topics changes after the version `ran_on`, or the deadline.
    async fn wait(&self, topics: Arc<[Topic]>, ran_on: Index, deadline: Instant) {
        let registration = self.waiters.register(topics);
        if self.current.load().index() != ran_on || self.closed.load(Ordering::Acquire) {
            return;
        }
        let _ = tokio::time::timeout_at(deadline, registration.woken()).await;
    }

    /// Those who ask again and again must let the others run, or nobody could tell them to end.
    async fn rest_if_closed(&self) {
        if self.closed.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
    }

    fn is_over(&self, deadline: Instant) -> bool {
        self.closed.load(Ordering::Acquire) || Instant::now() >= deadline
    }
}

/// Tells when an answer of [`Watch::follow`] is out of date.
pub(crate) struct Following(Registration<Topic>);

impl Following {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_woken()
    }
}

#[cfg(test)]
mod tests;
