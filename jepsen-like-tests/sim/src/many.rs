//! Many seeds, each in a process of its own, some at a time.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::{NO_RDRAND, Shape};

/// The most lines of a failed process that are shown.
const LINES_SHOWN_MAX: usize = 20;

/// What all runs came to.
#[derive(Default)]
struct Total {
    done: u64,
    failed: Vec<u64>,
    simulated_ms: u64,
    acknowledged: u64,
    elections: u64,
}

/// Runs seeds `from` to `from + seeds - 1`, `jobs` at a time. True if all passed.
pub(crate) fn run(from: u64, seeds: u64, jobs: usize, shape: &Shape) -> Result<bool, String> {
    let (next, total) = (AtomicU64::new(from), Mutex::new(Total::default()));
    let started = uptime_secs()?;
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds {
                    return Ok::<(), String>(());
                }
                let output = one(seed, shape)?;
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                total.add(seed, &output, shape);
                total.progress(seeds, uptime_secs()? - started);
            }
        };
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_panic| Err("a worker panicked".to_owned())))
    })?;
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let wall = uptime_secs()? - started;
    println!(
        "\n{} of {} seeds passed; {} simulated seconds in {wall:.0} s: {:.1} a second; {} acknowledged writes, {} elections",
        total.done - total.failed.len() as u64,
        total.done,
        total.simulated_ms / 1000,
        total.simulated_ms as f64 / 1000.0 / wall.max(0.01),
        total.acknowledged,
        total.elections,
    );
    Ok(total.failed.is_empty())
}

fn one(seed: u64, shape: &Shape) -> Result<Output, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["one", "--seed", &seed.to_string()]).args(shape.arguments()).env(NO_RDRAND.0, NO_RDRAND.1);
    command.stdin(Stdio::null()).output().map_err(|error| error.to_string())
}

impl Total {
    fn add(&mut self, seed: u64, output: &Output, shape: &Shape) {
        self.done += 1;
        let text = String::from_utf8_lossy(&output.stdout);
        let verdict: Value = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let number = |at: &Value| at.as_u64().unwrap_or(0);
        self.simulated_ms += number(&verdict["simulated_ms"]);
        self.acknowledged += number(&verdict["operations"]["acknowledged"]);
        self.elections += number(&verdict["elections"]);
        if output.status.success() {
            return;
        }
        self.failed.push(seed);
        println!("\nseed {seed} failed: {}", text.trim());
        let errors = String::from_utf8_lossy(&output.stderr);
        errors.lines().take(LINES_SHOWN_MAX).for_each(|line| println!("  {line}"));
        println!("  again: jlt-sim one --seed {seed} {}", shape.arguments().join(" "));
    }

    fn progress(&self, seeds: u64, wall: f64) {
        let rate = self.simulated_ms as f64 / 1000.0 / wall.max(0.01);
        print!("\r{}/{seeds} seeds, {} failed, {rate:.1} simulated seconds a second ", self.done, self.failed.len());
        // Progress that is not shown hurts nobody.
        let _ = std::io::stdout().flush();
    }
}

/// The system's own clock: in this program the usual one belongs to the simulation.
fn uptime_secs() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/uptime").map_err(|error| error.to_string())?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().map_err(|_no_number| format!("/proc/uptime says {text:?}"))
}
