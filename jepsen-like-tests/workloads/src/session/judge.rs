//! What a history of sessions says.
//!
//! All rests on one number of each session: the time before which it cannot have ended, which is that of the first call
//! that may have ended it, or its time to live after the last renewal that was acknowledged began. Until then it is
//! there and holds its keys, and the lock delay counts from there.

use std::collections::BTreeMap;
use std::time::Duration;

use jlt_core::judgement::Judgement;
use jlt_core::record::Typed;

use super::{Answer, Call, Cause, NODE_CHECK};
use crate::lease::{Created, TTL_MS};

type Op = Typed<Call, Answer>;

/// Beyond twice the time to live, for what has to be written down and for a loaded machine.
const ALLOWANCE: Duration = Duration::from_secs(1);

/// While answers come so often, nobody was elected.
const GAP_NS: u64 = 250_000_000;

/// A request whose outcome is not known may still have come in so long after it was given up.
const LATE_NS: u64 = 10_000_000_000;

/// The leaders' clock counts in milliseconds.
const CLOCK_SLACK_NS: u64 = 2_000_000;

/// So long after its last renewal a session must be gone, if one server has led all the time.
pub(super) fn too_long(ttl: Duration) -> Duration {
    2 * ttl + ALLOWANCE
}

pub(super) fn judge(operations: &[Op]) -> Judgement {
    let mut judgement = Judgement::default();
    let keys = by_key(operations);
    let lives = lives(operations, &keys);
    let reign = Reign::of(operations);
    for life in &lives {
        no_early_end(life, &mut judgement);
        no_life_after_the_end(life, &mut judgement);
        no_late_end(life, &reign, &mut judgement);
        for key in &life.keys {
            keys_end_with_their_session(life, key, &keys[key], &mut judgement);
            lock_delay_holds(life, key, &keys[key], &reign, &mut judgement);
        }
    }
    cover(operations, &lives, &reign, &mut judgement);
    judgement
}

fn cover(operations: &[Op], lives: &[Life<'_>], reign: &Reign<'_>, judgement: &mut Judgement) {
    for (cause, name) in [
        (Cause::Ttl, "by time"),
        (Cause::Destroy, "destroyed"),
        (Cause::NodeCheck, "by a check of the node"),
        (Cause::ServiceCheck, "by a check of a service"),
        (Cause::Node, "with the node"),
    ] {
        let ended = lives.iter().filter(|life| life.cause == cause && life.gone_ns < u64::MAX).count();
        judgement.cover(&format!("sessions ended {name}"), ended as u64, 0);
    }
    let ended = lives.iter().filter(|life| life.gone_ns < u64::MAX).count();
    judgement.cover("sessions ended", ended as u64, 5);
    let steady = |life: &&Life<'_>| life.gone_ns < u64::MAX && reign.is_steady(life.last_renewal_ns, life.gone_ns);
    let timed = lives.iter().filter(|life| life.cause == Cause::Ttl).filter(steady).count();
    judgement.cover("ends by time while one server led", timed as u64, 0);
    let is_refused = |operation: &&Op| {
        matches!(operation.call, Call::Acquire { .. }) && operation.seen == Some(Some(Answer::Is(false)))
    };
    judgement.cover("locks refused for their delay", operations.iter().filter(is_refused).count() as u64, 3);
    if operations.iter().any(|operation| operation.seen == Some(Some(Answer::Created(Created::TooShort)))) {
        judgement.notes.push(format!("the servers allow no time to live below {TTL_MS} ms"));
    }
}

/// A session and what is known of it. What never happened was at `u64::MAX`.
struct Life<'a> {
    id: &'a str,
    cause: Cause,
    deletes: bool,
    delay_ns: u64,
    ttl_ns: u64,
    /// The last beginning or acknowledged renewal was called then.
    renewed_ns: u64,
    /// The last renewal, and what may still come of it, was over then.
    last_renewal_ns: u64,
    /// The first call that may have ended it.
    cause_ns: u64,
    /// The first end that was acknowledged.
    ended_ns: u64,
    /// When it was known to be gone.
    gone_ns: u64,
    /// The index of its end.
    gone_index: Option<u64>,
    /// What it has locked.
    keys: Vec<&'a str>,
    /// Operations that say whether it is there.
    sights: Vec<(&'a Op, bool)>,
}

impl Life<'_> {
    /// It cannot have ended before.
    fn lives_until_ns(&self) -> u64 {
        let time_ns = if self.ttl_ns > 0 { self.renewed_ns + self.ttl_ns } else { u64::MAX };
        time_ns.min(self.cause_ns)
    }
}

