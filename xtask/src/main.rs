//! The gate: `cargo xtask verify` reads and judges, `cargo xtask fix` changes what a machine can change.
//!
//! `verify` runs what CI runs and nothing that a developer cannot run. It never writes to the sources, so it is safe on a diff that somebody has reviewed.

mod bench;
mod step;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

/// One variant for each verb of the command line.
#[derive(Subcommand)]
enum Task {
    /// Judge the tree without changing it: formatting, lints, docs, the house, all tests.
    Verify(Steps),
    /// Change what a machine can change: format, then apply clippy's suggestions.
    Fix(Steps),
    /// Run only the tests that hold the house (edges between crates, purity, tidiness).
    Tidy,
    /// List the benchmarks of `bench/`, or run one of them.
    Bench {
        /// The benchmark to run; without it, they are listed.
        name: Option<String>,
        /// Arguments for the benchmark itself, after `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

/// Which steps of a task to run.
#[derive(clap::Args)]
struct Steps {
    /// Run only these steps, in the task's own order; without a name, all of them.
    steps: Vec<String>,
    /// Go on after a step that failed, and report them all at the end.
    #[arg(long)]
    keep_going: bool,
    /// Print the steps and their commands, and run nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Verify(chosen) => run_steps(&step::verify(), &chosen),
        Task::Fix(chosen) => run_steps(&step::fix(), &chosen),
        Task::Tidy => run_steps(&step::tidy(), &Steps { steps: Vec::new(), keep_going: false, list: false }),
        Task::Bench { name: None, .. } => bench::list(),
        Task::Bench { name: Some(name), arguments } => bench::run(&name, &arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

/// Runs the chosen steps; `Ok(false)` means that a step ran and failed, `Err` that the request made no sense.
fn run_steps(all: &[step::Step], chosen: &Steps) -> Result<bool, String> {
    let picked = step::pick(all, &chosen.steps)?;
    if chosen.list {
        for step in picked {
            println!("{:<8} {}", step.name, step.command_line());
        }
        return Ok(true);
    }
    Ok(step::run(&picked, chosen.keep_going))
}
