//! A counter that only grows: clients read it and write one more, if nobody else has. The shortest workload, to begin a new one with.

use async_trait::async_trait;
use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Typed, typed};
use serde::{Deserialize, Serialize};

use crate::api::Api;
use crate::client::{Client, Workload};

pub(crate) struct Counter;

/// What is asked. It is kept in the history as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Call {
    Read,
    Add { index: u64, to: u64 },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Answer {
    Is(u64),
    Added(bool),
}

#[async_trait(?Send)]
impl Workload for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn clients(&self) -> usize {
        2
    }

    async fn run(&self, client: &mut Client) {
        let key = client.key("n");
        while client.goes_on() {
            let server = client.any_server();
            let mut index = 0;
            let read = async |api: &mut Api<'_>| {
                let entry = api.read(&key).await?;
                index = entry.map_or(0, |entry| entry.modify_index);
                Ok(Answer::Is(entry.map_or(0, |entry| entry.value)))
            };
            let Ok(Answer::Is(value)) = client.ask(server, Call::Read, read).await else { continue };
            let call = Call::Add { index, to: value + 1 };
            let add = async |api: &mut Api<'_>| api.compare_and_set(&key, index, value + 1).await.map(Answer::Added);
            client.ask(server, call, add).await.ok();
        }
    }

    async fn finish(&self, client: &mut Client) -> Result<(), String> {
        let key = client.key("n");
        let read = async |api: &mut Api<'_>| Ok(Answer::Is(api.read(&key).await?.map_or(0, |entry| entry.value)));
        client.insist(Call::Read, read).await.map(|_| ())
    }

    fn judge(&self, history: &[Record]) -> Judgement {
        match typed::<Call, Answer>(history, self.name()) {
            Ok(operations) => judge(&operations),
            Err(why) => Judgement { undecided: vec![why], ..Judgement::default() },
        }
    }
}

/// Who reads sees all that was added before, and no more than was ever tried.
fn judge(operations: &[Typed<Call, Answer>]) -> Judgement {
    let mut judgement = Judgement::default();
    let is_added = |one: &&Typed<Call, Answer>| one.seen == Some(Some(Answer::Added(true)));
    let may_be = |one: &&Typed<Call, Answer>| matches!(one.call, Call::Add { .. }) && one.seen == Some(None);
    for read in operations {
        let Some(Some(Answer::Is(value))) = read.seen else { continue };
        let before = operations.iter().filter(is_added).filter(|one| one.end_ns < read.start_ns).count() as u64;
        let begun = operations.iter().filter(|one| one.start_ns < read.end_ns);
        let most = begun.filter(|one| is_added(one) || may_be(one)).count() as u64;
        if !(before..=most).contains(&value) {
            judgement.violations.push(format!("it is {value} and must be from {before} to {most}"));
        }
    }
    judgement.cover("additions", operations.iter().filter(is_added).count() as u64, 10);
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_nothing_comes_from_nowhere() {
        let one = |call, answer, at| Typed {
            client: 0,
            server: 0,
            life: 1,
            call,
            seen: Some(Some(answer)),
            start_ns: at,
            end_ns: at + 1,
        };
        let add = |at| one(Call::Add { index: 0, to: 0 }, Answer::Added(true), at);
        let judged = |value| judge(&[add(1), add(3), one(Call::Read, Answer::Is(value), 5)]).violations.len();
        assert_eq!((judged(1), judged(2), judged(3)), (1, 0, 1));
    }
}
