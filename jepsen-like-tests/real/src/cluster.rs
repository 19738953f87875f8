//! Three real servers of the `tribune` binary, and room for guests, on addresses of their own: started, killed, restarted, and gone when dropped.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::clock::seconds_off;
use crate::http;
use crate::kv;
use crate::memory::{Sample, resident_kib};
use jlt_core::verdict::Verdict;
use jlt_fs::{Disk, Lost, Survivors};
use jlt_net::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How many servers a cluster has, and clients know.
pub(crate) const SERVERS: usize = 3;

/// How many there can be for a while, where each has a machine of its own: the others are guests, down unless somebody starts them.
pub(crate) const MACHINES: usize = SERVERS + 2;

/// Consul's HTTP port; each server has an address of its own, so all can have the usual ports.
pub(crate) const HTTP_PORT: u16 = 8500;

/// How long a cluster may take from a start until it accepts a write. Generous: machines are loaded.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// How long syncs hang before the power is cut: longer than it takes to cut it.
const HOLD: Duration = Duration::from_secs(5);

/// Lines of a log that say how a server ended.
const LAST_WORDS: usize = 3;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// For questions between faults, which must not wait.
const QUICK_TIMEOUT: Duration = Duration::from_millis(300);

/// The join secret of every test cluster: 32 bytes in base64. They listen on loopback only.
pub(crate) const SECRET: &str = "amVwc2VuLWxpa2UgdGVzdHMgb2YgVHJpYnVuZSEhISE=";

/// Where servers live. The default is this machine: loopback addresses and ordinary folders, gone when nothing was wrong.
#[derive(Default)]
pub(crate) struct World {
    /// Each server on a machine of its own; the first machine is the clients'.
    pub(crate) network: Option<Arc<Network>>,
    /// Each server's data on a disk whose power can be cut; the seed decides what survives.
    pub(crate) disks: Option<u64>,
    /// Each server's clock can be set; needs libfaketime.
    pub(crate) clocks: bool,
    /// A folder that stays, instead of a temporary one.
    pub(crate) folder: Option<PathBuf>,
}

/// Where Debian's package libfaketime puts it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A cluster and its folder, which is removed with it unless [`Cluster::keep`] was called.
pub(crate) struct Cluster {
    binary: PathBuf,
    folder: PathBuf,
    servers: Vec<Server>,
    world: World,
    keep: bool,
}

struct Server {
    disk: Option<Disk>,
    /// How often it was started.
    lives: Arc<AtomicU32>,
    address: Ipv4Addr,
    /// Where the log of its last start begins.
    log_from: usize,
    /// When it was started last.
    started: Instant,
    /// `None` while it is killed. It holds the server's standard input open: the kernel closes it however this program ends, and the server ends too.
    process: Option<Child>,
}

impl Cluster {
    /// Starts the servers on this machine and waits until the cluster accepts a write.
    pub(crate) fn start(binary: &Path) -> Result<Self, String> {
        Self::start_in(binary, World::default())
    }

    /// Starts the servers where they are told to live, and waits until the cluster accepts a write.
    pub(crate) fn start_in(binary: &Path, world: World) -> Result<Self, String> {
        let binary = binary.canonicalize().map_err(|error| {
            format!("{}: {error}; build it with `cargo build` or name it with --bin", binary.display())
        })?;
        if world.clocks && !Path::new(FAKETIME).exists() {
            return Err(format!("{FAKETIME} is missing: the clocks cannot be set; install libfaketime"));
        }
        let process = std::process::id();
        let temporary = || std::env::temp_dir().join(format!("jlt-{process}"));
        let folder = world.folder.clone().unwrap_or_else(temporary);
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        // Two runs at once get different addresses, nearly always.
        let subnet = (process % 250 + 1) as u8;
        let keep = world.folder.is_some();
        let mut cluster = Self { binary, folder, servers: Vec::new(), world, keep };
        let machines = if cluster.world.network.is_some() { MACHINES } else { SERVERS };
        for index in 0..machines {
            let address = match cluster.world.network {
                Some(_) => Network::address(index + 1),
                None => Ipv4Addr::new(127, 30, subnet, index as u8 + 1),
            };
            let disk = cluster.mount_disk(index)?;
            cluster.servers.push(Server {
                disk,
                lives: Arc::default(),
                address,
                log_from: 0,
                started: Instant::now(),
                process: None,
            });
        }
        for index in 0..machines {
            cluster.set_clock(index, 0)?;
        }
        for index in 0..SERVERS {
            cluster.restart(index)?;
        }
        cluster.wait_ready().inspect_err(|_| cluster.keep = true)?;
        Ok(cluster)
    }

