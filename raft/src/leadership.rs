//! Who leads, told from what openraft reports.

use std::time::Duration;

use openraft::ServerState;
use tokio::sync::watch;

use crate::consensus::Core;
use crate::types::{Config, Member, NodeId};
use crate::{Leadership, Role};

/// Tells who leads from what openraft reports, until it stops.
pub(crate) fn follow_leadership(core: &Core, contact_max: Duration) -> watch::Receiver<Leadership> {
    let mut metrics = core.metrics();
    let now = leadership(&metrics.borrow_and_update(), contact_max);
    let (sender, receiver) = watch::channel(now);
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            let now = leadership(&metrics.borrow_and_update(), contact_max);
            let is_stopped = now.is_stopped;
            sender.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
            if is_stopped || sender.is_closed() {
                break;
            }
        }
        sender.send_modify(|last| {
            last.is_stopped = true;
            last.is_leader = false;
        });
    });
    receiver
}

/// A leader that no majority has answered for so long does not call itself one: it would only make its clients wait.
pub(crate) fn contact_max(config: &Config) -> Duration {
    Duration::from_millis(config.election_ms_max * 2)
}

fn leadership(metrics: &openraft::RaftMetrics<NodeId, Member>, contact_max: Duration) -> Leadership {
    let membership = metrics.membership_config.membership();
    let contact = metrics.millis_since_quorum_ack.map(Duration::from_millis);
    let is_leader = metrics.state == ServerState::Leader && contact.is_some_and(|age| age <= contact_max);
    let leader = metrics.current_leader.filter(|id| is_leader || *id != metrics.id);
    Leadership {
        term: metrics.current_term,
        leader: leader.and_then(|id| membership.get_node(&id).cloned()),
        is_leader,
        is_stopped: metrics.state == ServerState::Shutdown || metrics.running_state.is_err(),
    }
}

pub(crate) fn role(state: ServerState) -> Role {
    match state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Stopped,
    }
}
