//! `jlt soak`: round after round on one cluster, for hours. Each round has other faults, is judged by itself and then forgotten, so that
//! only what the product keeps can grow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jlt_core::judgement::Judgement;
use jlt_core::plan::{Fault, Plan};
use jlt_core::record::{self, Outcome, Record, Tally, tally};
use jlt_core::rng::Rng;
use jlt_workloads::Told;
use serde::Serialize;

use crate::cluster::SERVERS;
use crate::memory::{self, Sample};
use crate::nemesis::{Happened, Havoc};
use crate::report::{HEAD, findings};
use crate::run::{Round, Scene, cover_faults, pretty};

/// How long faults begin in a round.
const ROUND: Duration = Duration::from_secs(60);

/// The most kinds of fault in a round.
const KINDS_MAX: usize = 4;

/// So long after the last fault all is as if there had been none.
const SETTLED_MS: u64 = 5_000;

/// Before their memory is measured, servers give back what they can.
const REST: Duration = Duration::from_secs(2);

/// Of rounds that fail, so many keep their evidence.
const EVIDENCE_MAX: usize = 10;

/// What is asked for.
pub(crate) struct Options {
    pub(crate) binary: PathBuf,
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    pub(crate) kinds: Vec<Fault>,
    pub(crate) workloads: Vec<String>,
    pub(crate) folder: PathBuf,
}

/// `soak.json`, written anew after each round.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Soak {
    /// `pass`, `fail` or `unknown`.
    pub(crate) verdict: &'static str,
    pub(crate) seed: u64,
    /// How long it has run.
    pub(crate) seconds: u64,
    pub(crate) rounds: u64,
    /// Those that broke a guarantee or could not be decided.
    bad_rounds: Vec<u64>,
    operations: BTreeMap<String, Tally>,
    /// Answers a second while no fault was on.
    quiet_per_second: u64,
    /// Growth of the servers' memory, in KiB an hour, and its standard error: what they keep differs by the round.
    memory_slope_kib_per_hour: i64,
    memory_slope_error_kib_per_hour: i64,
    faults: BTreeMap<&'static str, u64>,
    effects: BTreeMap<&'static str, u64>,
    /// The longest times from call to answer while no fault was on: of 100 operations one took longer.
    quiet_p99_ms: u64,
    /// Changes that clients were told of, in milliseconds after the acknowledgement, and how late one of a hundred was: long after all faults.
    told_quiet: Late,
    /// The same soon after a fault, in milliseconds after its end where that is later.
    told_healed: Late,
    coverage: Vec<String>,
    #[serde(flatten)]
    judgement: Judgement,
    /// At the end of each round, when its keys are gone.
    memory: Vec<Sample>,
    #[serde(skip)]
    quiet: Quiet,
}

/// How late clients were told of changes.
#[derive(Debug, Default, Serialize)]
struct Late {
    changes: u64,
    p99_ms: u64,
    #[serde(skip)]
    took_ms: BTreeMap<u64, u64>,
}

/// What was done while no fault was on.
#[derive(Debug, Default)]
struct Quiet {
    answers: u64,
    time_ms: u64,
    /// Milliseconds → operations that took so long; blocking ones are not in it.
    took_ms: BTreeMap<u64, u64>,
}

