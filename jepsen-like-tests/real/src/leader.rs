//! `jlt kill --leader`: the leader is killed again and again under a steady stream of writes to the others. What is measured is the gap: the longest
//! time round a kill in which no write was acknowledged. No acknowledged write may be lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jlt_core::history::{Call, Operation, Outcome, save};
use jlt_core::rng::Rng;
use jlt_core::verdict::Verdict;

use crate::cluster::{Cluster, READY_TIMEOUT, SERVERS};
use crate::http;
use crate::kill::judge;
use crate::kv::{self, KvError};

const WRITERS: usize = 6;

/// Between two writes of one writer, so that the machine is not busy with them alone.
const PACE: Duration = Duration::from_millis(5);

const PREFIX: &str = "jlt/leader/";

/// After writes are acknowledged again they go on for so long before the dead leader comes back.
const AFTER: Duration = Duration::from_millis(1_500);

/// All is well for so long before the next kill.
const CALM: Duration = Duration::from_millis(1_000);

const NOBODY: usize = usize::MAX;

/// What the writers share.
struct Run {
    started: Instant,
    servers: Vec<SocketAddr>,
    seed: u64,
    /// Who is dead or about to be.
    victim: AtomicUsize,
    stop: AtomicBool,
    history: Mutex<Vec<Operation>>,
    /// When writes were acknowledged.
    acknowledged_ns: Mutex<Vec<u64>>,
}

/// Runs the test. `Err` when it could not be run.
pub(crate) fn run(binary: &Path, rounds: u32, seed: u64) -> Result<(Verdict, Cluster), String> {
    let mut cluster = Cluster::start(binary)?;
    let run = Run {
        started: Instant::now(),
        servers: cluster.http_addresses(),
        seed,
        victim: AtomicUsize::new(NOBODY),
        stop: AtomicBool::new(false),
        history: Mutex::default(),
        acknowledged_ns: Mutex::default(),
    };
    let gaps_ms = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let run = &run;
            scope.spawn(move || run.write(writer));
        }
        let gaps = run.kill_leaders(&mut cluster, rounds);
        run.stop.store(true, Ordering::Relaxed);
        gaps
    })
    .inspect_err(|_| cluster.keep())?;
    cluster.heal().inspect_err(|_| cluster.keep())?;

    let history = run.history.into_inner().unwrap_or_else(PoisonError::into_inner);
    save(&history, &cluster.folder().join("history.jsonl")).map_err(|error| format!("the history: {error}"))?;
    let kept = kv::read_below(run.servers[0], PREFIX)
        .map_err(|error| format!("the healed cluster does not answer the final read: {error:?}"))?;
    let mut verdict = judge("kill leader", seed, &history, &kept, gaps_ms.len() as u32, rounds);
    verdict.figures = figures(&gaps_ms);
    Ok((verdict, cluster))
}

