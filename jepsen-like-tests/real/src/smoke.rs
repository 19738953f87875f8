//! `jlt smoke`: clients read, write and compare-and-set a few keys through any server, while servers are killed, frozen and brought back.
//!
//! Phases: boot, faults under load, heal, final reads, judgement. The history of each key must be linearizable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, SERVERS};
use crate::kv::{self, Entry, KvError};
use jlt_core::checker::{OPERATIONS_PER_KEY_MAX, UNKNOWN_PER_KEY_MAX, linearizable, lost_write};
use jlt_core::history::{Call, Operation, Outcome, Value, save};
use jlt_core::rng::Rng;
use jlt_core::verdict::Verdict;

const CLIENTS: usize = 6;

/// Keys in use at one time. Few, so that clients meet on them.
const KEYS: usize = 3;

/// Acknowledged operations a second below which a run proves too little.
const OK_PER_SECOND_MIN: usize = 10;

/// After an error a client waits this long, so that a cluster without a leader is not flooded.
const BACK_OFF: Duration = Duration::from_millis(50);

/// What the clients share.
struct Run {
    started: Instant,
    servers: Vec<SocketAddr>,
    seed: u64,
    stop: AtomicBool,
    next_value: AtomicU64,
    keys: Mutex<Vec<Key>>,
    history: Mutex<Vec<Operation>>,
}

/// A place for a key; when a key has seen enough, the next generation takes its place.
#[derive(Debug, Clone, Default)]
struct Key {
    generation: u32,
    calls: usize,
    unknown: usize,
}

/// Runs the test. `Err` when it could not be run; what was found is in the verdict. The cluster still holds the evidence.
pub(crate) fn run(binary: &Path, duration: Duration, seed: u64) -> Result<(Verdict, Cluster), String> {
    let mut cluster = Cluster::start(binary)?;
    let run = Run {
        started: Instant::now(),
        servers: cluster.http_addresses(),
        seed,
        stop: AtomicBool::new(false),
        next_value: AtomicU64::new(1),
        keys: Mutex::new(vec![Key::default(); KEYS]),
        history: Mutex::new(Vec::new()),
    };
    let faults = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let run = &run;
            scope.spawn(move || run.client(client));
        }
        let faults = nemesis(&mut cluster, duration, seed);
        run.stop.store(true, Ordering::Relaxed);
        faults
    })
    .inspect_err(|_| cluster.keep())?;
    cluster.heal().inspect_err(|_| cluster.keep())?;

    let mut history = run.history.into_inner().unwrap_or_else(PoisonError::into_inner);
    let last = final_reads(&run.servers, &mut history, run.started)?;
    save(&history, &cluster.folder().join("history.jsonl")).map_err(|error| format!("the history: {error}"))?;
    Ok((judge(seed, &history, &last, faults, duration), cluster))
}

/// Kills or freezes a random server, lets the others go on, restarts or thaws it; until the time is over. Returns how many faults there were.
///
/// A frozen leader is the harder fault: it thaws in the belief that it still leads, while another was elected.
fn nemesis(cluster: &mut Cluster, duration: Duration, seed: u64) -> Result<u32, String> {
    let mut rng = Rng::new(seed, 0);
    let end = Instant::now() + duration;
    let mut faults = 0;
    while Instant::now() < end {
        std::thread::sleep(rng.between_ms(500, 2500));
        let victim = rng.below(SERVERS);
        if rng.below(2) == 0 {
            cluster.kill(victim);
            std::thread::sleep(rng.between_ms(0, 1500));
            cluster.restart(victim)?;
        } else {
            cluster.freeze(victim)?;
            std::thread::sleep(rng.between_ms(100, 3000));
            cluster.thaw(victim)?;
        }
        faults += 1;
    }
    Ok(faults)
}

impl Run {
    /// One client: one operation at a time, each through a server chosen at random.
    fn client(&self, client: usize) {
        let mut rng = Rng::new(self.seed, client as u64 + 1);
        // What this client last saw of a key, so that it has an index to compare with.
        let mut seen: BTreeMap<String, Option<Entry>> = BTreeMap::new();
        while !self.stop.load(Ordering::Relaxed) {
            let (place, key) = self.pick_key(&mut rng);
            let server = self.servers[rng.below(self.servers.len())];
            let start_ns = self.now_ns();
            let (call, outcome) = self.operate(server, &key, &mut seen, &mut rng);
            let end_ns = self.now_ns();
            self.record(place, Operation { client, key, call, outcome, start_ns, end_ns });
            if matches!(outcome, Outcome::Failed | Outcome::Unknown) {
                std::thread::sleep(BACK_OFF);
            }
        }
    }

    /// A key that has seen neither too many operations nor too many of unknown outcome, and its place.
    fn pick_key(&self, rng: &mut Rng) -> (usize, String) {
        let place = rng.below(KEYS);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = &mut keys[place];
        if key.calls >= OPERATIONS_PER_KEY_MAX || key.unknown >= UNKNOWN_PER_KEY_MAX {
            *key = Key { generation: key.generation + 1, ..Key::default() };
        }
        key.calls += 1;
        (place, key_name(place, key.generation))
    }

    fn operate(
        &self,
        server: SocketAddr,
        key: &str,
        seen: &mut BTreeMap<String, Option<Entry>>,
        rng: &mut Rng,
    ) -> (Call, Outcome) {
        let new = || self.next_value.fetch_add(1, Ordering::Relaxed);
        match (rng.below(4), seen.get(key).copied()) {
            (0, _) => {
                let value = new();
                (Call::Write(value), changed(kv::put(server, key, value)))
            }
            (1, Some(entry)) => {
                let (expected, value) = (entry.map(|entry| entry.value), new());
                let index = entry.map_or(0, |entry| entry.modify_index);
                let outcome = changed(kv::compare_and_set(server, key, index, value));
                (Call::Cas { expected, new: value }, outcome)
            }
            _ => match kv::read(server, key) {
                Ok(entry) => {
                    seen.insert(key.to_owned(), entry);
                    (Call::Read, Outcome::Saw(entry.map(|entry| entry.value)))
                }
                // A read that failed changed nothing, whatever its error.
                Err(_) => (Call::Read, Outcome::Failed),
            },
        }
    }

