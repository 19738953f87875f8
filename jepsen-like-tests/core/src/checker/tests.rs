//! The checkers against histories that are known to be good or bad, against a naive twin that tries every order, and
//! against the checker of others.

mod porcupine;

use super::*;
use crate::rng::Rng;

/// An operation of the key `k`; `at` is (call, return).
fn operation(call: Call, outcome: Outcome, at: (u64, u64)) -> Operation {
    Operation { client: 0, key: "k".to_owned(), call, outcome, start_ns: at.0, end_ns: at.1 }
}

fn read(seen: impl Into<Option<Value>>, at: (u64, u64)) -> Operation {
    operation(Call::Read, Outcome::Saw(seen.into()), at)
}

fn write(new: Value, at: (u64, u64)) -> Operation {
    operation(Call::Write(new), Outcome::Done, at)
}

fn write_unknown(new: Value, at: (u64, u64)) -> Operation {
    operation(Call::Write(new), Outcome::Unknown, at)
}

fn cas(expected: impl Into<Option<Value>>, new: Value, outcome: Outcome, at: (u64, u64)) -> Operation {
    operation(Call::Cas { expected: expected.into(), new }, outcome, at)
}

#[test]
fn good_histories_pass() {
    use Outcome::{Done, Failed, Refused, Unknown};
    let cases: &[(&str, Vec<Operation>)] = &[
        ("nothing", vec![]),
        ("one after the other", vec![read(None, (1, 2)), write(1, (3, 4)), read(1, (5, 6))]),
        (
            "a read during a write sees either",
            vec![write(1, (1, 2)), write(2, (3, 9)), read(1, (4, 5)), read(2, (6, 7))],
        ),
        ("two writes at once in either order", vec![write(1, (1, 5)), write(2, (2, 4)), read(1, (6, 7))]),
        ("an unknown write that happened", vec![write(1, (1, 2)), write_unknown(2, (3, 4)), read(2, (5, 6))]),
        ("an unknown write that never happened", vec![write(1, (1, 2)), write_unknown(2, (3, 4)), read(1, (5, 6))]),
        (
            "an unknown write that happened late",
            vec![write(1, (1, 2)), write_unknown(2, (3, 4)), read(1, (5, 6)), write(3, (7, 8)), read(2, (9, 10))],
        ),
        ("a chain of compare-and-sets", vec![cas(None, 1, Done, (1, 2)), cas(1, 2, Done, (3, 4)), read(2, (5, 6))]),
        ("a refused one", vec![write(1, (1, 2)), cas(None, 2, Refused, (3, 4)), read(1, (5, 6))]),
        (
            "a refused one beside a write",
            vec![write(1, (1, 2)), write(2, (3, 8)), cas(1, 3, Refused, (4, 5)), read(2, (9, 10))],
        ),
        ("an unknown one that happened", vec![write(1, (1, 2)), cas(1, 2, Unknown, (3, 4)), read(2, (5, 6))]),
        (
            "a failed write is not seen",
            vec![write(1, (1, 2)), operation(Call::Write(2), Failed, (3, 4)), read(1, (5, 6))],
        ),
        (
            "an unknown read says nothing",
            vec![write(1, (1, 2)), operation(Call::Read, Unknown, (3, 4)), read(1, (5, 6))],
        ),
    ];
    for (name, history) in cases {
        assert_eq!(linearizable(history), Ok(true), "{name}");
        assert!(porcupine::linearizable(history), "{name}");
    }
}

#[test]
fn bad_histories_are_caught() {
    use Outcome::{Done, Failed, Refused, Unknown};
    let cases: &[(&str, Vec<Operation>)] = &[
        ("a stale read", vec![write(1, (1, 2)), write(2, (3, 4)), read(1, (5, 6))]),
        ("a lost write", vec![write(1, (1, 2)), read(None, (3, 4))]),
        ("a value from nowhere", vec![read(7, (1, 2))]),
        ("two reads that go back", vec![write(1, (1, 2)), write(2, (3, 9)), read(2, (4, 5)), read(1, (6, 7))]),
        ("a failed write that is seen", vec![operation(Call::Write(1), Failed, (1, 2)), read(1, (3, 4))]),
        (
            "two that both replaced the same value",
            vec![write(1, (1, 2)), cas(1, 2, Done, (3, 8)), cas(1, 3, Done, (4, 7))],
        ),
        ("one refused though the value was the expected one", vec![write(1, (1, 2)), cas(1, 2, Refused, (3, 4))]),
        ("one done though the value was another", vec![write(1, (1, 2)), cas(None, 2, Done, (3, 4))]),
        (
            "an unknown write that happened and then did not",
            vec![write(1, (1, 2)), write_unknown(2, (3, 4)), read(2, (5, 6)), read(1, (7, 8))],
        ),
        (
            "an unknown one whose value was gone",
            vec![write(1, (1, 2)), write(2, (3, 4)), cas(1, 3, Unknown, (5, 6)), read(3, (7, 8))],
        ),
        (
            "two clients that see two writes in two orders",
            vec![write(1, (1, 20)), write(2, (1, 20)), read(1, (2, 3)), read(2, (4, 5)), read(1, (6, 7))],
        ),
    ];
    for (name, history) in cases {
        assert_eq!(linearizable(history), Ok(false), "{name}");
        assert!(!porcupine::linearizable(history), "{name}");
    }
}

