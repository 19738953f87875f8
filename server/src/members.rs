//! Who belongs to the cluster of servers: joining, promotion, replacement, removal.

use std::time::Duration;

use api::Error;
use api::proto::{ServerInfo, Servers};
use raft::{Member, MembershipError, NodeId, Raft, Status};

use crate::machine::Machine;

/// Between two looks whether a learner has caught up.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(200);
/// Another change of the membership is waited for so often.
const BUSY_TRIES: u32 = 100;

/// An election that another server is asked to win can be lost on a busy machine.
const HANDOVER_TRIES: u32 = 3;

/// Changes of Raft's membership, in the words of operators.
#[derive(Clone)]
pub(crate) struct Members {
    raft: Raft<Machine>,
    datacenter: String,
}

impl Members {
    pub(crate) fn new(raft: Raft<Machine>, datacenter: &str) -> Self {
        Members { raft, datacenter: datacenter.into() }
    }

    /// All members, voters first.
    pub(crate) fn all(&self) -> Vec<Member> {
        let status = self.raft.status();
        status.voters.into_iter().chain(status.learners).collect()
    }

    /// Whether this server is one of them.
    pub(crate) fn has_joined(&self) -> bool {
        let status = self.raft.status();
        status.member(status.id).is_some()
    }

    /// All members as agents and servers are told.
    pub(crate) fn servers(&self) -> Servers {
        let info = |member: Member| ServerInfo {
            id: member.id,
            name: member.name,
            rpc_address: member.address,
            datacenter: self.datacenter.clone(),
            initialized: true,
            ..ServerInfo::default()
        };
        Servers { servers: self.all().into_iter().map(info).collect() }
    }

    /// Adds a server that follows, in the place of one of the same name or address that is gone. The leader promotes it.
    pub(crate) async fn add(&self, member: Member) -> Result<(), MembershipError> {
        let status = self.raft.status();
        let is_same =
            |known: &Member| known.id != member.id && (known.name == member.name || known.address == member.address);
        let replaced: Vec<Member> =
            status.voters.iter().chain(&status.learners).filter(|known| is_same(known)).cloned().collect();
        for old in replaced {
            self.retry(|| self.raft.remove(old.id)).await?;
            tracing::info!(
                name = old.name,
                address = old.address,
                "a server came back with another id: its former self was removed"
            );
        }
        if status.member(member.id) == Some(&member) {
            return Ok(());
        }
        self.retry(|| self.raft.add_learner(member.clone())).await?;
        tracing::info!(name = member.name, address = member.address, "a server joined");
        Ok(())
    }

    /// Gives every learner a vote when it has caught up, for as long as this server leads.
    pub(crate) async fn promote_learners(&self) {
        let mut members = self.raft.watch_members();
        loop {
            members.mark_unchanged();
            let learners = self.raft.status().learners;
            if learners.is_empty() && members.changed().await.is_err() {
                return;
            }
            for learner in learners {
                match self.raft.promote(learner.id).await {
                    Ok(()) => tracing::info!(name = learner.name, "a server has caught up and votes now"),
                    Err(MembershipError::Behind { .. } | MembershipError::Busy) => {}
                    Err(error) => tracing::warn!(name = learner.name, %error, "a server cannot be given a vote"),
                }
            }
            tokio::time::sleep(PROMOTE_INTERVAL).await;
        }
    }

    pub(crate) async fn remove(&self, id: NodeId) -> Result<(), Error> {
        self.retry(|| self.raft.remove(id)).await.map_err(refusal)
    }

    pub(crate) async fn transfer_leader(&self, to: Option<NodeId>) -> Result<(), Error> {
        for _ in 0..HANDOVER_TRIES {
            match self.raft.transfer_leader(to).await {
                // The other did not win in time. Whoever leads instead is as good, if nobody was named.
                Err(MembershipError::Behind { .. }) if self.raft.is_leader() => {}
                Err(MembershipError::Behind { .. }) if to.is_none() => return Ok(()),
                done => return done.map_err(refusal),
            }
        }
        Err(Error::internal("no other server has caught up and won the election: try again"))
    }

    pub(crate) fn status(&self) -> Status {
        self.raft.status()
    }

    async fn retry<F: Future<Output = Result<(), MembershipError>>>(
        &self,
        change: impl Fn() -> F,
    ) -> Result<(), MembershipError> {
        for _ in 0..BUSY_TRIES {
            match change().await {
                Err(MembershipError::Busy) => tokio::time::sleep(PROMOTE_INTERVAL / 2).await,
                done => return done,
            }
        }
        Err(MembershipError::Busy)
    }
}

fn refusal(error: MembershipError) -> Error {
    match error {
        MembershipError::NotLeader { leader: None } => Error::no_leader(),
        error => Error::internal(error.to_string()),
    }
}
