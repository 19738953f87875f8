//! The judge of flips held against good and bad histories.

use super::*;

const S: u64 = 1_000_000_000;

const FLIPS: Flips = Flips {
    source: "web",
    destination: "api",
    upstream: Client::upstream,
    agent: |client| client.agent(1),
    reach: "jlt/none",
    patience: Duration::from_secs(5),
    lag: Duration::from_secs(2),
    calm: Duration::from_secs(6),
};

fn operation(call: Call, seen: Option<Option<bool>>, at_s: u64) -> Typed<Call, bool> {
    Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at_s * S, end_ns: at_s * S }
}

fn set(rule: Rule, at_s: u64) -> Typed<Call, bool> {
    operation(Call::Set(rule), Some(Some(true)), at_s)
}

fn passed(at_s: u64) -> Typed<Call, bool> {
    operation(Call::Request { anew: false }, Some(Some(true)), at_s)
}

/// With an agent that reaches the servers each second, but at these.
fn judged(operations: &[Typed<Call, bool>], away: &[u64]) -> Judgement {
    let reach = (0..60).map(|at| operation(Call::Reach, (!away.contains(&at)).then_some(Some(true)), at));
    let mut all: Vec<_> = operations.iter().cloned().chain(reach).collect();
    all.sort_by_key(|one| one.start_ns);
    FLIPS.judge(&all)
}

fn violations(operations: &[Typed<Call, bool>], away: &[u64]) -> usize {
    judged(operations, away).violations.len()
}

#[test]
fn good_histories_pass() {
    assert_eq!(violations(&[set(Rule::Allow, 1), passed(20)], &[]), 0);
    assert_eq!(violations(&[set(Rule::Deny, 19), passed(20)], &[]), 0, "within the lag");
    assert_eq!(violations(&[set(Rule::Deny, 10), passed(20)], &[15]), 0, "the last rule is kept");
    assert_eq!(violations(&[set(Rule::Deny, 10), set(Rule::Allow, 20), passed(20)], &[]), 0);
    let unknown = operation(Call::Set(Rule::Allow), Some(None), 9);
    assert_eq!(violations(&[unknown, set(Rule::Deny, 10), passed(20)], &[]), 0, "it may come late");
    assert_eq!(violations(&[set(Rule::Gone, 10), passed(5)], &[]), 0);
    let refused = operation(Call::Request { anew: true }, Some(None), 20);
    assert_eq!(violations(&[set(Rule::Deny, 10), refused], &[]), 0);
}

#[test]
fn bad_histories_fail() {
    assert_eq!(violations(&[set(Rule::Allow, 1), set(Rule::Deny, 10), passed(20)], &[]), 1);
    assert_eq!(violations(&[set(Rule::Gone, 10), passed(13), passed(14), set(Rule::Allow, 15)], &[]), 2);
    assert_eq!(violations(&[set(Rule::Deny, 10), passed(20)], &[5, 30]), 1, "it was away at other times");
    let last = Typed { client: CLIENTS, ..passed(20) };
    assert_eq!(violations(&[set(Rule::Gone, 10), last], &[18]), 1, "when all is healed");
    let failed = operation(Call::Set(Rule::Allow), None, 12);
    assert_eq!(violations(&[set(Rule::Deny, 10), failed, passed(20)], &[]), 1);
}

#[test]
fn an_answer_of_somebody_else_fails_whatever_is_allowed() {
    for call in [Call::Request { anew: true }, Call::Request { anew: false }, Call::Probe] {
        let wrong = operation(call, Some(Some(false)), 20);
        assert_eq!(violations(&[set(Rule::Allow, 1), wrong.clone()], &[]), 1, "{call:?}");
        assert_eq!(violations(&[set(Rule::Deny, 10), wrong], &[15]), 1, "{call:?}");
    }
}

#[test]
fn little_is_too_little() {
    let all: Vec<_> = (0..20).map(|_| passed(2)).chain([set(Rule::Deny, 5), set(Rule::Gone, 6)]).collect();
    let refused = |at| (0..10).map(move |_| operation(Call::Request { anew: true }, None, at));
    assert_eq!(judged(&all, &[]).coverage().len(), 2, "nothing was refused");
    let soon: Vec<_> = all.iter().cloned().chain(refused(7)).collect();
    assert_eq!(judged(&soon, &[]).coverage().len(), 1, "it might have passed");
    let all: Vec<_> = all.into_iter().chain(refused(20)).collect();
    assert_eq!(judged(&all, &[15]).coverage().len(), 1, "nobody may have heard");
    assert_eq!(judged(&all, &[]).coverage(), Vec::<String>::new());
    let unknown = operation(Call::Set(Rule::Allow), Some(None), 30);
    let unsure: Vec<_> = soon.into_iter().chain([unknown]).collect();
    assert_eq!(judged(&unsure, &[]).coverage(), Vec::<String>::new(), "it may come late");
    assert_eq!(judged(&all[1..], &[]).coverage().len(), 1);
}
