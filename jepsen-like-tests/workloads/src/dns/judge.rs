//! Whether answers were true.

use std::collections::BTreeMap;

use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed};

use super::{Answer, Asked, Call, INSTANCES, Kind, State};

/// A server's state may be older than its last word from the leader by so much: what was agreed on is not yet applied.
const SLACK_NS: u64 = 2_000_000_000;

/// An agent that has to find another server, and open its streams there, may lag by so much.
const AGENT_LAG_NS: u64 = 10_000_000_000;

/// Questions to an agent are never further apart while it works.
const GAP_NS: u64 = 2_000_000_000;

/// For each server and life: nothing that was told of a former life came after this.
pub(super) fn births(history: &[Record]) -> BTreeMap<(usize, u32), u64> {
    let mut last: BTreeMap<(usize, u32), u64> = BTreeMap::new();
    for record in history {
        let until = last.entry((record.server, record.life + 1)).or_default();
        *until = (*until).max(record.start_ns);
    }
    last
}

type Change<'a> = (usize, Option<State>, &'a Typed<Call, Answer>);

/// An answer was true at some time since the server's last word from the leader; and a server that was started again answers
/// only when it knows what it knew before. An agent's answer was true at some time, and lately if it has reached servers since.
pub(super) fn judge(
    asked: Asked,
    operations: &[Typed<Call, Answer>],
    births: &BTreeMap<(usize, u32), u64>,
) -> Judgement {
    let mut judgement = Judgement::default();
    let mut reaching = Reaching::default();
    let mut changes: BTreeMap<&str, Vec<Change<'_>>> = BTreeMap::new();
    for operation in operations {
        if let Call::Set { service, instance, state } = &operation.call {
            changes.entry(service).or_default().push((*instance, *state, operation));
        }
    }
    let (mut answers, mut refused, mut found_some, mut fresh) = (0, 0, 0, 0);
    for operation in operations {
        let Call::Ask { service, kind, contact_ms, .. } = &operation.call else { continue };
        let has_reached = reaching.note(operation, contact_ms.is_some());
        let Some(Some(Answer::Found { found, ttl_s })) = &operation.seen else {
            refused += 1;
            continue;
        };
        answers += 1;
        found_some += u64::from(!found.is_empty());
        let known_ns = match asked {
            Asked::Servers => {
                let contact_ns = contact_ms.unwrap_or(u64::MAX).saturating_mul(1_000_000);
                let lives = births.range((operation.server, 0)..=(operation.server, operation.life));
                let birth_ns = lives.map(|(_, birth_ns)| *birth_ns).max().unwrap_or(0);
                operation.start_ns.saturating_sub(contact_ns).max(birth_ns).saturating_sub(SLACK_NS)
            }
            Asked::Agents if has_reached => operation.start_ns.saturating_sub(AGENT_LAG_NS),
            Asked::Agents => 0,
        };
        fresh += u64::from(known_ns > 0);
        let floor_ns = known_ns.saturating_sub(u64::from(*ttl_s) * 1_000_000_000);
        let changes = changes.get(service.as_str()).map_or(&[][..], Vec::as_slice);
        if !was_true(changes, *kind, found, (floor_ns, operation.end_ns)) {
            let (at, floor) = (operation.end_ns / 1_000_000, floor_ns / 1_000_000);
            judgement.violations.push(format!(
                "{} (life {}) said at {at} ms that {service} is {kind:?} {found:?}, which was not so since {floor} ms",
                operation.server, operation.life
            ));
        }
    }
    let is_done = |change: &&Change<'_>| matches!(change.2.seen, Some(Some(_)));
    let done = changes.values().flatten().filter(is_done).count() as u64;
    judgement.cover("changes acknowledged", done, 20);
    judgement.cover("answers", answers, 50);
    judgement.cover("answers with instances", found_some, 20);
    judgement.cover("answers that had to be fresh", fresh, 0);
    judgement.notes.push(format!("{refused} questions were not answered"));
    judgement
}

/// Since when agents have reached servers, as those know who ask them.
#[derive(Default)]
struct Reaching {
    /// By agent and life: the first and the last question of an unbroken row.
    since: BTreeMap<(usize, u32), (u64, u64)>,
}

