//! What a history of lists says, without looking for an order of all transactions: that is `order`'s.

use std::collections::{BTreeMap, BTreeSet};

use jlt_core::judgement::Judgement;
use jlt_core::record::Typed;

use super::{Answer, CLIENTS, Call, Part, order};

pub(super) type Op = Typed<Call, Answer>;

/// A list as it was at a moment between call and return.
struct Sight<'a> {
    operation: &'a Op,
    values: &'a [u64],
}

pub(super) fn judge(operations: &[Op]) -> Judgement {
    let mut judgement = Judgement::default();
    let lists = sights(operations);
    for (list, sights) in &lists {
        each_is_the_beginning_of_the_next(list, sights, &mut judgement);
        none_is_older_than_what_was_known(list, sights, &mut judgement);
        only_what_was_appended(list, sights, operations, &mut judgement);
    }
    answers_are_as_asked(operations, &mut judgement);
    whole_or_not_at_all(operations, &mut judgement);
    nothing_of_the_doomed(operations, &mut judgement);
    everything_was_read_in_the_end(operations, &lists, &mut judgement);
    match order::violations(operations) {
        Ok(violations) => judgement.violations.extend(violations),
        Err(why) => judgement.undecided.push(why),
    }
    let of = |is: &dyn Fn(&Op) -> bool| operations.iter().filter(|operation| is(operation)).count() as u64;
    let is_done = |operation: &Op| matches!(operation.seen, Some(Some(Answer::Lists(_))));
    judgement.cover("reads of lists", of(&|one| matches!(one.call, Call::Read { .. }) && is_done(one)), 20);
    judgement.cover("transactions done", of(&|one| matches!(one.call, Call::Append { .. }) && is_done(one)), 20);
    let refused =
        of(&|one| matches!(one.call, Call::Append { doomed: false, .. }) && one.seen == Some(Some(Answer::Refused)));
    judgement.cover("transactions that others overtook", refused, 1);
    judgement.cover("doomed transactions", of(&|one| matches!(one.call, Call::Append { doomed: true, .. })), 5);
    judgement
}

fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// Every list as it was seen, by list.
fn sights(operations: &[Op]) -> BTreeMap<&str, Vec<Sight<'_>>> {
    let mut lists: BTreeMap<&str, Vec<Sight<'_>>> = BTreeMap::new();
    for operation in operations {
        let Some(Some(Answer::Lists(seen))) = &operation.seen else { continue };
        match &operation.call {
            Call::Read { lists: names } => {
                for (name, values) in names.iter().zip(seen) {
                    lists.entry(name).or_default().push(Sight { operation, values });
                }
            }
            Call::Append { parts, .. } => {
                for (part, values) in parts.iter().zip(seen) {
                    lists.entry(&part.list).or_default().push(Sight { operation, values });
                }
            }
            Call::Markers => {}
        }
    }
    lists
}

