//! Group commit: everything that waits is proposed as one entry of the log, one entry at a time. While it is on its way to
//! the disks, the next batch gathers.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use tokio::sync::{mpsc, oneshot, watch};

use crate::consensus::{Batch, Core, TypeConfig, Written};
use crate::log::Log;
use crate::types::{Config, Member, NodeId};
use crate::{Leadership, ProposeError};

/// A command that waits for its answer.
pub(crate) struct Proposal<R> {
    pub(crate) command: Bytes,
    pub(crate) answer: oneshot::Sender<Result<R, ProposeError>>,
}

/// Gathers proposals and hands them to openraft.
pub(crate) struct Proposer<R> {
    pub(crate) core: Core,
    pub(crate) log: Log,
    pub(crate) inbox: mpsc::Receiver<Proposal<R>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Set while the leadership is handed over: proposals wait.
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) batch_bytes_max: usize,
    pub(crate) batch_commands_max: usize,
    pub(crate) timeout: Duration,
}

type WriteError = RaftError<NodeId, ClientWriteError<NodeId, Member>>;
type Outcome = Result<ClientWriteResponse<TypeConfig>, WriteError>;
type Answers<R> = Vec<oneshot::Sender<Result<R, ProposeError>>>;

impl<R: Send + Sync + 'static> Proposer<R> {
    pub(crate) fn new(
        config: &Config,
        core: Core,
        log: Log,
        inbox: mpsc::Receiver<Proposal<R>>,
        leadership: watch::Receiver<Leadership>,
        paused: watch::Receiver<bool>,
    ) -> Proposer<R> {
        Proposer {
            core,
            log,
            inbox,
            leadership,
            paused,
            batch_bytes_max: config.batch_bytes_max,
            batch_commands_max: config.batch_commands_max,
            timeout: Duration::from_millis(config.propose_timeout_ms),
        }
    }

    /// Serves until all handles are gone.
    pub(crate) async fn run(mut self) {
        while let Some(first) = self.inbox.recv().await {
            // Those who were answered just now are awake but have not proposed again yet: let them, and share the sync.
            tokio::task::yield_now().await;
            // A pause ends when the handover does; if its sender is gone, so is everything else.
            let _ = self.paused.wait_for(|paused| !paused).await;
            let (commands, answers) = self.gather(first);
            if let Some(refusal) = self.refusal() {
                refuse(answers, &refusal);
                continue;
            }
            self.propose(commands, answers).await;
        }
    }

    fn gather(&mut self, first: Proposal<R>) -> (Arc<[Bytes]>, Answers<R>) {
        let mut bytes = first.command.len();
        let (mut commands, mut answers) = (vec![first.command], vec![first.answer]);
        while commands.len() < self.batch_commands_max && bytes < self.batch_bytes_max {
            let Ok(proposal) = self.inbox.try_recv() else {
                break;
            };
            bytes += proposal.command.len();
            commands.push(proposal.command);
            answers.push(proposal.answer);
        }
        (commands.into(), answers)
    }

    /// What is known before the log is touched.
    fn refusal(&self) -> Option<ProposeError> {
        let leadership = self.leadership.borrow();
        if leadership.is_stopped {
            return Some(ProposeError::Stopped);
        }
        // A leader whose disk is full loses its majority; until there is another, the disk is what must be mended.
        let has_other_leader = !leadership.is_leader && leadership.leader.is_some();
        if self.log.is_disk_full() && !has_other_leader {
            return Some(ProposeError::DiskFull);
        }
        (!leadership.is_leader).then(|| ProposeError::NotLeader { leader: leadership.leader.clone() })
    }

    async fn propose(&mut self, commands: Arc<[Bytes]>, answers: Answers<R>) {
        let written = Written::watched();
        let core = self.core.clone();
        let batch = Batch { commands, written: written.clone() };
        let mut outcome = Box::pin(async move { core.client_write(batch).await });
        let term = self.leadership.borrow().term;
        let mut leadership = self.leadership.clone();
        tokio::select! {
            biased;
            outcome = &mut outcome => return deliver(outcome, &written, answers),
            () = tokio::time::sleep(self.timeout) => return refuse(answers, &ProposeError::Unknown),
            _lost = leadership.wait_for(|now| now.term != term || !now.is_leader) => {}
        }
        // The new leader may still agree on the batch, and then there is an answer; but nobody else should wait for it.
        let timeout = self.timeout;
        tokio::spawn(async move {
            match tokio::time::timeout(timeout, outcome).await {
                Ok(outcome) => deliver(outcome, &written, answers),
                Err(_elapsed) => refuse(answers, &ProposeError::Unknown),
            }
        });
    }
}

