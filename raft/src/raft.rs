//! A member of the cluster: starts it, proposes, reads, and says how it is.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::error::Fatal;
use tokio::sync::{mpsc, oneshot, watch};

use crate::client::{Client, Network};
use crate::consensus::Core;
use crate::disk::{Disk, RealDisk};
use crate::elections::space_elections;
use crate::leadership::{Followed, Metrics, contact_max, follow, is_before, role};
use crate::log::{Log, held};
use crate::machine::Machine;
use crate::members::finish_changes;
use crate::propose::{Proposal, Proposer};
use crate::read::{Confirmer, Waiting};
use crate::service::{LastContact, Service};
use crate::start::{Opened, core_config, open};
use crate::types::{Config, Dial, Member, NodeId, StateMachine};
use crate::wire::{MESSAGE_BYTES_MAX, RaftServer};
use crate::work::blocking;
use crate::{Leadership, MembersVersion, ProposeError, ReadError, Role, StartError, Status};

/// Most reads that wait for a confirmation. Those beyond wait at the door.
const READS_WAITING_MAX: usize = 64 * 1024;
/// How often the size of the log since the last snapshot is looked at.
const SNAPSHOT_CHECK: Duration = Duration::from_secs(5);
/// A disk that hangs holds the end of a member up for so long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// A handle on this member; clones are the same member.
pub struct Raft<S: StateMachine> {
    inner: Arc<Inner<S>>,
}

struct Inner<S: StateMachine> {
    id: NodeId,
    config: Config,
    core: Core,
    log: Log,
    machine: Machine,
    network: Network,
    proposals: mpsc::Sender<Proposal<S::Response>>,
    reads: mpsc::Sender<Waiting>,
    applied: watch::Receiver<u64>,
    leadership: watch::Receiver<Leadership>,
    leads_until: watch::Receiver<Option<Instant>>,
    members: watch::Receiver<MembersVersion>,
    paused: Arc<watch::Sender<bool>>,
    /// Held by the one who changes the membership.
    changing: Arc<tokio::sync::Mutex<()>>,
    /// Held while the leadership is handed over.
    handing_over: tokio::sync::Mutex<()>,
    last_contact: LastContact,
    machine_type: PhantomData<fn() -> S>,
}

impl<S: StateMachine> Clone for Raft<S> {
    fn clone(&self) -> Self {
        Raft { inner: Arc::clone(&self.inner) }
    }
}

impl<S: StateMachine> Raft<S> {
    /// Starts this member from what is in its folder. Answers the handle, and the service to mount for the other members.
    /// Must be called in a tokio runtime; reads the disk before it returns.
    ///
    /// # Errors
    /// [`StartError`]; nothing was changed.
    pub async fn start(
        config: Config,
        machine: S,
        dial: impl Dial,
    ) -> Result<(Raft<S>, RaftServer<Service>), StartError> {
        Raft::start_on(Arc::new(RealDisk), config, machine, dial).await
    }

    /// As [`Raft::start`], with the log and the snapshots on a disk of the caller's.
    ///
    /// # Errors
    /// [`StartError`]; nothing was changed.
    pub async fn start_on(
        disk: Arc<dyn Disk>,
        config: Config,
        machine: S,
        dial: impl Dial,
    ) -> Result<(Raft<S>, RaftServer<Service>), StartError> {
        let settings = Arc::new(core_config(&config)?);
        let (opening, opened_on) = (config.clone(), Arc::clone(&disk));
        let opened = blocking(move || open(&opened_on, &opening, machine)).await;
        let opened = opened.map_err(|e| StartError::Core(e.to_string()))??;
        let Opened { id, log, snapshots, machine } = opened.fitted(&config).await?;

        let network = Network { dial: Arc::new(dial), snapshots: Arc::clone(&snapshots) };
        let core = Core::new(id, settings, network.clone(), log.clone(), machine.clone());
        let core = core.await.map_err(|e| StartError::Core(e.to_string()))?;
        // Until its task has begun, the core tells of a log without entries, whatever the disk holds.
        core.with_raft_state(|_state| ()).await.map_err(|e| StartError::Core(e.to_string()))?;
        tokio::spawn(end_when_failed(core.clone(), disk));
        let last_contact = LastContact::default();
        let service = Service {
            id,
            core: core.clone(),
            snapshots,
            last_contact: Arc::clone(&last_contact),
            silence_max: Duration::from_millis(config.election_ms_max + config.election_ms_min),
            receiving: Arc::default(),
        };
        let service = RaftServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let raft = Raft::assemble(id, config, core, log, machine, network, last_contact);
        Ok((raft, service))
    }