/// Runs until the time is over. `Err` when it could not go on.
pub(crate) fn run(options: &Options) -> Result<Soak, String> {
    let begun = Instant::now();
    std::fs::create_dir_all(&options.folder).map_err(|error| format!("{}: {error}", options.folder.display()))?;
    let mut scene = Scene::open(&options.binary, options.seed, &options.kinds, &options.folder)?;
    scene.is_chatty = false;
    let (mut soak, mut all) = (Soak { seed: options.seed, ..Soak::default() }, Havoc::default());
    while begun.elapsed() < options.duration {
        let plan = plan(options, soak.rounds);
        let round = scene.play(&plan, soak.rounds)?;
        round.havoc.effects.iter().for_each(|(effect, count)| *all.effects.entry(effect).or_default() += count);
        soak.effects = scene.effects(&all);
        let judgement = soak.take(&plan, &round, begun.elapsed());
        if judgement.violations.len() + judgement.undecided.len() > 0 && soak.bad_rounds.len() <= EVIDENCE_MAX {
            keep(&options.folder.join(format!("round-{}", soak.rounds - 1)), &plan, &round)?;
        }
        // A cluster that takes no orders after a round is of no use for the next.
        let cleared = scene.clear(&round, soak.rounds - 1);
        if let Err(why) = &cleared {
            let round = soak.rounds - 1;
            soak.judgement.violations.push(format!("round {round}: what it left cannot be removed: {why}"));
        }
        std::thread::sleep(REST);
        soak.memory.extend(scene.cluster.memory(soak.seconds));
        soak.seal(&options.kinds);
        write(&options.folder, &soak)?;
        tell(&soak, &plan, &judgement);
        if cleared.is_err() {
            break;
        }
    }
    soak.judgement.violations.extend(memory::leak(&soak.memory));
    soak.seal(&options.kinds);
    write(&options.folder, &soak)?;
    Ok(soak)
}

/// Each round has a few of the kinds of fault.
fn plan(options: &Options, round: u64) -> Plan {
    let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(round);
    let mut rng = Rng::new(seed, 99);
    let wanted = 1 + rng.below(KINDS_MAX.min(options.kinds.len()));
    let mut kinds = BTreeSet::new();
    while kinds.len() < wanted && !options.kinds.is_empty() {
        kinds.insert(*rng.pick(&options.kinds));
    }
    Plan::new(seed, ROUND, SERVERS, options.workloads.clone(), &Vec::from_iter(kinds))
}

impl Soak {
    /// Adds a round. Returns what its judges said.
    fn take(&mut self, plan: &Plan, round: &Round, elapsed: Duration) -> Judgement {
        let judgement = round.judge();
        let number = self.rounds;
        self.rounds += 1;
        self.seconds = elapsed.as_secs();
        if judgement.violations.len() + judgement.undecided.len() > 0 {
            self.bad_rounds.push(number);
        }
        let name = format!("round {number}");
        let named =
            |findings: &[String]| findings.iter().map(|finding| format!("{name}: {finding}")).collect::<Vec<_>>();
        self.judgement.violations.extend(named(&judgement.violations));
        self.judgement.undecided.extend(named(&judgement.undecided));
        for (what, sum) in &judgement.counts {
            self.judgement.cover(what, sum.count, sum.least);
        }
        for (workload, count) in tally(&round.history) {
            let sum = self.operations.entry(workload).or_default();
            *sum = Tally {
                ok: sum.ok + count.ok,
                failed: sum.failed + count.failed,
                unknown: sum.unknown + count.unknown,
            };
        }
        for happened in &round.havoc.happened {
            *self.faults.entry(happened.fault.name()).or_default() += 1;
        }
        for told in round.workloads.iter().flat_map(|workload| workload.told(&round.history)) {
            self.note_told(told, &round.havoc.happened);
        }
        self.quiet.add(&round.history, &round.havoc.happened, plan.duration_ms);
        judgement
    }

    /// Who is told while a fault is on may be told late.
    fn note_told(&mut self, told: Told, happened: &[Happened]) {
        let (acknowledged_ms, told_ms) = (told.acknowledged_ns / 1_000_000, told.told_ns / 1_000_000);
        let began = happened.iter().filter(|one| one.start_ms <= told_ms);
        let Some(healed_ms) = began.map(|one| one.end_ms).max() else {
            return self.told_quiet.add(told_ms - acknowledged_ms);
        };
        if healed_ms + SETTLED_MS < acknowledged_ms {
            self.told_quiet.add(told_ms - acknowledged_ms);
        } else if healed_ms < told_ms {
            self.told_healed.add(told_ms - acknowledged_ms.max(healed_ms));
        }
    }

