//! The demo's processes: started from this very binary, logged to files, and gone when the demo is gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// Set for children: they end when their standard input closes, which the kernel does even if the demo is killed.
const BOUND: &str = "TRIBUNE_ENDS_WITH_PARENT";
/// How long a child may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Everything that the demo started.
pub(super) struct Children {
    folder: PathBuf,
    running: Vec<(String, Child)>,
}

impl Children {
    pub(super) fn new(folder: &Path) -> Self {
        Children { folder: folder.to_path_buf(), running: Vec::new() }
    }

    /// Starts `tribune ARGS…`; its output goes to `<folder>/logs/<name>.log`.
    pub(super) fn start(&mut self, name: &str, args: &[String]) -> std::io::Result<()> {
        let logs = self.folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let log = File::options().create(true).append(true).open(logs.join(format!("{name}.log")))?;
        let child = Command::new(std::env::current_exe()?)
            .args(args)
            .env(BOUND, "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.running.push((name.to_string(), child));
        Ok(())
    }

    /// `kill -9`, as a crash would.
    pub(super) async fn kill(&mut self, name: &str) -> std::io::Result<()> {
        if let Some(place) = self.running.iter().position(|(n, _)| n == name) {
            let (_, mut child) = self.running.remove(place);
            child.kill().await?;
        }
        Ok(())
    }

    /// The first child that ended by itself, which none should.
    pub(super) fn ended(&mut self) -> Option<String> {
        let gone = |(name, child): &mut (String, Child)| matches!(child.try_wait(), Ok(Some(_))).then(|| name.clone());
        self.running.iter_mut().find_map(gone)
    }

    /// Where a child's words are.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// Ends every child: politely by closing its input, then by force.
    pub(super) async fn stop(&mut self) {
        let mut running = std::mem::take(&mut self.running);
        for (_, child) in &mut running {
            drop(child.stdin.take());
        }
        let deadline = tokio::time::Instant::now() + STOP_LIMIT;
        for (_, child) in &mut running {
            if tokio::time::timeout_at(deadline, child.wait()).await.is_err() {
                // It may have ended in this very moment; either way it is gone.
                let _ = child.kill().await;
            }
        }
    }
}

/// Completes when this process was started by the demo and the demo is gone. Never completes otherwise.
pub(crate) async fn parent_gone() {
    if std::env::var_os(BOUND).is_none() {
        return std::future::pending().await;
    }
    let mut buffer = [0u8; 64];
    while let Ok(read) = tokio::io::stdin().read(&mut buffer).await {
        if read == 0 {
            return;
        }
    }
}