    fn assemble(
        id: NodeId,
        config: Config,
        core: Core,
        log: Log,
        machine: Machine,
        network: Network,
        last_contact: LastContact,
    ) -> Raft<S> {
        let (proposals, proposed) = mpsc::channel(config.proposals_waiting_max);
        let (reads, asked) = mpsc::channel(READS_WAITING_MAX);
        let (paused, resumed) = watch::channel(false);
        let Followed { leadership, members, leads_until } = follow(&core, contact_max(&config));
        let proposer = Proposer::new(&config, core.clone(), log.clone(), proposed, leadership.clone(), resumed.clone());
        tokio::spawn(proposer.run());
        let deadline = contact_max(&config);
        tokio::spawn(Confirmer { core: core.clone(), inbox: asked, paused: resumed, deadline }.run());
        tokio::spawn(space_elections(core.clone(), config.clone()));
        let sizes = Sizes {
            core: core.clone(),
            log: log.clone(),
            machine: machine.clone(),
            bytes_max: config.snapshot_every_bytes,
        };
        tokio::spawn(sizes.watch(leadership.clone()));
        let changing = Arc::<tokio::sync::Mutex<()>>::default();
        tokio::spawn(finish_changes(core.clone(), Arc::clone(&changing)));
        let applied = machine.applied();
        let inner = Inner {
            id,
            config,
            core,
            log,
            machine,
            network,
            proposals,
            reads,
            applied,
            leadership,
            leads_until,
            members,
            paused: Arc::new(paused),
            changing,
            handing_over: tokio::sync::Mutex::default(),
            last_contact,
            machine_type: PhantomData,
        };
        Raft { inner: Arc::new(inner) }
    }

    /// This member's number.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// This member, as the others should know it.
    pub fn member(&self) -> Member {
        let config = &self.inner.config;
        Member { id: self.inner.id, name: config.name.clone(), address: config.address.clone() }
    }

    /// Whether this member is part of a cluster, or of one that was.
    ///
    /// # Errors
    /// [`ReadError::Stopped`].
    pub async fn is_initialized(&self) -> Result<bool, ReadError> {
        self.inner.core.is_initialized().await.map_err(|_stopped| ReadError::Stopped)
    }

    /// Has a command agreed on and applied, and answers what the state machine answered to it. Commands that are proposed at
    /// the same time share an entry of the log and its syncs.
    ///
    /// # Errors
    /// Only [`ProposeError::Unknown`] leaves open whether the command has an effect.
    pub async fn propose(&self, command: Bytes) -> Result<S::Response, ProposeError> {
        let bytes_max = self.inner.config.command_bytes_max;
        if command.len() > bytes_max {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max });
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.inner.proposals.send(Proposal { command, answer }).await;
        sent.map_err(|_gone| ProposeError::Stopped)?;
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Returns when this member's state holds everything that was answered to anybody before the call: a majority has
    /// confirmed that this member leads, and the state has been brought to that point. No clock is trusted. A majority is
    /// asked for `2 * election_ms_max`, the state is waited for as long as a proposal.
    ///
    /// # Errors
    /// [`ReadError`]; one may always try again.
    pub async fn read_index(&self) -> Result<(), ReadError> {
        let (answer, answered) = oneshot::channel();
        self.inner.reads.send(answer).await.map_err(|_gone| ReadError::Stopped)?;
        let index = answered.await.unwrap_or(Err(ReadError::Stopped))?;
        let timeout = Duration::from_millis(self.inner.config.propose_timeout_ms);
        let reached = tokio::time::timeout(timeout, self.applied_at_least(index)).await;
        reached.unwrap_or(Err(ReadError::NoQuorum))
    }

