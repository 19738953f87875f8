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
const THINK_MS_MAX: u64 = 200;
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
    workloads: Vec<Arc<dyn Workload>>,
    wire: Rc<dyn Wire>,
    lives: Vec<Arc<AtomicU32>>,
    trace: Trace,
    phase: Cell<Phase>,
    /// Set when there is something to do, for its clock is that of the clients' host.
    shared: RefCell<Option<Arc<Shared>>>,
    /// What was found without a judge.
    wrong: RefCell<Vec<String>>,
    is_finished: Cell<bool>,
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
    pub(crate) fn new(
        seed: u64,
        workloads: Vec<Arc<dyn Workload>>,
        servers: Vec<IpAddr>,
        lives: Vec<Arc<AtomicU32>>,
        trace: Trace,
    ) -> Self {
        let inner = Inner {
            seed,
            workloads,
            wire: Rc::new(Network { servers }),
            lives,
            trace,
            phase: Cell::new(Phase::Wait),
            shared: RefCell::default(),
            wrong: RefCell::default(),
            is_finished: Cell::new(false),
        };
        Self { inner: Rc::new(inner) }
    }

    /// What the clients' host runs.
    pub(crate) async fn run(self) -> turmoil::Result {
        let inner = &*self.inner;
        self.wait_for(Phase::Load).await;
        let shared = Shared::new(inner.seed, 0, inner.lives.clone()).thinking(THINK_MS_MAX);
        let shared = Arc::new(shared);
        inner.shared.replace(Some(Arc::clone(&shared)));
        jlt_workloads::load(&inner.workloads, &shared, &inner.wire).await?;
        self.wait_for(Phase::Finish).await;
        let mut wrong = Vec::from_iter(jlt_workloads::converge(&shared, &inner.wire).await.err());
        wrong.extend(jlt_workloads::finish(&inner.workloads, &shared, &inner.wire).await);
        inner.wrong.replace(wrong);
        for record in shared.history().iter() {
            inner.trace.note(&format!("{record:?}"));
        }
        inner.is_finished.set(true);
        Ok(())
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.inner.phase.set(phase);
        if let (Phase::Finish, Some(shared)) = (phase, &*self.inner.shared.borrow()) {
            shared.stop();
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
        for workload in &self.inner.workloads {
            judgement.add(workload.name(), workload.judge(&history));
        }
        judgement
    }

    fn history(&self) -> Vec<Record> {
        self.inner.shared.borrow().as_ref().map(|shared| shared.history().clone()).unwrap_or_default()
    }

    async fn wait_for(&self, phase: Phase) {
        while self.inner.phase.get() != phase {
            tokio::time::sleep(WAIT).await;
        }
    }
}
