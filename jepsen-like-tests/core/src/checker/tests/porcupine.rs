//! The same question, answered by `porcupine-rs`.
//!
//! Not in place of our own search: it goes on with orders that cannot succeed any more, so that a history with eight
//! operations of unknown outcome takes it a hundred times as long, and its limit of time needs threads.

use porcupine_rs::{Model, Operation as Told, check_operations};

use super::*;

#[derive(Clone)]
struct Register;

impl Model for Register {
    type State = Option<Value>;
    type Op = (Call, Outcome);
    type Metadata = ();

    fn init() -> Option<Value> {
        None
    }

    /// Every operation has its place: one of unknown outcome that never happened comes last, and changes what nobody sees.
    fn step(value: &Option<Value>, (call, outcome): &(Call, Outcome)) -> (bool, Option<Value>) {
        match (*call, *outcome) {
            (Call::Read, Outcome::Saw(seen)) => (seen == *value, *value),
            (Call::Read, _) => (true, *value),
            (Call::Write(new), _) => (true, Some(new)),
            (Call::Cas { expected, .. }, Outcome::Refused) => (expected != *value, *value),
            (Call::Cas { expected, new }, Outcome::Done) => (expected == *value, Some(new)),
            (Call::Cas { expected, new }, _) => (true, if expected == *value { Some(new) } else { *value }),
        }
    }
}

pub(super) fn linearizable(history: &[Operation]) -> bool {
    let told = history.iter().filter(|operation| matters(operation)).map(|operation| Told::<Register> {
        client_id: None,
        call_time: operation.start_ns.try_into().unwrap(),
        return_time: end_ns(operation).try_into().unwrap_or(i64::MAX),
        op: (operation.call, operation.outcome),
        metadata: None,
    });
    check_operations(&told.collect::<Vec<_>>())
}