    fn record(&self, place: usize, operation: Operation) {
        if operation.outcome == Outcome::Unknown {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if operation.key == key_name(place, keys[place].generation) {
                keys[place].unknown += 1;
            }
        }
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    fn now_ns(&self) -> u64 {
        elapsed_ns(self.started)
    }
}

fn key_name(place: usize, generation: u32) -> String {
    format!("jlt/register/{place}-{generation}")
}

fn elapsed_ns(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn changed(answer: Result<bool, KvError>) -> Outcome {
    match answer {
        Ok(true) => Outcome::Done,
        Ok(false) => Outcome::Refused,
        Err(KvError::Failed(_)) => Outcome::Failed,
        Err(KvError::Unknown(_)) => Outcome::Unknown,
    }
}

/// Reads every key of the history once more, appends the reads to it, and returns what they saw.
fn final_reads(
    servers: &[SocketAddr],
    history: &mut Vec<Operation>,
    started: Instant,
) -> Result<BTreeMap<String, Option<Value>>, String> {
    let mut last: BTreeMap<String, Option<Value>> =
        history.iter().map(|operation| (operation.key.clone(), None)).collect();
    for (at, (key, value)) in last.iter_mut().enumerate() {
        let start_ns = elapsed_ns(started);
        *value = read_patiently(servers, at, key)?.map(|entry| entry.value);
        let end_ns = elapsed_ns(started);
        let outcome = Outcome::Saw(*value);
        history.push(Operation { client: CLIENTS, key: key.clone(), call: Call::Read, outcome, start_ns, end_ns });
    }
    Ok(last)
}

/// The cluster is whole again, so a read may fail only for a moment.
fn read_patiently(servers: &[SocketAddr], first: usize, key: &str) -> Result<Option<Entry>, String> {
    let mut complaint = String::new();
    for attempt in 0..100 {
        match kv::read(servers[(first + attempt) % servers.len()], key) {
            Ok(entry) => return Ok(entry),
            Err(error) => complaint = format!("{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("the healed cluster does not answer a read of {key}: {complaint}"))
}

/// Judges each key, and whether enough was done.
fn judge(
    seed: u64,
    history: &[Operation],
    last: &BTreeMap<String, Option<Value>>,
    faults: u32,
    duration: Duration,
) -> Verdict {
    let mut verdict = Verdict::new("smoke", seed, history, last.len(), faults);
    for (key, value) in last {
        let of_key: Vec<Operation> = history.iter().filter(|operation| operation.key == *key).cloned().collect();
        if let Some(lost) = lost_write(&of_key, *value) {
            verdict.violations.push(format!("acknowledged write lost: {lost}"));
        }
        match linearizable(&of_key) {
            Ok(true) => {}
            Ok(false) => verdict.violations.push(format!("{key} is not linearizable")),
            Err(why) => verdict.coverage.push(format!("{key}: {why}")),
        }
    }
    let counts = verdict.operations;
    let ok = counts.read + counts.acknowledged + counts.refused;
    let ok_min = OK_PER_SECOND_MIN * usize::try_from(duration.as_secs()).unwrap_or(usize::MAX);
    verdict.cover("operations answered", ok, ok_min);
    verdict.cover("writes acknowledged", counts.acknowledged, 10);
    verdict.cover("reads", counts.read, 10);
    verdict.cover("faults", faults as usize, 1);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(key: &str, call: Call, outcome: Outcome, at: u64) -> Operation {
        Operation { client: 0, key: key.to_owned(), call, outcome, start_ns: at * 2, end_ns: at * 2 + 1 }
    }

    /// A history that does enough, each operation after the other, and its last value.
    fn good_history() -> (Vec<Operation>, BTreeMap<String, Option<Value>>) {
        let mut history = Vec::new();
        for at in 0..20 {
            history.push(operation("a", Call::Write(at + 1), Outcome::Done, at * 2));
            history.push(operation("a", Call::Read, Outcome::Saw(Some(at + 1)), at * 2 + 1));
        }
        (history, BTreeMap::from([("a".to_owned(), Some(20))]))
    }

    fn judged(history: &[Operation], last: &BTreeMap<String, Option<Value>>, faults: u32) -> Verdict {
        judge(1, history, last, faults, Duration::from_secs(2))
    }

    #[test]
    fn a_good_run_passes() {
        let (history, last) = good_history();
        let verdict = judged(&history, &last, 1);
        assert!(verdict.passed(), "{}", verdict.to_json());
    }

    #[test]
    fn a_lost_write_and_a_stale_read_fail() {
        let (history, _) = good_history();
        let gone = BTreeMap::from([("a".to_owned(), Some(19))]);
        assert!(judged(&history, &gone, 1).violations[0].contains("lost"));

        let (mut history, last) = good_history();
        history.push(operation("a", Call::Read, Outcome::Saw(Some(3)), 1000));
        assert!(judged(&history, &last, 1).violations[0].contains("not linearizable"));
    }

    #[test]
    fn a_run_without_faults_or_without_load_fails() {
        let (history, last) = good_history();
        assert!(!judged(&history, &last, 0).passed());
        assert!(!judged(&[], &BTreeMap::new(), 5).passed());
    }
}