    /// What follows from all rounds so far.
    fn seal(&mut self, kinds: &[Fault]) {
        self.quiet_per_second = self.quiet.answers * 1000 / self.quiet.time_ms.max(1);
        self.quiet_p99_ms = p99_ms(&self.quiet.took_ms);
        for late in [&mut self.told_quiet, &mut self.told_healed] {
            late.p99_ms = p99_ms(&late.took_ms);
        }
        let (slope, error) = memory::growth_per_hour(&self.memory);
        (self.memory_slope_kib_per_hour, self.memory_slope_error_kib_per_hour) = (slope as i64, error as i64);
        let mut all = self.judgement.clone();
        let planned = kinds.iter().filter(|kind| self.faults.contains_key(kind.name()));
        cover_faults(&Vec::from_iter(planned.copied()), &self.faults, &self.effects, &mut all);
        self.coverage = all.coverage();
        self.verdict = all.word();
    }
}

impl Quiet {
    fn add(&mut self, history: &[Record], happened: &[Happened], duration_ms: u64) {
        let is_quiet =
            |ms: u64| ms < duration_ms && happened.iter().all(|one| !(one.start_ms..=one.end_ms).contains(&ms));
        self.time_ms += (0..duration_ms).filter(|ms| is_quiet(*ms)).count() as u64;
        for record in history.iter().filter(|record| matches!(record.outcome, Outcome::Ok(_))) {
            let (start_ms, end_ms) = (record.start_ns / 1_000_000, record.end_ns / 1_000_000);
            if is_quiet(end_ms) {
                self.answers += 1;
                let is_blocking = record.workload == "watch";
                let was_quiet = !is_blocking && (start_ms..end_ms).all(is_quiet);
                *self.took_ms.entry(end_ms - start_ms).or_default() += u64::from(was_quiet);
            }
        }
    }
}

impl Late {
    fn add(&mut self, ms: u64) {
        self.changes += 1;
        *self.took_ms.entry(ms).or_default() += 1;
    }
}

/// Of a hundred one took longer; `took_ms` has how many took how long.
fn p99_ms(took_ms: &BTreeMap<u64, u64>) -> u64 {
    let (all, mut slower) = (took_ms.values().sum::<u64>(), 0);
    let mut from_the_slowest = took_ms.iter().rev();
    let slow = from_the_slowest.find(|(_, count)| {
        slower += *count;
        slower * 100 > all
    });
    slow.map_or(0, |(ms, _)| *ms)
}

/// A round of which something is to be shown.
fn keep(folder: &Path, plan: &Plan, round: &Round) -> Result<(), String> {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(folder.join("plan.json"), pretty(plan)))
        .and_then(|()| std::fs::write(folder.join("faults.json"), pretty(&round.havoc.happened)))
        .and_then(|()| record::save(&round.history, &folder.join("history.jsonl")));
    written.map_err(|error| format!("{}: {error}", folder.display()))
}

fn write(folder: &Path, soak: &Soak) -> Result<(), String> {
    let files = [("soak.json", pretty(soak)), ("index.html", page(soak))];
    for (name, text) in files {
        std::fs::write(folder.join(name), text).map_err(|error| format!("{}: {error}", folder.join(name).display()))?;
    }
    Ok(())
}

fn tell(soak: &Soak, plan: &Plan, judgement: &Judgement) {
    let kinds: Vec<&str> = plan.kinds.iter().map(|kind| kind.name()).collect();
    let ok: usize = soak.operations.values().map(|tally| tally.ok).sum();
    let newest = |back: usize| soak.memory.iter().rev().nth(back).map_or(0, |sample| sample.kib / 1024);
    let word = if judgement.violations.is_empty() { "good" } else { "BAD" };
    eprintln!(
        "{:5} s  round {:3} {word}  {ok:8} answered  {:5}/s when quiet  {}, {}, {} MiB  {}",
        soak.seconds,
        soak.rounds - 1,
        soak.quiet_per_second,
        newest(2),
        newest(1),
        newest(0),
        kinds.join(",")
    );
    judgement.violations.iter().chain(&judgement.undecided).for_each(|finding| eprintln!("         {finding}"));
}

