//! The clients: the same workloads as on real clusters, on a host of the simulated network.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use jlt_core::judgement::Judgement;
use jlt_core::record::{Record, Tally, tally};
use jlt_workloads::{Api, Client, Shared, Stream, Wire, Workload, async_trait};
use turmoil::net::{TcpStream, UdpSocket};

use crate::trace::Trace;
use crate::{agents, names};

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
    workloads: Vec<Arc<dyn Workload>>,
    wire: Rc<dyn Wire>,
    places: Places,
    /// Set when there is something to do, for its clock is that of the clients' host.
    shared: RefCell<Option<Arc<Shared>>>,
    trace: Trace,
    phase: Cell<Phase>,
    /// What was found without a judge.
    wrong: RefCell<Vec<String>>,
    is_finished: Cell<bool>,
}

/// Who is asked: where each is, and how often it was started.
#[derive(Default)]
pub(crate) struct Places {
    pub(crate) servers: Vec<Place>,
    pub(crate) agents: Vec<Place>,
    /// Where a service calls another, by its sidecar.
    pub(crate) upstream: Option<Place>,
    /// The other datacenter's agent, and where a service there is called.
    pub(crate) far: Vec<Place>,
    /// What is registered, and with whom.
    pub(crate) services: Vec<(At, String)>,
}

/// An agent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    Agent(usize),
    /// The other datacenter's.
    Far,
}

/// A port that speaks HTTP, and the counter of its lives.
pub(crate) type Place = (SocketAddr, Arc<AtomicU32>);

impl Places {
    fn shared(&self, seed: u64) -> Shared {
        let lives = |places: &[Place]| places.iter().map(|(_address, lives)| Arc::clone(lives)).collect();
        let upstream = self.upstream.as_ref().map(|(_address, lives)| Arc::clone(lives));
        let near = Shared::new(seed, 0, lives(&self.servers)).with_agents(lives(&self.agents)).with_upstream(upstream);
        near.with_datacenter(lives(&self.far))
    }
}

/// The simulated network, and who is asked, by number.
struct Network {
    places: Vec<SocketAddr>,
}

impl Network {
    fn dns(&self, jlt_workloads::Place::Dns(node): jlt_workloads::Place) -> SocketAddr {
        SocketAddr::new(self.places[node].ip(), names::PORT)
    }
}

#[async_trait(?Send)]
impl Wire for Network {
    async fn connect(&self, number: usize) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect(self.places[number]).await?))
    }

    async fn connect_to(&self, place: jlt_workloads::Place) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect(self.dns(place)).await?))
    }

    async fn exchange(&self, place: jlt_workloads::Place, datagram: &[u8]) -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.send_to(datagram, self.dns(place)).await?;
        let mut answer = vec![0; usize::from(u16::MAX)];
        let (length, _from) = socket.recv_from(&mut answer).await?;
        answer.truncate(length);
        Ok(answer)
    }
}

impl Clients {
    pub(crate) fn new(seed: u64, workloads: Vec<Arc<dyn Workload>>, places: Places, trace: Trace) -> Self {
        let all = places.servers.iter().chain(&places.agents).chain(&places.upstream).chain(&places.far);
        let wire = Rc::new(Network { places: all.map(|(address, _lives)| *address).collect() });
        let inner = Inner {
            seed,
            workloads,
            wire,
            places,
            shared: RefCell::default(),
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
        let shared = Arc::new(inner.places.shared(inner.seed).thinking(THINK_MS_MAX));
        inner.shared.replace(Some(Arc::clone(&shared)));
        self.register(&shared).await?;
        jlt_workloads::load(&inner.workloads, &shared, &inner.wire).await?;
        self.wait_for(Phase::Finish).await;
        let nodes: Vec<String> = (1..=inner.places.agents.len()).map(agents::name).collect();
        let mut wrong = Vec::from_iter(jlt_workloads::converge(&shared, &inner.wire, &nodes).await.err());
        wrong.extend(jlt_workloads::finish(&inner.workloads, &shared, &inner.wire).await);
        inner.wrong.replace(wrong);
        for record in self.history() {
            inner.trace.note(&format!("{record:?}"));
        }
        inner.is_finished.set(true);
        Ok(())
    }

    /// Registers the services that stay.
    async fn register(&self, shared: &Arc<Shared>) -> Result<(), String> {
        let mut client = Client::new(Arc::clone(shared), Rc::clone(&self.inner.wire), "services", 0);
        for (at, service) in &self.inner.places.services {
            let agent = match at {
                At::Agent(agent) => client.agent(*agent),
                At::Far => client.far_agent(),
            };
            let register = async |api: &mut Api<'_>| api.send("PUT", "/v1/agent/service/register", service).await;
            client.insist_of(agent, register).await?;
        }
        Ok(())
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.inner.phase.set(phase);
        if phase == Phase::Finish {
            self.inner.shared.borrow().iter().for_each(|shared| shared.stop());
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
