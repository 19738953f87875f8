//! What a history of locks says.

use std::collections::{BTreeMap, BTreeSet};

use jlt_core::judgement::Judgement;
use jlt_core::record::Typed;

use super::{Answer, CLIENTS, Call, LOCKS};
use crate::lease::{Created, Row, TTL_MS, Txn};

type Op = Typed<Call, Answer>;

pub(super) fn judge(operations: &[Op]) -> Judgement {
    let mut judgement = Judgement::default();
    for lock in 0..LOCKS {
        each_index_has_one_row(lock, operations, &mut judgement);
        tokens_never_go_back(lock, operations, &mut judgement);
        a_lock_is_lost_only_with_its_session(lock, operations, &mut judgement);
        acquisitions_are_counted(lock, operations, &mut judgement);
        no_fenced_update_is_lost(lock, operations, &mut judgement);
        count_unfenced_losses(lock, operations, &mut judgement);
    }
    strangers_get_nothing(operations, &mut judgement);
    what_has_ended_does_nothing(operations, &mut judgement);
    let count = |is: &dyn Fn(&Op) -> bool| operations.iter().filter(|operation| is(operation)).count() as u64;
    judgement.cover("locks taken", count(&|operation| taken(operation).is_some()), 5);
    judgement.cover("fenced updates", count(&|operation| fenced(operation).is_some()), 5);
    judgement.cover(
        "fenced updates refused",
        count(&|operation| matches!(operation.call, Call::Fenced { .. }) && is_refused(operation)),
        0,
    );
    if operations.iter().any(|operation| matches!(operation.seen, Some(Some(Answer::Created(Created::TooShort))))) {
        judgement.notes.push(format!("the servers allow no time to live below {TTL_MS} ms"));
    }
    judgement
}

fn at_ms(operation: &Op) -> u64 {
    operation.end_ns / 1_000_000
}

/// The lock and the session that took it.
fn taken(operation: &Op) -> Option<(usize, &str)> {
    match (&operation.call, &operation.seen) {
        (Call::Acquire { lock, session, .. }, Some(Some(Answer::Is(true) | Answer::Txn(Txn::Done(_))))) => {
            Some((*lock, session))
        }
        _ => None,
    }
}

/// The lock, the session and the number of an acknowledged fenced write.
fn fenced(operation: &Op) -> Option<(usize, &str, u64)> {
    match (&operation.call, &operation.seen) {
        (Call::Fenced { lock, session, to, .. }, Some(Some(Answer::Txn(Txn::Done(_))))) => Some((*lock, session, *to)),
        _ => None,
    }
}

fn is_refused(operation: &Op) -> bool {
    matches!(operation.seen, Some(Some(Answer::Txn(Txn::Refused(_)))))
}

/// The lock as it was at a moment between call and return.
fn row(lock: usize, operation: &Op) -> Option<&Row> {
    match (&operation.call, &operation.seen) {
        (Call::Look { lock: at }, Some(Some(Answer::Row(Some(row))))) if *at == lock => Some(row),
        (Call::Acquire { lock: at, .. }, Some(Some(Answer::Txn(Txn::Done(rows))))) if *at == lock => rows.first(),
        _ => None,
    }
}

/// Rows of one index are one; a token has one holder, and each holder a token of its own that is greater than those
/// before.
fn each_index_has_one_row(lock: usize, operations: &[Op], judgement: &mut Judgement) {
    let mut rows: BTreeMap<u64, (u64, &Option<String>)> = BTreeMap::new();
    for operation in operations {
        let Some(row) = row(lock, operation) else { continue };
        let now = (row.lock_index, &row.session);
        let before = *rows.entry(row.modify_index).or_insert(now);
        if before != now {
            let index = row.modify_index;
            judgement.violations.push(format!("lock {lock} at index {index} is {before:?} and {now:?}"));
        }
    }
    let (mut count, mut holder): (u64, Option<&String>) = (0, None);
    let mut is_over = false;
    for (index, (next, session)) in rows {
        let new_holder = next == count && session.is_some() && (is_over || holder != session.as_ref());
        if next < count || (count > 0 && new_holder) {
            let (before, now) = ((count, holder), (next, session));
            judgement.violations.push(format!("lock {lock} came from {before:?} to {now:?} at index {index}"));
        }
        (count, holder, is_over) = (next, session.as_ref().or(holder), session.is_none());
    }
}

/// Who took a lock later has a greater token: when one is known, no smaller one is seen or used any more.
fn tokens_never_go_back(lock: usize, operations: &[Op], judgement: &mut Judgement) {
    let mut sights = Vec::new();
    for operation in operations {
        let token = match (&operation.call, &operation.seen) {
            (Call::Fenced { lock: at, token, .. }, Some(Some(Answer::Txn(Txn::Done(_))))) if *at == lock => {
                Some(*token)
            }
            _ => row(lock, operation).map(|row| row.lock_index),
        };
        sights.extend(token.map(|value| Sight { operation, value, is_new: false }));
    }
    for (sight, known) in behind(sights) {
        let (at, token, call) = (at_ms(sight.operation), sight.value, &sight.operation.call);
        judgement
            .violations
            .push(format!("lock {lock} at {at} ms: token {token} after token {known} was known: {call:?}"));
    }
}

