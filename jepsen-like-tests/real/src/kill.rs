//! `jlt kill` and `jlt power`: writers put fresh keys while servers are killed, or lose their power, at random moments, sometimes all at once; at the end every acknowledged key is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, READY_TIMEOUT, SERVERS, World};
use crate::kv::{self, Entry, KvError};
use jlt_core::history::{Call, Operation, Outcome, save};
use jlt_core::rng::Rng;
use jlt_core::verdict::Verdict;
use jlt_fs::{Lost, Survivors};

const WRITERS: usize = 4;

/// Every so many rounds all servers are killed at once: then only what is on the disks is left.
const ALL_AT_ONCE_EVERY: u32 = 5;

/// After an error a writer waits this long.
const BACK_OFF: Duration = Duration::from_millis(50);

const PREFIX: &str = "jlt/kill/";

/// A line of progress every so many rounds.
const TELL_EVERY: u32 = 25;

/// Syncs hang so long before the power is cut.
const HOLD_MS_MAX: u64 = 60;

/// What may survive a power cut beside what was synced. A frame of the log is often smaller than a sector: it tears only at any byte.
const SURVIVORS: [Survivors; 4] = [Survivors::Nothing, Survivors::Some, Survivors::Torn(1), Survivors::Torn(512)];

/// Of so many cuts one at least has torn a write.
const TORN_ONE_IN: u64 = 5;

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// SIGKILL.
    Kill,
    /// SIGKILL, and its disk loses what was not synced.
    Power,
    /// The same, and the disk has lied about what was: the control, which must fail.
    PowerOnLies,
}

impl How {
    fn mode(self) -> &'static str {
        match self {
            How::Kill => "kill",
            How::Power => "power",
            How::PowerOnLies => "power on lying disks",
        }
    }

    fn start(self, binary: &Path, seed: u64) -> Result<Cluster, String> {
        if self == How::Kill {
            return Cluster::start(binary);
        }
        jlt_fs::apart().map_err(|error| format!("mounts of our own (needs root): {error}"))?;
        let cluster = Cluster::start_in(binary, World { disks: Some(seed), ..World::default() })?;
        if self == How::PowerOnLies {
            cluster.let_disks_lie();
        }
        Ok(cluster)
    }
}

/// What the writers share.
struct Run {
    how: How,
    /// What power cuts took.
    lost: Mutex<Lost>,
    started: Instant,
    servers: Vec<SocketAddr>,
    seed: u64,
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    history: Mutex<Vec<Operation>>,
}

/// Runs the test. `Err` when it could not be run; what was found is in the verdict. The cluster still holds the evidence.
pub(crate) fn run(binary: &Path, rounds: u32, seed: u64, how: How) -> Result<(Verdict, Cluster), String> {
    let mut cluster = how.start(binary, seed)?;
    let run = Run {
        how,
        lost: Mutex::default(),
        started: Instant::now(),
        servers: cluster.http_addresses(),
        seed,
        stop: AtomicBool::new(false),
        acknowledged: AtomicUsize::new(0),
        history: Mutex::new(Vec::new()),
    };
    let kills = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let run = &run;
            scope.spawn(move || run.writer(writer));
        }
        let kills = run.nemesis(&mut cluster, rounds);
        run.stop.store(true, Ordering::Relaxed);
        kills
    })
    .inspect_err(|_| cluster.keep())?;
    cluster.heal().inspect_err(|_| cluster.keep())?;

    let history = run.history.into_inner().unwrap_or_else(PoisonError::into_inner);
    save(&history, &cluster.folder().join("history.jsonl")).map_err(|error| format!("the history: {error}"))?;
    let kept = kv::read_below(run.servers[0], PREFIX)
        .map_err(|error| format!("the healed cluster does not answer the final read: {error:?}"))?;
    let lost = *run.lost.lock().unwrap_or_else(PoisonError::into_inner);
    let mut verdict = judge(run.how.mode(), seed, &history, &kept, kills, rounds);
    if run.how != How::Kill {
        cover_losses(&mut verdict, lost, rounds);
        if !verdict.passed() {
            cluster.save_disks()?;
        }
    }
    Ok((verdict, cluster))
}

