//! Who leads, told from what openraft reports.

use std::time::{Duration, Instant};

use faults::Bug;
use openraft::ServerState;
use tokio::sync::watch;

use crate::consensus::Core;
use crate::types::{Config, Member, NodeId};
use crate::{Leadership, MembersVersion, Role};

pub(crate) type Metrics = openraft::RaftMetrics<NodeId, Member>;

/// What follows from what openraft reports.
pub(crate) struct Followed {
    /// Who leads.
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Which entry of the log the membership comes from.
    pub(crate) members: watch::Receiver<MembersVersion>,
    /// How long a leader may go on without another report; `None`: for ever. A process that was frozen knows by its clock alone
    /// that it leads no more: for a moment everything else still says so.
    pub(crate) leads_until: watch::Receiver<Option<Instant>>,
}

/// Follows openraft until it stops.
pub(crate) fn follow(core: &Core, contact_max: Duration) -> Followed {
    let (mut metrics, mut looked) = (core.metrics(), Instant::now());
    let now = leads_until(&metrics.borrow_and_update(), looked, contact_max);
    let sender = watch::Sender::new(leadership(&metrics.borrow(), now, looked));
    let until = watch::Sender::new(now);
    let members = watch::Sender::new(members_version(&metrics.borrow()));
    let followed =
        Followed { leadership: sender.subscribe(), members: members.subscribe(), leads_until: until.subscribe() };
    tokio::spawn(async move {
        let mut reported = looked;
        loop {
            match tokio::time::timeout(contact_max / 4, metrics.changed()).await {
                // When that was is not known, but that it was after the last look.
                Ok(Ok(())) => reported = looked,
                Ok(Err(_gone)) => break,
                // A core that waits for its disk reports nothing; what it said last grows old.
                Err(_elapsed) => {}
            }
            looked = Instant::now();
            let version = members_version(&metrics.borrow_and_update());
            members.send_if_modified(|before| std::mem::replace(before, version) != version);
            let end = leads_until(&metrics.borrow(), reported, contact_max);
            until.send_replace(end);
            let now = leadership(&metrics.borrow(), end, Instant::now());
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
    followed
}

fn members_version(metrics: &Metrics) -> MembersVersion {
    metrics.membership_config.log_id().map(|entry| (entry.leader_id.term, entry.index))
}

/// A leader that no majority has answered for so long does not call itself one: it would only make its clients wait.
pub(crate) fn contact_max(config: &Config) -> Duration {
    Duration::from_millis(config.election_ms_max * 2)
}

/// One leads when an entry of one's own term is applied, and so all that the leaders before have answered, for as long as a
/// majority answers.
fn leadership(metrics: &Metrics, until: Option<Instant>, now: Instant) -> Leadership {
    let is_early = faults::has(Bug::LeadsTooEarly);
    let is_leader = metrics.state == ServerState::Leader
        && (is_early || metrics.last_applied.is_some_and(|applied| applied.leader_id.term == metrics.current_term))
        && is_before(now, until);
    let membership = metrics.membership_config.membership();
    let leader = metrics.current_leader.filter(|id| is_leader || *id != metrics.id);
    Leadership {
        term: metrics.current_term,
        leader: leader.and_then(|id| membership.get_node(&id).cloned()),
        is_leader,
        is_stopped: metrics.state == ServerState::Shutdown || metrics.running_state.is_err(),
    }
}

/// How long what was reported at `reported`, or after, lets a leader lead; `None`: for ever. A lone voter needs nobody's answer.
fn leads_until(metrics: &Metrics, reported: Instant, contact_max: Duration) -> Option<Instant> {
    let is_alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
    let is_mistaken = faults::has(Bug::LeadsTooLong) || faults::has(Bug::ReadNotConfirmed);
    let silence = metrics.millis_since_quorum_ack;
    if is_alone || is_mistaken || (silence.is_none() && faults::has(Bug::LeadsTooEarly)) {
        return None;
    }
    Some(reported + contact_max.saturating_sub(silence.map_or(contact_max, Duration::from_millis)))
}

/// Whether an end that may never come has not come yet.
pub(crate) fn is_before(now: Instant, end: Option<Instant>) -> bool {
    end.is_none_or(|end| now < end)
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
            let (metrics, reported) = (metrics(voters, applied, acked_ms), Instant::now());
            let until = leads_until(&metrics, reported, Duration::from_millis(800));
            let now = leadership(&metrics, until, reported + Duration::from_millis(age_ms));
            assert_eq!(now.is_leader, expected, "{voters:?} {applied} {acked_ms:?} {age_ms}");
            assert_eq!(now.leader.is_some(), expected);
        }
    }

    #[test]
    fn a_leader_that_was_frozen_knows_by_its_clock_that_it_leads_no_more() {
        let (reported, max) = (Instant::now(), Duration::from_millis(800));
        let left_ms = |voters: &[NodeId], acked_ms| {
            let until = leads_until(&metrics(voters, 5, acked_ms), reported, max);
            until.map(|until| until.duration_since(reported).as_millis())
        };
        assert_eq!(left_ms(&[1, 2, 3], Some(100)), Some(700));
        assert_eq!(left_ms(&[1, 2, 3], Some(900)), Some(0));
        assert_eq!(left_ms(&[1, 2, 3], None), Some(0));
        assert_eq!(left_ms(&[1], None), None);
    }
}
