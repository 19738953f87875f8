//! The connections of one listener: who is at the other end, and the means to cut them.
//!
//! Each connection is one task. To cut a connection is to end its task: its sockets close with it.

use crate::limits::KEPT_LINK_TIMEOUT;
use crate::metrics::{Counters, Event};
use crate::upstream::{Kept, lock};
use identity::Identity;
use model::SpiffeId;
use rustls_pki_types::CertificateDer;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Who is at the other end: proven in the handshake. Connections of the same certificate share one.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    verified_at: SystemTime,
}

impl Caller {
    /// The holder of this chain, whose first is the leaf. None for an empty chain, or one without a SPIFFE id.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Option<Arc<Self>> {
        let chain: Vec<_> = chain.iter().map(|cert| cert.clone().into_owned()).collect();
        let id = identity::peer_id_of_chain(&chain).ok()?;
        Some(Arc::new(Caller { id, chain, verified_at: SystemTime::now() }))
    }

    /// Whether this is its certificate.
    pub(crate) fn has_leaf(&self, leaf: &CertificateDer<'_>) -> bool {
        self.chain.first() == Some(leaf)
    }

    /// Whether its certificate would still be taken: neither revoked, nor of a root that is trusted no more. That it has merely
    /// expired since does not count against a connection that stands.
    pub(crate) fn is_trusted(&self, identity: &Identity, is_client: bool) -> bool {
        identity.recheck_chain(&self.chain, is_client, self.verified_at).is_ok()
    }
}

/// What the rules say about a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may go on.
    Allow,
    /// An intention forbids it.
    Deny,
    /// Its certificate is no longer good: not even an error message for it.
    Distrust,
}

/// One connection, as far as others need to know.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    caller: OnceLock<Arc<Caller>>,
    /// Whether its requests are passed on. L4 connections that are not allowed do not exist.
    allowed: AtomicBool,
    /// Requests in hand.
    busy: AtomicU32,
    /// Seconds on [`now_s`] when the last one ended.
    rested_s: AtomicU32,
    /// Whether it may be closed for doing nothing: HTTP.
    may_idle_out: AtomicBool,
    /// Connections to next hops that it keeps for its next request.
    pub(crate) kept: Kept,
}

impl Connection {
    /// Says who it is. Only then does [`Live::judge`] see it: look at the rules after this, not before.
    pub(crate) fn identify(&self, caller: Arc<Caller>) {
        // A connection has one peer for all its life, so that this is called once.
        let _ = self.caller.set(caller);
    }

    pub(crate) fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Relaxed);
    }

    pub(crate) fn is_allowed(&self) -> bool {
        self.allowed.load(Relaxed)
    }

    /// From now on it may be closed when it has been idle for long.
    pub(crate) fn close_when_idle(&self) {
        self.rested_s.store(now_s(), Relaxed);
        self.may_idle_out.store(true, Relaxed);
    }

    /// Marks a request until the mark is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy(self.clone())
    }

    fn idle(&self) -> Duration {
        if !self.may_idle_out.load(Relaxed) || self.busy.load(Relaxed) != 0 {
            return Duration::ZERO;
        }
        Duration::from_secs(now_s().saturating_sub(self.rested_s.load(Relaxed)).into())
    }
}

/// A request is in hand.
pub(crate) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rested_s.store(now_s(), Relaxed);
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

/// The connections of one listener that stand now.
#[derive(Debug, Default)]
pub(crate) struct Live {
    next: AtomicU64,
    tasks: Mutex<HashMap<u64, (Arc<Connection>, AbortHandle)>>,
    /// Read and written under the lock of `tasks`.
    closed: AtomicBool,
    callers: Mutex<HashMap<CertificateDer<'static>, Weak<Caller>>>,
    changed: Notify,
}

impl Live {
    /// Counts a new connection, and says whether there is room for it.
    pub(crate) fn admits(&self, counters: &Counters, connections_max: usize) -> bool {
        counters.count(Event::Connection);
        let is_room = self.len() < connections_max;
        if !is_room {
            counters.count(Event::ConnectionRefused);
        }
        is_room
    }