/// Operations on each key, in the order of their calls.
fn by_key(operations: &[Op]) -> BTreeMap<&str, Vec<&Op>> {
    let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for operation in operations {
        if let Call::Acquire { key, .. } | Call::Look { key } = &operation.call {
            keys.entry(key).or_default().push(operation);
        }
    }
    keys
}

/// All sessions that were told to somebody.
fn lives<'a>(operations: &'a [Op], keys: &BTreeMap<&'a str, Vec<&'a Op>>) -> Vec<Life<'a>> {
    let mut lives: Vec<Life<'a>> = Vec::new();
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for operation in operations {
        let (Call::Create { node, .. }, Some(life)) = (&operation.call, begun(operation)) else { continue };
        by_name.entry(life.id).or_default().push(lives.len());
        by_name.entry(node).or_default().push(lives.len());
        lives.push(life);
    }
    for operation in operations {
        let name = match &operation.call {
            Call::Renew { session } | Call::Destroy { session } | Call::Info { session } => session,
            Call::Acquire { session, .. } => session,
            Call::Critical { node, .. } | Call::Deregister { node } => node,
            Call::Register { .. } | Call::Create { .. } | Call::Look { .. } | Call::Leader => continue,
        };
        by_name.get(name.as_str()).into_iter().flatten().for_each(|at| note(&mut lives[*at], operation));
    }
    for life in &mut lives {
        for key in life.keys.clone() {
            look_back(life, &keys[key]);
        }
        let gone = life.sights.iter().filter(|(_, there)| !there).map(|(operation, _)| operation.end_ns);
        life.gone_ns = gone.min().unwrap_or(u64::MAX);
    }
    lives
}

fn begun(operation: &Op) -> Option<Life<'_>> {
    let Call::Create { cause, deletes, delay_ms, ttl_ms, .. } = &operation.call else { return None };
    let Some(Some(Answer::Created(Created::Session(id)))) = &operation.seen else { return None };
    Some(Life {
        id,
        cause: *cause,
        deletes: *deletes,
        delay_ns: delay_ms * 1_000_000,
        ttl_ns: ttl_ms * 1_000_000,
        renewed_ns: operation.start_ns,
        last_renewal_ns: operation.end_ns,
        cause_ns: u64::MAX,
        ended_ns: u64::MAX,
        gone_ns: u64::MAX,
        gone_index: None,
        keys: Vec::new(),
        sights: Vec::new(),
    })
}

/// Takes in an operation that names the session, or its node.
fn note<'a>(life: &mut Life<'a>, operation: &'a Op) {
    let (start_ns, end_ns) = (operation.start_ns, operation.end_ns);
    let is_cause = match &operation.call {
        Call::Destroy { .. } | Call::Deregister { .. } => true,
        Call::Critical { check, .. } => {
            life.cause == if check == NODE_CHECK { Cause::NodeCheck } else { Cause::ServiceCheck }
        }
        _ => false,
    };
    match &operation.seen {
        None => return,
        Some(None) if is_cause => life.cause_ns = life.cause_ns.min(start_ns),
        Some(Some(_)) if is_cause => {
            life.cause_ns = life.cause_ns.min(start_ns);
            life.ended_ns = life.ended_ns.min(end_ns);
        }
        Some(_) => {}
    }
    match (&operation.call, &operation.seen) {
        (Call::Renew { .. }, Some(None)) => life.last_renewal_ns = life.last_renewal_ns.max(end_ns + LATE_NS),
        (Call::Renew { .. }, Some(Some(Answer::Is(there)))) => {
            life.last_renewal_ns = life.last_renewal_ns.max(end_ns);
            life.renewed_ns = if *there { life.renewed_ns.max(start_ns) } else { life.renewed_ns };
            life.sights.push((operation, *there));
        }
        (Call::Info { .. }, Some(Some(Answer::Info { there, index }))) => {
            life.sights.push((operation, *there));
            life.gone_index = life.gone_index.or((!there).then_some(*index));
        }
        (Call::Acquire { key, .. }, Some(Some(Answer::Is(true)))) => {
            life.sights.push((operation, true));
            life.keys.push(key);
        }
        (Call::Acquire { .. }, Some(Some(Answer::NoSession))) => life.sights.push((operation, false)),
        _ => {}
    }
}

