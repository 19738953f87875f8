//! Server CPU per query: `cargo run --release -p tribune-dns --example dns_bench [seconds per case]`.
//!
//! The server is this program once more, so that its CPU can be told from the client's. Beside it a bare UDP echo gives the
//! floor: what the system takes for a datagram in and one out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{Config, EndpointRecord, Endpoints, Found, Lookup, NodeRecord, ReverseName, ServiceQuery, serve};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use model::CheckStatus;
use model::service::Weights;

/// Client sockets: enough for the kernel to spread them over the server's.
const CLIENTS: usize = 8;
/// Questions under way on each socket.
const WINDOW: usize = 16;
const SECONDS_MAX: u64 = 60;

fn main() {
    let argument = std::env::args().nth(1);
    match argument.as_deref() {
        Some("serve") => run_server(),
        Some("echo") => run_echo(),
        seconds => {
            let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(2).min(SECONDS_MAX);
            run_cases(Duration::from_secs(seconds));
        }
    }
}

fn run_cases(duration: Duration) {
    println!("{:<24}{:>10}{:>12}{:>14}", "case", "queries/s", "answer B", "CPU us/query");
    let echo = Server::start("echo");
    measure("echo", &echo, &question("web-1.service.consul.", RecordType::A, None), duration);
    drop(echo);
    let server = Server::start("serve");
    for edns in [None, Some(4096)] {
        for record_type in [RecordType::A, RecordType::SRV] {
            for instances in [1, 10, 100] {
                let label = format!("{record_type} x {instances}{}", if edns.is_some() { " edns" } else { "" });
                let question = question(&format!("web-{instances}.service.consul."), record_type, edns);
                measure(&label, &server, &question, duration);
            }
        }
    }
    measure("NXDOMAIN", &server, &question("nope.service.consul.", RecordType::A, None), duration);
}

fn measure(label: &str, server: &Server, question: &[u8], duration: Duration) {
    let (before, start) = (server.cpu(), Instant::now());
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (address, question) = (server.address, question.to_vec());
            std::thread::spawn(move || ask_for(address, &question, duration))
        })
        .collect();
    let done: Vec<(u64, usize)> = clients.into_iter().map(|client| client.join().expect("client")).collect();
    let queries: u64 = done.iter().map(|(queries, _)| queries).sum();
    let cpu = server.cpu() - before;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let (rate, each) = (queries as f64 / start.elapsed().as_secs_f64(), cpu.as_micros() as f64 / queries as f64);
    println!("{label:<24}{rate:>10.0}{:>12}{each:>14.2}", done[0].1);
}

/// Keeps `WINDOW` questions under way on each socket. Tells how many were answered, and how long the last answer was.
fn ask_for(server: SocketAddr, question: &[u8], duration: Duration) -> (u64, usize) {
    let sockets: Vec<UdpSocket> = (0..CLIENTS / 2)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
            socket.connect(server).expect("connected");
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
            socket
        })
        .collect();
    let (end, mut buffer) = (Instant::now() + duration, [0; 65_535]);
    let (mut answered, mut bytes) = (0, 0);
    while Instant::now() < end {
        for socket in &sockets {
            (0..WINDOW).for_each(|_| drop(socket.send(question)));
        }
        for socket in &sockets {
            for _ in 0..WINDOW {
                if let Ok(length) = socket.recv(&mut buffer) {
                    (answered, bytes) = (answered + 1, length);
                }
            }
        }
    }
    (answered, bytes)
}

fn question(name: &str, record_type: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).expect("name"), record_type));
    if let Some(bytes) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(bytes);
        message.set_edns(edns);
    }
    message.to_vec().expect("question")
}

/// This program as a server.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(kind: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child =
            Command::new(program).arg(kind).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("server");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("its address");
        Self { child, address: line.trim().parse().expect("address") }
    }

    /// User and system time so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("stat");
        // Behind the name in brackets, the 12th and 13th fields, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("name").1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run_echo() {
    let first = UdpSocket::bind("127.0.0.1:0").expect("socket");
    println!("{}", first.local_addr().expect("address"));
    let mut buffer = [0; 2048];
    while let Ok((length, peer)) = first.recv_from(&mut buffer) {
        let _ = first.send_to(&buffer[..length], peer);
    }
}

#[tokio::main]
async fn run_server() {
    let config = Config { udp_bytes_max: 4096, ..Config::default() };
    let address = "127.0.0.1:0".parse().expect("address");
    let handle = serve(config, address, Arc::new(Memory::new()), std::future::pending()).await.expect("listeners");
    println!("{}", handle.address());
    std::future::pending::<()>().await;
}

/// Services `web-1`, `web-10`, `web-100` of so many instances, among a thousand others.
struct Memory(BTreeMap<String, Arc<Endpoints>>);

impl Memory {
    fn new() -> Self {
        let sizes = [1, 10, 100].map(|instances| (format!("web-{instances}"), instances));
        let others = (0..1000).map(|other| (format!("other-{other}"), 3));
        let encode = |instances| Arc::new(Endpoints::new("dc1", &(0..instances).map(instance).collect::<Vec<_>>()));
        Self(sizes.into_iter().chain(others).map(|(name, instances)| (name, encode(instances))).collect())
    }
}

fn instance(number: u32) -> EndpointRecord {
    EndpointRecord {
        node: format!("node-{number}"),
        node_address: IpAddr::from((0x0a00_0000 + number).to_be_bytes()).to_string(),
        node_meta: BTreeMap::new(),
        service_address: String::new(),
        port: 8080,
        weights: Weights::default(),
        status: CheckStatus::Passing,
    }
}

impl Lookup for Memory {
    fn service(&self, query: &ServiceQuery<'_>) -> Found<Arc<Endpoints>> {
        self.0.get(query.service).cloned().map_or(Found::NoSuchName, Found::Ready)
    }
    fn node(&self, _: Option<&str>, _: &str) -> Found<Arc<NodeRecord>> {
        Found::NoSuchName
    }
    fn node_by_address(&self, _: IpAddr) -> Found<ReverseName> {
        Found::NoSuchName
    }
    fn name_servers(&self) -> Vec<Arc<NodeRecord>> {
        Vec::new()
    }
    fn datacenter(&self) -> &str {
        "dc1"
    }
}
