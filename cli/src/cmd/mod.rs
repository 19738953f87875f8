//! The verbs, one file each, and the arguments that they share.

mod agent;
mod catalog;
pub(crate) mod client;
mod config;
mod connect;
mod intention;
mod keygen;
mod kv;
mod members;
mod operator;
mod services;
mod table;
mod validate;
mod version;
mod watch;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A service mesh with built-in service discovery, for many datacenters.
///
/// Flags may be written with one dash (-dev) or two (--dev). A first look:
///
///   tribune agent -dev                    a server on this machine that forgets everything at its end
///   tribune members                       who is there
///   tribune kv put hello world            store something
///   tribune demo                          two datacenters, and calls between them
#[derive(Debug, Parser)]
#[command(name = "tribune", version, verbatim_doc_comment, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Agent(Box<agent::AgentArgs>),
    Catalog(catalog::CatalogArgs),
    Config(config::ConfigArgs),
    Connect(connect::ConnectArgs),
    Demo(crate::demo::DemoArgs),
    #[command(name = "force-leave")]
    ForceLeave(members::ForceLeaveArgs),
    Intention(intention::IntentionArgs),
    Join(members::JoinArgs),
    Keygen(keygen::KeygenArgs),
    Kv(kv::KvArgs),
    Leave(members::LeaveArgs),
    Members(members::MembersArgs),
    Operator(operator::OperatorArgs),
    Services(services::ServicesArgs),
    Validate(validate::ValidateArgs),
    Version(version::VersionArgs),
    Watch(watch::WatchArgs),
}

/// Why a verb failed, in words for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The agent could not be asked, or said no.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// Reading or writing something local failed.
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    /// Anything else; the text says what to do.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
        let what = what.into();
        move |error| Failure::Io { what, error }
    }
}

type Outcome = Result<ExitCode, Failure>;

/// Runs the verb that was given.
pub(crate) fn run(cli: Cli) -> Outcome {
    match cli.verb {
        Verb::Agent(args) => agent::run(*args),
        Verb::Catalog(args) => block_on(catalog::run(args)),
        Verb::Config(args) => block_on(config::run(args)),
        Verb::Connect(args) => connect::run(args),
        Verb::Demo(args) => crate::demo::run(args),
        Verb::ForceLeave(args) => block_on(members::force_leave(args)),
        Verb::Intention(args) => block_on(intention::run(args)),
        Verb::Join(args) => block_on(members::join(args)),
        Verb::Keygen(args) => keygen::run(args),
        Verb::Kv(args) => block_on(kv::run(args)),
        Verb::Leave(args) => block_on(members::leave(args)),
        Verb::Members(args) => block_on(members::members(args)),
        Verb::Operator(args) => block_on(operator::run(args)),
        Verb::Services(args) => block_on(services::run(args)),
        Verb::Validate(args) => validate::run(args),
        Verb::Version(args) => version::run(args),
        Verb::Watch(args) => block_on(watch::run(args)),
    }
}

/// Runs a short verb on one thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("cannot start the runtime"))?;
    runtime.block_on(future)
}

/// Reads what a user gave as `value`, `@file` or `-` (standard input), as Consul's CLI does.
fn read_argument(argument: &str) -> Result<Vec<u8>, Failure> {
    if argument == "-" {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut data)
            .map_err(Failure::io("cannot read standard input"))?;
        return Ok(data);
    }
    match argument.strip_prefix('@') {
        Some(path) => std::fs::read(path).map_err(Failure::io(format!("cannot read {path}"))),
        None => Ok(argument.as_bytes().to_vec()),
    }
}
