//! Durable writes a second and linearizable reads a second, for one server and for three in one process over loopback.
//!
//! `cargo run --release -p tribune-raft --example raft_bench [seconds]`; the data goes to the system's temporary folder.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use raft::{Bytes, Config, Dial, Member, Raft, Snapshot, StateMachine};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint, Server};

const COMMAND_BYTES: usize = 300;

/// Counts commands.
struct Counter(u64);

impl StateMachine for Counter {
    type Response = u64;

    fn apply(&mut self, commands: &[Bytes]) -> Vec<u64> {
        let first = self.0;
        self.0 += commands.len() as u64;
        (first..self.0).collect()
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(Counter(self.0))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

impl Snapshot for Counter {
    fn write_to(self: Box<Self>, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }
}

/// One connection to each member, kept.
#[derive(Default)]
struct Plain(Mutex<HashMap<String, Channel>>);

impl Dial for Plain {
    fn channel(&self, to: &Member) -> Channel {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = channels.entry(to.address.clone()).or_insert_with(|| {
            // Invariant: the addresses are our own.
            let endpoint = Endpoint::from_shared(format!("http://{}", to.address)).expect("an address");
            endpoint.tcp_nodelay(true).connect_lazy()
        });
        channel.clone()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    for servers in [1, 3] {
        let (cluster, leader) = start(servers).await?;
        idle(servers).await;
        for clients in [1, 16, 64, 256] {
            writes(&leader, servers, clients, Duration::from_secs(seconds)).await;
        }
        for clients in [1, 64] {
            reads(&leader, servers, clients, Duration::from_secs(seconds)).await;
        }
        for (raft, _folder) in cluster {
            raft.shutdown().await;
        }
    }
    failover().await
}

/// How long nobody is answered when the leader stops.
async fn failover() -> Result<(), Box<dyn std::error::Error>> {
    let mut gaps = Vec::new();
    for _ in 0..9 {
        let (cluster, leader) = start(3).await?;
        leader.propose(Bytes::from_static(b"before")).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        leader.shutdown().await;
        while gaps.last().is_none_or(|(start, _gap)| *start != began) {
            for (raft, _folder) in cluster.iter().filter(|(raft, _)| raft.id() != leader.id()) {
                if raft.propose(Bytes::from_static(b"after")).await.is_ok() {
                    gaps.push((began, began.elapsed()));
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (raft, _folder) in cluster {
            raft.shutdown().await;
        }
    }
    let mut gaps: Vec<_> = gaps.into_iter().map(|(_start, gap)| gap).collect();
    gaps.sort();
    println!("failover of three: median {:?}, longest {:?}", gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    Ok(())
}

type Cluster = Vec<(Raft<Counter>, TempDir)>;

async fn start(servers: usize) -> Result<(Cluster, Raft<Counter>), Box<dyn std::error::Error>> {
    let mut cluster = Vec::new();
    for number in 0..servers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let folder = tempfile::tempdir()?;
        let config = Config::new(folder.path(), format!("server-{number}"), listener.local_addr()?.to_string());
        let (raft, service) = Raft::start(config, Counter(0), Plain::default()).await?;
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().tcp_nodelay(true).add_service(service).serve_with_incoming(incoming));
        cluster.push((raft, folder));
    }
    cluster[0].0.bootstrap(cluster.iter().map(|(raft, _)| raft.member()).collect()).await?;
    loop {
        if let Some((leader, _)) = cluster.iter().find(|(raft, _)| raft.is_leader()) {
            let leader = leader.clone();
            return Ok((cluster, leader));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn idle(servers: usize) {
    let (began, cpu) = (Instant::now(), cpu());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let share = (self::cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("{servers} servers, idle: {:.3} % of a core, {} resident", share * 100.0, resident().unwrap_or_default());
}

/// What the system says about this process's memory.
fn resident() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.trim_start_matches("VmRSS:").trim().to_owned())
}

async fn writes(leader: &Raft<Counter>, servers: usize, clients: usize, time: Duration) {
    let before = leader.status().last_log;
    let command = Bytes::from(vec![7; COMMAND_BYTES]);
    let leader_handle = leader.clone();
    let (done, cpu) = load(clients, time, move || {
        let (leader, command) = (leader_handle.clone(), command.clone());
        async move { leader.propose(command).await.is_ok() }
    })
    .await;
    let entries = (leader.status().last_log - before).max(1);
    println!(
        "{servers} servers, {clients} clients: {:.0} writes/s, {:.1} us of CPU each, {:.1} to a sync",
        rate(done, time),
        micros(cpu, done),
        rate(done, time) / rate(entries, time),
    );
}

async fn reads(leader: &Raft<Counter>, servers: usize, clients: usize, time: Duration) {
    let leader = leader.clone();
    let (done, cpu) = load(clients, time, move || {
        let leader = leader.clone();
        async move { leader.read_index().await.is_ok() }
    })
    .await;
    println!(
        "{servers} servers, {clients} clients: {:.0} reads/s, {:.1} us of CPU each",
        rate(done, time),
        micros(cpu, done)
    );
}

async fn load<F: Future<Output = bool> + Send + 'static>(
    clients: usize,
    time: Duration,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> (u64, Duration) {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let before = cpu();
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (done, stop, call) = (Arc::clone(&done), Arc::clone(&stop), call.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if call().await {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    tokio::time::sleep(time).await;
    let result = (done.load(Ordering::Relaxed), cpu() - before);
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let _ = task.await;
    }
    result
}

/// User and system time of this process.
fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Duration::ZERO;
    };
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    Duration::from_micros(micros(usage.user_time()).unsigned_abs() + micros(usage.system_time()).unsigned_abs())
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn micros(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / count.max(1) as f64
}