/// Who looked at a key after the session had locked it saw the session, or that it is gone: nothing else takes the key
/// from it.
fn look_back<'a>(life: &mut Life<'a>, operations: &[&'a Op]) {
    let is_taken = |operation: &&&Op| {
        matches!(&operation.call, Call::Acquire { session, .. } if session == life.id)
            && operation.seen == Some(Some(Answer::Is(true)))
    };
    let Some(taken_ns) = operations.iter().find(is_taken).map(|taken| taken.end_ns) else { return };
    for operation in operations.iter().filter(|operation| operation.start_ns > taken_ns) {
        if let (Call::Look { .. }, Some(Some(Answer::Row { row, .. }))) = (&operation.call, &operation.seen) {
            let holder = row.as_ref().and_then(|row| row.session.as_deref());
            life.sights.push((operation, holder == Some(life.id)));
        }
    }
}

fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

fn no_early_end(life: &Life<'_>, judgement: &mut Judgement) {
    let until_ns = life.lives_until_ns();
    let early = life.sights.iter().find(|(operation, there)| !there && operation.end_ns < until_ns);
    if let Some((operation, _)) = early {
        let (id, at, call) = (life.id, ms(operation.end_ns), &operation.call);
        let why = match until_ns {
            u64::MAX => "without a cause".to_owned(),
            until_ns => format!("before its time, {} ms", ms(until_ns)),
        };
        judgement.violations.push(format!("the session {id} has ended at {at} ms, {why}: {call:?}"));
    }
}

fn no_life_after_the_end(life: &Life<'_>, judgement: &mut Judgement) {
    let end_ns = life.gone_ns.min(life.ended_ns);
    let after = life.sights.iter().find(|(operation, there)| *there && operation.start_ns > end_ns);
    if let Some((operation, _)) = after {
        let (id, at, call) = (life.id, ms(operation.start_ns), &operation.call);
        let end = ms(end_ns);
        judgement
            .violations
            .push(format!("the session {id} had ended at {end} ms, and is there or holds a key at {at} ms: {call:?}"));
    }
}

fn no_late_end(life: &Life<'_>, reign: &Reign<'_>, judgement: &mut Judgement) {
    if life.ttl_ns == 0 {
        return;
    }
    let limit_ns = u64::try_from(too_long(Duration::from_nanos(life.ttl_ns)).as_nanos()).unwrap_or(u64::MAX);
    let late = life.sights.iter().find(|(operation, there)| {
        let from_ns = operation.start_ns.saturating_sub(limit_ns);
        *there && life.last_renewal_ns < from_ns && reign.is_steady(from_ns, operation.start_ns)
    });
    if let Some((operation, _)) = late {
        let (id, at, renewed) = (life.id, ms(operation.start_ns), ms(life.last_renewal_ns));
        judgement.violations.push(format!(
            "the session {id} is there at {at} ms, though it was renewed last at {renewed} ms \
             and one server has led for {} ms",
            ms(limit_ns)
        ));
    }
}

/// Released or deleted as the session says, and in the same step as its end.
fn keys_end_with_their_session(life: &Life<'_>, key: &str, operations: &[&Op], judgement: &mut Judgement) {
    for operation in operations.iter().filter(|operation| operation.start_ns > life.gone_ns) {
        let (Call::Look { .. }, Some(Some(Answer::Row { row, index }))) = (&operation.call, &operation.seen) else {
            continue;
        };
        if others(life, operations).any(|other| other.start_ns < operation.end_ns && other.seen.is_some()) {
            continue;
        }
        let as_told = match row {
            None => life.deletes,
            Some(row) => !life.deletes && row.session.is_none() && row.lock_index == 1,
        };
        let ended = row.as_ref().map_or(*index, |row| row.modify_index);
        if !as_told {
            let (at, what) = (ms(operation.end_ns), if life.deletes { "deletes" } else { "releases" });
            judgement.violations.push(format!("{key} of a session that {what} its keys is {row:?} at {at} ms"));
        } else if life.gone_index.is_some_and(|index| index != ended) {
            let index = life.gone_index.unwrap_or_default();
            judgement.violations.push(format!("{key} was let go at index {ended}, its session ended at index {index}"));
        }
    }
}

