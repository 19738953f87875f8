//! Good and bad histories of two lists, and random ones against a naive twin that tries every order.

use jlt_core::rng::Rng;

use super::*;

fn op(call: Call, seen: Option<Option<Answer>>, at: (u64, u64)) -> Op {
    Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at.0, end_ns: at.1 }
}

fn lists(values: &[&[u64]]) -> Option<Option<Answer>> {
    Some(Some(Answer::Lists(values.iter().map(|values| values.to_vec()).collect())))
}

/// A read of the lists `a` and `b`.
fn read(a: &[u64], b: &[u64], at: u64) -> Op {
    op(Call::Read { lists: vec!["a".to_owned(), "b".to_owned()] }, lists(&[a, b]), (at * 10, at * 10 + 5))
}

fn part(list: &str, before: &[u64], add: u64) -> Part {
    Part { list: list.to_owned(), before: before.to_vec(), add: (add > 0).then_some(add) }
}

fn call(parts: &[Part]) -> Call {
    Call::Append { parts: parts.to_vec(), doomed: false }
}

fn append(parts: &[Part], at: u64) -> Op {
    let after = parts.iter().map(|part| part.before.iter().copied().chain(part.add).collect()).collect();
    op(call(parts), Some(Some(Answer::Lists(after))), (at * 10, at * 10 + 5))
}

fn refused(parts: &[Part], at: u64) -> Op {
    op(call(parts), Some(Some(Answer::Refused)), (at * 10, at * 10 + 5))
}

fn unknown(parts: &[Part], at: u64) -> Op {
    op(call(parts), Some(None), (at * 10, at * 10 + 5))
}

/// The history with the final reads, which see the lists so.
fn violations(history: &[Op], a: &[u64], b: &[u64]) -> Vec<String> {
    let end = |operation: Op| Typed { client: CLIENTS, ..operation };
    let markers = op(Call::Markers, Some(Some(Answer::Markers(Vec::new()))), (2_000, 2_001));
    let mut history = history.to_vec();
    history.extend([end(read(a, b, 100)), end(markers)]);
    let judgement = judge(&history);
    assert_eq!(judgement.undecided, [""; 0]);
    judgement.violations
}

#[test]
fn good_histories_pass() {
    let both = [part("a", &[], 1), part("b", &[], 2)];
    let turns = [read(&[], &[], 1), append(&both, 2), read(&[1], &[2], 3), append(&[part("a", &[1], 3)], 4)];
    assert_eq!(violations(&turns, &[1, 3], &[2]), [""; 0]);
    assert_eq!(violations(&[refused(&both, 1)], &[], &[]), [""; 0]);
    for (a, b) in [(&[][..], &[][..]), (&[1], &[2])] {
        assert_eq!(violations(&[unknown(&both, 1)], a, b), [""; 0]);
    }
    let late = [unknown(&both, 1), read(&[], &[], 3), read(&[1], &[2], 5)];
    assert_eq!(violations(&late, &[1], &[2]), [""; 0]);
}

#[track_caller]
fn bad(history: &[Op], a: &[u64], b: &[u64], words: &str) {
    let violations = violations(history, a, b);
    assert!(violations.iter().any(|violation| violation.contains(words)), "{words}: {violations:?}");
}

#[test]
fn bad_histories_are_caught() {
    let both = [part("a", &[], 1), part("b", &[], 2)];
    bad(&[append(&both, 1)], &[], &[], "is lost");
    bad(&[append(&both, 1), read(&[], &[2], 3)], &[1], &[2], "is lost");
    bad(&[unknown(&both, 1), read(&[1], &[2], 3)], &[], &[], "is lost");
    bad(&[refused(&both, 1)], &[1], &[2], "was refused");
    bad(&[read(&[1], &[], 1), append(&[part("a", &[], 1)], 3)], &[1], &[], "had not begun");
    bad(&[unknown(&both, 1)], &[1], &[], "half of a transaction");
    bad(&[append(&[part("a", &[], 1)], 1)], &[1, 1], &[], "twice");
    let two = [append(&[part("a", &[], 1)], 1), append(&[part("a", &[], 3)], 1)];
    bad(&two, &[1], &[], "with [1] and with [3]");
    let other = op(call(&[part("a", &[], 1)]), lists(&[&[2, 1]]), (10, 15));
    bad(&[unknown(&[part("a", &[], 2)], 1), other], &[2, 1], &[], "in a transaction at");
}

#[test]
fn what_the_doomed_leave_is_caught() {
    let doomed = Call::Append { parts: vec![part("a", &[], 1)], doomed: true };
    bad(&[op(doomed.clone(), lists(&[&[1]]), (1, 2))], &[1], &[], "though one of its operations fails");
    bad(&[op(doomed.clone(), Some(None), (1, 2))], &[1], &[], "was refused");
    let left = op(Call::Markers, Some(Some(Answer::Markers(vec!["m".to_owned()]))), (3, 4));
    bad(&[op(doomed, Some(Some(Answer::Refused)), (1, 2)), left], &[], &[], "have left");
    assert_eq!(judge(&[read(&[], &[], 1)]).undecided.len(), 3, "no final reads");
}

