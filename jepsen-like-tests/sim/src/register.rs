//! Clients read, write and compare-and-set a few keys of the KV store, each through any server. With `consistent` reads each key is linearizable.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use jlt_core::checker::{OPERATIONS_PER_KEY_MAX, UNKNOWN_PER_KEY_MAX, linearizable, lost_write};
use jlt_core::history::{Call, Operation, Outcome, Value};
use jlt_core::judgement::Judgement;
use jlt_core::rng::Rng;
use jlt_core::verdict::Counts;
use serde_json::Value as Json;

use crate::http::{self, Failure};
use crate::trace::Trace;

const CLIENTS: usize = 5;
/// Keys in use at one time. Few, so that clients meet on them.
const KEYS: usize = 3;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a client thinks between two operations, in milliseconds.
const THINK_MS_MAX: u64 = 100;
/// How often a last read is tried.
const LAST_READS_MAX: u32 = 6;
const PREFIX: &str = "sim/register/";

/// What the clients are to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing yet.
    Wait,
    /// One operation after the other.
    Load,
    /// Read every key once more.
    Finish,
    /// Look at what each server has by itself, and end.
    Compare,
}

/// What the clients share. Clones are the same.
#[derive(Clone)]
pub(crate) struct Register {
    shared: Rc<Shared>,
}

struct Shared {
    seed: u64,
    servers: Vec<IpAddr>,
    trace: Trace,
    phase: Cell<Phase>,
    history: RefCell<Vec<Operation>>,
    places: RefCell<[Place; KEYS]>,
    next_value: Cell<Value>,
    /// Everything below the prefix as each server has it in the end.
    finals: RefCell<Vec<(IpAddr, String)>>,
    is_read: Cell<bool>,
    is_finished: Cell<bool>,
}

/// A place for a key; when a key has seen enough, the next generation takes its place.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    generation: u32,
    calls: usize,
    unknown: usize,
}

/// A value and the index at which it was written; `None` if there is none.
type Seen = Option<(Value, u64)>;

impl Register {
    pub(crate) fn new(seed: u64, servers: Vec<IpAddr>, trace: Trace) -> Self {
        let shared = Shared {
            seed,
            servers,
            trace,
            phase: Cell::new(Phase::Wait),
            history: RefCell::default(),
            places: RefCell::default(),
            next_value: Cell::new(1),
            finals: RefCell::default(),
            is_read: Cell::new(false),
            is_finished: Cell::new(false),
        };
        Self { shared: Rc::new(shared) }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.shared.phase.set(phase);
    }

    /// Whether every key was read once more.
    pub(crate) fn is_read(&self) -> bool {
        self.shared.is_read.get()
    }

    /// Whether all is done.
    pub(crate) fn is_finished(&self) -> bool {
        self.shared.is_finished.get()
    }

    /// Operations by outcome.
    pub(crate) fn counts(&self) -> Counts {
        Counts::of(&self.shared.history.borrow())
    }

    /// All clients, on one host, until the last reads are done.
    pub(crate) async fn run(self) -> turmoil::Result {
        self.wait_for(Phase::Load).await;
        let clients = (0..CLIENTS).map(|client| tokio::task::spawn_local(self.clone().client(client)));
        for client in clients.collect::<Vec<_>>() {
            client.await?;
        }
        self.wait_for(Phase::Finish).await;
        self.finish().await;
        self.shared.is_read.set(true);
        self.wait_for(Phase::Compare).await;
        self.compare().await;
        self.shared.is_finished.set(true);
        Ok(())
    }

