//! Anti-entropy: the servers learn what changed at once, and are compared with everything from time to time.
//!
//! One push is in flight at a time; what changes meanwhile goes into the next one. So a storm of registrations becomes a
//! few large pushes, and a single registration waits for nobody.
//!
//! A push says which one it follows, by its index in the catalog. One that was given up, and comes late, follows one that is not the
//! last any more, and is refused: it must not undo what was pushed since.

use crate::backoff::Backoff;
use crate::error::ServerError;
use crate::local::{Batch, Local};
use crate::metrics::Metrics;
use crate::servers::Servers;
use api::proto::PushReply;
use api::proto::sync_client::SyncClient;
use api::transport::MESSAGE_BYTES_MAX;
use bytes::Bytes;
use faults::Point;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Most time for a push.
const PUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Most time for a push of everything.
const FULL_TIMEOUT: Duration = Duration::from_secs(60);
/// When nothing is due for long.
const FAR: Duration = Duration::from_secs(3600);

/// Pushes what this node has to the servers.
pub(crate) struct Syncer {
    pub(crate) local: Local,
    pub(crate) servers: Servers,
    /// This node, as MessagePack.
    pub(crate) node_mp: Bytes,
    /// How often everything is compared, before jitter.
    pub(crate) interval: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// Rung by the session when it is open: compare everything.
    pub(crate) opened: Arc<Notify>,
}

impl Syncer {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut next_full = Instant::now() + self.jittered();
        let mut next_output = None;
        let mut last_push = 0;
        loop {
            let mut is_full = false;
            tokio::select! {
                () = self.opened.notified() => is_full = true,
                () = sleep_until(next_full) => is_full = true,
                () = self.local.wait_dirty() => {}
                () = sleep_until(next_output.unwrap_or_else(|| Instant::now() + FAR)) => {}
            }
            next_output = self.local.release_deferred(Instant::now());
            if is_full {
                next_full = Instant::now() + self.jittered();
            }
            // Without a session the servers think that this node is dead; when it opens, everything is pushed anyway.
            while self.servers.current().is_some() {
                let Some(batch) = (if is_full { Some(self.local.take_all()) } else { self.local.take_batch() }) else {
                    break;
                };
                match self.push(batch, last_push).await {
                    Ok(reply) => {
                        backoff.reset();
                        last_push = reply.index;
                        // Nobody has heard what became of the last push, or it was before this agent started.
                        is_full = reply.outdated;
                    }
                    Err(error) => {
                        let wait = backoff.next();
                        tracing::warn!(%error, retry_in = ?wait, "cannot push services and checks to the servers");
                        sleep(wait).await;
                    }
                }
            }
        }
    }

    /// Between 0.75 and 1.25 intervals, so that not all agents come at once.
    fn jittered(&self) -> Duration {
        self.interval.mul_f64(rand::random_range(0.75..1.25))
    }

    /// Pushes a batch. If it fails, or is outdated, its items are dirty again.
    async fn push(&self, batch: Batch, last_push: u64) -> Result<PushReply, ServerError> {
        match self.send(&batch, last_push).await {
            Ok(reply) if reply.outdated => {
                self.local.put_back(batch);
                Ok(reply)
            }
            Ok(reply) => {
                faults::pass(Point::AgentAfterPush);
                self.metrics.pushes.add_one();
                self.metrics.pushed_items.add(batch.len());
                if batch.is_full() {
                    self.metrics.full_syncs.add_one();
                }
                self.report(&reply);
                self.local.settled(&batch);
                Ok(reply)
            }
            Err(error) => {
                self.metrics.push_failures.add_one();
                self.local.put_back(batch);
                Err(error)
            }
        }
    }

    /// Ends with the session: another server may have one already.
    async fn send(&self, batch: &Batch, last_push: u64) -> Result<PushReply, ServerError> {
        let mut moves = self.servers.moves();
        let (address, channel) = self.servers.first()?;
        let refused = |reason| ServerError::Refused { address: address.clone(), reason };
        faults::pass(Point::AgentBeforePush);
        let mut client = SyncClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let limit = if batch.is_full() { FULL_TIMEOUT } else { PUSH_TIMEOUT };
        let push = timeout(limit, client.push(batch.request(self.node_mp.clone(), last_push)));
        tokio::select! {
            answer = push => match answer {
                Ok(Ok(reply)) => Ok(reply.into_inner()),
                Ok(Err(status)) => Err(ServerError::of_call(&address, &status)),
                Err(_) => Err(refused(format!("no answer to a push within {limit:?}"))),
            },
            elsewhere = moves.wait_for(|now| now.as_ref().is_none_or(|now| **now != address)) => {
                drop(elsewhere);
                Err(refused("the session was lost before it answered a push".to_string()))
            }
        }
    }

    /// A refused item stays here, and is refused (and reported) again when everything is compared.
    fn report(&self, reply: &PushReply) {
        self.metrics.refused_items.add(reply.errors.len());
        for error in &reply.errors {
            tracing::warn!(
                id = error.id,
                reason = error.message,
                "the servers refuse an item of this node: correct and register it again"
            );
        }
    }
}
