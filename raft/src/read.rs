//! Linearizable reads: one question to a majority, "do I still lead?", serves all that wait when it is asked.

use std::time::Duration;

use faults::Bug;
use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::ReadError;
use crate::consensus::Core;

/// Who waits for a confirmation; answered with the index that the state must have reached.
pub(crate) type Waiting = oneshot::Sender<Result<u64, ReadError>>;

/// Before a majority that did not answer is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Asks in rounds.
pub(crate) struct Confirmer {
    pub(crate) core: Core,
    pub(crate) inbox: mpsc::Receiver<Waiting>,
    pub(crate) paused: watch::Receiver<bool>,
    /// How long a majority is asked.
    pub(crate) deadline: Duration,
}

impl Confirmer {
    /// Serves until all handles are gone.
    pub(crate) async fn run(mut self) {
        while let Some(first) = self.inbox.recv().await {
            tokio::task::yield_now().await;
            let _ = self.paused.wait_for(|paused| !paused).await;
            // A round answers only those who came before it began.
            let mut waiting = vec![first];
            while let Ok(next) = self.inbox.try_recv() {
                waiting.push(next);
            }
            let confirmed = self.confirm().await;
            for answer in waiting {
                // A reader that went away needs no answer.
                let _ = answer.send(confirmed.clone());
            }
        }
    }

    /// openraft gives the others the time of a heartbeat to answer, which is short for one that syncs its disk just now:
    /// they are asked again. It does not answer at all while our own disk hangs.
    async fn confirm(&self) -> Result<u64, ReadError> {
        let until = Instant::now() + self.deadline;
        loop {
            match tokio::time::timeout_at(until, self.ask()).await {
                Ok(Err(ReadError::NoQuorum)) if Instant::now() + RETRY_PAUSE < until => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Ok(outcome) => return outcome,
                Err(_elapsed) => return Err(ReadError::NoQuorum),
            }
        }
    }

    async fn ask(&self) -> Result<u64, ReadError> {
        if faults::has(Bug::ReadNotConfirmed) {
            return Ok(self.core.metrics().borrow().last_applied.map_or(0, |log_id| log_id.index));
        }
        match self.core.get_read_log_id().await {
            Ok((read, _applied)) => Ok(read.map_or(0, |log_id| log_id.index)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader { leader: forward.leader_node })
            }
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => Err(ReadError::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }
}
