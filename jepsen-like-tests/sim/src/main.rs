//! `jlt-sim`: the real servers in one process, on a simulated network, clock and disk. One seed decides everything.

mod agents;
mod clients;
mod crash;
mod far;
mod invariants;
mod many;
mod names;
mod nemesis;
mod node;
mod proxies;
mod run;
mod servers;
mod trace;
mod troubles;
mod tunnels;
mod world;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jlt_core::plan::Fault;
use jlt_core::rng::Rng;
use jlt_workloads::{Need, Workload, fit};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::Level;

use crate::run::Settings;
use crate::trace::Trace;

/// What turns a mistake on, by name (`faults::Bug`).
const BUG: &str = "TRIBUNE_BUG";

/// Switches RDRAND off in AWS-LC, whose other randomness is a counter in this build. It is read when the process starts.
const NO_RDRAND: (&str, &str) = ("OPENSSL_ia32cap", "~0x4000000000000000");

/// With all of them a run would take long, and each would do little.
const WORKLOADS_PER_SEED: usize = 4;

/// Its large values take most of the time of a run.
const BULK: &str = "bulk";
const BULK_EVERY: u64 = 8;

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
        /// Runs each seed twice; the traces must have the same hash.
        #[arg(long)]
        twice: bool,
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
    /// How many agents.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=9))]
    agents: u8,
    /// For how many simulated seconds faults strike.
    #[arg(long, default_value = "30", default_value_if("tunnels", "true", "60"))]
    seconds: u64,
    /// The kinds of fault, with commas; `none` for none.
    #[arg(long)]
    faults: Option<String>,
    /// What the clients do, with commas. By default each seed has some, and every eighth `bulk`, too.
    #[arg(long)]
    workloads: Option<String>,
    /// Two datacenters, their gateways and tunnels, in the place of servers.
    #[arg(long, conflicts_with_all = ["servers", "agents", "faults", "workloads", "bug"])]
    tunnels: bool,
    /// The servers make this mistake (`faults/src/lib.rs`), which a judge should find. `seeds` ends with the first that does.
    #[arg(long)]
    bug: Option<String>,
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::One { seed, shape, trace, level } => match std::env::var_os(NO_RDRAND.0) {
            Some(_) if std::env::var(BUG).ok() == shape.bug => finish(one(seed, &shape, trace, level)),
            Some(_) | None => finish(again(&shape)),
        },
        Verb::Seeds { seeds, from, jobs, twice, shape } => {
            finish(shape.check().and_then(|()| many::run(from, seeds, jobs, twice, &shape)))
        }
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
fn again(shape: &Shape) -> Result<bool, String> {
    shape.check()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    let ended = shape.environment(&mut command).args(std::env::args_os().skip(1)).status();
    match ended.map_err(|error| error.to_string())?.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        other => Err(format!("the run did not come to a verdict: {other:?}")),
    }
}

fn one(seed: u64, shape: &Shape, file: Option<PathBuf>, level: Level) -> Result<bool, String> {
    let is_tunnels = shape.tunnels;
    let settings = Settings {
        seed,
        servers: usize::from(shape.servers),
        agents: usize::from(shape.agents),
        duration: Duration::from_secs(shape.seconds),
        faults: shape.kinds()?,
        workloads: shape.workloads(seed)?,
    };
    let trace = Trace::new(file.as_deref(), level).map_err(|error| format!("the trace cannot be written: {error}"))?;
    tracing::subscriber::set_global_default(trace.clone()).map_err(|error| error.to_string())?;
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    let _clock = mad_turmoil::time::SimClocksGuard::init();
    // A thread of its own: what hash maps and generators drew before the seed was set stays behind.
    let run = std::thread::spawn(move || {
        let done = match is_tunnels {
            true => tunnels::run(seed, settings.duration, &trace),
            false => run::run(&settings, &trace),
        };
        done.map_err(|error| error.to_string())
    });
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

    fn workloads(&self, seed: u64) -> Result<Vec<String>, String> {
        let names: Vec<String> = match &self.workloads {
            Some(names) => names.split(',').map(str::to_owned).collect(),
            None => {
                let all = jlt_workloads::all();
                let fits = |workload: &&Arc<dyn Workload>| fit(&[Arc::clone(workload)], self.offers()).is_ok();
                let fitting = all.iter().filter(fits).map(|workload| workload.name());
                let mut names: Vec<&str> = fitting.filter(|name| *name != BULK).collect();
                let mut rng = Rng::new(seed, 600);
                while names.len() > WORKLOADS_PER_SEED {
                    names.remove(rng.below(names.len()));
                }
                names.extend(seed.is_multiple_of(BULK_EVERY).then_some(BULK));
                names.into_iter().map(str::to_owned).collect()
            }
        };
        fit(&jlt_workloads::named(&names)?, self.offers())?;
        Ok(names)
    }

    fn offers(&self) -> &'static [Need] {
        match usize::from(self.agents) {
            0 => &[Need::Dns, Need::OwnAgents],
            world::AGENTS.. => &[Need::Dns, Need::OwnAgents, Need::Agents, Need::Sidecars, Need::Datacenter],
            _ => &[Need::Dns, Need::OwnAgents, Need::Agents],
        }
    }

    fn check(&self) -> Result<(), String> {
        let unknown = self.bug.as_ref().filter(|name| faults::Bug::named(name).is_none());
        let names = || faults::Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
        unknown.map_or(Ok(()), |name| Err(format!("{name:?} is no mistake; there are {}", names())))?;
        self.workloads(0).and(self.kinds()).map(|_| ())
    }

    /// What a run needs in its environment.
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(NO_RDRAND.0, NO_RDRAND.1).env_remove(BUG).env_remove("TRIBUNE_CRASH");
        command.envs(self.bug.as_ref().map(|bug| (BUG, bug)))
    }

    /// As on the command line.
    fn arguments(&self) -> Vec<String> {
        if self.tunnels {
            return vec!["--tunnels".to_owned(), "--seconds".to_owned(), self.seconds.to_string()];
        }
        let numbers =
            [("--servers", u64::from(self.servers)), ("--agents", u64::from(self.agents)), ("--seconds", self.seconds)];
        let mut arguments: Vec<String> =
            numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]).collect();
        if let Some(faults) = &self.faults {
            arguments.extend(["--faults".to_owned(), faults.clone()]);
        }
        let more = [("--workloads", &self.workloads), ("--bug", &self.bug)];
        for (name, value) in more.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))) {
            arguments.extend([name.to_owned(), value]);
        }
        arguments
    }
}
