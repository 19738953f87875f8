//! Group commit: those who wait at the same time share one sync of sled's data file.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use faults::{Bug, Point};

use crate::fatal_disk;
use crate::pending::Pending;
use crate::tail::Tail;

/// Syncs in rounds. A round that starts after a write covers it; one that was already running does not.
#[derive(Clone)]
pub(crate) struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    rounds: Mutex<Rounds>,
    finished: Condvar,
}

#[derive(Default)]
struct Rounds {
    running: bool,
    started: u64,
    done: u64,
}

impl Group {
    pub(crate) fn new(db: sled::Db, data: File, pending: Pending, tail: Tail) -> Group {
        Group::over(move || {
            pending.apply().map_err(|e| e.to_string())?;
            let count = tail.add().map_err(|e| e.to_string())?;
            faults::pass(Point::StoreBeforeFlush);
            db.flush().map_err(|e| e.to_string())?;
            faults::pass(Point::StoreBeforeSync);
            if faults::has(Bug::PlainFlush) {
                return Ok(());
            }
            data.sync_data().map_err(|e| e.to_string())?;
            tail.tell(count).map_err(|e| e.to_string())?;
            faults::pass(Point::StoreAfterSync);
            Ok(())
        })
    }

    fn over(disk: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Group {
        Group { inner: Arc::new(Inner { disk: Box::new(disk), rounds: Mutex::default(), finished: Condvar::new() }) }
    }

    pub(crate) fn commit(&self) {
        let mut rounds = held(&self.inner.rounds);
        let mine = rounds.started + 1;
        while rounds.done < mine {
            if rounds.running {
                rounds = self.inner.finished.wait(rounds).unwrap_or_else(PoisonError::into_inner);
            } else {
                rounds = self.run(rounds);
            }
        }
    }

    fn run<'a>(&'a self, mut rounds: MutexGuard<'a, Rounds>) -> MutexGuard<'a, Rounds> {
        rounds.running = true;
        rounds.started += 1;
        let round = rounds.started;
        drop(rounds);
        // sled panics on some failures; those who wait for the round would wait for ever.
        let synced = catch_unwind(AssertUnwindSafe(|| (self.inner.disk)()));
        if let Err(error) = synced.unwrap_or_else(|_panic| Err("sled panicked".into())) {
            fatal_disk("the store could not be synced", &error);
        }
        let mut rounds = held(&self.inner.rounds);
        rounds.running = false;
        rounds.done = round;
        self.inner.finished.notify_all();
        rounds
    }
}

type Done = Box<dyn FnOnce() + Send>;

/// Most calls that wait for a commit. Those beyond commit for themselves.
const CALLS_WAITING_MAX: usize = 16 * 1024;

/// What is queued while nobody waits for it is committed after so long.
const QUEUED_MAX: Duration = Duration::from_secs(1);

/// Those who do not block: a thread commits for them, and makes their calls. It lives while there is something to do.
#[derive(Clone, Default)]
pub(crate) struct Callbacks {
    waiting: Arc<(Mutex<Waiting>, Condvar)>,
}

#[derive(Default)]
struct Waiting {
    calls: Vec<Done>,
    /// Something is queued that nobody waits for.
    is_queued: bool,
    has_thread: bool,
}

impl Callbacks {
    pub(crate) fn push(&self, group: &Group, done: Done) {
        let mut waiting = held(&self.waiting.0);
        if waiting.calls.len() >= CALLS_WAITING_MAX {
            drop(waiting);
            group.commit();
            return done();
        }
        waiting.calls.push(done);
        self.waiting.1.notify_one();
        self.see_to_it(group, waiting);
    }

    /// Commits before long.
    pub(crate) fn soon(&self, group: &Group) {
        let mut waiting = held(&self.waiting.0);
        waiting.is_queued = true;
        self.see_to_it(group, waiting);
    }

    /// Somebody else has committed what was queued.
    pub(crate) fn is_done(&self) {
        held(&self.waiting.0).is_queued = false;
        self.waiting.1.notify_one();
    }

    fn see_to_it(&self, group: &Group, mut waiting: MutexGuard<'_, Waiting>) {
        if waiting.has_thread {
            return;
        }
        waiting.has_thread = true;
        let (callbacks, group) = (self.clone(), group.clone());
        let spawned = thread::Builder::new().name("store-commit".into()).spawn(move || callbacks.serve(&group));
        if let Err(error) = spawned {
            fatal_disk("no thread for the store's commits", &error);
        }
    }

    fn serve(&self, group: &Group) {
        while let Some(calls) = self.take() {
            group.commit();
            for done in calls {
                done();
            }
        }
    }

    /// The calls to make after the next commit; none if there is nothing to commit.
    fn take(&self) -> Option<Vec<Done>> {
        let (mutex, came) = &*self.waiting;
        let mut waiting = held(mutex);
        if waiting.calls.is_empty() && waiting.is_queued {
            let is_alone = |waiting: &mut Waiting| waiting.calls.is_empty() && waiting.is_queued;
            waiting = came.wait_timeout_while(waiting, QUEUED_MAX, is_alone).unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.calls.is_empty() && !waiting.is_queued {
            waiting.has_thread = false;
            return None;
        }
        waiting.is_queued = false;
        Some(std::mem::take(&mut waiting.calls))
    }
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn those_who_wait_together_share_a_round() {
        let syncs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&syncs);
        let group = Group::over(move || {
            thread::sleep(Duration::from_millis(5));
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    for _ in 0..4 {
                        group.commit();
                    }
                });
            }
        });
        let syncs = syncs.load(Ordering::SeqCst);
        assert!((4..64).contains(&syncs), "{syncs} syncs for 128 commits");
    }

    #[test]
    fn a_commit_is_covered_by_a_round_that_began_after_it() {
        let clock = Arc::new(AtomicU64::new(0));
        let (begun, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let group = {
            let (clock, begun, ended) = (Arc::clone(&clock), Arc::clone(&begun), Arc::clone(&ended));
            Group::over(move || {
                let at = clock.load(Ordering::SeqCst);
                thread::sleep(Duration::from_micros(300));
                begun.fetch_max(at, Ordering::SeqCst);
                ended.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let written = clock.fetch_add(1, Ordering::SeqCst) + 1;
                        group.commit();
                        assert!(begun.load(Ordering::SeqCst) >= written);
                    }
                });
            }
        });
    }
    /// Those who wait for a round that panicked must not wait for ever: so it is a process of its own that ends.
    #[test]
    fn a_panic_in_a_sync_ends_the_process() {
        if std::env::var_os("STORE_TEST_PANIC").is_some() {
            let group = Group::over(|| panic!("as sled does"));
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| group.commit());
                }
            });
        }
        let program = std::env::current_exe().unwrap();
        let name = "commit::tests::a_panic_in_a_sync_ends_the_process";
        let mut command = std::process::Command::new(program);
        let output = command.args(["--exact", name, "--nocapture"]).env("STORE_TEST_PANIC", "1").output().unwrap();
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("fatal: the store could not be synced"), "{message}");
    }
}
