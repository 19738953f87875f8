//! `tribune demo`: two datacenters on this machine, from nothing to a call through mutual TLS and QUIC.
//!
//! Every line that is printed was measured just then, through the same HTTP API, DNS and sockets that users have. `plan` says who runs
//! where, `children` runs them, `steps` are the acts of the play, `service` is the two small applications.

mod children;
mod plan;
mod service;
mod steps;

pub(crate) use children::parent_gone;

use crate::cmd::Failure;
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Start two datacenters on this machine and show what a service mesh is for.
///
/// Three servers, an agent and a gateway in each; `web` in dc1 calls `api` in dc2 through sidecars and a QUIC tunnel. The demo registers
/// them over HTTP, asks DNS, calls, forbids and allows the call, kills a leader, and then stays until Ctrl-C so that you can play.
/// Nothing is left running, and nothing on disk outside its folder.
///
///   tribune demo
///   tribune demo -check        exit with 0 if all of it worked, 1 if not
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    /// Do not stay: exit with 0 if every step worked, 1 if not.
    #[arg(long)]
    check: bool,
    /// Where data and logs go; absent: a new folder under the system's temporary folder, removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    #[command(hide = true)]
    Service(service::ServiceArgs),
}

pub(crate) fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("cannot start the runtime"))?;
    let outcome = match args.part {
        Some(Part::Service(service)) => {
            runtime.block_on(service::serve(service)).map(|()| ExitCode::SUCCESS).map_err(Failure::io("demo service"))
        }
        None => runtime.block_on(play(args)),
    };
    // A child's read of standard input cannot be cancelled; it must not keep the process alive.
    runtime.shutdown_background();
    outcome
}

async fn play(args: DemoArgs) -> Result<ExitCode, Failure> {
    let plan = plan::Plan::find().ok_or_else(|| Failure::Other("no free block of loopback addresses (127.41.0.0 to 127.99.0.0, ports 8300, 8500, 8600): is another demo running?".into()))?;
    let (folder, temporary) = match args.dir {
        Some(dir) => (dir, false),
        None => (std::env::temp_dir().join(format!("tribune-demo-{}", std::process::id())), true),
    };
    std::fs::create_dir_all(&folder).map_err(Failure::io(format!("cannot make {}", folder.display())))?;
    let mut stage = steps::Stage::new(plan, &folder);
    let played = tokio::select! {
        played = stage.play() => played,
        _ = crate::signals::interrupted() => Err("interrupted".to_string()),
    };
    if played.is_ok() && !args.check {
        stage.playground();
        crate::signals::interrupted().await;
        println!("\nStopping…");
    }
    stage.stop().await;
    Ok(match played {
        Ok(()) => {
            remove(temporary, &folder);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("The demo failed: {reason}\nThe logs are in {}", folder.join("logs").display());
            ExitCode::FAILURE
        }
    })
}

fn remove(temporary: bool, folder: &std::path::Path) {
    if temporary && let Err(error) = std::fs::remove_dir_all(folder) {
        eprintln!("cannot remove {}: {error}", folder.display());
    }
}

/// Prints what was just measured, with the time since the start.
struct Narrator {
    started: Instant,
}

impl Narrator {
    fn new() -> Self {
        Narrator { started: Instant::now() }
    }

    fn act(&self, title: &str) {
        self.line(&format!("\n{title}"));
    }

    fn say(&self, text: &str) {
        self.line(&format!("  {:6.2} s  {text}", self.started.elapsed().as_secs_f64()));
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Nobody is left to tell when standard output is gone.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}