impl Reaching {
    /// Takes note of a question. Returns whether the agent has reached servers for as long as it may lag.
    fn note(&mut self, question: &Typed<Call, Answer>, is_reached: bool) -> bool {
        let (place, start_ns) = ((question.server, question.life), question.start_ns);
        if !is_reached {
            self.since.remove(&place);
            return false;
        }
        let row = self.since.entry(place).or_insert((start_ns, start_ns));
        if row.1 + GAP_NS < start_ns {
            row.0 = start_ns;
        }
        row.1 = start_ns;
        row.0 + AGENT_LAG_NS < start_ns
    }
}

/// Whether there was a moment in the window at which exactly this was there.
fn was_true(changes: &[Change<'_>], kind: Kind, found: &[u16], (floor_ns, end_ns): (u64, u64)) -> bool {
    let edges = changes.iter().flat_map(|change| [change.2.start_ns, change.2.end_ns]);
    let mut moments = edges.filter(|at| (floor_ns..=end_ns).contains(at)).chain([floor_ns, end_ns]);
    moments.any(|at| is_explained(changes, kind, found, at))
}

/// Whether each instance may have been as it was shown, and nothing was shown twice, or that is none of them.
fn is_explained(changes: &[Change<'_>], kind: Kind, found: &[u16], at: u64) -> bool {
    let mut rest = found.to_vec();
    for instance in 0..INSTANCES {
        let shown: Vec<Option<u16>> =
            allowed(changes, instance, at).map(|state| shown(state, instance, kind)).collect();
        match rest.iter().position(|value| shown.contains(&Some(*value))) {
            Some(position) => drop(rest.swap_remove(position)),
            None if shown.contains(&None) => {}
            None => return false,
        }
    }
    rest.is_empty()
}

/// What an instance may be at that moment; its changes are of one client, one after the other.
fn allowed<'a>(changes: &'a [Change<'a>], instance: usize, at: u64) -> impl Iterator<Item = Option<State>> + 'a {
    let of_it = move || changes.iter().filter(move |change| change.0 == instance);
    let is_done = |change: &&Change<'_>| matches!(change.2.seen, Some(Some(_)));
    let last = of_it().filter(is_done).rfind(|change| change.2.end_ns < at).and_then(|change| change.1);
    let may_be = of_it().filter(move |change| match change.2.seen {
        None => false,
        Some(None) => change.2.start_ns <= at,
        Some(Some(_)) => change.2.start_ns <= at && at <= change.2.end_ns,
    });
    [last].into_iter().chain(may_be.map(|change| change.1))
}

/// What an answer says of an instance.
fn shown(state: Option<State>, instance: usize, kind: Kind) -> Option<u16> {
    let state = state.filter(|state| state.passing)?;
    Some(match kind {
        Kind::A => instance as u16,
        Kind::Srv => state.port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn set(
        instance: usize,
        state: Option<(u16, bool)>,
        seen: Option<Option<Answer>>,
        at: (u64, u64),
    ) -> Typed<Call, Answer> {
        let state = state.map(|(port, passing)| State { port, passing });
        operation(Call::Set { service: "s".to_owned(), instance, state }, seen, at)
    }

    fn ask(found: &[u16], contact_ms: Option<u64>, at: u64) -> Typed<Call, Answer> {
        let call = Call::Ask { service: "s".to_owned(), kind: Kind::Srv, tcp: false, contact_ms };
        operation(call, Some(Some(Answer::Found { found: found.to_vec(), ttl_s: 0 })), (at * S, at * S))
    }

    fn operation(call: Call, seen: Option<Option<Answer>>, at: (u64, u64)) -> Typed<Call, Answer> {
        Typed { client: 0, server: 0, life: 2, call, seen, start_ns: at.0, end_ns: at.1 }
    }

    fn violations(operations: &[Typed<Call, Answer>]) -> usize {
        judge(Asked::Servers, operations, &BTreeMap::from([((0, 1), 0)])).violations.len()
    }

    const DONE: Option<Option<Answer>> = Some(Some(Answer::Set));

    #[test]
    fn good_histories_pass() {
        let there = |instance, port, at: u64| set(instance, Some((port, true)), DONE, (at * S, at * S + 1));
        assert_eq!(violations(&[there(0, 7, 1), ask(&[7], Some(0), 10)]), 0);
        assert_eq!(violations(&[there(0, 7, 1), there(1, 8, 2), ask(&[7, 8], Some(0), 10)]), 0);
        assert_eq!(violations(&[there(0, 7, 9), ask(&[], Some(0), 10)]), 0, "within the slack");
        assert_eq!(violations(&[there(0, 7, 5), ask(&[], Some(4000), 10)]), 0, "the server says that it is behind");
        assert_eq!(violations(&[there(0, 7, 5), ask(&[], None, 10)]), 0, "who knows");
        let unknown = set(0, None, Some(None), (2 * S, 3 * S));
        assert_eq!(violations(&[there(0, 7, 1), unknown.clone(), ask(&[7], Some(0), 10), ask(&[], Some(0), 11)]), 0);
        assert_eq!(violations(&[set(0, Some((7, false)), DONE, (1, 2)), ask(&[], Some(0), 10)]), 0);
    }

    #[test]
    fn bad_histories_fail() {
        let there = |instance, port, at: u64| set(instance, Some((port, true)), DONE, (at * S, at * S + 1));
        assert_eq!(violations(&[there(0, 7, 1), ask(&[], Some(0), 10)]), 1, "not there");
        assert_eq!(violations(&[there(0, 7, 1), set(0, None, DONE, (2, 3)), ask(&[7], Some(0), 10)]), 1, "risen");
        let critical = set(0, Some((7, false)), DONE, (2, 3));
        assert_eq!(violations(&[critical, ask(&[7], Some(0), 10)]), 1, "critical");
        assert_eq!(violations(&[there(0, 7, 1), ask(&[7, 7], Some(0), 10)]), 1, "twice");
        assert_eq!(violations(&[there(0, 7, 1), ask(&[7, 9], Some(0), 10)]), 1, "another's");
        assert_eq!(violations(&[set(0, Some((7, true)), None, (1, 2)), ask(&[7], None, 10)]), 1, "failed and there");
        let mixed =
            [there(0, 7, 1), there(1, 8, 2), set(0, None, DONE, (3 * S, 3 * S)), set(1, None, DONE, (4 * S, 4 * S))];
        let ask_at = |found: &[u16]| [&mixed[..], &[ask(found, None, 10)]].concat();
        assert_eq!(violations(&ask_at(&[8])), 0);
        assert_eq!(violations(&ask_at(&[7])), 0, "before the second came");
        let replaced = [&mixed[..2], &[set(0, Some((9, true)), DONE, (3 * S, 3 * S)), mixed[3].clone()]].concat();
        let never_together = [&replaced[..], &[ask(&[7, 9], None, 10)]].concat();
        assert_eq!(violations(&never_together), 1, "the old and the new");
    }

    #[test]
    fn a_server_that_was_started_again_knows_what_it_knew() {
        let history = [set(0, Some((7, true)), DONE, (S, S)), ask(&[], None, 10)];
        let judged = |birth: u64| judge(Asked::Servers, &history, &BTreeMap::from([((0, 2), birth)])).violations.len();
        assert_eq!((judged(2 * S), judged(5 * S)), (0, 1));
        assert_eq!(
            judge(Asked::Servers, &history, &BTreeMap::from([((0, 1), 5 * S)])).violations.len(),
            1,
            "or a life before"
        );
        assert_eq!(
            judge(Asked::Servers, &history, &BTreeMap::from([((1, 2), 5 * S), ((0, 3), 5 * S)])).violations.len(),
            0
        );
    }

    #[test]
    fn an_agent_that_reaches_servers_follows_them() {
        let there = set(0, Some((7, true)), DONE, (2 * S, 3 * S));
        let row = |reached: fn(u64) -> bool| {
            let asks = (1..30).map(|at| ask(if at < 4 { &[] } else { &[7] }, reached(at).then_some(0), at));
            asks.chain([ask(&[], reached(30).then_some(0), 30)]).collect::<Vec<_>>()
        };
        let judged = |row: Vec<Typed<Call, Answer>>| {
            let mut operations = [vec![there.clone()], row].concat();
            operations.sort_by_key(|operation| operation.start_ns);
            judge(Asked::Agents, &operations, &BTreeMap::new()).violations.len()
        };
        assert_eq!(judged(row(|_| true)), 1);
        assert_eq!(judged(row(|at| at != 25)), 0, "it was alone");
        let with_gap = row(|_| true).into_iter().filter(|ask| !(24 * S..28 * S).contains(&ask.start_ns));
        assert_eq!(judged(with_gap.collect()), 0, "it may have been frozen");
        let invented = vec![ask(&[9], None, 10)];
        assert_eq!(judged(invented), 1, "never so");
    }
}
