//! Judges of a history of one key: is it linearizable, and was an acknowledged write lost?
//!
//! Linearizability is decided as Wing and Gong (1993) do, with the memory of Lowe (2017): try to put the operations in an order
//! that respects real time and the register's rules, and never try the same set of operations with the same value twice.
//! The work grows with what is concurrent, so a key must be retired after [`OPERATIONS_PER_KEY_MAX`] operations
//! or [`UNKNOWN_PER_KEY_MAX`] unknown ones, which stay concurrent with everything after them.

use std::collections::HashSet;

use crate::history::{Call, Operation, Outcome, Value};

/// The operations after which a key is retired.
pub const OPERATIONS_PER_KEY_MAX: usize = 150;

/// The operations of unknown outcome after which a key is retired.
pub const UNKNOWN_PER_KEY_MAX: usize = 8;

/// A set of operations by their place; room for those in flight when a key is retired, and for the final reads.
type Set = [u64; SET_WORDS];

/// The operations put in order so far, and the value after them.
type State = (Set, Option<Value>);

/// The most operations that a history of one key may have.
const OPERATIONS_MAX: usize = SET_WORDS * 64;

const SET_WORDS: usize = 4;

/// Whether some order of the operations, each at one moment between its call and its return, explains what every client saw.
/// Every write must write another value. `Err` when the history is too long to judge.
pub fn linearizable(history: &[Operation]) -> Result<bool, String> {
    let operations: Vec<&Operation> = history.iter().filter(|operation| matters(operation)).collect();
    if operations.len() > OPERATIONS_MAX {
        return Err(format!("{} operations on one key; {OPERATIONS_MAX} are the most", operations.len()));
    }
    let start: State = (Set::default(), None);
    let mut seen = HashSet::from([start]);
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        if is_explained(&operations, &state) {
            return Ok(true);
        }
        for next in followers(&operations, &state) {
            if !is_dead(&operations, &next) && seen.insert(next) {
                open.push(next);
            }
        }
    }
    Ok(false)
}

/// What is wrong with the value that a key has in the end, if an acknowledged write must be gone to explain it.
///
/// A write can be the last one only if no acknowledged write began after it returned. This is weaker than linearizability, and says what happened.
pub fn lost_write(history: &[Operation], last: Option<Value>) -> Option<String> {
    let acknowledged: Vec<&Operation> = history.iter().filter(|operation| operation.acknowledged()).collect();
    let Some(last) = last else {
        let lost = acknowledged.first()?;
        return Some(format!("{} has no value, though the write {:?} was acknowledged", lost.key, lost.written()));
    };
    let Some(write) = history.iter().find(|operation| operation.written() == Some(last)) else {
        return Some(format!("the value {last} was never written, or its write was proven to have failed"));
    };
    let write_end_ns = if write.acknowledged() { write.end_ns } else { u64::MAX };
    let overwrote = acknowledged.iter().find(|other| other.start_ns > write_end_ns)?;
    Some(format!("{} is {last}, though the later write {:?} was acknowledged", write.key, overwrote.written()))
}

/// Failed operations and unknown reads constrain nothing.
fn matters(operation: &Operation) -> bool {
    match operation.outcome {
        Outcome::Failed => false,
        Outcome::Unknown => operation.call != Call::Read,
        Outcome::Saw(_) | Outcome::Done | Outcome::Refused => true,
    }
}

/// Whether nothing is left but operations that may never have happened.
fn is_explained(operations: &[&Operation], (done, _): &State) -> bool {
    let mut rest = operations.iter().enumerate().filter(|(at, _)| !contains(done, *at));
    rest.all(|(_, operation)| operation.outcome == Outcome::Unknown)
}

/// The states one operation later. What changes no value and fits now is put in order at once: to wait with it helps nobody.
fn followers(operations: &[&Operation], (done, value): &State) -> Vec<State> {
    let mut states = Vec::new();
    for next in candidates(operations, done) {
        match step(*value, operations[next]) {
            Some(after) if after == *value => return vec![(with(*done, next), after)],
            Some(after) => states.push((with(*done, next), after)),
            None => {}
        }
    }
    states
}

/// Whether somebody still waits to meet a value that is gone for ever: its one write is done, and another value is there now.
fn is_dead(operations: &[&Operation], (done, value): &State) -> bool {
    let is_gone = |wanted: Option<Value>| {
        let to_come = wanted.is_some() && {
            let mut rest = operations.iter().enumerate().filter(|(at, _)| !contains(done, *at));
            rest.any(|(_, operation)| operation.written() == wanted)
        };
        wanted != *value && !to_come
    };
    let mut rest = operations.iter().enumerate().filter(|(at, _)| !contains(done, *at));
    rest.any(|(_, operation)| match (operation.call, operation.outcome) {
        (Call::Read, Outcome::Saw(seen)) => is_gone(seen),
        (Call::Cas { expected, .. }, Outcome::Done) => is_gone(expected),
        _ => false,
    })
}

/// The operations that may be next: those not done which began before every other one not done has returned.
fn candidates(operations: &[&Operation], done: &Set) -> Vec<usize> {
    let waiting = || operations.iter().enumerate().filter(|(at, _)| !contains(done, *at));
    let first_end_ns = waiting().map(|(_, operation)| end_ns(operation)).min().unwrap_or(u64::MAX);
    waiting().filter(|(_, operation)| operation.start_ns <= first_end_ns).map(|(at, _)| at).collect()
}

/// An operation of unknown outcome may still be carried out at any later time.
fn end_ns(operation: &Operation) -> u64 {
    if operation.outcome == Outcome::Unknown { u64::MAX } else { operation.end_ns }
}

/// The value after the operation, or `None` when it cannot have seen `value`.
fn step(value: Option<Value>, operation: &Operation) -> Option<Option<Value>> {
    match (operation.call, operation.outcome) {
        (Call::Read, Outcome::Saw(seen)) => (seen == value).then_some(value),
        (Call::Read, _) => Some(value),
        (Call::Write(new), _) => Some(Some(new)),
        (Call::Cas { expected, .. }, Outcome::Refused) => (expected != value).then_some(value),
        (Call::Cas { expected, new }, _) => (expected == value).then_some(Some(new)),
    }
}

fn contains(set: &Set, at: usize) -> bool {
    set[at / 64] & (1 << (at % 64)) != 0
}

fn with(mut set: Set, at: usize) -> Set {
    set[at / 64] |= 1 << (at % 64);
    set
}

#[cfg(test)]
mod tests;
