//! As of which moment this server's catalog is known to hold everything that was acknowledged: its age is what
//! `X-Consul-LastContact` tells.
//!
//! That a follower has just heard of the leader does not say that it has what the leader has acknowledged: it may be behind by
//! thousands of entries, and a word that was delayed, or lay in the socket of a stopped process, is older than its arrival. So a
//! follower *asks*, once each heartbeat, and brings its catalog to the index of the answer. Then the catalog holds all that was
//! acknowledged before it asked, which is a moment of its own clock. A leader asks a majority instead, for it may have been
//! replaced without knowing it; the age of the majority's word is in its answers, and is added to theirs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::proto::ReadIndexRequest;
use api::proto::peer_client::PeerClient;
use raft::Raft;
use tokio::time::Instant;

use crate::core::Core;
use crate::machine::Machine;
use crate::rpc::dial::Peers;

/// How long one question to the leader may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// The moment. It only ever moves on: a catalog forgets nothing.
#[derive(Debug, Default)]
pub(crate) struct AsOf(Mutex<Option<Instant>>);

impl AsOf {
    /// How old the catalog may be; `None` if it was never known to be up to date since the start.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    fn reached(&self, at: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = (*known).max(Some(at));
    }
}

/// Moves this server's moment on until it closes.
pub(crate) async fn follow(core: Arc<Core>) {
    let period = Duration::from_millis(core.config.timing.heartbeat_ms);
    let mut leadership = core.raft.watch();
    loop {
        let round = async {
            ask(&core.raft, &core.peers, core.reads.as_of()).await;
            tokio::time::sleep(period).await;
        };
        tokio::select! {
            () = round => {}
            // Whoever was asked may be gone.
            changed = leadership.changed() => if changed.is_err() { return },
            () = core.closing.cancelled() => return,
        }
    }
}

/// One question. It waits for as long as the answer, and what is to be applied for it, takes; `follow` ends it when there is
/// another leader.
async fn ask(raft: &Raft<Machine>, peers: &Peers, as_of: &AsOf) -> Option<()> {
    let asked = Instant::now();
    if raft.is_leader() {
        raft.read_index().await.ok()?;
        as_of.reached(asked);
        return Some(());
    }
    let mut client = PeerClient::new(peers.local(&raft.leader()?.address).ok()?);
    let request = client.read_index(ReadIndexRequest { confirm: false });
    let reply = tokio::time::timeout(ASK_TIMEOUT, request).await.ok()?.ok()?.into_inner();
    let age = Duration::from_millis(reply.as_of_ms_ago?);
    raft.applied_at_least(reply.raft_index).await.ok()?;
    as_of.reached(asked.checked_sub(age)?);
    Some(())
}
