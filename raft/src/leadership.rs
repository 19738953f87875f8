//! Who leads, told from what openraft reports.

use std::time::{Duration, Instant};

use faults::Bug;
use openraft::ServerState;
use tokio::sync::watch;

use crate::consensus::Core;
use crate::types::{Config, Member, NodeId};
use crate::{Leadership, MembersVersion, Role};

pub(crate) type Metrics = openraft::RaftMetrics<NodeId, Member>;

/// Tells who leads, and which entry of the log the membership comes from, by what openraft reports, until it stops.
pub(crate) fn follow_leadership(
    core: &Core,
    contact_max: Duration,
) -> (watch::Receiver<Leadership>, watch::Receiver<MembersVersion>) {
    let mut metrics = core.metrics();
    let now = leadership(&metrics.borrow_and_update(), Duration::ZERO, contact_max);
    let (sender, receiver) = watch::channel(now);
    let (members, members_receiver) = watch::channel(members_version(&metrics.borrow()));
    tokio::spawn(async move {
        let mut reported = Instant::now();
        loop {
            match tokio::time::timeout(contact_max / 4, metrics.changed()).await {
                Ok(Ok(())) => reported = Instant::now(),
                Ok(Err(_gone)) => break,
                // A core that waits for its disk reports nothing; what it said last grows old.
                Err(_elapsed) => {}
            }
            let version = members_version(&metrics.borrow_and_update());
            members.send_if_modified(|before| std::mem::replace(before, version) != version);
            let now = leadership(&metrics.borrow(), reported.elapsed(), contact_max);
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
    (receiver, members_receiver)
}

fn members_version(metrics: &Metrics) -> MembersVersion {
    metrics.membership_config.log_id().map(|entry| (entry.leader_id.term, entry.index))
}

/// A leader that no majority has answered for so long does not call itself one: it would only make its clients wait.
pub(crate) fn contact_max(config: &Config) -> Duration {
    Duration::from_millis(config.election_ms_max * 2)
}

/// What was reported `age` ago means this now. One leads when an entry of one's own term is applied, and so all that the
/// leaders before have answered, for as long as a majority answers. A lone voter needs nobody's answer.
fn leadership(metrics: &Metrics, age: Duration, contact_max: Duration) -> Leadership {
    let membership = metrics.membership_config.membership();
    let is_alone = membership.voter_ids().eq([metrics.id]);
    let contact = metrics.millis_since_quorum_ack.map(|ms| Duration::from_millis(ms) + age);
    let is_mistaken = faults::has(Bug::LeadsTooLong) || faults::has(Bug::ReadNotConfirmed);
    let is_early = faults::has(Bug::LeadsTooEarly);
    let is_leader = metrics.state == ServerState::Leader
        && (is_early || metrics.last_applied.is_some_and(|applied| applied.leader_id.term == metrics.current_term))
        && (is_alone || is_mistaken || contact.map_or(is_early, |contact| contact <= contact_max));
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use openraft::{CommittedLeaderId, LogId, Membership};

    use super::*;
    use crate::consensus::StoredMembership;

    fn metrics(voters: &[NodeId], applied_in_term: u64, acked_ms: Option<u64>) -> Metrics {
        let nodes: BTreeMap<_, _> = voters.iter().map(|id| (*id, Member { id: *id, ..Member::default() })).collect();
        let voters: BTreeSet<_> = voters.iter().copied().collect();
        let mut metrics = Metrics::new_initial(1);
        metrics.state = ServerState::Leader;
        metrics.current_term = 5;
        metrics.current_leader = Some(1);
        metrics.last_applied = Some(LogId::new(CommittedLeaderId::new(applied_in_term, 1), 9));
        metrics.millis_since_quorum_ack = acked_ms;
        metrics.membership_config = Arc::new(StoredMembership::new(None, Membership::new(vec![voters], nodes)));
        metrics
    }

    #[test]
    fn one_leads_with_an_entry_of_the_term_applied_and_a_majority_that_answers() {
        let three: &[NodeId] = &[1, 2, 3];
        let cases = [
            (three, 5, Some(100), 0, true),
            (three, 5, Some(100), 699, true),
            // Silent for too long, whether openraft says so or says nothing.
            (three, 5, Some(801), 0, false),
            (three, 5, Some(100), 701, false),
            (three, 5, None, 0, false),
            // Elected, and behind what its predecessors answered.
            (three, 4, Some(100), 0, false),
            (&[1], 5, None, 60_000, true),
            (&[1], 4, Some(0), 0, false),
        ];
        for (voters, applied, acked_ms, age_ms, expected) in cases {
            let age = Duration::from_millis(age_ms);
            let now = leadership(&metrics(voters, applied, acked_ms), age, Duration::from_millis(800));
            assert_eq!(now.is_leader, expected, "{voters:?} {applied} {acked_ms:?} {age_ms}");
            assert_eq!(now.leader.is_some(), expected);
        }
    }
}
