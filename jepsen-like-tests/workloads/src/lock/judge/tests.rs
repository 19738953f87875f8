//! Good and bad histories of one lock.

use super::*;
use crate::api::Entry;

/// An operation from `at` to `at + 1` of one client, or of the last.
fn op(call: Call, answer: Answer, at: u64) -> Op {
    let is_end = at >= 100;
    let client = if is_end { CLIENTS } else { 0 };
    Typed { client, server: 0, life: 1, call, seen: Some(Some(answer)), start_ns: at * 10, end_ns: at * 10 + 5 }
}

fn unknown(call: Call, at: u64) -> Op {
    Typed { seen: Some(None), ..op(call, Answer::NoSession, at) }
}

fn created(session: &str, at: u64) -> Op {
    op(Call::Create { ttl_ms: 1 }, Answer::Created(Created::Session(session.to_owned())), at)
}

fn row(token: u64, session: Option<&str>, index: u64) -> Row {
    let session = session.map(str::to_owned);
    Row { key: "k".to_owned(), value: None, modify_index: index, lock_index: token, session }
}

fn acquire(session: &str) -> Call {
    Call::Acquire { lock: 0, session: session.to_owned(), in_txn: true }
}

fn acquired(session: &str, token: u64, index: u64, at: u64) -> Op {
    op(acquire(session), Answer::Txn(Txn::Done(vec![row(token, Some(session), index)])), at)
}

fn fence(session: &str, token: u64, to: u64) -> Call {
    Call::Fenced { lock: 0, session: session.to_owned(), token, to }
}

fn fenced(session: &str, token: u64, to: u64, at: u64) -> Op {
    op(fence(session, token, to), Answer::Txn(Txn::Done(Vec::new())), at)
}

fn refused(session: &str, token: u64, to: u64, at: u64) -> Op {
    op(fence(session, token, to), Answer::Txn(Txn::Refused(vec![0])), at)
}

fn released(session: &str, answer: bool, at: u64) -> Op {
    op(Call::Release { lock: 0, session: session.to_owned() }, Answer::Is(answer), at)
}

fn renewed(session: &str, answer: bool, at: u64) -> Op {
    op(Call::Renew { session: session.to_owned() }, Answer::Is(answer), at)
}

fn destroyed(session: &str, at: u64) -> Op {
    op(Call::Destroy { session: session.to_owned() }, Answer::Is(true), at)
}

fn looked(token: u64, session: Option<&str>, index: u64, at: u64) -> Op {
    op(Call::Look { lock: 0 }, Answer::Row(Some(row(token, session, index))), at)
}

fn counted(value: u64, at: u64) -> Op {
    let entry = |value| Some(Entry { value, modify_index: 1 });
    op(Call::Count { lock: 0 }, Answer::Counts { fenced: entry(value), plain: entry(value) }, at)
}

/// What the judge says of the history, the final reads of the other lock added.
fn violations(history: &[Op], end: (u64, u64)) -> Vec<String> {
    let mut history = history.to_vec();
    history.extend([looked(end.0, None, 1_000, 100), counted(end.1, 100)]);
    for lock in 1..LOCKS {
        history.push(op(Call::Look { lock }, Answer::Row(None), 101));
        history.push(op(Call::Count { lock }, Answer::Counts { fenced: None, plain: None }, 101));
    }
    history.sort_by_key(|operation| operation.start_ns);
    let judgement = judge(&history);
    assert_eq!(judgement.undecided, [""; 0]);
    judgement.violations
}

#[test]
fn good_histories_pass() {
    let turns = [
        created("a", 0),
        created("b", 0),
        acquired("a", 1, 5, 1),
        fenced("a", 1, 1, 2),
        released("a", true, 3),
        acquired("b", 2, 8, 4),
        counted(1, 5),
        fenced("b", 2, 2, 6),
        released("b", true, 7),
        renewed("a", true, 8),
    ];
    assert_eq!(violations(&turns, (2, 2)), [""; 0]);
    let slept = [
        created("a", 0),
        created("b", 0),
        acquired("a", 1, 5, 1),
        acquired("b", 2, 8, 4),
        refused("a", 1, 1, 5),
        released("a", false, 6),
        renewed("a", false, 7),
        fenced("b", 2, 1, 8),
    ];
    assert_eq!(violations(&slept, (2, 1)), [""; 0], "the session of a had ended");
    let lost = [created("a", 0), unknown(acquire("a"), 1), unknown(fence("a", 1, 1), 2), destroyed("a", 3)];
    for end in [(0, 0), (1, 0), (1, 1)] {
        assert_eq!(violations(&lost, end), [""; 0], "it may have been so");
    }
    let gave_up = [created("a", 0), acquired("a", 1, 5, 1), destroyed("a", 2), refused("a", 1, 1, 3)];
    assert_eq!(violations(&gave_up, (1, 0)), [""; 0]);
}