/// Gives each proposer the answer at its place.
fn deliver<R: Send + Sync + 'static>(outcome: Outcome, written: &Written, answers: Answers<R>) {
    match outcome {
        Ok(response) => match responses::<R>(response.data.answers) {
            Some(responses) if responses.len() == answers.len() => {
                for (answer, response) in answers.into_iter().zip(responses) {
                    // A proposer that went away needs no answer.
                    let _ = answer.send(Ok(response));
                }
            }
            Some(_) | None => {
                tracing::error!("the state machine did not answer every command of a batch");
                refuse(answers, &ProposeError::Unknown);
            }
        },
        // Only a batch that never reached the log is surely without effect: one that did, and was cut off again by a new
        // leader, may stand in the log of a later one.
        Err(_error) if written.get() => refuse(answers, &ProposeError::Unknown),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            refuse(answers, &ProposeError::NotLeader { leader: forward.leader_node });
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => {
            refuse(answers, &ProposeError::Unknown);
        }
        Err(RaftError::Fatal(_)) => refuse(answers, &ProposeError::Stopped),
    }
}

fn responses<R: 'static>(answers: Option<Box<dyn Any + Send + Sync>>) -> Option<Vec<R>> {
    Some(*answers?.downcast::<Vec<R>>().ok()?)
}

fn refuse<R>(answers: Answers<R>, error: &ProposeError) {
    for answer in answers {
        let _ = answer.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use openraft::error::{Fatal, ForwardToLeader};
    use openraft::{CommittedLeaderId, LogId};
    use proptest::prelude::*;

    use super::*;
    use crate::consensus;

    fn waiting(count: usize) -> (Answers<u64>, Vec<oneshot::Receiver<Result<u64, ProposeError>>>) {
        (0..count).map(|_| oneshot::channel()).unzip()
    }

    #[expect(clippy::result_large_err, reason = "it is openraft's type")]
    fn answered(responses: Vec<u64>) -> Outcome {
        Ok(ClientWriteResponse {
            log_id: LogId::new(CommittedLeaderId::new(1, 1), 1),
            data: consensus::Answers { answers: Some(Box::new(responses)) },
            membership: None,
        })
    }

    proptest! {
        #[test]
        fn each_proposer_gets_the_answer_at_its_place(responses in prop::collection::vec(any::<u64>(), 1..100), gone in any::<prop::sample::Index>()) {
            let (answers, mut receivers) = waiting(responses.len());
            // One that went away changes nothing for the others.
            let gone = gone.index(responses.len());
            receivers[gone].close();
            deliver(answered(responses.clone()), &Written::watched(), answers);
            for (at, (receiver, response)) in receivers.iter_mut().zip(responses).enumerate() {
                if at != gone {
                    prop_assert_eq!(receiver.try_recv().unwrap(), Ok(response));
                }
            }
        }

        #[test]
        fn too_few_or_too_many_answers_are_given_to_nobody(count in 1usize..20, responses in prop::collection::vec(any::<u64>(), 0..20)) {
            prop_assume!(count != responses.len());
            let (answers, receivers) = waiting(count);
            deliver(answered(responses), &Written::watched(), answers);
            for mut receiver in receivers {
                prop_assert_eq!(receiver.try_recv().unwrap(), Err(ProposeError::Unknown));
            }
        }
    }

    #[test]
    fn a_failure_says_whether_the_command_can_have_an_effect() {
        let forward = || RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader::empty()));
        let stopped = || RaftError::Fatal(Fatal::Stopped);
        let cases = [
            (forward(), false, ProposeError::NotLeader { leader: None }),
            (forward(), true, ProposeError::Unknown),
            (stopped(), false, ProposeError::Stopped),
            (stopped(), true, ProposeError::Unknown),
        ];
        for (error, reached_the_log, expected) in cases {
            let written = Written::watched();
            if reached_the_log {
                written.set();
            }
            let (answers, mut receivers) = waiting(1);
            deliver(Err(error), &written, answers);
            assert_eq!(receivers[0].try_recv().unwrap(), Err(expected));
        }
    }
}
