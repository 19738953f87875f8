//! What only the leader does. Each duty starts when leadership is gained and is dropped when it is lost.

mod authority;
pub(crate) mod federation;
pub(crate) mod leases;
pub(crate) mod nodes;
mod reap;
pub(crate) mod sessions;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::core::Core;
pub(crate) use nodes::report;

/// After a duty has failed it rests, so that it does not spin.
pub(crate) const RETRY: Duration = Duration::from_millis(200);

/// Runs the duties whenever this server leads, until it closes.
pub(crate) async fn run(core: Arc<Core>) {
    let mut leadership = core.raft.watch();
    loop {
        let (is_leader, term) = {
            let now = leadership.borrow_and_update();
            (now.is_leader, now.term)
        };
        if is_leader {
            tracing::info!(term, "this server leads");
            tokio::select! {
                () = duties(&core) => {}
                () = until_lost(&core, term) => tracing::info!(term, "this server does not lead any more"),
                () = core.closing.cancelled() => return,
            }
            core.sessions.set_judge(None);
            core.leases.stop();
            continue;
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = core.closing.cancelled() => return,
        }
        let leader = leadership.borrow().leader.as_ref().map(|leader| leader.name.clone());
        match leader {
            Some(leader) if leader != core.config.node_name => tracing::info!(leader, "a leader was elected"),
            Some(_) | None => {}
        }
    }
}

/// A re-election of this very server is a new reign, too: what was known of sessions is then learned anew.
async fn until_lost(core: &Core, term: u64) {
    let mut leadership = core.raft.watch();
    let _ = leadership.wait_for(|now| !now.is_leader || now.term != term).await;
}

async fn duties(core: &Arc<Core>) {
    // What the predecessors have acknowledged must be known before anything is decided.
    while core.raft.read_index().await.is_err() {
        tokio::time::sleep(RETRY).await;
    }
    faults::pass(faults::Point::LeaderBegins);
    core.proposer.start_clock();
    tokio::join!(
        authority::keep(core),
        nodes::judge(core),
        nodes::register_servers(core),
        core.members.promote_learners(),
        federation::exchange(core),
        federation::replicate(core),
        reap::remove_failed(core),
        leases::expire(core),
    );
}

/// Does a piece of work again until it is done.
pub(crate) async fn until_done<F: Future<Output = bool>>(work: impl Fn() -> F) {
    while !work().await {
        tokio::time::sleep(RETRY).await;
    }
}