/// A good beginning of `a`'s.
fn with(more: &[Op]) -> Vec<Op> {
    let mut history = vec![created("a", 0), created("b", 0), acquired("a", 1, 5, 1)];
    history.extend_from_slice(more);
    history
}

#[test]
fn two_holders_are_found() {
    let stolen = with(&[acquired("b", 2, 8, 4), refused("a", 1, 1, 5), renewed("a", true, 7)]);
    assert!(violations(&stolen, (2, 0))[0].contains("though the session lived"));
    let looked_at = with(&[looked(2, Some("b"), 8, 4), renewed("a", true, 7), unknown(acquire("b"), 2)]);
    assert!(violations(&looked_at, (2, 0))[0].contains("though the session lived"));
    let not_given_back = with(&[released("a", false, 5), renewed("a", true, 7)]);
    assert!(violations(&not_given_back, (1, 0))[0].contains("though the session lived"));
    let same_token = with(&[acquired("b", 1, 8, 4)]);
    assert!(violations(&same_token, (1, 0))[0].contains("came from"));
    let not_counted = with(&[looked(1, None, 6, 4), acquired("b", 1, 8, 5)]);
    assert!(violations(&not_counted, (1, 0))[0].contains("came from"));
    let two_rows = with(&[looked(1, Some("b"), 5, 4)]);
    assert!(violations(&two_rows, (1, 0))[0].contains("at index 5"));
}

#[test]
fn a_former_holder_that_writes_is_found() {
    let late = with(&[acquired("b", 2, 8, 4), fenced("a", 1, 1, 6)]);
    assert!(violations(&late, (2, 1))[0].contains("token 1 after token 2"));
    let after_its_end = with(&[destroyed("a", 3), fenced("a", 1, 1, 6)]);
    assert!(violations(&after_its_end, (1, 1))[0].contains("had ended"));
    let lives_on = with(&[renewed("a", false, 3), renewed("a", true, 6)]);
    assert!(violations(&lives_on, (1, 0))[0].contains("had ended"));
}

#[test]
fn lost_updates_are_found() {
    let twice = with(&[fenced("a", 1, 1, 2), fenced("a", 1, 1, 4)]);
    assert!(violations(&twice, (1, 2))[0].contains("a second one to 1"));
    let back = with(&[fenced("a", 1, 1, 2), counted(0, 4)]);
    assert!(
        violations(&back, (1, 1))[0].contains("0 at 40 ms")
            || violations(&back, (1, 1))[0].contains("after 1 was known")
    );
    let gone = with(&[fenced("a", 1, 1, 2)]);
    assert!(violations(&gone, (1, 0)).iter().any(|one| one.contains("in the end")));
    assert!(violations(&with(&[]), (1, 1)).iter().any(|one| one.contains("in the end")), "an update from nowhere");
}

#[test]
fn tokens_are_counted() {
    assert!(violations(&with(&[]), (0, 0)).iter().any(|one| one.contains("was taken 0 times")));
    assert!(violations(&with(&[]), (2, 0)).iter().any(|one| one.contains("was taken 2 times")));
}

#[test]
fn strangers_are_found() {
    let taken = with(&[released("a", true, 2), acquired("x", 2, 8, 4)]);
    assert!(violations(&taken, (2, 0))[0].contains("a stranger was heard"));
    let given = with(&[released("b", true, 4)]);
    assert!(violations(&given, (1, 0))[0].contains("a stranger was heard"));
    let unharmed = [
        op(acquire("x"), Answer::NoSession, 4),
        released("x", false, 5),
        released("b", false, 6),
        renewed("a", true, 7),
    ];
    assert_eq!(violations(&with(&unharmed), (1, 0)), [""; 0]);
}

#[test]
fn unfenced_losses_are_a_note() {
    let plain = |to, at| op(Call::Plain { lock: 0, to }, Answer::Is(true), at);
    let history = with(&[plain(1, 2), plain(1, 3), fenced("a", 1, 1, 4), counted(1, 5)]);
    let mut judgement = Judgement::default();
    count_unfenced_losses(0, &history, &mut judgement);
    assert_eq!(judgement.notes, ["without the fence 1 of 2 updates under lock 0 are lost"]);
}