#[test]
fn lost_writes_are_named_and_others_are_not() {
    let kept: &[(&str, Vec<Operation>, Option<Value>)] = &[
        ("nothing was written", vec![], None),
        ("only an unknown write", vec![write_unknown(1, (1, 2))], None),
        ("the last write", vec![write(1, (1, 2)), write(2, (3, 4))], Some(2)),
        ("either of two at once", vec![write(1, (1, 5)), write(2, (2, 4))], Some(1)),
        ("an unknown write that came late", vec![write_unknown(1, (1, 2)), write(2, (3, 4))], Some(1)),
    ];
    for (name, history, last) in kept {
        assert_eq!(lost_write(history, *last), None, "{name}");
    }
    let lost: &[(&str, Vec<Operation>, Option<Value>)] = &[
        ("all is gone", vec![write(1, (1, 2))], None),
        ("an older value is back", vec![write(1, (1, 2)), write(2, (3, 4))], Some(1)),
        ("a value from nowhere", vec![write(1, (1, 2))], Some(9)),
        ("a failed write is there", vec![operation(Call::Write(1), Outcome::Failed, (1, 2))], Some(1)),
        ("a refused one is there", vec![cas(None, 1, Outcome::Refused, (1, 2))], Some(1)),
        (
            "an older compare-and-set is back",
            vec![cas(None, 1, Outcome::Done, (1, 2)), cas(1, 2, Outcome::Done, (3, 4))],
            Some(1),
        ),
    ];
    for (name, history, last) in lost {
        assert!(lost_write(history, *last).is_some(), "{name}");
    }
}

/// The naive twin: tries every order of every subset of the unknown operations, straight from the definition.
fn naive(operations: &[Operation], value: Option<Value>) -> bool {
    if operations.iter().all(|operation| operation.outcome == Outcome::Unknown) {
        return true;
    }
    (0..operations.len()).any(|at| {
        let first = &operations[at];
        let in_time =
            operations.iter().all(|other| other.outcome == Outcome::Unknown || other.end_ns >= first.start_ns);
        let rest = [&operations[..at], &operations[at + 1..]].concat();
        in_time && step(value, first).is_some_and(|value| naive(&rest, value))
    })
}

#[test]
fn the_checker_agrees_with_its_naive_twin_and_with_another() {
    let mut verdicts = [0; 2];
    for seed in 0..4000 {
        let history = random_history(&mut Rng::new(seed, 0));
        let relevant: Vec<Operation> = history.iter().filter(|operation| matters(operation)).cloned().collect();
        let expected = naive(&relevant, None);
        assert_eq!(linearizable(&history), Ok(expected), "seed {seed}: {history:#?}");
        assert_eq!(porcupine::linearizable(&history), expected, "seed {seed}: {history:#?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 300), "the samples are one-sided: {verdicts:?}");
}

#[test]
fn whatever_is_linearizable_has_lost_nothing() {
    for seed in 0..4000 {
        let mut history = random_history(&mut Rng::new(seed, 1));
        let last = [None, Some(1), Some(2), Some(3)][seed as usize % 4];
        history.push(read(last, (100, 101)));
        if linearizable(&history) == Ok(true) {
            assert_eq!(lost_write(&history, last), None, "seed {seed}: {history:#?}");
        }
    }
}

/// Up to seven operations with few values and small times, so that about as many are linearizable as not.
fn random_history(rng: &mut Rng) -> Vec<Operation> {
    let mut history = Vec::new();
    let mut now = 0;
    for new in 1..=(3 + rng.below(5)) as u64 {
        now += rng.below(3) as u64;
        let at = (now, now + rng.below(8) as u64);
        let old = [None, Some(1), Some(2), Some(3)][rng.below(4)];
        history.push(match rng.below(8) {
            0..=2 => write(new, at),
            3 => write_unknown(new, at),
            4 => cas(old, new, [Outcome::Done, Outcome::Refused, Outcome::Unknown][rng.below(3)], at),
            5 => operation(Call::Write(new), Outcome::Failed, at),
            _ => read(old, at),
        });
    }
    history
}

#[test]
fn a_key_at_its_limits_is_judged_and_beyond_them_refused() {
    let mut history = Vec::new();
    for at in 0..OPERATIONS_PER_KEY_MAX as u64 {
        let unknown = at % 18 == 9 && at / 18 < UNKNOWN_PER_KEY_MAX as u64;
        let make = if unknown { write_unknown } else { write };
        // Six clients at once.
        history.push(make(at + 1, (at * 10, at * 10 + 60)));
    }
    assert_eq!(linearizable(&history), Ok(true));
    // A value that was overwritten long ago: every order must be refused.
    history.push(read(1, (5000, 5001)));
    assert_eq!(linearizable(&history), Ok(false));
    assert!(linearizable(&vec![write(1, (1, 2)); OPERATIONS_MAX + 1]).is_err());
}
