//! `jlt`: starts a real cluster from the `tribune` binary, breaks it while clients use it, and judges what they saw.
//!
//! It knows nothing of the product's crates: only the binary, its command line and the HTTP API. A run prints one JSON verdict
//! and exits with 0 when nothing was wrong, 1 when a guarantee was broken or the run proved too little, 2 when it could not run at all.

mod bugs;
mod clock;
mod cluster;
mod http;
mod kill;
mod kv;
mod leader;
mod memory;
mod nemesis;
mod picture;
mod report;
mod run;
mod shrink;
mod smoke;
mod soak;
mod wire;
mod world;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cluster::seal;
use crate::kill::How;
use jlt_core::plan::{Fault, Plan};
use jlt_core::verdict::Verdict;

/// Jepsen-like tests of Tribune.
#[derive(Parser)]
#[command(name = "jlt")]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

/// One variant for each kind of run.
#[derive(Subcommand)]
enum Mode {
    /// Concurrent reads, writes and compare-and-sets while servers are killed and frozen; the history must be linearizable.
    Smoke {
        /// How long the faults last, for example `20s` or `5m`.
        #[arg(long = "for", default_value = "20s", value_parser = parse_duration)]
        duration: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// All workloads on machines, wires and disks of our own, while faults come one by one and together. Needs root.
    Real {
        /// How long faults begin, for example `45s` or `5m`.
        #[arg(long = "for", default_value = "45s", value_parser = parse_duration)]
        duration: Duration,
        /// Faults, with commas; `all` for all that need nothing special.
        #[arg(long, default_value = "partition,kill")]
        faults: String,
        /// Workloads, with commas; all if it is not said.
        #[arg(long, value_delimiter = ',')]
        workloads: Option<Vec<String>>,
        /// Where everything is written; `jlt-runs/SEED-FAULTS` if it is not said.
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// Round after round on one cluster, for hours; each round has other faults. Needs root.
    Soak {
        /// How long, for example `2h`.
        #[arg(long = "for", default_value = "8h", value_parser = parse_duration)]
        duration: Duration,
        /// The same in hours.
        #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..=1_000))]
        hours: Option<u64>,
        /// Faults, with commas, of which each round has up to four; `all` for all that need nothing special.
        #[arg(long, default_value = "all")]
        faults: String,
        /// Workloads, with commas; all if it is not said.
        #[arg(long, value_delimiter = ',')]
        workloads: Option<Vec<String>>,
        /// Where everything is written; `jlt-runs/soak-SEED` if it is not said.
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        common: Common,
    },
    /// The real servers on a simulated network, clock and disk: many seeds, each bit for bit repeatable.
    #[command(disable_help_flag = true)]
    Sim {
        /// As of `jlt-sim seeds`; see `jlt sim --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs the plan of an earlier run of `real` again: the same faults at the same times.
    Replay {
        /// The folder of that run.
        run: PathBuf,
        /// The `tribune` binary.
        #[arg(long, env = "TRIBUNE_BIN", default_value = "../target/debug/tribune")]
        bin: PathBuf,
    },
    /// Judges the history of an earlier run of `real` again.
    Check {
        /// The folder of that run.
        run: PathBuf,
    },
    /// Cuts the power again and again under writes: SIGKILL, and the disk loses what was not synced. Needs root.
    Power {
        /// How many times to cut the power.
        #[arg(long, default_value_t = 100)]
        rounds: u32,
        /// The control: syncs are answered and not done, so that the run must not pass.
        #[arg(long)]
        lying_disks: bool,
        #[command(flatten)]
        common: Common,
    },
    /// The tests tested: turns on one mistake after the other in a program that was built for it
    /// (`cargo build -p tribune --features faults`), and looks whether the judge that should find it does. Needs root.
    Bugs {
        /// Only this mistake.
        #[arg(long)]
        only: Option<String>,
        /// How long a mistake is looked for.
        #[arg(long, default_value = "10m", value_parser = parse_duration)]
        limit: Duration,
        /// Where the runs are written.
        #[arg(long, default_value = "jlt-runs/bugs")]
        out: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Looks for a smaller plan that fails as an earlier run of `real` did. Needs root.
    Shrink {
        /// The folder of that run.
        run: PathBuf,
        /// The `tribune` binary.
        #[arg(long, env = "TRIBUNE_BIN", default_value = "../target/debug/tribune")]
        bin: PathBuf,
        /// How long to look.
        #[arg(long, default_value = "30m", value_parser = parse_duration)]
        limit: Duration,
        /// How often a plan is run before it is taken for one that passes.
        #[arg(long, default_value_t = 2)]
        tries: u32,
    },
    /// `kill -9` at random moments under writes, again and again; no acknowledged write may be lost.
    Kill {
        /// How many times to kill.
        #[arg(long, default_value_t = 100)]
        rounds: u32,
        /// Always the leader, while others are written to; measures how long no write is acknowledged.
        #[arg(long)]
        leader: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// What every run needs.
#[derive(Args)]
struct Common {
    /// Decides the schedule of faults and the choices of the clients.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The `tribune` binary.
    #[arg(long, env = "TRIBUNE_BIN", default_value = "../target/debug/tribune")]
    bin: PathBuf,
    /// Keep the data folders, logs and history even when nothing was wrong.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().mode {
        Mode::Smoke { duration, common } => smoke::run(&common.bin, duration, common.seed)
            .map(|(verdict, cluster)| print_verdict(&seal(verdict, cluster, common.keep))),
        Mode::Kill { rounds, leader: true, common } => leader::run(&common.bin, rounds, common.seed)
            .map(|(verdict, cluster)| print_verdict(&seal(verdict, cluster, common.keep))),
        Mode::Kill { rounds, leader: false, common } => kill::run(&common.bin, rounds, common.seed, How::Kill)
            .map(|(verdict, cluster)| print_verdict(&seal(verdict, cluster, common.keep))),
        Mode::Power { rounds, lying_disks, common } => {
            let how = if lying_disks { How::PowerOnLies } else { How::Power };
            kill::run(&common.bin, rounds, common.seed, how)
                .map(|(verdict, cluster)| print_verdict(&seal(verdict, cluster, common.keep)))
        }
        Mode::Real { duration, faults, workloads, out, common } => real(duration, &faults, workloads, out, &common),
        Mode::Soak { duration, hours, faults, workloads, out, common } => {
            let duration = hours.map_or(duration, |hours| Duration::from_secs(hours * 3_600));
            soak(duration, &faults, workloads, out, common)
        }
        Mode::Sim { arguments } => sim(&arguments),
        Mode::Replay { run, bin } => replay(&run, &bin),
        Mode::Check { run } => check(&run),
        Mode::Shrink { run, bin, limit, tries } => {
            shrink::run(&shrink::Options { run, binary: bin, limit, tries }).map(|_| ExitCode::SUCCESS)
        }
        Mode::Bugs { only, limit, out, common } => bugs(only, limit, out, common),
    };
    done.unwrap_or_else(|message| {
        eprintln!("error: {message}");
        ExitCode::from(2)
    })
}

fn real(
    duration: Duration,
    faults: &str,
    workloads: Option<Vec<String>>,
    out: Option<PathBuf>,
    common: &Common,
) -> Result<ExitCode, String> {
    let kinds = parse_faults(faults)?;
    let usual = || PathBuf::from(format!("jlt-runs/{}-{}", common.seed, faults.replace(',', "-")));
    let folder = fresh(out.unwrap_or_else(usual));
    let plan = Plan::new(common.seed, duration, cluster::SERVERS, workloads.unwrap_or_else(all_workloads), &kinds);
    let verdict = run::run(&common.bin, &plan, &folder)?;
    Ok(print_real(&verdict))
}

fn soak(
    duration: Duration,
    faults: &str,
    workloads: Option<Vec<String>>,
    out: Option<PathBuf>,
    common: Common,
) -> Result<ExitCode, String> {
    let options = soak::Options {
        binary: common.bin,
        seed: common.seed,
        duration,
        kinds: parse_faults(faults)?,
        workloads: workloads.unwrap_or_else(all_workloads),
        folder: fresh(out.unwrap_or_else(|| PathBuf::from(format!("jlt-runs/soak-{}", common.seed)))),
    };
    let soak = soak::run(&options)?;
    let folder = options.folder.display();
    println!(
        "{}: {} rounds in {} s; see {folder}/index.html and {folder}/soak.json",
        soak.verdict, soak.rounds, soak.seconds
    );
    Ok(if soak.verdict == "pass" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sim(arguments: &[OsString]) -> Result<ExitCode, String> {
    let status = Command::new(bugs::simulator()?).arg("seeds").args(arguments).status();
    let status = status.map_err(|error| format!("the simulation could not be started: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)))
}

fn all_workloads() -> Vec<String> {
    jlt_workloads::all().iter().map(|workload| workload.name().to_owned()).collect()
}

fn parse_faults(list: &str) -> Result<Vec<Fault>, String> {
    match list {
        "all" => Ok(Fault::ALL.into_iter().filter(|fault| fault.is_usual()).collect()),
        list => list.split(',').map(Fault::named).collect(),
    }
}

fn replay(earlier: &Path, binary: &Path) -> Result<ExitCode, String> {
    let plan = run::load_plan(earlier)?;
    let mut folder = earlier.as_os_str().to_owned();
    folder.push("-replay");
    Ok(print_real(&run::run(binary, &plan, &fresh(PathBuf::from(folder)))?))
}

/// The folder, or with a number if there is one of that name: the evidence of an earlier run is not touched.
fn fresh(folder: PathBuf) -> PathBuf {
    let numbered = (2..).map(|number| {
        let mut name = folder.as_os_str().to_owned();
        name.push(format!("-{number}"));
        PathBuf::from(name)
    });
    let mut names = std::iter::once(folder.clone()).chain(numbered);
    names.find(|name| !name.exists()).unwrap_or(folder)
}

fn check(run: &Path) -> Result<ExitCode, String> {
    let judgement = run::check(run)?;
    println!("{}", serde_json::to_string_pretty(&judgement).map_err(|error| error.to_string())?);
    Ok(if judgement.word() == "pass" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bugs(only: Option<String>, limit: Duration, folder: PathBuf, common: Common) -> Result<ExitCode, String> {
    let options = bugs::Options { binary: common.bin, only, seed: common.seed, limit, folder };
    Ok(if bugs::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_real(verdict: &run::Verdict) -> ExitCode {
    println!("{}", serde_json::to_string(verdict).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")));
    let is_good = verdict.verdict == "pass";
    if !is_good {
        let folder = verdict.folder.display();
        eprintln!(
            "{}: see {folder}/index.html; `jlt replay {folder}` repeats the run, `jlt check {folder}` the judgement",
            verdict.verdict
        );
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_verdict(verdict: &Verdict) -> ExitCode {
    println!("{}", verdict.to_json());
    if verdict.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Parses `20s`, `5m` or `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let form = || format!("{text:?} is no duration: write 20s, 5m or 1h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(form)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(form()),
    };
    let number: u64 = number.parse().map_err(|_| form())?;
    Ok(Duration::from_secs(number.checked_mul(seconds).ok_or_else(form)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_run_is_not_written_over() {
        let folder = std::env::temp_dir().join(format!("jlt-fresh-{}", std::process::id()));
        assert_eq!(fresh(folder.clone()), folder);
        std::fs::create_dir(&folder).unwrap();
        let other = fresh(folder.clone());
        assert!(other.to_string_lossy().ends_with("-2") && !other.exists());
        std::fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "s", "20", "2x", "1.5s", "-1s", "é", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
