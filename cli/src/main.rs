//! `tribune`: the one binary. Arguments come in, a verb runs, an exit code goes out.
//!
//! `cmd/` has one file per verb, `config/` reads the agent's configuration, `node.rs` wires an agent (and a server) together,
//! `demo/` shows two datacenters on one machine.

mod args;
mod cmd;
mod config;
mod demo;
mod node;
mod signals;
mod telemetry;

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cmd::Cli::parse_from(args::normalise(std::env::args_os()));
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
