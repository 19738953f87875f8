//! `jlt`: starts a real cluster from the `tribune` binary, breaks it while clients use it, and judges what they saw.
//!
//! It knows nothing of the product's crates: only the binary, its command line and the HTTP API. A run prints one JSON verdict
//! and exits with 0 when nothing was wrong, 1 when a guarantee was broken or the run proved too little, 2 when it could not run at all.

mod cluster;
mod http;
mod kill;
mod kv;
mod smoke;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cluster::seal;
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
    /// `kill -9` at random moments under writes, again and again; no acknowledged write may be lost.
    Kill {
        /// How many times to kill.
        #[arg(long, default_value_t = 100)]
        rounds: u32,
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
    let (verdict, keep) = match Cli::parse().mode {
        Mode::Smoke { duration, common } => (smoke::run(&common.bin, duration, common.seed), common.keep),
        Mode::Kill { rounds, common } => (kill::run(&common.bin, rounds, common.seed), common.keep),
    };
    match verdict.map(|(verdict, cluster)| seal(verdict, cluster, keep)) {
        Ok(verdict) => print_verdict(&verdict),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
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
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "s", "20", "2x", "1.5s", "-1s", "é", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
