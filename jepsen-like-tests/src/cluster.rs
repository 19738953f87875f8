//! Three real servers of the `tribune` binary on loopback addresses of their own: started, killed, restarted, and gone when dropped.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::http;
use crate::kv;

/// How many servers a cluster has.
pub(crate) const SERVERS: usize = 3;

/// Consul's HTTP port; each server has an address of its own, so all can have the usual ports.
const HTTP_PORT: u16 = 8500;

/// How long a cluster may take from a start until it accepts a write. Generous: machines are loaded.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(90);

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The join secret of every test cluster: 32 bytes in base64. They listen on loopback only.
const SECRET: &str = "amVwc2VuLWxpa2UgdGVzdHMgb2YgVHJpYnVuZSEhISE=";

/// A cluster and its folder, which is removed with it unless [`Cluster::keep`] was called.
pub(crate) struct Cluster {
    binary: PathBuf,
    folder: PathBuf,
    servers: Vec<Server>,
    keep: bool,
}

struct Server {
    address: Ipv4Addr,
    /// `None` while it is killed. It holds the server's standard input open: the kernel closes it however this program ends, and the server ends too.
    process: Option<Child>,
}

impl Cluster {
    /// Starts the servers and waits until the cluster accepts a write.
    pub(crate) fn start(binary: &Path) -> Result<Self, String> {
        let binary = binary.canonicalize().map_err(|error| {
            format!(
                "{}: {error}; build it with `cargo build` or name it with --bin",
                binary.display()
            )
        })?;
        let process = std::process::id();
        let folder = std::env::temp_dir().join(format!("jlt-{process}"));
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        // Two runs at once get different addresses, nearly always.
        let subnet = (process % 250 + 1) as u8;
        let servers = (1..=SERVERS as u8).map(|host| Server {
            address: Ipv4Addr::new(127, 30, subnet, host),
            process: None,
        });
        let mut cluster = Self {
            binary,
            folder,
            servers: servers.collect(),
            keep: false,
        };
        for index in 0..SERVERS {
            cluster.restart(index)?;
        }
        cluster.wait_ready().inspect_err(|_| cluster.keep = true)?;
        Ok(cluster)
    }

    /// Where clients send their requests.
    pub(crate) fn http_addresses(&self) -> Vec<SocketAddr> {
        self.servers
            .iter()
            .map(|server| SocketAddr::new(IpAddr::V4(server.address), HTTP_PORT))
            .collect()
    }

    /// Where the data, logs and history are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder outlives the cluster.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// SIGKILL, and wait until the process is gone. Does nothing when it is.
    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut process) = self.servers[index].process.take() {
            // Both fail only for a process that is gone already.
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// SIGSTOP: it does nothing and holds its connections, as a machine that swaps.
    pub(crate) fn freeze(&self, index: usize) -> Result<(), String> {
        self.signal(index, "-STOP")
    }

    /// SIGCONT: it goes on where it stopped.
    pub(crate) fn thaw(&self, index: usize) -> Result<(), String> {
        self.signal(index, "-CONT")
    }

    fn signal(&self, index: usize, signal: &str) -> Result<(), String> {
        let Some(process) = &self.servers[index].process else {
            return Ok(());
        };
        let sent = Command::new("kill")
            .args([signal, &process.id().to_string()])
            .status();
        match sent {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("kill {signal} does not work: {other:?}")),
        }
    }

    /// Starts a server that does not run, on the data that it left.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), String> {
        if self.servers[index].process.is_some() {
            return Ok(());
        }
        let name = format!("s{}", index + 1);
        let log = self.log(&name)?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let address = self.servers[index].address;
        let mut command = Command::new(&self.binary);
        command.args([
            "agent",
            "-server",
            "-bootstrap-expect=3",
            &format!("-encrypt={SECRET}"),
        ]);
        command.args([
            format!("-node={name}"),
            format!("-bind={address}"),
            format!("-client={address}"),
        ]);
        command.arg(format!("-data-dir={}", self.folder.join(&name).display()));
        for (other, server) in self.servers.iter().enumerate() {
            if other != index {
                command.arg(format!("-retry-join={}", server.address));
            }
        }
        let process = command
            .env("TRIBUNE_ENDS_WITH_PARENT", "1")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", self.binary.display()))?;
        self.servers[index].process = Some(process);
        Ok(())
    }

    /// Starts whoever does not run, and waits until a write is accepted and every server knows a leader.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        for index in 0..SERVERS {
            self.restart(index)?;
        }
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let addresses = self.http_addresses();
        while Instant::now() < deadline {
            self.expect_alive()?;
            let ready = addresses.iter().all(|address| knows_leader(*address));
            if ready && kv::put(addresses[0], "jlt/ready", 1) == Ok(true) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!(
            "no leader within {READY_TIMEOUT:?}; the logs are in {}",
            self.folder.display()
        ))
    }

    /// A server that ends by itself is a finding, not something to wait for.
    fn expect_alive(&mut self) -> Result<(), String> {
        for (index, server) in self.servers.iter_mut().enumerate() {
            if let Some(process) = &mut server.process
                && let Ok(Some(status)) = process.try_wait()
            {
                server.process = None;
                self.keep = true;
                let log = self.folder.join(format!("s{}.log", index + 1));
                return Err(format!(
                    "server s{} ended by itself ({status}); see {}",
                    index + 1,
                    log.display()
                ));
            }
        }
        Ok(())
    }

    fn log(&self, name: &str) -> Result<File, String> {
        let path = self.folder.join(format!("{name}.log"));
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            self.kill(index);
        }
        if !self.keep {
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// Consul answers `""` while there is no leader.
fn knows_leader(address: SocketAddr) -> bool {
    http::request(address, "GET", "/v1/status/leader", b"", REQUEST_TIMEOUT)
        .is_ok_and(|reply| reply.status == 200 && reply.body.len() > 4)
}