    /// Returns when the state has been brought to that index. Waits for ever if that never happens: give it a deadline.
    ///
    /// # Errors
    /// [`ReadError::Stopped`].
    pub async fn applied_at_least(&self, index: u64) -> Result<(), ReadError> {
        if *self.inner.applied.borrow() >= index {
            return Ok(());
        }
        let mut applied = self.inner.applied.clone();
        let mut leadership = self.inner.leadership.clone();
        tokio::select! {
            reached = applied.wait_for(|applied| *applied >= index) => reached.map(|_| ()).map_err(|_gone| ReadError::Stopped),
            _stopped = leadership.wait_for(|now| now.is_stopped) => Err(ReadError::Stopped),
        }
    }

    /// The index that the state has reached.
    pub fn applied(&self) -> u64 {
        *self.inner.applied.borrow()
    }

    /// On the leader, the index that a follower must reach to answer as the leader would now; it is the leader's word alone,
    /// without asking a majority. It holds all that was answered by the leaders before; a leader that was replaced does not
    /// know it at once, but for no longer than `2 * election_ms_max` after a majority last answered it.
    ///
    /// # Errors
    /// [`ReadError::NotLeader`].
    pub fn leader_applied(&self) -> Result<u64, ReadError> {
        if self.is_leader() {
            return Ok(self.applied());
        }
        Err(ReadError::NotLeader { leader: self.leader() })
    }

    /// The leader of the newest term, as far as this member knows.
    pub fn leader(&self) -> Option<Member> {
        let leader = self.inner.leadership.borrow().leader.clone();
        leader.filter(|leader| leader.id != self.inner.id || self.is_leader())
    }

