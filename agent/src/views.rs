//! Views: answers of the servers that are kept in memory and pushed to us when they change.
//!
//! One stream (`Watch.Stream`) for each question, shared by all who ask it, dropped when nobody has asked for a while. When a
//! stream is cut, the view goes on answering with what it knows, says how old that is, and asks again: where the session is.

use crate::backoff::Backoff;
use crate::config::VIEWS_MAX;
use crate::metrics::Metrics;
use crate::servers::{Moves, Servers};
use api::proto::watch_client::WatchClient;
use api::proto::{WatchReply, WatchRequest};
use api::transport::{Channel, MESSAGE_BYTES_MAX};
use faults::Bug;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// When the table is full, views that nobody has asked for so long make room.
const EVICT_IDLE: Duration = Duration::from_secs(10);
/// Most time until a server begins to stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a value of an answer: the question, the status, the body. None if the answer is no news (a server in trouble).
pub(crate) type Decode<T> = fn(&str, u32, &[u8]) -> Option<T>;

/// Views of one sort, by question. Clones are the same.
pub(crate) struct Views<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Views<T> {
    fn clone(&self) -> Self {
        Views { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    servers: Servers,
    metrics: Arc<Metrics>,
    runtime: Handle,
    idle: Duration,
    decode: Decode<T>,
    views: RwLock<HashMap<String, Arc<View<T>>>>,
    epoch: Instant,
    last_eviction_ms: AtomicU64,
}

struct View<T> {
    latest: watch::Sender<Option<Arc<T>>>,
    /// When it was last asked, in milliseconds since the epoch of the table.
    asked_ms: AtomicU64,
    /// Since when its stream is cut.
    cut: Mutex<Option<Instant>>,
    task: Mutex<Option<AbortHandle>>,
}

/// What is known about a question.
pub(crate) enum Known<T> {
    /// The newest answer that has come.
    Now(Arc<T>),
    /// It has been asked; the answer will be here.
    Soon(watch::Receiver<Option<Arc<T>>>),
    /// There are too many views.
    Full,
}

impl<T: Send + Sync + 'static> Views<T> {
    pub(crate) fn new(
        servers: Servers,
        metrics: Arc<Metrics>,
        runtime: Handle,
        idle: Duration,
        decode: Decode<T>,
    ) -> Self {
        let (views, epoch) = (RwLock::default(), Instant::now());
        let last_eviction_ms = AtomicU64::new(0);
        Views { shared: Arc::new(Shared { servers, metrics, runtime, idle, decode, views, epoch, last_eviction_ms }) }
    }

    /// What is known about a question (`/v1/…` with its query). One that is new is asked.
    pub(crate) fn ask(&self, target: &str) -> Known<T> {
        let shared = &self.shared;
        if let Some(view) = shared.views.read().unwrap_or_else(PoisonError::into_inner).get(target) {
            return view.known(shared.now_ms());
        }
        let mut views = shared.views.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.get(target) {
            return view.known(shared.now_ms());
        }
        if views.len() >= VIEWS_MAX && !shared.evict(&mut views) {
            return Known::Full;
        }
        let view = Arc::new(View {
            latest: watch::Sender::new(None),
            asked_ms: AtomicU64::new(shared.now_ms()),
            cut: Mutex::new(Some(Instant::now())),
            task: Mutex::new(None),
        });
        views.insert(target.to_string(), view.clone());
        shared.metrics.views.add_one();
        let task = shared.runtime.spawn(follow(shared.clone(), view.clone(), target.to_string()));
        *view.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Known::Soon(view.latest.subscribe())
    }

    /// How many there are, and how old the oldest whose stream is cut is.
    pub(crate) fn health(&self) -> (usize, Option<Duration>) {
        let views = self.shared.views.read().unwrap_or_else(PoisonError::into_inner);
        let cut = views.values().filter_map(|view| *view.cut.lock().unwrap_or_else(PoisonError::into_inner));
        (views.len(), cut.map(|since| since.elapsed()).max())
    }

    /// Drops all of them.
    pub(crate) fn stop(&self) {
        for view in self.shared.views.write().unwrap_or_else(PoisonError::into_inner).drain() {
            view.1.stop();
        }
    }
}

impl<T> View<T> {
    fn known(&self, now_ms: u64) -> Known<T> {
        self.asked_ms.store(now_ms, Ordering::Relaxed);
        match &*self.latest.borrow() {
            Some(value) => Known::Now(value.clone()),
            None => Known::Soon(self.latest.subscribe()),
        }
    }

    fn set_cut(&self, is_cut: bool) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        *cut = if is_cut { cut.or_else(|| Some(Instant::now())) } else { None };
    }

    fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl<T> Shared<T> {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes room, at most once a second: whoever asks for ever new names must not make us search the table each time.
    fn evict(&self, views: &mut HashMap<String, Arc<View<T>>>) -> bool {
        let now = self.now_ms();
        if now.saturating_sub(self.last_eviction_ms.swap(now, Ordering::Relaxed)) < 1000 {
            return false;
        }
        let limit = now.saturating_sub(u64::try_from(EVICT_IDLE.as_millis()).unwrap_or(u64::MAX));
        views.retain(|_, view| {
            let keep = view.asked_ms.load(Ordering::Relaxed) > limit;
            if !keep {
                view.stop();
            }
            keep
        });
        views.len() < VIEWS_MAX
    }

    /// How long until a view has been idle for too long; zero if it has.
    /// One for whose answer somebody waits is not idle.
    fn idle_left(&self, view: &View<T>) -> Duration {
        if view.latest.receiver_count() > 0 {
            return self.idle;
        }
        let idle = Duration::from_millis(self.now_ms().saturating_sub(view.asked_ms.load(Ordering::Relaxed)));
        self.idle.saturating_sub(idle)
    }
}

/// Follows one question until nobody has asked it for long.
async fn follow<T: Send + Sync + 'static>(shared: Arc<Shared<T>>, view: Arc<View<T>>, target: String) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut moves = shared.servers.moves();
    loop {
        moves.mark_unchanged();
        tokio::select! {
            () = idle(&shared, &view) => {
                shared.views.write().unwrap_or_else(PoisonError::into_inner).remove(&target);
                return;
            }
            reason = stream(&shared, &view, &target, &mut backoff) => {
                tracing::debug!(view = target, reason, "a view's stream ended; it is opened again");
            }
        }
        view.set_cut(true);
        shared.metrics.view_losses.add_one();
        if faults::has(Bug::ViewStandsStill) {
            std::future::pending::<()>().await;
        }
        pause(&mut moves, &mut backoff).await;
    }
}

/// Returns when a view has been idle for too long.
async fn idle<T>(shared: &Shared<T>, view: &View<T>) {
    loop {
        match shared.idle_left(view) {
            Duration::ZERO => return,
            left => sleep(left + Duration::from_millis(1)).await,
        }
    }
}

/// Waits before the next try: as long as the back-off says, or until a session opens. Then there is a server that answers, and
/// all failures before are forgotten. One that has opened since the last try began counts, too.
async fn pause(moves: &mut Moves, backoff: &mut Backoff) {
    let session_opens = async { while moves.changed().await.is_ok() && moves.borrow_and_update().is_none() {} };
    tokio::select! {
        () = sleep(backoff.next()) => return,
        () = session_opens => backoff.reset(),
    }
    // At once, but not all views in the same instant.
    sleep(backoff.next()).await;
}

/// One stream, from its opening to its end; says why it ended.
async fn stream<T>(shared: &Shared<T>, view: &View<T>, target: &str, backoff: &mut Backoff) -> String {
    let mut moves = shared.servers.moves();
    let (address, channel) = match shared.servers.first() {
        Ok(first) => first,
        Err(error) => return error.to_string(),
    };
    tokio::select! {
        reason = listen(shared, view, target, channel, backoff) => reason,
        elsewhere = moves.wait_for(|now| now.as_ref().is_some_and(|now| **now != address)) => {
            drop(elsewhere);
            "the session is with another server".to_string()
        }
    }
}

/// Opens a stream and takes what it says until it ends.
async fn listen<T>(
    shared: &Shared<T>,
    view: &View<T>,
    target: &str,
    channel: Channel,
    backoff: &mut Backoff,
) -> String {
    let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = WatchRequest { target: target.to_string() };
    let mut replies = match timeout(OPEN_TIMEOUT, client.stream(request)).await {
        Ok(Ok(replies)) => replies.into_inner(),
        Ok(Err(status)) => return crate::error::reason(&status),
        Err(_) => return format!("no answer within {OPEN_TIMEOUT:?}"),
    };
    loop {
        match replies.message().await {
            Ok(Some(reply)) => {
                backoff.reset();
                take(shared, view, target, &reply);
            }
            Ok(None) => return "the server closed it".to_string(),
            Err(status) => return crate::error::reason(&status),
        }
    }
}

fn take<T>(shared: &Shared<T>, view: &View<T>, target: &str, reply: &WatchReply) {
    view.set_cut(false);
    if let Some(value) = (shared.decode)(target, reply.status, &reply.body) {
        view.latest.send_replace(Some(Arc::new(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a pause of half an hour or more ends early when the session changes so.
    async fn ends_early(changes: &[Option<&str>]) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(3600));
        for _ in 0..20 {
            backoff.next();
        }
        let sender = watch::Sender::new(None);
        let mut moves = sender.subscribe();
        let change = async {
            for server in changes {
                sender.send_replace(server.map(|server| Arc::new(server.to_string())));
                sleep(Duration::from_millis(50)).await;
            }
            sleep(Duration::from_millis(500)).await;
        };
        tokio::select! {
            () = pause(&mut moves, &mut backoff) => true,
            () = change => false,
        }
    }

    #[tokio::test]
    async fn a_session_that_opens_ends_the_back_off() {
        assert!(!ends_early(&[]).await);
        assert!(!ends_early(&[None, None]).await, "one that is lost is no reason");
        assert!(ends_early(&[Some("s1")]).await);
        assert!(ends_early(&[None, Some("s1")]).await);
    }
}