/// Nobody gets a key so soon after the end of the session that held it, and everybody may a little later.
fn lock_delay_holds(life: &Life<'_>, key: &str, operations: &[&Op], reign: &Reign<'_>, judgement: &mut Judgement) {
    let delayed_until_ns = life.lives_until_ns().saturating_add(life.delay_ns);
    let over_ns = life.gone_ns.saturating_add(life.delay_ns).saturating_add(ALLOWANCE.as_nanos() as u64);
    let mut may_be_taken = false;
    for operation in others(life, operations) {
        let at = ms(operation.end_ns);
        match &operation.seen {
            Some(Some(Answer::Is(true))) => {
                if operation.end_ns + CLOCK_SLACK_NS < delayed_until_ns {
                    let (until, delay) = (ms(delayed_until_ns), ms(life.delay_ns));
                    judgement.violations.push(format!(
                        "{key} was locked at {at} ms, in the lock delay of {delay} ms that lasts until {until} ms"
                    ));
                }
                may_be_taken = true;
            }
            Some(Some(Answer::Is(false)))
                if !may_be_taken
                    && operation.start_ns > over_ns
                    && reign.is_steady(life.gone_ns, operation.start_ns) =>
            {
                let (gone, delay) = (ms(life.gone_ns), ms(life.delay_ns));
                judgement.violations.push(format!(
                    "{key} could not be locked at {at} ms, though its session was gone at {gone} ms \
                     and the delay was {delay} ms"
                ));
            }
            Some(None) => may_be_taken = true,
            _ => {}
        }
    }
}

/// Those who tried to lock a key after the session had locked it.
fn others<'a, 'o>(life: &'o Life<'a>, operations: &'o [&'a Op]) -> impl Iterator<Item = &'a Op> + 'o {
    let is_by = |operation: &Op| match &operation.call {
        Call::Acquire { session, .. } => Some(session == life.id),
        _ => None,
    };
    let after = operations.iter().copied().skip_while(move |operation| is_by(operation) != Some(true));
    after.filter(move |operation| is_by(operation) == Some(false))
}

/// Who led when, as far as clients can tell.
struct Reign<'a> {
    /// When something was answered that needs a leader and a majority.
    acknowledged_ns: Vec<u64>,
    /// Who was said to lead, with call and return.
    leaders: Vec<(u64, u64, &'a str)>,
}

impl<'a> Reign<'a> {
    fn of(operations: &'a [Op]) -> Self {
        let is_acknowledged =
            |operation: &&Op| matches!(operation.seen, Some(Some(_))) && operation.call != Call::Leader;
        let mut acknowledged_ns: Vec<u64> =
            operations.iter().filter(is_acknowledged).map(|operation| operation.end_ns).collect();
        acknowledged_ns.sort_unstable();
        let leader = |operation: &'a Op| match &operation.seen {
            Some(Some(Answer::Leader(name))) => Some((operation.start_ns, operation.end_ns, name.as_str())),
            _ => None,
        };
        Self { acknowledged_ns, leaders: operations.iter().filter_map(leader).collect() }
    }

    /// Whether one server led all the time: answers came without a gap in which another could have been elected, and
    /// all named the same leader.
    fn is_steady(&self, from_ns: u64, to_ns: u64) -> bool {
        const AROUND_NS: u64 = 1_000_000_000;
        let begin = self.acknowledged_ns.partition_point(|at_ns| *at_ns < from_ns);
        let end = self.acknowledged_ns.partition_point(|at_ns| *at_ns <= to_ns);
        let times = self.acknowledged_ns.get(begin..end).unwrap_or_default();
        if to_ns < from_ns {
            return false;
        }
        let mut before_ns = from_ns;
        for at_ns in times.iter().copied().chain([to_ns]) {
            if at_ns - before_ns > GAP_NS {
                return false;
            }
            before_ns = at_ns;
        }
        let around = self
            .leaders
            .iter()
            .filter(|(start_ns, end_ns, _)| *end_ns + AROUND_NS > from_ns && *start_ns < to_ns + AROUND_NS);
        let mut names = around.map(|(_, _, name)| *name);
        names.next().is_some_and(|first| !first.is_empty() && names.all(|name| name == first))
    }
}

#[cfg(test)]
mod tests;
