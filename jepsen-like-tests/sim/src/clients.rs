//! The clients: the same workloads as on real clusters, on a host of the simulated network.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Tally, tally};
use jlt_workloads::{Shared, Stream, Wire, Workload, async_trait};
use turmoil::net::TcpStream;

use crate::trace::Trace;

/// Where the servers serve HTTP.
pub(crate) const PORT: u16 = 8500;

/// Clients think so long at most, so that a simulated second does not take longer than it must.
const THINK_MS_MAX: u64 = 300;
/// How often the clients look at what they are to do.
const WAIT: Duration = Duration::from_millis(5);

/// What the clients are to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing yet.
    Wait,
    /// One operation after the other.
    Load,
    /// The final reads of servers that have come together.
    Finish,
}

/// A handle on all clients. Clones are the same.
#[derive(Clone)]
pub(crate) struct Clients {
    inner: Rc<Inner>,
}

struct Inner {
    seed: u64,
    /// Those of the servers, and those of the agents.
    groups: [Group; 2],
    trace: Trace,
    phase: Cell<Phase>,
    /// What was found without a judge.
    wrong: RefCell<Vec<String>>,
    is_finished: Cell<bool>,
}

/// Workloads, and those whom they ask.
pub(crate) struct Group {
    workloads: Vec<Arc<dyn Workload>>,
    wire: Rc<dyn Wire>,
    lives: Vec<Arc<AtomicU32>>,
    /// Set when there is something to do, for its clock is that of the clients' host.
    shared: RefCell<Option<Arc<Shared>>>,
}

impl Group {
    /// Workloads on hosts of these addresses, which count their lives.
    pub(crate) fn new(workloads: Vec<Arc<dyn Workload>>, hosts: Vec<(IpAddr, Arc<AtomicU32>)>) -> Self {
        let (servers, lives) = hosts.into_iter().unzip();
        Self { workloads, wire: Rc::new(Network { servers }), lives, shared: RefCell::default() }
    }

    fn begin(&self, seed: u64, round: u64) -> Arc<Shared> {
        let shared = Arc::new(Shared::new(seed, round, self.lives.clone()).thinking(THINK_MS_MAX));
        self.shared.replace(Some(Arc::clone(&shared)));
        shared
    }
}

/// The simulated network.
struct Network {
    servers: Vec<IpAddr>,
}

#[async_trait(?Send)]
impl Wire for Network {
    async fn connect(&self, server: usize) -> std::io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect((self.servers[server], PORT)).await?))
    }
}

impl Clients {
    pub(crate) fn new(seed: u64, servers: Group, agents: Group, trace: Trace) -> Self {
        let inner = Inner {
            seed,
            groups: [servers, agents],
            trace,
            phase: Cell::new(Phase::Wait),
            wrong: RefCell::default(),
            is_finished: Cell::new(false),
        };
        Self { inner: Rc::new(inner) }
    }

    /// What the clients' host runs.
    pub(crate) async fn run(self) -> turmoil::Result {
        let inner = &*self.inner;
        self.wait_for(Phase::Load).await;
        let [servers, agents] = &inner.groups;
        let (to_servers, to_agents) = (servers.begin(inner.seed, 0), agents.begin(inner.seed, 1));
        let (one, other) = tokio::join!(
            jlt_workloads::load(&servers.workloads, &to_servers, &servers.wire),
            jlt_workloads::load(&agents.workloads, &to_agents, &agents.wire)
        );
        one.and(other)?;
        self.wait_for(Phase::Finish).await;
        let mut wrong = jlt_workloads::finish(&agents.workloads, &to_agents, &agents.wire).await;
        let nodes: Vec<String> = (1..=agents.lives.len()).map(crate::agents::name).collect();
        wrong.extend(jlt_workloads::converge(&to_servers, &servers.wire, &nodes).await.err());
        wrong.extend(jlt_workloads::finish(&servers.workloads, &to_servers, &servers.wire).await);
        inner.wrong.replace(wrong);
        for record in self.history() {
            inner.trace.note(&format!("{record:?}"));
        }
        inner.is_finished.set(true);
        Ok(())
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.inner.phase.set(phase);
        let shared = self.inner.groups.iter().filter_map(|group| group.shared.borrow().clone());
        if phase == Phase::Finish {
            shared.for_each(|shared| shared.stop());
        }
    }

    /// Whether all is done.
    pub(crate) fn is_finished(&self) -> bool {
        self.inner.is_finished.get()
    }

    /// Operations by workload and outcome.
    pub(crate) fn tally(&self) -> BTreeMap<String, Tally> {
        tally(&self.history())
    }

    /// What is wrong with what the clients saw.
    pub(crate) fn judge(&self) -> Judgement {
        let mut judgement = Judgement { violations: self.inner.wrong.borrow().clone(), ..Judgement::default() };
        let history = self.history();
        for workload in self.inner.groups.iter().flat_map(|group| &group.workloads) {
            judgement.add(workload.name(), workload.judge(&history));
        }
        judgement
    }

    fn history(&self) -> Vec<Record> {
        let shared = self.inner.groups.iter().filter_map(|group| group.shared.borrow().clone());
        shared.flat_map(|shared| shared.history().clone()).collect()
    }

    async fn wait_for(&self, phase: Phase) {
        while self.inner.phase.get() != phase {
            tokio::time::sleep(WAIT).await;
        }
    }
}