/// Only the order of all transactions contradicts these; the lists alone are good.
#[test]
fn what_no_order_explains_is_caught() {
    let skewed =
        [append(&[part("a", &[], 0), part("b", &[], 1)], 1), append(&[part("b", &[], 0), part("a", &[], 2)], 1)];
    bad(&skewed, &[2], &[1], "no order of transactions");
    let fork =
        [unknown(&[part("a", &[], 1)], 1), unknown(&[part("b", &[], 2)], 1), read(&[1], &[], 3), read(&[], &[2], 3)];
    bad(&fork, &[1], &[2], "no order of transactions");
}

type State = [Vec<u64>; 2];

fn place(list: &str) -> usize {
    usize::from(list == "b")
}

/// The naive twin: tries every order of the transactions, straight from the definition.
fn naive(operations: &[&Op], state: &State) -> bool {
    if operations.iter().all(|operation| operation.seen == Some(None)) {
        return true;
    }
    (0..operations.len()).any(|at| {
        let first = operations[at];
        let in_time = operations.iter().all(|other| other.seen == Some(None) || other.end_ns >= first.start_ns);
        let rest: Vec<&Op> = [&operations[..at], &operations[at + 1..]].concat();
        in_time && after(first, state).is_some_and(|state| naive(&rest, &state))
    })
}

/// The lists after a transaction, if it can have happened so.
fn after(operation: &Op, state: &State) -> Option<State> {
    let mut next = state.clone();
    match (&operation.call, &operation.seen) {
        (Call::Read { lists }, Some(Some(Answer::Lists(seen)))) => {
            let fits = lists.iter().zip(seen).all(|(list, values)| state[place(list)] == *values);
            fits.then_some(next)
        }
        (Call::Append { parts, .. }, _) => {
            for part in parts {
                if state[place(&part.list)] != part.before {
                    return None;
                }
                next[place(&part.list)].extend(part.add);
            }
            Some(next)
        }
        _ => None,
    }
}

/// What up to seven transactions of clients see that overlap; some histories are spoilt by an answer from another
/// moment.
fn random_history(rng: &mut Rng) -> Vec<Op> {
    let (mut states, mut history, mut now): (Vec<State>, Vec<Op>, u64) = (vec![State::default()], Vec::new(), 0);
    for add in 1..=(3 + rng.below(5)) as u64 {
        now += rng.below(5) as u64;
        let at = (now, now + 1 + rng.below(8) as u64);
        let last = states.len() - 1;
        let seen = if rng.below(4) == 0 { &states[rng.below(states.len())] } else { &states[last] }.clone();
        let [a, b] = &seen;
        if rng.below(3) == 0 {
            history.push(op(Call::Read { lists: vec!["a".to_owned(), "b".to_owned()] }, lists(&[a, b]), at));
            continue;
        }
        let parts = match rng.below(3) {
            0 => vec![part("a", a, add)],
            1 => vec![part("a", a, 0), part("b", b, add)],
            _ => vec![part("a", a, add), part("b", b, add + 100)],
        };
        let mut done = append(&parts, 0);
        (done.start_ns, done.end_ns) = at;
        let happened = if rng.below(5) == 0 {
            done.seen = Some(None);
            rng.below(2) == 0
        } else {
            true
        };
        let next = after(&Typed { seen: Some(None), ..done.clone() }, &states[last]);
        if let (true, Some(next)) = (happened, next) {
            states.push(next);
        }
        history.push(done);
    }
    let end = &states[states.len() - 1];
    now += 20;
    history.push(op(
        Call::Read { lists: vec!["a".to_owned(), "b".to_owned()] },
        lists(&[&end[0], &end[1]]),
        (now, now + 1),
    ));
    history
}

#[test]
fn the_judges_agree_with_a_naive_twin() {
    // By what is true, what `adya` says, and what our own judge says.
    let mut verdicts: BTreeMap<(bool, bool, bool), usize> = BTreeMap::new();
    for seed in 0..4000 {
        let history = random_history(&mut Rng::new(seed, 0));
        let is_good = naive(&history.iter().collect::<Vec<_>>(), &State::default());
        let order = order::violations(&history).expect("a verdict");
        let mut own = Judgement::default();
        for (list, sights) in &sights(&history) {
            each_is_the_beginning_of_the_next(list, sights, &mut own);
            none_is_older_than_what_was_known(list, sights, &mut own);
            only_what_was_appended(list, sights, &history, &mut own);
        }
        whole_or_not_at_all(&history, &mut own);
        assert!(!is_good || order.is_empty(), "seed {seed}: {order:?} {history:#?}");
        assert!(!is_good || own.violations.is_empty(), "seed {seed}: {own:?} {history:#?}");
        *verdicts.entry((is_good, order.is_empty(), own.violations.is_empty())).or_default() += 1;
    }
    let count = |wanted: (bool, bool, bool)| verdicts.get(&wanted).copied().unwrap_or(0);
    assert!(count((true, true, true)) > 300 && count((false, false, false)) > 300, "one-sided: {verdicts:?}");
    // What is bad is found by `adya`.
    assert_eq!(count((false, true, true)) + count((false, true, false)), 0, "{verdicts:?}");
}
