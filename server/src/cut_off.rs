//! Whether this server is cut off: it has heard of no leader for so long that whoever listens to it is better served by another one.
//!
//! Agents, and through them proxies, listen to one server. If that one is on the wrong side of a partition, it would go on telling
//! them what held before, and nobody would tell the leader that they live. So it ends their streams, and they move.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use crate::core::Core;

/// How often it is looked whether there is a leader. Looks are counted, not time: a process that was frozen has heard of nobody,
/// and may hear of the leader in the next moment.
const LOOK: Duration = Duration::from_millis(250);

/// So many looks in a row without a leader: three seconds, longer than an election takes.
const LOOKS: u32 = 12;

/// Follows whether this server is cut off, until it closes.
pub(crate) async fn follow(core: Arc<Core>) {
    let mut without_leader = 0;
    loop {
        without_leader = if core.reads.known_leader().is_some() { 0 } else { without_leader + 1 };
        let is_cut_off = without_leader >= LOOKS;
        if core.cut_off.send_if_modified(|before| std::mem::replace(before, is_cut_off) != is_cut_off) && is_cut_off {
            tracing::warn!("no leader was heard of for three seconds: agents and proxies are sent to other servers");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = core.closing.cancelled() => return,
        }
    }
}

impl Core {
    /// Returns when this server is cut off; at once if it is.
    pub(crate) async fn until_cut_off(&self) {
        // The sender is ours: it is never gone.
        let _ = self.cut_off.subscribe().wait_for(|is_cut_off| *is_cut_off).await;
    }

    /// Refuses whoever wants to listen to a server that is cut off.
    ///
    /// # Errors
    /// `Unavailable`: another server should be asked, or this one again later.
    pub(crate) fn check_not_cut_off(&self) -> Result<(), Status> {
        if *self.cut_off.borrow() {
            return Err(Status::unavailable("this server has heard of no leader for three seconds"));
        }
        Ok(())
    }
}