/// Nobody else gets a lock while its session lives, unless it was given back.
fn a_lock_is_lost_only_with_its_session(lock: usize, operations: &[Op], judgement: &mut Judgement) {
    let mut alive: BTreeMap<&str, u64> = BTreeMap::new();
    for operation in operations {
        if let (Call::Renew { session }, Some(Some(Answer::Is(true)))) = (&operation.call, &operation.seen) {
            alive.insert(session, operation.start_ns);
        }
    }
    for (at, acquired) in operations.iter().enumerate() {
        let Some((_, session)) = taken(acquired).filter(|(taken, _)| *taken == lock) else { continue };
        let alive_ns = alive.get(session).copied().unwrap_or(0);
        for later in &operations[at + 1..] {
            if later.start_ns > alive_ns {
                break;
            }
            let is_lost =
                later.start_ns >= acquired.end_ns && later.end_ns <= alive_ns && is_without(lock, session, later);
            if is_lost {
                let (from, to, end) = (at_ms(acquired), at_ms(later), alive_ns / 1_000_000);
                judgement.violations.push(format!(
                    "lock {lock} was taken by {session} at {from} ms and not its own at {to} ms, \
                     though the session lived at {end} ms"
                ));
                break;
            }
            if gives_up(lock, session, later) {
                break;
            }
        }
    }
}

/// Whether the answer says that the session does not hold the lock.
fn is_without(lock: usize, session: &str, operation: &Op) -> bool {
    match (&operation.call, &operation.seen) {
        (Call::Look { lock: at }, Some(Some(Answer::Row(row)))) => {
            *at == lock && row.as_ref().and_then(|row| row.session.as_deref()) != Some(session)
        }
        (Call::Release { lock: at, session: of }, Some(Some(Answer::Is(false)))) => *at == lock && of == session,
        (Call::Fenced { lock: at, session: of, .. }, Some(Some(Answer::Txn(Txn::Refused(_))))) => {
            *at == lock && of == session
        }
        _ => false,
    }
}

/// Whether the session may have lost the lock by its own doing from here on.
fn gives_up(lock: usize, session: &str, operation: &Op) -> bool {
    match &operation.call {
        Call::Release { lock: at, session: of } => *at == lock && of == session,
        Call::Destroy { session: of } => of == session,
        _ => false,
    }
}

/// Each acquisition adds one to the lock's count, and nothing else does.
fn acquisitions_are_counted(lock: usize, operations: &[Op], judgement: &mut Judgement) {
    let end =
        operations.iter().rev().find(|operation| operation.call == Call::Look { lock } && operation.client == CLIENTS);
    let Some(Some(Some(Answer::Row(end)))) = end.map(|operation| &operation.seen) else {
        return judgement.undecided.push(format!("lock {lock} was not read in the end"));
    };
    let end = end.as_ref().map_or(0, |row| row.lock_index);
    let tokens: BTreeSet<u64> =
        operations.iter().filter_map(|operation| row(lock, operation)).map(|row| row.lock_index).collect();
    let mut attempts = 0;
    for operation in operations {
        let is_attempt = matches!(&operation.call, Call::Acquire { lock: at, .. } if *at == lock);
        let may_have_taken = operation.seen == Some(None) || taken(operation).is_some();
        attempts += u64::from(is_attempt && may_have_taken);
    }
    let least = tokens.iter().filter(|token| **token > 0).count() as u64;
    if end < least || end > attempts {
        judgement.violations.push(format!(
            "lock {lock} was taken {end} times, but at least {least} and at most {attempts} times by clients"
        ));
    }
}

/// The fenced counter: each acknowledged update builds on all that were known when it began, and all are there in the
/// end.
fn no_fenced_update_is_lost(lock: usize, operations: &[Op], judgement: &mut Judgement) {
    let (mut sights, mut unknown, mut last) = (Vec::new(), 0, None);
    let mut acknowledged: BTreeSet<u64> = BTreeSet::new();
    for operation in operations {
        match (&operation.call, &operation.seen) {
            (Call::Fenced { lock: at, .. }, Some(None)) if *at == lock => unknown += 1,
            (Call::Fenced { lock: at, to, .. }, Some(Some(Answer::Txn(Txn::Done(_))))) if *at == lock => {
                if !acknowledged.insert(*to) {
                    let at = at_ms(operation);
                    judgement.violations.push(format!(
                        "counter {lock}: a fenced update is lost, a second one to {to} was acknowledged at {at} ms"
                    ));
                }
                sights.push(Sight { operation, value: *to, is_new: true });
            }
            (Call::Count { lock: at }, Some(Some(Answer::Counts { fenced, .. }))) if *at == lock => {
                let value = fenced.map_or(0, |entry| entry.value);
                sights.push(Sight { operation, value, is_new: false });
                last = (operation.client == CLIENTS).then_some(value).or(last);
            }
            _ => {}
        }
    }
    for (sight, known) in behind(sights) {
        let (at, value) = (at_ms(sight.operation), sight.value);
        judgement
            .violations
            .push(format!("counter {lock}: a fenced update is lost, {value} at {at} ms after {known} was known"));
    }
    let Some(last) = last else {
        return judgement.undecided.push(format!("counter {lock} was not read in the end"));
    };
    let least = acknowledged.len() as u64;
    if last < least || last > least + unknown {
        judgement.violations.push(format!(
            "counter {lock} is {last} in the end, after {least} fenced updates and {unknown} of unknown outcome"
        ));
    }
}