    async fn wait_for(&self, phase: Phase) {
        while self.shared.phase.get() != phase {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn client(self, client: usize) {
        let mut rng = Rng::new(self.shared.seed, 200 + client as u64);
        // What this client last saw of a key, so that it has an index to compare with.
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        while self.shared.phase.get() == Phase::Load {
            tokio::time::sleep(rng.between_ms(0, THINK_MS_MAX)).await;
            let place = rng.below(KEYS);
            let key = self.key_of(place);
            let server = *rng.pick(&self.shared.servers);
            let outcome = self.operate(client, &mut rng, server, &key, &mut seen).await;
            if outcome == Outcome::Unknown {
                self.shared.places.borrow_mut()[place].unknown += 1;
            }
        }
    }

    async fn operate(
        &self,
        client: usize,
        rng: &mut Rng,
        server: IpAddr,
        key: &str,
        seen: &mut BTreeMap<String, Seen>,
    ) -> Outcome {
        let new = self.shared.next_value.replace(self.shared.next_value.get() + 1);
        let start_ns = now_ns();
        let (call, outcome) = match (rng.below(8), seen.get(key).copied()) {
            (0..3, _) => (Call::Write(new), put(server, key, None, new).await),
            (3..5, Some(before)) => {
                let expected = before.map(|(value, _index)| value);
                let index = before.map_or(0, |(_value, index)| index);
                (Call::Cas { expected, new }, put(server, key, Some(index), new).await)
            }
            _ => {
                let read = read(server, key).await;
                if let Ok(now) = read {
                    seen.insert(key.to_owned(), now);
                }
                (Call::Read, read.map_or(Outcome::Failed, |now| Outcome::Saw(now.map(|(value, _index)| value))))
            }
        };
        self.record(client, server, key, call, outcome, start_ns);
        outcome
    }

    fn record(&self, client: usize, server: IpAddr, key: &str, call: Call, outcome: Outcome, start_ns: u64) {
        let operation = Operation { client, key: key.to_owned(), call, outcome, start_ns, end_ns: now_ns() };
        self.shared.trace.note(&format!("{server} {operation:?}"));
        self.shared.history.borrow_mut().push(operation);
    }

    /// A key that has seen neither too many operations nor too many of unknown outcome.
    fn key_of(&self, place: usize) -> String {
        let state = &mut self.shared.places.borrow_mut()[place];
        if state.calls >= OPERATIONS_PER_KEY_MAX || state.unknown >= UNKNOWN_PER_KEY_MAX {
            *state = Place { generation: state.generation + 1, ..Place::default() };
        }
        state.calls += 1;
        key_name(place, state.generation)
    }

    /// Reads every key. A connection that lost something may take a while to be given up, so that a read may fail a few times.
    async fn finish(&self) {
        let places = *self.shared.places.borrow();
        for (place, state) in places.iter().enumerate() {
            for generation in 0..=state.generation {
                let key = key_name(place, generation);
                let server = self.shared.servers[place % self.shared.servers.len()];
                for _try in 0..LAST_READS_MAX {
                    let start_ns = now_ns();
                    let seen = read(server, &key).await;
                    let outcome = seen.map_or(Outcome::Failed, |now| Outcome::Saw(now.map(|(value, _index)| value)));
                    self.record(CLIENTS, server, &key, Call::Read, outcome, start_ns);
                    if seen.is_ok() {
                        break;
                    }
                }
            }
        }
    }

    /// Takes everything as each server has it by itself.
    async fn compare(&self) {
        for server in &self.shared.servers {
            let target = format!("/v1/kv/{PREFIX}?recurse&stale");
            let reply = http::request(*server, Method::GET, &target, String::new(), REQUEST_TIMEOUT).await;
            let text = reply.map_or_else(|failure| format!("{failure:?}"), |reply| reply.text());
            self.shared.finals.borrow_mut().push((*server, text));
        }
    }

    /// What is wrong with what the clients saw.
    pub(crate) fn judge(&self) -> Judgement {
        let mut judgement = Judgement::default();
        let history = self.shared.history.borrow();
        let mut keys: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for operation in history.iter() {
            keys.entry(&operation.key).or_default().push(operation.clone());
        }
        for (key, operations) in &keys {
            judge_key(key, operations, &mut judgement);
        }
        let finals = self.shared.finals.borrow();
        if let Some(((first, one), (second, other))) =
            finals.iter().zip(finals.iter().skip(1)).find(|((_, one), (_, other))| one != other)
        {
            judgement
                .violations
                .push(format!("{first} and {second} hold different values in the end: {one} / {other}"));
        }
        let counts = Counts::of(&history);
        judgement.cover("acknowledged writes", counts.acknowledged as u64, 20);
        judgement.cover("reads", counts.read as u64, 20);
        judgement
    }
}

fn judge_key(key: &str, operations: &[Operation], judgement: &mut Judgement) {
    match linearizable(operations) {
        Ok(true) => {}
        Ok(false) => judgement.violations.push(format!("{key} is not linearizable")),
        Err(why) => judgement.undecided.push(format!("{key}: {why}")),
    }
    let last = operations.iter().rfind(|operation| operation.client == CLIENTS);
    match last.map(|read| read.outcome) {
        Some(Outcome::Saw(last)) => judgement.violations.extend(lost_write(operations, last)),
        _ => judgement.violations.push(format!("{key} could not be read in the end")),
    }
}

async fn put(server: IpAddr, key: &str, cas: Option<u64>, value: Value) -> Outcome {
    let target = match cas {
        Some(index) => format!("/v1/kv/{key}?cas={index}"),
        None => format!("/v1/kv/{key}"),
    };
    match http::request(server, Method::PUT, &target, value.to_string(), REQUEST_TIMEOUT).await {
        Ok(reply) if reply.status == 200 && reply.text().trim() == "true" => Outcome::Done,
        Ok(reply) if reply.status == 200 && cas.is_some() => Outcome::Refused,
        Ok(reply) if (400..500).contains(&reply.status) => Outcome::Failed,
        Err(Failure::Unsent) => Outcome::Failed,
        Ok(_) | Err(Failure::Unknown) => Outcome::Unknown,
    }
}

async fn read(server: IpAddr, key: &str) -> Result<Seen, ()> {
    let target = format!("/v1/kv/{key}?consistent");
    let reply =
        http::request(server, Method::GET, &target, String::new(), REQUEST_TIMEOUT).await.map_err(|_failure| ())?;
    match reply.status {
        200 => entry(&reply.body).map(Some).ok_or(()),
        404 => Ok(None),
        _ => Err(()),
    }
}

fn entry(body: &[u8]) -> Option<(Value, u64)> {
    let rows: Json = serde_json::from_slice(body).ok()?;
    let row = rows.get(0)?;
    let bytes = STANDARD.decode(row.get("Value")?.as_str()?).ok()?;
    let value = String::from_utf8(bytes).ok()?.parse().ok()?;
    Some((value, row.get("ModifyIndex")?.as_u64()?))
}

fn key_name(place: usize, generation: u32) -> String {
    format!("{PREFIX}{place}-{generation}")
}

fn now_ns() -> u64 {
    turmoil::sim_elapsed().map_or(0, |elapsed| u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}