    /// Whether this member leads, as far as it knows: it was elected, and a majority has answered it lately.
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.borrow().is_leader && is_before(Instant::now(), *self.inner.leads_until.borrow())
    }

    /// Who leads, as it changes.
    pub fn watch(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Tells when the members change.
    pub fn watch_members(&self) -> watch::Receiver<MembersVersion> {
        self.inner.members.clone()
    }

    /// The applied index, as it grows.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    /// How this member is now.
    pub fn status(&self) -> Status {
        let metrics = self.inner.core.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters = membership.voter_ids().collect::<std::collections::BTreeSet<_>>();
        let members = membership.nodes().map(|(_id, member)| member.clone());
        let (voters, learners) = members.partition(|member| voters.contains(&member.id));
        let role = role(metrics.state);
        let matched = metrics.replication.iter().flatten();
        Status {
            id: self.inner.id,
            term: metrics.current_term,
            role,
            leader: self.leader(),
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: self.inner.log.committed().map_or(0, |log_id| log_id.index),
            applied: self.applied(),
            snapshot: metrics.snapshot.map_or(0, |log_id| log_id.index),
            purged: metrics.purged.map_or(0, |log_id| log_id.index),
            last_contact: match role {
                Role::Leader => metrics.millis_since_quorum_ack.map(Duration::from_millis),
                Role::Learner | Role::Follower | Role::Candidate | Role::Stopped => self.since_contact(),
            },
            is_changing: membership.get_joint_config().len() > 1,
            voters,
            learners,
            matched: matched.map(|(id, log_id)| (*id, log_id.map_or(0, |log_id| log_id.index))).collect(),
            disk_full: self.inner.log.is_disk_full(),
        }
    }

    /// The log from an index on, for who checks its rules.
    #[cfg(feature = "sim")]
    pub fn log_view(&self, from: u64) -> crate::LogView {
        self.inner.log.view(from)
    }

    /// Makes a snapshot, soon.
    ///
    /// # Errors
    /// [`ReadError::Stopped`].
    pub async fn snapshot_now(&self) -> Result<(), ReadError> {
        self.inner.core.trigger().snapshot().await.map_err(|_stopped| ReadError::Stopped)
    }

    /// Stops this member and returns when its folder is free for another start. Proposals under way are answered with
    /// [`ProposeError::Unknown`] or [`ProposeError::Stopped`]. If the disk does not answer within ten seconds, it returns
    /// all the same, and the folder is free when the process has ended.
    pub async fn shutdown(&self) {
        // The core may wait for the log, which may wait for space: then it hears nothing.
        self.inner.log.stop_waiting();
        if tokio::time::timeout(SHUTDOWN_DEADLINE, self.close()).await.is_err() {
            tracing::error!(dir = %self.inner.config.dir.display(), "the disk does not answer: Raft could not be stopped in order");
        }
    }

    async fn close(&self) {
        // It reports only that its task has ended, which is what is wanted.
        let _ = self.inner.core.shutdown().await;
        let (log, snapshots) = (self.inner.log.clone(), Arc::clone(&self.inner.network.snapshots));
        let closed = blocking(move || {
            log.stop();
            snapshots.close();
        });
        let _ = closed.await;
    }

    pub(crate) fn core(&self) -> &Core {
        &self.inner.core
    }

    pub(crate) fn client(&self, to: &Member) -> Client {
        self.inner.network.client(to)
    }

    pub(crate) fn is_former(&self, id: NodeId) -> bool {
        self.inner.machine.is_former(id)
    }

    pub(crate) fn election_ms_max(&self) -> u64 {
        self.inner.config.election_ms_max
    }

    pub(crate) fn changing(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.inner.changing)
    }

    pub(crate) fn handing_over(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.handing_over
    }

    /// Makes this leader silent: proposals and reads wait, and no heartbeats are sent, until what is answered is dropped.
    pub(crate) fn pause(&self) -> Pause {
        self.inner.paused.send_replace(true);
        self.inner.core.runtime_config().heartbeat(false);
        Pause { paused: Arc::clone(&self.inner.paused), core: self.inner.core.clone() }
    }

    fn since_contact(&self) -> Option<Duration> {
        let at: Option<Instant> = *held(&self.inner.last_contact);
        at.map(|at| at.elapsed())
    }
}

/// Ends the pause when dropped.
pub(crate) struct Pause {
    paused: Arc<watch::Sender<bool>>,
    core: Core,
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.core.runtime_config().heartbeat(true);
        self.paused.send_replace(false);
    }
}

/// A member whose Raft could not go on would look alive and be none: its process ends, and starts anew from its disk.
async fn end_when_failed(core: Core, disk: Arc<dyn Disk>) {
    let mut metrics = core.metrics();
    let has_failed = |now: &Metrics| now.running_state.as_ref().is_err_and(|why| *why != Fatal::Stopped);
    let Ok(Some(why)) = metrics.wait_for(has_failed).await.map(|now| now.running_state.clone().err()) else { return };
    disk.fatal("Raft could not go on", &io::Error::other(why));
}

/// openraft counts entries; ours are batches of very different sizes, so their bytes are watched, too.
struct Sizes {
    core: Core,
    log: Log,
    machine: Machine,
    bytes_max: u64,
}

impl Sizes {
    async fn watch(self, mut leadership: watch::Receiver<Leadership>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SNAPSHOT_CHECK) => {}
                _stopped = leadership.wait_for(|now| now.is_stopped) => return,
            }
            if self.check().await.is_err() {
                return;
            }
        }
    }

    /// Many bytes since the last snapshot ask for another one. Many behind it are dropped: openraft drops no further than
    /// the snapshot goes.
    async fn check(&self) -> Result<(), Fatal<NodeId>> {
        if self.machine.bytes_since_snapshot() > self.bytes_max {
            self.core.trigger().snapshot().await?;
        }
        match self.log.beyond(self.bytes_max) {
            Some(index) => self.core.trigger().purge_log(index).await,
            None => Ok(()),
        }
    }
}
