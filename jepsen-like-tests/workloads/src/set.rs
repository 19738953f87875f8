//! Unique keys are added, and all are read at once: what was added stays, and nothing is there that nobody added.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};

use crate::api::{Api, Failure, Mode};
use crate::client::{Client, Workload};

/// Keys of one set; then the next set begins, so that reads stay short.
const KEYS_PER_SET: u64 = 200;

pub(crate) struct Set;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Call {
    Add { set: u64, number: u64 },
    Read { set: u64 },
}

#[async_trait(?Send)]
impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn clients(&self) -> usize {
        3
    }

    async fn run(&self, client: &mut Client) {
        let mut set = 0;
        while client.goes_on() {
            let server = client.any_server();
            // A failed request was recorded, and that is all there is to do about it.
            if client.rng.below(4) == 0 {
                let prefix = client.key(set);
                client.ask(server, Call::Read { set }, async |api| read(api, &prefix).await).await.ok();
            } else {
                let number = client.unique();
                set = number / KEYS_PER_SET;
                let key = client.key(format!("{set}/{number}"));
                let call = Call::Add { set, number };
                client.ask(server, call, async |api| api.put(&key, number).await).await.ok();
            }
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        for set in 0..=client.unique() / KEYS_PER_SET {
            let prefix = client.key(set);
            client.insist(Call::Read { set }, async |api| read(api, &prefix).await).await?;
        }
        Ok(())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        let mut judgement = Judgement::default();
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge(&operations, &mut judgement),
            Err(why) => judgement.undecided.push(why),
        }
        judgement
    }
}

/// A read returns the numbers that are there, an addition whether it was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Added(bool),
    Read(BTreeSet<u64>),
}

async fn read(api: &mut Api<'_>, prefix: &str) -> Result<BTreeSet<u64>, Failure> {
    let seen = api.see(&format!("{prefix}/?recurse"), Mode::Consistent, None).await?;
    Ok(seen.rows.into_values().map(|entry| entry.value).collect())
}

/// Each read holds all that was acknowledged before it was called or seen by a read that had returned then, and nothing that was not added before it returned.
fn judge(operations: &[Typed<Call, Answer>], judgement: &mut Judgement) {
    // Number → when its addition was called, when it was known to be there (never, if it is not), and whether it cannot have happened.
    let mut added: BTreeMap<(u64, u64), (u64, u64, bool)> = BTreeMap::new();
    let mut reads = Vec::new();
    for operation in operations {
        match (&operation.call, &operation.seen) {
            (Call::Add { set, number }, seen) => {
                let known_ns = if *seen == Some(Some(Answer::Added(true))) { operation.end_ns } else { u64::MAX };
                added.insert((*set, *number), (operation.start_ns, known_ns, seen.is_none()));
            }
            (Call::Read { set }, Some(Some(Answer::Read(numbers)))) => {
                reads.push((*set, operation.start_ns, operation.end_ns, numbers));
            }
            (Call::Read { .. }, _) => {}
        }
    }
    reads.sort_by_key(|(_, _, end_ns, _)| *end_ns);
    for (set, _, end_ns, numbers) in &reads {
        for number in *numbers {
            match added.get_mut(&(*set, *number)) {
                Some((start_ns, known_ns, false)) if *start_ns <= *end_ns => *known_ns = (*known_ns).min(*end_ns),
                _ => judgement.violations.push(format!("{number} is in set {set}, though nobody can have added it")),
            }
        }
    }
    for (set, start_ns, end_ns, numbers) in &reads {
        let due = added.range((*set, 0)..=(*set, u64::MAX)).filter(|(_, (_, known_ns, _))| known_ns < start_ns);
        let missing: Vec<u64> =
            due.map(|((_, number), _)| *number).filter(|number| !numbers.contains(number)).collect();
        if !missing.is_empty() {
            let at = end_ns / 1_000_000;
            judgement.violations.push(format!("the read of set {set} that ended at {at} ms lacks {missing:?}"));
        }
    }
    judgement.cover(
        "additions acknowledged",
        added.values().filter(|(_, known, _)| *known < u64::MAX).count() as u64,
        20,
    );
    judgement.cover("reads", reads.len() as u64, 5);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(number: u64, seen: Option<Option<bool>>, at: (u64, u64)) -> Typed<Call, Answer> {
        let seen = seen.map(|seen| seen.map(Answer::Added));
        operation(Call::Add { set: 0, number }, seen, at)
    }

    fn read(numbers: &[u64], at: (u64, u64)) -> Typed<Call, Answer> {
        operation(Call::Read { set: 0 }, Some(Some(Answer::Read(numbers.iter().copied().collect()))), at)
    }

    fn operation(call: Call, seen: Option<Option<Answer>>, at: (u64, u64)) -> Typed<Call, Answer> {
        Typed { client: 0, server: 0, life: 1, call, seen, start_ns: at.0, end_ns: at.1 }
    }

    fn violations(operations: &[Typed<Call, Answer>]) -> usize {
        let mut judgement = Judgement::default();
        judge(operations, &mut judgement);
        judgement.violations.len()
    }

    #[test]
    fn good_histories_pass() {
        let (done, unknown) = (Some(Some(true)), Some(None));
        assert_eq!(violations(&[add(1, done, (1, 2)), read(&[1], (3, 4))]), 0);
        assert_eq!(violations(&[add(1, done, (1, 4)), read(&[], (2, 3))]), 0, "at the same time");
        assert_eq!(violations(&[add(1, unknown, (1, 2)), read(&[], (3, 4)), read(&[1], (5, 6))]), 0, "late");
    }

    #[test]
    fn bad_histories_fail() {
        let (done, unknown) = (Some(Some(true)), Some(None));
        assert_eq!(violations(&[add(1, done, (1, 2)), read(&[], (3, 4))]), 1, "lost");
        assert_eq!(violations(&[read(&[9], (3, 4))]), 1, "never added");
        assert_eq!(violations(&[add(1, None, (1, 2)), read(&[1], (3, 4))]), 1, "failed and there");
        assert_eq!(violations(&[read(&[1], (1, 2)), add(1, done, (3, 4))]), 1, "read before it was added");
        let back = [add(1, unknown, (1, 2)), read(&[1], (3, 4)), read(&[], (5, 6))];
        assert_eq!(violations(&back), 1, "seen and gone");
    }
}