impl Run {
    /// Puts one fresh key after the other through any server.
    fn writer(&self, writer: usize) {
        let mut rng = Rng::new(self.seed, writer as u64 + 1);
        for number in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("{PREFIX}{writer}-{number}");
            let server = self.servers[rng.below(self.servers.len())];
            let start_ns = elapsed_ns(self.started);
            let outcome = match kv::put(server, &key, number) {
                Ok(true) => Outcome::Done,
                Ok(false) => Outcome::Refused,
                Err(KvError::Failed(_)) => Outcome::Failed,
                Err(KvError::Unknown(_)) => Outcome::Unknown,
            };
            let end_ns = elapsed_ns(self.started);
            let operation = Operation { client: writer, key, call: Call::Write(number), outcome, start_ns, end_ns };
            self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
            if outcome == Outcome::Done {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            } else {
                std::thread::sleep(BACK_OFF);
            }
        }
    }

    /// Each round: let writes through, wait a random moment, kill one server or all, start them again. Returns the rounds done.
    fn nemesis(&self, cluster: &mut Cluster, rounds: u32) -> Result<u32, String> {
        let mut rng = Rng::new(self.seed, 0);
        for round in 1..=rounds {
            self.wait_progress(round)?;
            if round % TELL_EVERY == 0 {
                let writes = self.acknowledged.load(Ordering::Relaxed);
                eprintln!("{round} of {rounds} rounds, {writes} writes acknowledged");
            }
            std::thread::sleep(rng.between_ms(0, 300));
            let victims = if round % ALL_AT_ONCE_EVERY == 0 { 0..SERVERS } else { one(rng.below(SERVERS)) };
            if self.how != How::Kill {
                victims.clone().for_each(|victim| cluster.hold_syncs(victim));
                std::thread::sleep(rng.between_ms(0, HOLD_MS_MAX));
            }
            let all: Vec<usize> = victims.clone().collect();
            match self.how {
                How::Kill => all.iter().for_each(|victim| _ = cluster.kill(*victim)),
                How::Power | How::PowerOnLies => self.note(cluster.cut_power(&all, *rng.pick(&SURVIVORS))),
            }
            std::thread::sleep(rng.between_ms(0, 100));
            for victim in victims {
                cluster.restart(victim)?;
            }
        }
        Ok(rounds)
    }

    fn note(&self, lost: Lost) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) += lost;
    }

    /// A kill proves something only if writes went on after the last one.
    fn wait_progress(&self, round: u32) -> Result<(), String> {
        let before = self.acknowledged.load(Ordering::Relaxed);
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.acknowledged.load(Ordering::Relaxed) < before + WRITERS {
            if Instant::now() > deadline {
                return Err(format!("round {round}: no write was acknowledged for {READY_TIMEOUT:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn one(victim: usize) -> std::ops::Range<usize> {
    victim..victim + 1
}

fn elapsed_ns(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Every acknowledged key is kept with its value; no key is there whose write was proven to have failed.
pub(crate) fn judge(
    mode: &'static str,
    seed: u64,
    history: &[Operation],
    kept: &BTreeMap<String, Entry>,
    kills: u32,
    rounds: u32,
) -> Verdict {
    let mut verdict = Verdict::new(mode, seed, history, kept.len(), kills);
    for operation in history {
        let found = kept.get(&operation.key).map(|entry| entry.value);
        let Call::Write(value) = operation.call else {
            continue;
        };
        match operation.outcome {
            Outcome::Done if found != Some(value) => {
                verdict
                    .violations
                    .push(format!("acknowledged write lost: {} is {found:?}, not {value}", operation.key));
            }
            Outcome::Failed | Outcome::Refused if found.is_some() => {
                verdict.violations.push(format!("{} is there, though its write failed", operation.key));
            }
            _ => {}
        }
    }
    let rounds = rounds as usize;
    verdict.cover("kills", kills as usize, rounds.max(1));
    verdict.cover("writes acknowledged", verdict.operations.acknowledged, rounds * WRITERS);
    verdict
}

/// Power that is cut while nothing is under way proves nothing.
fn cover_losses(verdict: &mut Verdict, lost: Lost, rounds: u32) {
    let figures = [
        ("unsynced bytes lost", lost.bytes, 1),
        ("names lost", lost.names, 0),
        ("torn writes", lost.torn, u64::from(rounds) / TORN_ONE_IN),
        ("torn bytes kept", lost.torn_bytes, 0),
    ];
    for (what, count, least) in figures {
        verdict.figures.insert(what, count);
        verdict.cover(what, usize::try_from(count).unwrap_or(usize::MAX), least as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: u64, outcome: Outcome) -> Operation {
        Operation { client: 0, key: key.to_owned(), call: Call::Write(value), outcome, start_ns: 1, end_ns: 2 }
    }

    fn kept(keys: &[(&str, u64)]) -> BTreeMap<String, Entry> {
        keys.iter().map(|(key, value)| ((*key).to_owned(), Entry { value: *value, modify_index: 1 })).collect()
    }

    fn violations(history: &[Operation], keys: &[(&str, u64)]) -> usize {
        judge("kill", 1, history, &kept(keys), 1, 1).violations.len()
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let history = [
            write("a", 1, Outcome::Done),
            write("b", 2, Outcome::Unknown),
            write("c", 3, Outcome::Failed),
            write("d", 4, Outcome::Done),
        ];
        assert_eq!(violations(&history, &[("a", 1), ("d", 4)]), 0);
        assert_eq!(violations(&history, &[("a", 1), ("b", 2), ("d", 4)]), 0);
        assert_eq!(violations(&history, &[("a", 1)]), 1, "lost");
        assert_eq!(violations(&history, &[("a", 1), ("d", 9)]), 1, "another value");
        assert_eq!(violations(&history, &[("a", 1), ("c", 3), ("d", 4)]), 1, "a failed write is there");
    }

    #[test]
    fn a_run_that_did_little_fails() {
        let history = vec![write("a", 1, Outcome::Done); 40];
        assert!(judge("kill", 1, &history, &kept(&[("a", 1)]), 10, 10).passed());
        assert!(!judge("kill", 1, &history[..39], &kept(&[("a", 1)]), 10, 10).passed());
        assert!(!judge("kill", 1, &history, &kept(&[("a", 1)]), 9, 10).passed());
    }
}