    /// Runs a new connection.
    pub(crate) fn spawn<F, R>(self: &Arc<Self>, run: F)
    where
        F: FnOnce(Arc<Connection>) -> R,
        R: Future<Output = ()> + Send + 'static,
    {
        self.insert(Arc::default(), run);
    }

    /// Runs something that outlives the connection it came from, and is cut for the same reasons.
    pub(crate) fn spawn_beside<F, R>(self: &Arc<Self>, connection: &Connection, run: F)
    where
        F: FnOnce(Arc<Connection>) -> R,
        R: Future<Output = ()> + Send + 'static,
    {
        let beside = Connection { allowed: AtomicBool::new(true), ..Connection::default() };
        if let Some(caller) = connection.caller.get() {
            beside.identify(caller.clone());
        }
        self.insert(Arc::new(beside), run);
    }

    fn insert<F, R>(self: &Arc<Self>, connection: Arc<Connection>, run: F)
    where
        F: FnOnce(Arc<Connection>) -> R,
        R: Future<Output = ()> + Send + 'static,
    {
        let number = self.next.fetch_add(1, Relaxed);
        let seat = Seat { live: self.clone(), number };
        let running = run(connection.clone());
        // Under the lock, so that the task cannot be over before it is in the table.
        let mut tasks = lock(&self.tasks);
        if self.closed.load(Relaxed) {
            // Nobody would judge it, sweep it or wait for it. The lock goes first, then the seat, which wants it.
            return;
        }
        let task = tokio::spawn(async move {
            let _seat = seat;
            running.await;
        });
        tasks.insert(number, (connection, task.abort_handle()));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.tasks).len()
    }

    /// The caller with this certificate chain, whose first is the leaf. None for an empty chain, or one without a SPIFFE id.
    pub(crate) fn caller(&self, chain: &[CertificateDer<'_>]) -> Option<Arc<Caller>> {
        let mut callers = lock(&self.callers);
        let leaf = chain.first()?;
        if let Some(known) = callers.get(leaf).and_then(Weak::upgrade) {
            return Some(known);
        }
        callers.retain(|_, caller| caller.strong_count() > 0);
        let caller = Caller::of(chain)?;
        callers.insert(caller.chain[0].clone(), Arc::downgrade(&caller));
        Some(caller)
    }

    /// Applies rules that have changed to all connections whose caller is known: cuts what was allowed and is no longer.
    pub(crate) fn judge(&self, counters: &Counters, decide: impl Fn(&Caller) -> Verdict) {
        let mut verdicts: HashMap<*const Caller, Verdict> = HashMap::new();
        for (connection, task) in lock(&self.tasks).values() {
            let Some(caller) = connection.caller.get() else {
                continue;
            };
            match verdicts.entry(Arc::as_ptr(caller)).or_insert_with(|| decide(caller)) {
                Verdict::Allow => connection.allow(true),
                // It is told so, request by request, until it goes away.
                Verdict::Deny if !connection.is_allowed() => {}
                Verdict::Deny | Verdict::Distrust => {
                    connection.allow(false);
                    counters.count(Event::ConnectionCut);
                    task.abort();
                }
            }
        }
    }

    /// Closes HTTP connections that have been idle for so long. Those that merely rest let others have what they kept.
    pub(crate) fn sweep(&self, idle_max: Duration) {
        for (connection, task) in lock(&self.tasks).values() {
            connection.kept.release(KEPT_LINK_TIMEOUT);
            if connection.idle() > idle_max {
                task.abort();
            }
        }
    }

    /// Cuts them all.
    pub(crate) fn cut(&self) {
        lock(&self.tasks).values().for_each(|(_, task)| task.abort());
    }

    /// Cuts them all, and takes no more: whoever was on the way in is turned away.
    pub(crate) fn close(&self) {
        // Under the lock, so that whoever looks at it next is either turned away or cut.
        let tasks = lock(&self.tasks);
        self.closed.store(true, Relaxed);
        tasks.values().for_each(|(_, task)| task.abort());
    }

    /// Waits until there are none.
    pub(crate) async fn emptied(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.len() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// A place in the table. It is free when the task is over, however it ended.
struct Seat {
    live: Arc<Live>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Dropped outside of the lock: the connection's parts may want it.
        let gone = lock(&self.live.tasks).remove(&self.number);
        drop(gone);
        self.live.changed.notify_waiters();
    }
}

/// Seconds since some moment before the first call.
fn now_s() -> u32 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u32::try_from(BEGIN.elapsed().as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    const LONG: Duration = Duration::from_secs(3600);

    fn caller(service: &str) -> Arc<Caller> {
        Arc::new(Caller {
            id: SpiffeId::service("t.consul", "dc1", service),
            chain: vec![],
            verified_at: SystemTime::UNIX_EPOCH,
        })
    }

    /// A connection that would last for ever.
    fn join(live: &Arc<Live>, caller: &Arc<Caller>, allowed: bool) {
        let caller = caller.clone();
        live.spawn(move |connection| async move {
            connection.identify(caller);
            connection.allow(allowed);
            sleep(LONG).await;
        });
    }

    async fn settle(live: &Live, expected: usize) {
        timeout(Duration::from_secs(10), async {
            while live.len() != expected {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the table settles");
    }

    #[tokio::test]
    async fn a_change_cuts_those_that_it_denies_and_no_others() {
        let (live, counters) = (Arc::new(Live::default()), Counters::default());
        let (web, db) = (caller("web"), caller("db"));
        (0..3).for_each(|_| join(&live, &web, true));
        (0..2).for_each(|_| join(&live, &db, true));
        tokio::task::yield_now().await;
        live.judge(&counters, |caller| if caller.id == db.id { Verdict::Deny } else { Verdict::Allow });
        settle(&live, 3).await;
        assert_eq!(counters.snapshot(0).connections_cut, 2);
        live.judge(&counters, |_| Verdict::Distrust);
        settle(&live, 0).await;
        timeout(LONG, live.emptied()).await.expect("empty");
    }

    #[tokio::test]
    async fn the_denied_stay_and_may_be_allowed_later() {
        let (live, counters) = (Arc::new(Live::default()), Counters::default());
        join(&live, &caller("web"), false);
        tokio::task::yield_now().await;
        live.judge(&counters, |_| Verdict::Deny);
        tokio::task::yield_now().await;
        assert_eq!(live.len(), 1);
        live.judge(&counters, |_| Verdict::Allow);
        let allowed = lock(&live.tasks).values().all(|(connection, _)| connection.is_allowed());
        assert!(allowed);
    }

    #[tokio::test]
    async fn idle_connections_are_swept_and_busy_ones_are_not() {
        let live = Arc::new(Live::default());
        for is_busy in [true, false] {
            live.spawn(move |connection| async move {
                connection.close_when_idle();
                connection.rested_s.store(0, Relaxed);
                let _busy = is_busy.then(|| connection.busy());
                sleep(LONG).await;
            });
        }
        tokio::task::yield_now().await;
        for (connection, _) in lock(&live.tasks).values() {
            assert_eq!(connection.idle().as_secs(), if connection.busy.load(Relaxed) > 0 { 0 } else { now_s().into() });
        }
        live.sweep(LONG);
        assert_eq!(live.len(), 2);
    }

    #[tokio::test]
    async fn a_task_that_is_over_at_once_leaves_nothing() {
        let live = Arc::new(Live::default());
        (0..100).for_each(|_| live.spawn(|_| async {}));
        timeout(LONG, live.emptied()).await.expect("empty");
        live.spawn(|_| sleep(LONG));
        live.cut();
        timeout(LONG, live.emptied()).await.expect("empty");
    }

    #[tokio::test]
    async fn whoever_is_taken_after_the_close_is_turned_away() {
        let live = Arc::new(Live::default());
        live.spawn(|_| sleep(LONG));
        live.cut();
        live.spawn(|_| sleep(LONG));
        assert_eq!(live.len(), 2, "a cut is not the end");
        live.close();
        settle(&live, 0).await;
        live.spawn(|_| sleep(LONG));
        live.spawn_beside(&Connection::default(), |_| sleep(LONG));
        assert_eq!(live.len(), 0);
        timeout(LONG, live.emptied()).await.expect("empty");
    }
}
