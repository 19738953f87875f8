//! Many seeds, each in a process of its own, some at a time.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::Shape;

/// The most lines of a failed process that are shown.
const LINES_SHOWN_MAX: usize = 20;
/// Of the numbers in `/proc/self/stat`, on every Linux that has this program.
const TICKS_PER_SEC: f64 = 100.0;

/// What all runs came to.
#[derive(Default)]
struct Total {
    done: u64,
    failed: Vec<u64>,
    simulated_ms: u64,
    answered: u64,
    elections: u64,
    tunnels_ended: u64,
    /// How often servers died at which point of their code.
    deaths: BTreeMap<String, u64>,
}

/// Runs seeds `from` to `from + seeds - 1`, `jobs` at a time. True if all passed. With a mistake in the servers, the first that fails is the last.
pub(crate) fn run(from: u64, seeds: u64, jobs: usize, twice: bool, shape: &Shape) -> Result<bool, String> {
    let (next, total) = (AtomicU64::new(from), Mutex::new(Total::default()));
    let started = uptime_secs()?;
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let is_found = shape.bug.is_some() && !held(&total).failed.is_empty();
                if seed >= from + seeds || is_found {
                    return Ok::<(), String>(());
                }
                let output = one(seed, shape)?;
                let other = twice.then(|| one(seed, shape)).transpose()?;
                let mut total = held(&total);
                total.add(seed, &output, shape);
                if let Some(other) = other.filter(|other| other.stdout != output.stdout) {
                    total.differs(seed, &output, &other);
                }
                total.progress(seeds, uptime_secs()? - started);
            }
        };
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_panic| Err("a worker panicked".to_owned())))
    })?;
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.tell(uptime_secs()? - started, cpu_secs()?);
    Ok(total.failed.is_empty())
}

fn one(seed: u64, shape: &Shape) -> Result<Output, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["one", "--seed", &seed.to_string()]).args(shape.arguments());
    shape.environment(&mut command).stdin(Stdio::null()).output().map_err(|error| error.to_string())
}

impl Total {
    fn add(&mut self, seed: u64, output: &Output, shape: &Shape) {
        self.done += 1;
        let text = String::from_utf8_lossy(&output.stdout);
        let verdict: Value = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let number = |at: &Value| at.as_u64().unwrap_or(0);
        self.simulated_ms += number(&verdict["simulated_ms"]);
        let workloads = verdict["operations"].as_object().into_iter().flat_map(|workloads| workloads.values());
        self.answered += workloads.map(|tally| number(&tally["ok"])).sum::<u64>();
        for (point, times) in verdict["deaths"].as_object().into_iter().flatten() {
            *self.deaths.entry(point.clone()).or_default() += number(times);
        }
        self.elections += number(&verdict["elections"]);
        self.tunnels_ended += number(&verdict["tunnels"]["ended"]);
        if output.status.success() {
            return;
        }
        self.failed.push(seed);
        println!("\nseed {seed} failed: {}", text.trim());
        let errors = String::from_utf8_lossy(&output.stderr);
        errors.lines().take(LINES_SHOWN_MAX).for_each(|line| println!("  {line}"));
        println!("  again: jlt-sim one --seed {seed} {}", shape.arguments().join(" "));
    }

    fn differs(&mut self, seed: u64, one: &Output, other: &Output) {
        self.failed.push(seed);
        let text = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
        println!("\nseed {seed} is not the same run twice:\n  {}\n  {}", text(one), text(other));
    }

    fn tell(&self, wall: f64, cpu: f64) {
        let simulated = self.simulated_ms as f64 / 1000.0;
        let deaths: Vec<String> = self.deaths.iter().map(|(point, times)| format!("{point} {times}")).collect();
        let more = match self.tunnels_ended {
            0 => format!("{} elections; servers died at {}", self.elections, deaths.join(", ")),
            ended => format!("{ended} tunnels ended"),
        };
        println!(
            "\n{} of {} seeds passed; {simulated:.0} simulated seconds in {wall:.0} s: {:.1} a second, {:.1} a second of one processor\n\
             {} operations answered, {more}",
            self.done.saturating_sub(self.failed.len() as u64),
            self.done,
            simulated / wall.max(0.01),
            simulated / cpu.max(0.01),
            self.answered,
        );
    }

    fn progress(&self, seeds: u64, wall: f64) {
        let rate = self.simulated_ms as f64 / 1000.0 / wall.max(0.01);
        print!("\r{}/{seeds} seeds, {} failed, {rate:.1} simulated seconds a second ", self.done, self.failed.len());
        // Progress that is not shown hurts nobody.
        let _ = std::io::stdout().flush();
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the runs have taken of the processors.
fn cpu_secs() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    // After the name: the state and nine numbers, then user and system time of this process and of those that it waited for.
    let times = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
    let ticks: u64 = times.filter_map(|time| time.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS_PER_SEC)
}

/// The system's own clock: in this program the usual one belongs to the simulation.
fn uptime_secs() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/uptime").map_err(|error| error.to_string())?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().map_err(|_no_number| format!("/proc/uptime says {text:?}"))
}