fn each_is_the_beginning_of_the_next(list: &str, sights: &[Sight<'_>], judgement: &mut Judgement) {
    let mut sorted: Vec<&[u64]> = sights.iter().map(|sight| sight.values).collect();
    sorted.sort_by_key(|values| values.len());
    if let Some(pair) = sorted.windows(2).find(|pair| !pair[1].starts_with(pair[0])) {
        let same = pair[0].iter().zip(pair[1]).take_while(|(one, other)| one == other).count();
        let (one, other) = (&pair[0][same..], &pair[1][same..]);
        judgement.violations.push(format!("list {list} went on after {same} numbers with {one:?} and with {other:?}"));
    }
    for sight in sights {
        let distinct: BTreeSet<&u64> = sight.values.iter().collect();
        if distinct.len() < sight.values.len() {
            let at = ms(sight.operation.end_ns);
            return judgement.violations.push(format!("list {list} has a number twice at {at} ms: {:?}", sight.values));
        }
    }
}

/// What was acknowledged or seen is there for everybody who asks afterwards.
fn none_is_older_than_what_was_known(list: &str, sights: &[Sight<'_>], judgement: &mut Judgement) {
    let mut known: Vec<(u64, usize)> =
        sights.iter().map(|sight| (sight.operation.end_ns, sight.values.len())).collect();
    known.sort_unstable();
    let mut known = known.into_iter().peekable();
    let mut sorted: Vec<&Sight<'_>> = sights.iter().collect();
    sorted.sort_by_key(|sight| sight.operation.start_ns);
    let mut longest = 0;
    for sight in sorted {
        while let Some((_, length)) = known.next_if(|(end_ns, _)| *end_ns < sight.operation.start_ns) {
            longest = longest.max(length);
        }
        if sight.values.len() < longest {
            let (at, length) = (ms(sight.operation.end_ns), sight.values.len());
            judgement.violations.push(format!(
                "list {list} has {length} numbers at {at} ms, though {longest} were known: what was acknowledged is lost"
            ));
        }
    }
}

/// Each number was appended to this list by a transaction that may have happened, and had begun.
fn only_what_was_appended(list: &str, sights: &[Sight<'_>], operations: &[Op], judgement: &mut Judgement) {
    let mut added: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| may_have_happened(operation)) {
        let mine = parts(operation).iter().filter(|part| part.list == list).filter_map(|part| part.add);
        added.extend(mine.map(|add| (add, operation.start_ns)));
    }
    let mut told = BTreeSet::new();
    for sight in sights {
        for value in sight.values {
            let is_explained = added.get(value).is_some_and(|start_ns| *start_ns <= sight.operation.end_ns);
            if !is_explained && told.insert(value) {
                let at = ms(sight.operation.end_ns);
                judgement.violations.push(format!(
                    "list {list} has {value} at {at} ms, though the transaction was refused or had not begun"
                ));
            }
        }
    }
}

fn parts(operation: &Op) -> &[Part] {
    match &operation.call {
        Call::Append { parts, .. } => parts,
        Call::Read { .. } | Call::Markers => &[],
    }
}

/// Not those that were refused, nor those that cannot be done.
fn may_have_happened(operation: &Op) -> bool {
    match &operation.call {
        Call::Append { doomed: false, .. } => matches!(operation.seen, Some(None | Some(Answer::Lists(_)))),
        _ => false,
    }
}

/// A transaction that was done found the lists as it demanded, and left them with its numbers at the end.
fn answers_are_as_asked(operations: &[Op], judgement: &mut Judgement) {
    for operation in operations {
        let (Call::Append { parts, .. }, Some(Some(Answer::Lists(after)))) = (&operation.call, &operation.seen) else {
            continue;
        };
        for (part, after) in parts.iter().zip(after) {
            let wanted: Vec<u64> = part.before.iter().copied().chain(part.add).collect();
            if wanted != *after {
                let (at, list) = (ms(operation.end_ns), &part.list);
                judgement
                    .violations
                    .push(format!("list {list} is {after:?} in a transaction at {at} ms, not {wanted:?}"));
            }
        }
    }
}

/// Who sees one number of a transaction sees all that it appended to the lists that were read with it.
fn whole_or_not_at_all(operations: &[Op], judgement: &mut Judgement) {
    let mut written: BTreeMap<(&str, u64), Vec<(&str, u64)>> = BTreeMap::new();
    for operation in operations {
        let adds: Vec<(&str, u64)> =
            parts(operation).iter().filter_map(|part| Some((part.list.as_str(), part.add?))).collect();
        if adds.len() > 1 {
            adds.iter().for_each(|add| drop(written.insert(*add, adds.clone())));
        }
    }
    for operation in operations {
        let (Call::Read { lists }, Some(Some(Answer::Lists(seen)))) = (&operation.call, &operation.seen) else {
            continue;
        };
        let seen: BTreeMap<&str, &Vec<u64>> = lists.iter().map(String::as_str).zip(seen).collect();
        let all = seen.iter().flat_map(|(list, values)| values.iter().map(|value| (*list, *value)));
        let half = all
            .filter_map(|add| written.get(&add))
            .flatten()
            .find(|(list, value)| seen.get(list).is_some_and(|values| !values.contains(value)));
        if let Some((list, value)) = half {
            let at = ms(operation.end_ns);
            judgement
                .violations
                .push(format!("half of a transaction was seen at {at} ms: {value} is not in list {list}"));
        }
    }
}

fn nothing_of_the_doomed(operations: &[Op], judgement: &mut Judgement) {
    for operation in operations {
        let at = ms(operation.end_ns);
        match (&operation.call, &operation.seen) {
            (Call::Append { doomed: true, .. }, Some(Some(Answer::Lists(_)))) => {
                judgement
                    .violations
                    .push(format!("a transaction was done at {at} ms, though one of its operations fails"));
            }
            (Call::Markers, Some(Some(Answer::Markers(left)))) if !left.is_empty() => {
                judgement.violations.push(format!("transactions that failed have left {left:?}"));
            }
            _ => {}
        }
    }
}

fn everything_was_read_in_the_end(
    operations: &[Op],
    lists: &BTreeMap<&str, Vec<Sight<'_>>>,
    judgement: &mut Judgement,
) {
    let is_end = |operation: &Op| operation.client == CLIENTS && matches!(operation.seen, Some(Some(_)));
    for (list, sights) in lists {
        if !sights.iter().any(|sight| is_end(sight.operation)) {
            judgement.undecided.push(format!("list {list} was not read in the end"));
        }
    }
    if !operations.iter().any(|operation| operation.call == Call::Markers && is_end(operation)) {
        judgement.undecided.push("nobody looked for what failed transactions have left".to_owned());
    }
}

#[cfg(test)]
mod tests;
