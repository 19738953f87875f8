//! `jlt-sim`: the real servers in one process, on a simulated network, clock and disk. One seed decides everything.

mod crash;
mod http;
mod invariants;
mod many;
mod nemesis;
mod register;
mod run;
mod trace;
mod world;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jlt_core::plan::Fault;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::Level;

use crate::run::Settings;
use crate::trace::Trace;

/// Switches RDRAND off in AWS-LC, whose other randomness is a counter in this build. It is read when the process starts.
const NO_RDRAND: (&str, &str) = ("OPENSSL_ia32cap", "~0x4000000000000000");

#[derive(Parser)]
#[command(name = "jlt-sim", about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// One run of one seed; prints its verdict and the hash of its trace.
    One {
        /// What decides everything.
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        shape: Shape,
        /// Writes the trace to this file.
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Takes the servers' logs into the trace up to this level.
        #[arg(long, default_value = "info")]
        level: Level,
    },
    /// Many runs, each of another seed and in a process of its own; prints those that failed and how to repeat them.
    Seeds {
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        #[command(flatten)]
        shape: Shape,
    },
}

/// What is simulated.
#[derive(Args, Clone)]
struct Shape {
    /// How many servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
    servers: u8,
    /// For how many simulated seconds faults strike.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The kinds of fault, with commas; `none` for none.
    #[arg(long)]
    faults: Option<String>,
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::One { seed, shape, trace, level } => match std::env::var_os(NO_RDRAND.0) {
            Some(_) => finish(one(seed, &shape, trace, level)),
            None => finish(again()),
        },
        Verb::Seeds { seeds, from, jobs, shape } => finish(many::run(from, seeds, jobs, &shape)),
    }
}

fn finish(done: Result<bool, String>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

/// Starts this program again with what it needs in its environment.
fn again() -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let ended = Command::new(program).args(std::env::args_os().skip(1)).env(NO_RDRAND.0, NO_RDRAND.1).status();
    Ok(ended.map_err(|error| error.to_string())?.success())
}

fn one(seed: u64, shape: &Shape, file: Option<PathBuf>, level: Level) -> Result<bool, String> {
    let settings = Settings {
        seed,
        servers: usize::from(shape.servers),
        duration: Duration::from_secs(shape.seconds),
        faults: shape.kinds()?,
    };
    let trace = Trace::new(file.as_deref(), level).map_err(|error| format!("the trace cannot be written: {error}"))?;
    tracing::subscriber::set_global_default(trace.clone()).map_err(|error| error.to_string())?;
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    let _clock = mad_turmoil::time::SimClocksGuard::init();
    // A thread of its own: what hash maps and generators drew before the seed was set stays behind.
    let run = std::thread::spawn(move || run::run(&settings, &trace).map_err(|error| error.to_string()));
    let (verdict, passed) = run.join().map_err(|_panic| format!("the run of seed {seed} panicked"))??;
    println!("{verdict}");
    Ok(passed)
}

impl Shape {
    fn kinds(&self) -> Result<Vec<Fault>, String> {
        match self.faults.as_deref() {
            None => Ok(nemesis::KINDS.to_vec()),
            Some("none") => Ok(Vec::new()),
            Some(names) => names.split(',').map(Fault::named).collect(),
        }
    }

    /// As on the command line.
    fn arguments(&self) -> Vec<String> {
        let mut arguments =
            vec!["--servers".to_owned(), self.servers.to_string(), "--seconds".to_owned(), self.seconds.to_string()];
        if let Some(faults) = &self.faults {
            arguments.extend(["--faults".to_owned(), faults.clone()]);
        }
        arguments
    }
}
