//! What a workload is, and the client that it is given. A new one is a file below `workloads/` and a line in [`workloads::all`](crate::workloads::all).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jlt_core::judgement::Judgement;
use jlt_core::record::{Outcome, Record};
use jlt_core::rng::Rng;
use serde::Serialize;

use crate::kv::KvError;

/// After an error a client waits this long, so that a cluster without a leader is not flooded.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How long a healed cluster may take to answer a final read.
const PATIENCE: Duration = Duration::from_secs(30);

/// One way to use the cluster, and the judge of what was seen.
pub(crate) trait Workload: Send + Sync {
    /// As on the command line, in the history and in the verdict.
    fn name(&self) -> &'static str;

    /// How many clients there are; each is a thread.
    fn clients(&self) -> usize;

    /// What one client does while [`Client::goes_on`]: it asks through [`Client::ask`], which times and records.
    fn run(&self, client: &mut Client<'_>);

    /// When all faults are over and the cluster is healed: the final reads, by one client, through [`Client::insist`].
    fn finish(&self, client: &mut Client<'_>) -> Result<(), String>;

    /// What the history says; records of other workloads are in it, too.
    fn judge(&self, history: &[Record]) -> Judgement;
}

/// What all clients of a run share.
pub(crate) struct Shared {
    pub(crate) started: Instant,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) lives: Vec<Arc<AtomicU32>>,
    pub(crate) seed: u64,
    pub(crate) stop: AtomicBool,
    pub(crate) history: Mutex<Vec<Record>>,
    pub(crate) next: AtomicU64,
}

/// One client of one workload.
pub(crate) struct Client<'a> {
    /// Which of the workload's clients this is.
    pub(crate) number: usize,
    /// For its choices.
    pub(crate) rng: Rng,
    workload: &'static str,
    shared: &'a Shared,
}

impl Shared {
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl<'a> Client<'a> {
    pub(crate) fn new(shared: &'a Shared, workload: &'static str, number: usize) -> Self {
        let name = workload.bytes().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Self { number, rng: Rng::new(shared.seed ^ name, number as u64 + 1), workload, shared }
    }

    /// Whether there is still something to do.
    pub(crate) fn goes_on(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed)
    }

    /// A server chosen at random.
    pub(crate) fn any_server(&mut self) -> usize {
        self.rng.below(self.shared.servers.len())
    }

    /// A number that nobody else of this run gets.
    pub(crate) fn unique(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks a server, and records what was asked and what came of it. After an error it waits a moment.
    pub(crate) fn ask<C: Serialize, S: Serialize>(
        &mut self,
        server: usize,
        call: C,
        send: impl FnOnce(SocketAddr) -> Result<S, KvError>,
    ) -> Result<S, KvError> {
        let life = self.shared.lives[server].load(Ordering::SeqCst);
        let start_ns = self.shared.now_ns();
        let answer = send(self.shared.servers[server]);
        let end_ns = self.shared.now_ns();
        // Invariant: calls and answers are plain structs and enums with text keys, which always have a JSON form.
        let json = |value: serde_json::Result<serde_json::Value>| value.expect("a call or answer has a JSON form");
        let outcome = match &answer {
            Ok(seen) => Outcome::Ok(json(serde_json::to_value(seen))),
            Err(KvError::Failed(why)) => Outcome::Failed(why.clone()),
            Err(KvError::Unknown(why)) => Outcome::Unknown(why.clone()),
        };
        let call = json(serde_json::to_value(call));
        let workload = self.workload.to_owned();
        let record = Record { workload, client: self.number, server, life, call, outcome, start_ns, end_ns };
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        if answer.is_err() {
            std::thread::sleep(BACK_OFF);
        }
        answer
    }

    /// Asks a healed cluster until a server answers.
    pub(crate) fn insist<C: Serialize + Clone, S: Serialize>(
        &mut self,
        call: C,
        send: impl Fn(SocketAddr) -> Result<S, KvError>,
    ) -> Result<S, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let server = self.any_server();
            match self.ask(server, call.clone(), &send) {
                Ok(seen) => return Ok(seen),
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("{}: the healed cluster does not answer: {error:?}", self.workload));
                }
                Err(_) => {}
            }
        }
    }
}
