//! Real `tribune` processes on loopback addresses, for tests that see what an operator sees.

use api::client::{Address, Client};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A block of loopback addresses of this test's own, 127.<a>.<b>.0/24, so that tests can run side by side with standard ports.
/// Whoever listens on a certain port of its last address has it, until this process ends: tests run in several processes.
pub(crate) fn block() -> String {
    const OWNERS_PORT: u16 = 61_000;
    static HELD: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());
    let mut held = HELD.lock().expect("no test panics in here");
    // Processes begin at different places, or all would try the same ones first.
    let blocks = (0..BLOCKS).map(|n| (std::process::id().wrapping_mul(67) + n) % BLOCKS);
    let nets = blocks.map(|n| format!("127.{}.{}", 100 + n / 250, 1 + n % 250));
    let mut free = nets.filter_map(|net| Some((TcpListener::bind(format!("{net}.254:{OWNERS_PORT}")).ok()?, net)));
    let (owned, net) = free.next().expect("a block that nobody has");
    held.push(owned);
    net
}

/// 127.100.1 to 127.199.250.
const BLOCKS: u32 = 100 * 250;

/// One running `tribune`.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `tribune ARGS…` with its words in a file.
    pub(crate) fn start(folder: &Path, name: &str, args: &[String]) -> Process {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_tribune"))
            .args(args)
            // However the tests end, the kernel closes the pipe and the process ends.
            .env("TRIBUNE_ENDS_WITH_PARENT", "1")
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("tribune starts");
        Process { child, log }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A signal by number.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("the process is ours");
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
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
    pub(crate) fn words(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has said something.
    pub(crate) fn says(&self, text: &str) {
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
pub(crate) fn server_args(
    folder: &Path,
    name: &str,
    ip: &str,
    expect: u32,
    join: &[String],
    more: &[&str],
) -> Vec<String> {
    let mut args: Vec<String> = ["agent", "-server"].map(String::from).to_vec();
    args.push(format!("-bootstrap-expect={expect}"));
    args.extend(agent_args(folder, name, ip, join, more).split_off(1));
    args
}

/// Arguments of a plain agent at `ip`.
pub(crate) fn agent_args(folder: &Path, name: &str, ip: &str, join: &[String], more: &[&str]) -> Vec<String> {
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

/// Three servers of one cluster at `net`.1 to `net`.3, named s1 to s3.
pub(crate) struct Three {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) net: String,
    pub(crate) servers: Vec<Process>,
}

impl Three {
    /// Starts them and waits until each takes writes.
    pub(crate) async fn start() -> Three {
        let (folder, net) = (tempfile::tempdir().expect("a scratch folder"), block());
        let mut three = Three { folder, net, servers: Vec::new() };
        three.servers = (0..3).map(|at| three.process(at)).collect();
        for at in 0..3 {
            writable(&three.ip(at)).await;
        }
        three
    }

    /// The address of server `at`, from 0.
    pub(crate) fn ip(&self, at: usize) -> String {
        format!("{}.{}", self.net, at + 1)
    }

    /// All addresses.
    pub(crate) fn ips(&self) -> Vec<String> {
        (0..3).map(|at| self.ip(at)).collect()
    }

    /// Starts a server that was stopped, on what its folder has.
    pub(crate) fn restart(&mut self, at: usize) {
        self.servers[at] = self.process(at);
    }

    fn process(&self, at: usize) -> Process {
        let name = format!("s{}", at + 1);
        Process::start(
            self.folder.path(),
            &name,
            &server_args(self.folder.path(), &name, &self.ip(at), 3, &self.ips(), &[]),
        )
    }
}

/// The check `serfHealth` of a node, as the server at `ip` has it.
pub(crate) async fn serf_health(ip: &str, node: &str) -> Option<serde_json::Value> {
    let checks: serde_json::Value = client(ip).get(&format!("/v1/health/node/{node}")).await.ok()?.value;
    checks.as_array()?.iter().find(|check| check["CheckID"] == "serfHealth").cloned()
}

/// Waits until a node's `serfHealth` has this status; returns the check.
pub(crate) async fn health_is(ip: &str, node: &str, status: &str) -> serde_json::Value {
    until(&format!("{node} is {status}"), || async move {
        serf_health(ip, node).await.filter(|check| check["Status"] == status)
    })
    .await
}

/// A value of the KV store as the server at `ip` has it, agreed on by a quorum.
pub(crate) async fn value_of(ip: &str, key: &str) -> Option<String> {
    let path = format!("/v1/kv/{key}?raw&consistent");
    let reply = client(ip).send(http::Method::GET, &path, bytes::Bytes::new(), PATIENCE).await.ok()?;
    reply.successful().ok().map(|reply| String::from_utf8_lossy(&reply.body).into_owned())
}

/// A client of the agent at `ip`.
pub(crate) fn client(ip: &str) -> Client {
    Client::new(Address::Http(format!("{ip}:8500")), None)
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
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
pub(crate) async fn writable(ip: &str) {
    let client = client(ip);
    let client = &client;
    until(&format!("{ip} takes writes"), || async move { client.put("/v1/kv/test/ready", "yes").await.ok() }).await;
}

/// Every call begins its search at the same place: only what it holds keeps the next one off, as it does another process.
#[test]
fn nobody_gets_a_block_that_another_has() {
    let blocks: BTreeSet<String> = (0..20).map(|_| block()).collect();
    assert_eq!(blocks.len(), 20);
}
