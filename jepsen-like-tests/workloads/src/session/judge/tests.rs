//! Good and bad histories of one session, `s`, which holds the key `k`.

use super::*;
use crate::lease::Row;

const TTL_MS: u64 = 1_000;

/// Times are in milliseconds.
fn op(call: Call, seen: Option<Option<Answer>>, at: (u64, u64)) -> Op {
    Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at.0 * 1_000_000, end_ns: at.1 * 1_000_000 }
}

fn ok(call: Call, answer: Answer, at: u64) -> Op {
    op(call, Some(Some(answer)), (at, at + 5))
}

fn begun(cause: Cause, deletes: bool, delay_ms: u64) -> Vec<Op> {
    let ttl_ms = if cause == Cause::Ttl { TTL_MS } else { 0 };
    let create = |name: &str, cause, deletes, delay_ms, ttl_ms| {
        let call = Call::Create { node: format!("{name}-node"), cause, deletes, delay_ms, ttl_ms };
        ok(call, Answer::Created(Created::Session(name.to_owned())), 0)
    };
    vec![
        create("s", cause, deletes, delay_ms, ttl_ms),
        create("heir", Cause::Destroy, false, 0, 0),
        acquire("s", Answer::Is(true), 10),
    ]
}

fn acquire(session: &str, answer: Answer, at: u64) -> Op {
    ok(Call::Acquire { key: "k".to_owned(), session: session.to_owned() }, answer, at)
}

fn renew(there: bool, at: u64) -> Op {
    ok(Call::Renew { session: "s".to_owned() }, Answer::Is(there), at)
}

fn info(there: bool, index: u64, at: u64) -> Op {
    ok(Call::Info { session: "s".to_owned() }, Answer::Info { there, index }, at)
}

fn look(row: Option<(Option<&str>, u64)>, index: u64, at: u64) -> Op {
    let row = row.map(|(session, modify_index)| Row {
        key: "k".to_owned(),
        value: None,
        modify_index,
        lock_index: 1,
        session: session.map(str::to_owned),
    });
    ok(Call::Look { key: "k".to_owned() }, Answer::Row { row, index }, at)
}

fn destroy(at: u64) -> Op {
    ok(Call::Destroy { session: "s".to_owned() }, Answer::Is(true), at)
}

fn critical(check: &str, at: u64) -> Op {
    ok(Call::Critical { node: "s-node".to_owned(), check: check.to_owned() }, Answer::Done, at)
}

fn violations(history: &[Op]) -> Vec<String> {
    let mut history = history.to_vec();
    history.sort_by_key(|operation| operation.start_ns);
    judge(&history).violations
}

fn with(mut history: Vec<Op>, more: &[Op]) -> Vec<Op> {
    history.extend_from_slice(more);
    history
}

#[track_caller]
fn good(history: Vec<Op>) {
    assert_eq!(violations(&history), [""; 0]);
}

#[track_caller]
fn bad(history: Vec<Op>, words: &str) {
    let violations = violations(&history);
    assert!(violations.iter().any(|violation| violation.contains(words)), "{words}: {violations:?}");
}

#[test]
fn a_session_that_is_left_alone_ends_in_time() {
    let alone = || begun(Cause::Ttl, false, 0);
    good(with(
        alone(),
        &[renew(true, 500), info(true, 1, 1_400), info(false, 7, 1_500), look(Some((None, 7)), 7, 1_600)],
    ));
    bad(with(alone(), &[info(false, 7, 900)]), "before its time");
    bad(with(alone(), &[renew(true, 500), info(false, 7, 1_400)]), "before its time");
    bad(with(alone(), &[renew(false, 900)]), "before its time");
    bad(with(alone(), &[look(None, 7, 900)]), "before its time");
    bad(with(alone(), &[acquire("s", Answer::NoSession, 900)]), "before its time");
}

/// What shows that one server has led: answers, and its name, each tenth of a second.
fn led(from: u64, to: u64) -> Vec<Op> {
    let leader = |at| ok(Call::Leader, Answer::Leader("one".to_owned()), at);
    let node = |at: u64| ok(Call::Register { node: format!("n{at}") }, Answer::Done, at);
    (from..to).step_by(100).flat_map(|at| [leader(at), node(at)]).collect()
}