    fn mount_disk(&self, index: usize) -> Result<Option<Disk>, String> {
        let Some(seed) = self.world.disks else { return Ok(None) };
        let at = self.data(index);
        std::fs::create_dir_all(&at).map_err(|error| format!("{}: {error}", at.display()))?;
        Disk::mount(&at, seed.wrapping_add(index as u64)).map(Some).map_err(|error| error.to_string())
    }

    fn data(&self, index: usize) -> PathBuf {
        self.folder.join(name(index))
    }

    /// Where clients send their requests.
    pub(crate) fn http_addresses(&self) -> Vec<SocketAddr> {
        (0..SERVERS).map(|index| self.http_address(index)).collect()
    }

    /// Where the API of one server is, guest or not.
    pub(crate) fn http_address(&self, index: usize) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.servers[index].address), HTTP_PORT)
    }

    /// Where the data, logs and history are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder outlives the cluster.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// SIGKILL, and wait until the process is gone. True if the signal is what ended it.
    pub(crate) fn kill(&mut self, index: usize) -> bool {
        let Some(mut process) = self.servers[index].process.take() else { return false };
        // It fails only for a process that is gone already.
        process.kill().ok();
        process.wait().is_ok_and(|status| status.signal() == Some(Signal::SIGKILL as i32))
    }

    /// SIGSTOP: it does nothing and holds its connections, as a machine that swaps.
    pub(crate) fn freeze(&self, index: usize) -> Result<(), String> {
        self.signal(index, Signal::SIGSTOP)
    }

    /// SIGCONT: it goes on where it stopped.
    pub(crate) fn thaw(&self, index: usize) -> Result<(), String> {
        self.signal(index, Signal::SIGCONT)
    }

    /// SIGTERM: it is to stop politely. Does not wait for that.
    pub(crate) fn terminate(&self, index: usize) -> Result<(), String> {
        self.signal(index, Signal::SIGTERM)
    }

    /// Whether there is a process, as far as [`Cluster::ended`] was asked.
    pub(crate) fn is_running(&self, index: usize) -> bool {
        self.servers[index].process.is_some()
    }

    /// Whether the kernel holds it stopped: proc(5), the third field of `stat`, behind the name in brackets.
    pub(crate) fn is_frozen(&self, index: usize) -> bool {
        let Some(process) = &self.servers[index].process else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_name, rest)| rest.starts_with('T'))
    }

    /// How many seconds its clock is away from ours, either way, as the header `Date` of an answer tells. None without an answer.
    pub(crate) fn clock_off_by(&self, index: usize) -> Option<u64> {
        let reply = http::request(self.http_address(index), "GET", "/v1/status/leader", b"", QUICK_TIMEOUT).ok()?;
        seconds_off(reply.header("date")?)
    }

    fn signal(&self, index: usize, signal: Signal) -> Result<(), String> {
        let Some(process) = &self.servers[index].process else {
            return Ok(());
        };
        // The process is our child and not yet waited for, so the id is still its own.
        kill(Pid::from_raw(process.id() as i32), signal).map_err(|error| format!("{signal} cannot be sent: {error}"))
    }

    /// Lets writes pile up before the power is cut: syncs hang, so that there is something to lose, and whoever acknowledged it is caught.
    pub(crate) fn hold_syncs(&self, index: usize) {
        self.set_disk(index, jlt_fs::Faults { slow_sync: HOLD, ..jlt_fs::Faults::default() });
    }

    /// The disks lose what was not synced, but for what survives by chance, and the servers are killed. All lose their power before any comes back.
    pub(crate) fn cut_power(&mut self, servers: &[usize], survivors: Survivors) -> Lost {
        let mut all = Lost::default();
        for index in servers {
            if let Some(disk) = &mut self.servers[*index].disk {
                all += disk.cut_power(survivors);
            }
        }
        for index in servers {
            self.kill(*index);
            self.set_disk(*index, jlt_fs::Faults::default());
            if let Some(disk) = &self.servers[*index].disk {
                disk.power_on();
            }
        }
        all
    }

    /// Flips a bit in a file of a server that is down; see [`Disk::flip`].
    pub(crate) fn flip(&mut self, index: usize, part: &str) -> Option<(PathBuf, usize)> {
        self.servers[index].disk.as_mut()?.flip(part)
    }

    /// The names of the points at which this binary can be told to die; none unless it was built for that.
    pub(crate) fn crash_points(&self) -> Result<Vec<String>, String> {
        let output = Command::new(&self.binary).args(["version", "-format=json"]).output();
        let output = output.map_err(|error| format!("{}: {error}", self.binary.display()))?;
        crash_points(&output.stdout).ok_or_else(|| {
            let binary = self.binary.display();
            format!("{binary} has no crash points: build it with `cargo build -p tribune --features faults`")
        })
    }

    /// From now on the server dies when it passes a point, `name:n` for the n-th time; an empty text takes that back.
    pub(crate) fn arm(&self, index: usize, point: &str) -> Result<(), String> {
        write_whole(&self.arms(index), point)
    }

    fn arms(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{}.crash", name(index)))
    }

    /// Kills a server and takes all it had: what starts there next is a new one.
    pub(crate) fn wipe(&mut self, index: usize) -> Result<(), String> {
        self.kill(index);
        match &self.servers[index].disk {
            Some(disk) => disk.clear(),
            None => {
                let data = self.data(index);
                std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
            }
        }
        Ok(())
    }

    /// From now on no disk keeps what it says it keeps.
    pub(crate) fn let_disks_lie(&self) {
        self.servers.iter().filter_map(|server| server.disk.as_ref()).for_each(Disk::lie);
    }

    /// From now on this is wrong with the server's disk.
    pub(crate) fn set_disk(&self, index: usize, faults: jlt_fs::Faults) {
        if let Some(disk) = &self.servers[index].disk {
            disk.set(faults);
        }
    }

    /// What the disks did, all together.
    pub(crate) fn disk_counts(&self) -> jlt_fs::Counts {
        let counts = self.servers.iter().filter_map(|server| Some(server.disk.as_ref()?.counts()));
        counts.fold(jlt_fs::Counts::default(), |all, one| jlt_fs::Counts {
            syncs: all.syncs + one.syncs,
            failed: all.failed + one.failed,
            slow: all.slow + one.slow,
            refused: all.refused + one.refused,
        })
    }

    /// Sets the clock of a server so many seconds ahead, or behind.
    pub(crate) fn set_clock(&self, index: usize, seconds: i64) -> Result<(), String> {
        if !self.world.clocks {
            return Ok(());
        }
        write_whole(&self.clock(index), &format!("{seconds:+}s\n"))
    }

    fn clock(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{}.clock", name(index)))
    }

    /// How often each server was started; counts on while the cluster lives.
    pub(crate) fn lives(&self) -> Vec<Arc<AtomicU32>> {
        self.servers.iter().take(SERVERS).map(|server| Arc::clone(&server.lives)).collect()
    }

    /// The servers that ended by themselves since the last call, and how.
    pub(crate) fn ended(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut ended = Vec::new();
        for (index, server) in self.servers.iter_mut().enumerate() {
            if let Some(process) = &mut server.process
                && let Ok(Some(status)) = process.try_wait()
            {
                server.process = None;
                ended.push((index, status));
            }
        }
        ended
    }

    /// What the processes that run have in memory.
    pub(crate) fn memory(&self, seconds: u64) -> Vec<Sample> {
        let sample = |(server, at): (usize, &Server)| {
            let kib = resident_kib(at.process.as_ref()?.id())?;
            Some(Sample { seconds, server, age_seconds: at.started.elapsed().as_secs(), kib })
        };
        self.servers.iter().enumerate().filter_map(sample).collect()
    }

    /// The end of what a server wrote into its log since it was started, on one line.
    pub(crate) fn last_words(&self, index: usize) -> String {
        let log = std::fs::read(self.folder.join(format!("{}.log", name(index)))).unwrap_or_default();
        let log = String::from_utf8_lossy(log.get(self.servers[index].log_from..).unwrap_or_default());
        let mut lines: Vec<&str> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(LAST_WORDS).collect();
        lines.reverse();
        lines.join(" | ")
    }

    /// Copies what is on the disks into ordinary folders, as evidence. Nothing to do for servers without a disk of their own.
    pub(crate) fn save_disks(&self) -> Result<(), String> {
        for (index, server) in self.servers.iter().enumerate() {
            if let Some(disk) = &server.disk {
                let to = self.folder.join(format!("{}-disk", name(index)));
                disk.save(&to).map_err(|error| format!("{}: {error}", to.display()))?;
            }
        }
        Ok(())
    }

    /// Starts a server that does not run, on the data that it left.
    pub(crate) fn restart(&mut self, index: usize) -> Result<(), String> {
        if self.servers[index].process.is_some() {
            return Ok(());
        }
        let log = self.log(&name(index))?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        self.servers[index].log_from = log.metadata().map_or(0, |file| file.len() as usize);
        let mut command = self.command(index);
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        let spawned = match &self.world.network {
            Some(network) => network.machine(index + 1).inside(|| command.spawn()),
            None => command.spawn(),
        };
        let process = spawned.map_err(|error| format!("{} does not start: {error}", self.binary.display()))?;
        self.servers[index].lives.fetch_add(1, Ordering::SeqCst);
        self.servers[index].process = Some(process);
        self.servers[index].started = Instant::now();
        Ok(())
    }

    fn command(&self, index: usize) -> Command {
        let address = self.servers[index].address;
        let mut command = Command::new(&self.binary);
        command.args(["agent", "-server", "-bootstrap-expect=3", &format!("-encrypt={SECRET}")]);
        command.args([format!("-node={}", name(index)), format!("-bind={address}"), format!("-client={address}")]);
        command.arg(format!("-data-dir={}", self.data(index).display()));
        // A run of seconds has many snapshots, and servers that need one to catch up.
        command.args(["-hcl=raft_snapshot_threshold = 200", "-hcl=raft_trailing_logs = 50"]);
        command.arg("-hcl=session_ttl_min = \"2s\"");
        for (other, server) in self.servers.iter().enumerate().take(SERVERS) {
            if other != index {
                command.arg(format!("-retry-join={}", server.address));
            }
        }
        command.env("TRIBUNE_ENDS_WITH_PARENT", "1");
        // A binary that was not built for it does not look.
        command.env("TRIBUNE_CRASH_FILE", self.arms(index));
        if self.world.clocks {
            command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", self.clock(index));
            command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
        }
        command
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
        Err(format!("no leader within {READY_TIMEOUT:?}; the logs are in {}", self.folder.display()))
    }

    /// A server that ends by itself is a finding, not something to wait for.
    fn expect_alive(&mut self) -> Result<(), String> {
        let ended = self.ended();
        let Some((index, status)) = ended.first() else { return Ok(()) };
        self.keep = true;
        let log = self.folder.join(format!("{}.log", name(*index)));
        Err(format!("server {} ended by itself ({status}); see {}", name(*index), log.display()))
    }

    fn log(&self, name: &str) -> Result<File, String> {
        let path = self.folder.join(format!("{name}.log"));
        OpenOptions::new().create(true).append(true).open(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            self.kill(index);
        }
        for index in 0..self.servers.len() {
            self.servers[index].disk = None;
            if self.world.disks.is_some() {
                std::fs::remove_dir(self.data(index)).ok();
            }
        }
        if !self.keep {
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// The name of a server.
pub(crate) fn name(index: usize) -> String {
    format!("s{}", index + 1)
}

/// Ends the cluster; its folder stays when the verdict is bad or when asked to.
pub(crate) fn seal(mut verdict: Verdict, mut cluster: Cluster, keep: bool) -> Verdict {
    if keep || !verdict.passed() {
        cluster.keep();
        verdict.folder = Some(cluster.folder().display().to_string());
    }
    verdict
}

/// Consul answers `""` while there is no leader.
fn knows_leader(address: SocketAddr) -> bool {
    http::request(address, "GET", "/v1/status/leader", b"", REQUEST_TIMEOUT)
        .is_ok_and(|reply| reply.status == 200 && reply.body.len() > 4)
}

/// Written aside and renamed, so that a reader never meets half of it.
fn write_whole(path: &Path, text: &str) -> Result<(), String> {
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let written = std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, path));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// What a binary says that was built for it.
fn crash_points(version: &[u8]) -> Option<Vec<String>> {
    let said: serde_json::Value = serde_json::from_slice(version).ok()?;
    let points = said["CrashPoints"].as_array()?;
    points.iter().map(|point| point.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_binary_that_was_built_for_it_has_crash_points() {
        assert_eq!(crash_points(br#"{"Version":"1.0.0","CompatibleWith":"1.16.1"}"#), None);
        assert_eq!(crash_points(b"Tribune v1"), None);
        let built = crash_points(br#"{"Version":"1.0.0","CrashPoints":["log-before-sync"]}"#);
        assert_eq!(built, Some(vec!["log-before-sync".to_owned()]));
    }
}