impl Run {
    /// Puts one fresh key after the other through a server that lives.
    fn write(&self, writer: usize) {
        let mut rng = Rng::new(self.seed, writer as u64 + 1);
        for number in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let victim = self.victim.load(Ordering::SeqCst);
            let living: Vec<usize> = (0..SERVERS).filter(|server| *server != victim).collect();
            let key = format!("{PREFIX}{writer}-{number}");
            let start_ns = self.now_ns();
            let outcome = match kv::put(self.servers[*rng.pick(&living)], &key, number) {
                Ok(true) => Outcome::Done,
                Ok(false) => Outcome::Refused,
                Err(KvError::Failed(_)) => Outcome::Failed,
                Err(KvError::Unknown(_)) => Outcome::Unknown,
            };
            let end_ns = self.now_ns();
            if outcome == Outcome::Done {
                self.acknowledged_ns.lock().unwrap_or_else(PoisonError::into_inner).push(end_ns);
            }
            let operation = Operation { client: writer, key, call: Call::Write(number), outcome, start_ns, end_ns };
            self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
            std::thread::sleep(PACE);
        }
    }

    /// The gap of each round, in milliseconds.
    fn kill_leaders(&self, cluster: &mut Cluster, rounds: u32) -> Result<Vec<u64>, String> {
        let mut rng = Rng::new(self.seed, 0);
        let mut gaps_ms = Vec::new();
        for round in 1..=rounds {
            cluster.heal()?;
            let leader = self.await_calm()?;
            std::thread::sleep(rng.between_ms(0, 500));
            self.victim.store(leader, Ordering::SeqCst);
            let killed_ns = self.now_ns();
            cluster.kill(leader);
            self.await_writes(killed_ns, round)?;
            std::thread::sleep(AFTER);
            let now_ns = self.now_ns();
            let acknowledged_ns = self.acknowledged_ns.lock().unwrap_or_else(PoisonError::into_inner).clone();
            gaps_ms.push(gap_ns(&acknowledged_ns, killed_ns, now_ns) / 1_000_000);
            eprintln!("{round} of {rounds}: s{} killed, gap {} ms", leader + 1, gaps_ms[gaps_ms.len() - 1]);
            cluster.restart(leader)?;
            cluster.heal()?;
            self.victim.store(NOBODY, Ordering::SeqCst);
        }
        Ok(gaps_ms)
    }

    /// Waits until all servers name one leader for some time.
    fn await_calm(&self) -> Result<usize, String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut since: Option<(usize, Instant)> = None;
        while Instant::now() < deadline {
            let named: Vec<Option<usize>> = self.servers.iter().map(|server| self.leader_of(*server)).collect();
            since = match (named[0], since) {
                (Some(leader), _) if named.iter().any(|other| *other != Some(leader)) => None,
                (Some(leader), Some((before, when))) if leader == before => Some((before, when)),
                (Some(leader), _) => Some((leader, Instant::now())),
                (None, _) => None,
            };
            if let Some((leader, when)) = since
                && when.elapsed() >= CALM
            {
                return Ok(leader);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("the servers do not agree on a leader within {READY_TIMEOUT:?}"))
    }

    fn leader_of(&self, server: SocketAddr) -> Option<usize> {
        let reply = http::request(server, "GET", "/v1/status/leader", b"", Duration::from_secs(1)).ok()?;
        let text = String::from_utf8(reply.body).ok()?;
        self.servers.iter().position(|other| text.contains(&format!("{}:", other.ip())))
    }

    /// Waits until a write that began after the kill was acknowledged.
    fn await_writes(&self, killed_ns: u64, round: u32) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let is_new = |operation: &Operation| operation.outcome == Outcome::Done && operation.start_ns > killed_ns;
        while Instant::now() < deadline {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            if history.iter().rev().take(WRITERS * 4).any(is_new) {
                return Ok(());
            }
            drop(history);
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("round {round}: no write was acknowledged for {READY_TIMEOUT:?} after the leader was killed"))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The longest time between two acknowledgements of which the second came after `from_ns`, or since the last one.
fn gap_ns(acknowledged_ns: &[u64], from_ns: u64, now_ns: u64) -> u64 {
    let mut times = acknowledged_ns.to_vec();
    times.push(now_ns);
    times.sort_unstable();
    let pairs = times.windows(2).filter(|pair| pair[1] >= from_ns);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(now_ns)
}

/// By nearest rank.
fn figures(gaps_ms: &[u64]) -> BTreeMap<&'static str, u64> {
    let mut sorted = gaps_ms.to_vec();
    sorted.sort_unstable();
    let at =
        |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    BTreeMap::from([("gap_p50_ms", at(50)), ("gap_p90_ms", at(90)), ("gap_p99_ms", at(99)), ("gap_max_ms", at(100))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_silence_that_ends_after_the_kill() {
        let acknowledged = [10, 20, 500, 510, 900, 1_900, 1_910];
        assert_eq!(gap_ns(&acknowledged, 905, 2_000), 1_000, "from the last before the kill");
        assert_eq!(gap_ns(&acknowledged, 1_905, 2_000), 90, "and to now");
        assert_eq!(gap_ns(&acknowledged, 0, 2_000), 1_000);
        assert_eq!(gap_ns(&[], 5, 2_000), 2_000);
        assert_eq!(gap_ns(&[30, 10, 20], 15, 31), 10, "writers do not come in order");
    }

    #[test]
    fn figures_are_by_nearest_rank() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let of = |gaps: &[u64]| figures(gaps).into_values().collect::<Vec<_>>();
        // In the order of their names: max, p50, p90, p99.
        assert_eq!(of(&hundred), [100, 50, 90, 99]);
        assert_eq!(of(&[7]), [7, 7, 7, 7]);
        assert_eq!(of(&[]), [0, 0, 0, 0]);
    }
}