#[test]
fn a_session_that_is_left_alone_for_too_long_is_found() {
    let late_ms = too_long(Duration::from_millis(TTL_MS)).as_millis() as u64 + 100;
    let still_there = |more: &[Op]| with(with(begun(Cause::Ttl, false, 0), &[info(true, 1, late_ms)]), more);
    bad(still_there(&led(0, late_ms)), "one server has led");
    good(still_there(&[]));
    good(still_there(&with(led(0, 1_000), &led(1_400, late_ms))));
    let elected = ok(Call::Leader, Answer::Leader("two".to_owned()), 1_000);
    good(still_there(&with(led(0, late_ms), &[elected])));
    good(still_there(&with(led(0, late_ms), &[renew(true, 800)])));
    let perhaps = op(Call::Renew { session: "s".to_owned() }, Some(None), (100, 200));
    good(still_there(&with(led(0, late_ms), &[perhaps])));
}

#[test]
fn other_sessions_end_with_their_cause_and_only_then() {
    good(with(begun(Cause::Destroy, true, 0), &[destroy(100), info(false, 7, 200), look(None, 7, 300)]));
    bad(with(begun(Cause::Destroy, true, 0), &[info(false, 7, 200)]), "without a cause");
    bad(with(begun(Cause::Destroy, true, 0), &[destroy(100), info(true, 7, 200)]), "is there or holds");
    bad(with(begun(Cause::Destroy, true, 0), &[destroy(300), info(false, 7, 200)]), "before its time");
    let checked = || begun(Cause::NodeCheck, false, 0);
    good(with(checked(), &[critical(NODE_CHECK, 100), info(false, 7, 200)]));
    bad(with(checked(), &[critical(NODE_CHECK, 100), info(true, 7, 200)]), "is there or holds");
    bad(with(checked(), &[critical("works", 100), info(false, 7, 200)]), "without a cause");
    bad(with(begun(Cause::ServiceCheck, false, 0), &[critical("works", 100), info(true, 7, 200)]), "is there or holds");
    let gone = ok(Call::Deregister { node: "s-node".to_owned() }, Answer::Done, 100);
    bad(with(begun(Cause::Node, false, 0), &[gone.clone(), info(true, 7, 200)]), "is there or holds");
    good(with(
        begun(Cause::Node, false, 0),
        &[Typed { seen: Some(None), ..gone }, info(true, 7, 200), info(false, 8, 300)],
    ));
    bad(with(checked(), &[critical(NODE_CHECK, 100), info(false, 7, 200), info(true, 8, 300)]), "is there or holds");
}

#[test]
fn keys_end_in_the_same_step_as_they_were_told_to() {
    let ended = |deletes| with(begun(Cause::Destroy, deletes, 0), &[destroy(100), info(false, 7, 200)]);
    good(with(ended(false), &[look(Some((None, 7)), 7, 300)]));
    good(with(ended(true), &[look(None, 7, 300)]));
    bad(with(ended(false), &[look(Some((Some("s"), 3)), 7, 300)]), "holds a key");
    bad(with(ended(false), &[look(None, 7, 300)]), "releases");
    bad(with(ended(true), &[look(Some((None, 7)), 7, 300)]), "deletes");
    bad(with(ended(false), &[look(Some((None, 9)), 9, 300)]), "let go at index 9");
    bad(with(ended(true), &[look(None, 9, 300)]), "let go at index 9");
    good(with(ended(true), &[acquire("heir", Answer::Is(true), 250), look(Some((Some("heir"), 9)), 9, 300)]));
}

#[test]
fn nobody_gets_a_key_within_the_delay_and_everybody_after_it() {
    let ended = || with(begun(Cause::Destroy, false, 2_000), &[destroy(100), info(false, 7, 200)]);
    good(with(ended(), &[acquire("heir", Answer::Is(false), 300), acquire("heir", Answer::Is(true), 2_100)]));
    bad(with(ended(), &[acquire("heir", Answer::Is(true), 2_080)]), "in the lock delay of 2000 ms");
    let left = |more: &[Op]| with(with(begun(Cause::Ttl, false, 2_000), &[info(false, 7, 1_600)]), more);
    good(left(&[acquire("heir", Answer::Is(true), 3_001)]));
    bad(left(&[acquire("heir", Answer::Is(true), 2_900)]), "in the lock delay");
    let refused = acquire("heir", Answer::Is(false), 3_500);
    bad(with(with(ended(), &led(100, 4_000)), std::slice::from_ref(&refused)), "could not be locked");
    good(with(ended(), &[refused]));
}