/// What a person looks at.
fn page(soak: &Soak) -> String {
    let mut page = String::from(HEAD);
    let word = soak.verdict;
    // Writing to a string does not fail.
    write!(page, "<h1><span class=\"{word}\">{word}</span> soak, seed {}, {} s</h1>", soak.seed, soak.seconds).ok();
    page += &findings(&soak.judgement, &soak.coverage);
    let slope = soak.memory_slope_kib_per_hour;
    write!(page, "<p>{} rounds; {} answers a second while no fault was on, of which one in a hundred took longer than {} ms; memory grew by {slope} ± {} KiB an hour.</p>", soak.rounds, soak.quiet_per_second, soak.quiet_p99_ms, soak.memory_slope_error_kib_per_hour).ok();
    let (quiet, healed) = (&soak.told_quiet, &soak.told_healed);
    write!(page, "<p>Of {} changes that watchers were told while all was well, one in a hundred came later than {} ms; of {} soon after a fault, later than {} ms after its end.</p>", quiet.changes, quiet.p99_ms, healed.changes, healed.p99_ms).ok();
    write!(page, "<figure>{}</figure>", memory::picture(&soak.memory, SERVERS, soak.seconds)).ok();
    page += "<h2>Operations</h2><table><tr><th>workload<th>answered<th>failed<th>unknown";
    for (workload, tally) in &soak.operations {
        write!(page, "<tr><td>{workload}<td>{}<td>{}<td>{}", tally.ok, tally.failed, tally.unknown).ok();
    }
    page += "</table><h2>Faults, and what they did</h2><table>";
    for (what, count) in soak.faults.iter().chain(&soak.effects).filter(|(_, count)| **count > 0) {
        write!(page, "<tr><td>{what}<td>{count}").ok();
    }
    page + "</table></html>"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kinds: &[Fault]) -> Options {
        let workloads = vec!["set".to_owned()];
        let (binary, folder, duration) = (PathBuf::new(), PathBuf::new(), Duration::ZERO);
        Options { binary, seed: 7, duration, kinds: kinds.to_vec(), workloads, folder }
    }

    #[test]
    fn rounds_differ_and_repeat_by_seed() {
        let options = options(&Fault::ALL);
        let kinds = |round| plan(&options, round).kinds;
        assert_eq!(kinds(3), kinds(3));
        assert!((0..20).all(|round| (1..=KINDS_MAX).contains(&kinds(round).len())));
        let seen: BTreeSet<Fault> = (0..60).flat_map(kinds).collect();
        assert_eq!(seen.len(), Fault::ALL.len());
    }

    #[test]
    fn who_is_told_late_is_counted_from_the_heal() {
        let fault = |start_ms, end_ms| Happened {
            fault: Fault::Kill,
            servers: vec![0],
            start_ms,
            end_ms,
            effect: String::new(),
        };
        let happened = [fault(1_000, 2_000), fault(9_000, 9_500)];
        let mut soak = Soak::default();
        for (acknowledged_ms, told_ms) in [(500, 510), (1_500, 1_700), (1_500, 2_030), (7_500, 7_540), (7_500, 9_100)] {
            let ns = |ms: u64| ms * 1_000_000;
            soak.note_told(Told { acknowledged_ns: ns(acknowledged_ms), told_ns: ns(told_ms) }, &happened);
        }
        soak.seal(&[]);
        assert_eq!((soak.told_quiet.changes, soak.told_quiet.p99_ms), (2, 40));
        assert_eq!((soak.told_healed.changes, soak.told_healed.p99_ms), (1, 30));
    }

    #[test]
    fn only_what_is_done_while_all_is_well_counts() {
        let record = |start_ms: u64, end_ms: u64| Record {
            workload: "set".to_owned(),
            client: 0,
            server: 0,
            life: 1,
            call: serde_json::Value::Null,
            outcome: Outcome::Ok(serde_json::Value::Null),
            start_ns: start_ms * 1_000_000,
            end_ns: end_ms * 1_000_000,
        };
        let fault =
            Happened { fault: Fault::Kill, servers: vec![0], start_ms: 100, end_ms: 199, effect: String::new() };
        let mut quiet = Quiet::default();
        quiet.add(&[record(10, 15), record(90, 210), record(150, 160)], &[fault], 1000);
        assert_eq!((quiet.time_ms, quiet.answers, p99_ms(&quiet.took_ms)), (900, 2, 5));
    }
}