fn count_unfenced_losses(lock: usize, operations: &[Op], judgement: &mut Judgement) {
    let (mut done, mut last) = (0, 0);
    for operation in operations {
        match (&operation.call, &operation.seen) {
            (Call::Plain { lock: at, .. }, Some(Some(_))) if *at == lock => done += 1,
            (Call::Count { lock: at }, Some(Some(Answer::Counts { plain, .. }))) if *at == lock => {
                last = plain.map_or(0, |entry| entry.value);
            }
            _ => {}
        }
    }
    if last < done {
        judgement.notes.push(format!("without the fence {} of {done} updates under lock {lock} are lost", done - last));
    }
}

/// A session that nobody made takes no lock and gives none back; one that never took a lock gives none back either.
fn strangers_get_nothing(operations: &[Op], judgement: &mut Judgement) {
    let made: BTreeSet<&str> = operations
        .iter()
        .filter_map(|operation| match &operation.seen {
            Some(Some(Answer::Created(Created::Session(id)))) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let mut asked: BTreeSet<(usize, &str)> = BTreeSet::new();
    for operation in operations {
        let wrong = match (&operation.call, &operation.seen) {
            (Call::Acquire { lock, session, .. }, _) => {
                asked.insert((*lock, session));
                taken(operation).is_some() && !made.contains(session.as_str())
            }
            (Call::Release { lock, session }, Some(Some(Answer::Is(true)))) => !asked.contains(&(*lock, session)),
            _ => false,
        };
        if wrong {
            judgement.violations.push(format!("a stranger was heard at {} ms: {:?}", at_ms(operation), operation.call));
        }
    }
}

/// After its end was told or acknowledged, a session neither lives nor holds nor writes.
fn what_has_ended_does_nothing(operations: &[Op], judgement: &mut Judgement) {
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for operation in operations {
        let ended = match (&operation.call, &operation.seen) {
            (Call::Destroy { session }, Some(Some(Answer::Is(true)))) => session,
            (Call::Renew { session }, Some(Some(Answer::Is(false)))) => session,
            (Call::Acquire { session, .. }, Some(Some(Answer::NoSession))) => session,
            _ => continue,
        };
        let end_ns = ends.entry(ended).or_insert(operation.end_ns);
        *end_ns = (*end_ns).min(operation.end_ns);
    }
    for operation in operations {
        let (Call::Renew { session }
        | Call::Acquire { session, .. }
        | Call::Release { session, .. }
        | Call::Fenced { session, .. }) = &operation.call
        else {
            continue;
        };
        let worked = matches!(&operation.seen, Some(Some(Answer::Is(true) | Answer::Txn(Txn::Done(_)))));
        if worked && ends.get(session.as_str()).is_some_and(|end_ns| *end_ns < operation.start_ns) {
            let at = at_ms(operation);
            judgement.violations.push(format!("a session had ended, and did this at {at} ms: {:?}", operation.call));
        }
    }
}

/// What an operation says of a number that only grows: it was this at a moment between call and return.
struct Sight<'a> {
    operation: &'a Op,
    value: u64,
    /// The operation made the number this, so that it was smaller before.
    is_new: bool,
}

/// Those that are behind what was known when they began, with that.
fn behind(mut sights: Vec<Sight<'_>>) -> Vec<(Sight<'_>, u64)> {
    let mut known: Vec<(u64, u64)> = sights.iter().map(|sight| (sight.operation.end_ns, sight.value)).collect();
    known.sort_unstable();
    let mut known = known.into_iter().peekable();
    sights.sort_by_key(|sight| sight.operation.start_ns);
    let mut greatest = 0;
    let mut behind = Vec::new();
    for sight in sights {
        while let Some((_, value)) = known.next_if(|(end_ns, _)| *end_ns < sight.operation.start_ns) {
            greatest = greatest.max(value);
        }
        if sight.value < greatest || (sight.is_new && sight.value == greatest) {
            behind.push((sight, greatest));
        }
    }
    behind
}

#[cfg(test)]
mod tests;
