//! Real `tribune` processes on loopback addresses, for tests that see what an operator sees.

use api::client::{Address, Client};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A block of loopback addresses of this test's own, 127.<a>.<b>.0/24, so that tests can run side by side with standard ports.
pub fn block() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = u8::try_from(std::process::id() % 250).expect("below 250");
    format!("127.{}.{}", 100 + process % 100, NEXT.fetch_add(1, Ordering::Relaxed) + process / 100 * 80)
}

/// One running `tribune`.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `tribune ARGS…` with its words in a file.
    pub fn start(folder: &Path, name: &str, args: &[String]) -> Process {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_tribune"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("tribune starts");
        Process { child, log }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A signal by number.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("the process is ours");
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(Instant::now() < deadline, "still running; its words:\n{}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has said.
    pub fn words(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has said something.
    pub fn says(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.words().contains(text) {
            assert!(Instant::now() < deadline, "never said {text:?}; its words:\n{}", self.words());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Arguments of a server at `ip` of a cluster of `expect`.
pub fn server_args(folder: &Path, name: &str, ip: &str, expect: u32, join: &[String], more: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = ["agent", "-server"].map(String::from).to_vec();
    args.push(format!("-bootstrap-expect={expect}"));
    args.extend(agent_args(folder, name, ip, join, more).split_off(1));
    args
}

/// Arguments of a plain agent at `ip`.
pub fn agent_args(folder: &Path, name: &str, ip: &str, join: &[String], more: &[&str]) -> Vec<String> {
    let mut args = vec![
        "agent".to_string(),
        format!("-node={name}"),
        format!("-bind={ip}"),
        format!("-client={ip}"),
        format!("-data-dir={}", folder.join(name).display()),
    ];
    args.extend(join.iter().map(|address| format!("-retry-join={address}")));
    args.extend(more.iter().map(|arg| (*arg).to_string()));
    args
}

/// A client of the agent at `ip`.
pub fn client(ip: &str) -> Client {
    Client::new(Address::Http(format!("{ip}:8500")), None)
}

/// Asks again and again until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a write succeeds there.
pub async fn writable(ip: &str) {
    let client = client(ip);
    let client = &client;
    until(&format!("{ip} takes writes"), || async move { client.put("/v1/kv/test/ready", "yes").await.ok() }).await;
}
