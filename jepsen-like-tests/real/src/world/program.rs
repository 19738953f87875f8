//! A process that is started again and again, on a machine of its own.

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jlt_net::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that may end by itself is started again after so long.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// Where programs run.
#[derive(Clone)]
pub(super) struct Ground {
    binary: PathBuf,
    /// For logs and data.
    pub(super) folder: PathBuf,
    pub(super) network: Arc<Network>,
}

/// The process ends with this value.
pub(super) struct Program {
    pub(super) name: String,
    pub(super) machine: usize,
    /// How often it was started.
    pub(super) lives: Arc<AtomicU32>,
    arguments: Vec<String>,
    /// It holds its standard input open, so that it ends with this program.
    process: Option<Child>,
    /// It is not started again before this, if it ended by itself.
    rests_until: Option<Instant>,
}

impl Ground {
    pub(super) fn new(binary: &Path, folder: &Path, network: &Arc<Network>) -> Result<Self, String> {
        let absolute = |path: &Path| path.canonicalize().map_err(|error| format!("{}: {error}", path.display()));
        Ok(Self { binary: absolute(binary)?, folder: absolute(folder)?, network: Arc::clone(network) })
    }

    /// Writes into `troubles.log` what begins (true) or ends now, for people.
    pub(super) fn tell(&self, now_ms: u64, who: &str, step: Option<(impl Debug, bool)>) {
        let Some((what, begins)) = step else { return };
        let verb = if begins { "begins" } else { "ends" };
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("troubles.log"));
        // What cannot be written down has happened all the same.
        log.and_then(|mut log| writeln!(log, "{now_ms:6} ms  {who}: {what:?} {verb}")).ok();
    }
}

impl Program {
    pub(super) fn new(name: &str, machine: usize, arguments: Vec<String>) -> Self {
        Self { name: name.to_owned(), machine, arguments, lives: Arc::default(), process: None, rests_until: None }
    }

    /// Does nothing if it runs.
    pub(super) fn start(&mut self, ground: &Ground) -> Result<(), String> {
        if self.process.is_some() {
            return Ok(());
        }
        let path = ground.folder.join(format!("{}.log", self.name));
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| format!("{}: {error}", path.display()))?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(&ground.binary);
        command.args(&self.arguments).env("TRIBUNE_ENDS_WITH_PARENT", "1");
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        let spawned = ground.network.machine(self.machine).inside(|| command.spawn());
        let process = spawned.map_err(|error| format!("{} does not start: {error}", ground.binary.display()))?;
        self.lives.fetch_add(1, Ordering::SeqCst);
        (self.process, self.rests_until) = (Some(process), None);
        Ok(())
    }

    /// SIGKILL, and wait until the process is gone. Does nothing when it is.
    pub(super) fn kill(&mut self) {
        self.rests_until = None;
        if let Some(mut process) = self.process.take() {
            // Both fail only for a process that is gone already.
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// Starts it again a moment after it has ended by itself, as a service manager would.
    pub(super) fn revive(&mut self, ground: &Ground) -> Result<(), String> {
        if self.ended().is_some() {
            self.rests_until = Some(Instant::now() + RESTART_AFTER);
        }
        match self.rests_until {
            Some(until) if Instant::now() >= until => self.start(ground),
            _ => Ok(()),
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        // The process is our child and not yet waited for, so the id is still its own.
        kill(Pid::from_raw(process.id() as i32), signal).map_err(|error| format!("{signal} cannot be sent: {error}"))
    }

    /// How it ended, if it did by itself since the last call.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
