//! `tribune agent`: run a node, server or not.

use super::{Failure, Outcome};
use crate::config::{Loaded, Source, load, object_of};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Run an agent: on every node one, on three or five nodes as a server (-server).
///
/// Flags and configuration files have Consul's names. Files are read first, in the order given, then flags.
///
///   tribune agent -dev
///   tribune agent -config-dir=/etc/tribune.d
///   tribune agent -server -bootstrap-expect=3 -data-dir=/var/lib/tribune -encrypt=$(cat secret) \
///                 -retry-join=10.0.0.1 -retry-join=10.0.0.2 -retry-join=10.0.0.3
///   tribune agent -data-dir=/var/lib/tribune -encrypt=$(cat secret) -retry-join=10.0.0.1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct AgentArgs {
    /// A single server on loopback with a temporary data folder, for trying things out.
    #[arg(long)]
    dev: bool,
    /// A configuration file (.json or .hcl); may be given several times.
    #[arg(long = "config-file")]
    config_files: Vec<PathBuf>,
    /// A folder of configuration files; may be given several times.
    #[arg(long = "config-dir")]
    config_dirs: Vec<PathBuf>,
    /// Accepted for Consul's sake: files say by their ending what they are.
    #[arg(long, hide = true)]
    config_format: Option<String>,
    /// A piece of configuration in HCL; may be given several times.
    #[arg(long)]
    hcl: Vec<String>,
    #[command(flatten)]
    flags: Flags,
}

/// Flags that stand for configuration keys.
#[derive(Debug, Args)]
struct Flags {
    /// Be a server: keep the catalog, take part in Raft.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    server: Option<bool>,
    /// Start a cluster of one.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    bootstrap: Option<bool>,
    /// Start a cluster when so many servers have found each other.
    #[arg(long)]
    bootstrap_expect: Option<u32>,
    /// The datacenter's name (dc1).
    #[arg(long)]
    datacenter: Option<String>,
    /// The datacenter with the CA root, intentions and config entries.
    #[arg(long)]
    primary_datacenter: Option<String>,
    /// Where the node keeps what it must not forget.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The node's name [the host's name].
    #[arg(long)]
    node: Option<String>,
    /// The node's id, a UUID [made at the first start].
    #[arg(long)]
    node_id: Option<String>,
    /// key:value metadata of the node; may be given several times.
    #[arg(long)]
    node_meta: Vec<String>,
    /// Address for other nodes to be served on (0.0.0.0).
    #[arg(long)]
    bind: Option<String>,
    /// Address for local clients: HTTP, DNS, gRPC (127.0.0.1).
    #[arg(long)]
    client: Option<String>,
    /// Address that other nodes are told [the bind address].
    #[arg(long)]
    advertise: Option<String>,
    /// Address that other datacenters are told [the advertised one].
    #[arg(long)]
    advertise_wan: Option<String>,
    /// The join secret (see `tribune keygen`).
    #[arg(long)]
    encrypt: Option<String>,
    /// A server to join, tried until it succeeds; may be given several times.
    #[arg(long)]
    retry_join: Vec<String>,
    /// As -retry-join.
    #[arg(long)]
    join: Vec<String>,
    /// A server of another datacenter, tried until it succeeds; may be given several times.
    #[arg(long)]
    retry_join_wan: Vec<String>,
    /// As -retry-join-wan.
    #[arg(long)]
    join_wan: Vec<String>,
    /// Port of the HTTP API (8500); -1 turns it off.
    #[arg(long, allow_hyphen_values = true)]
    http_port: Option<i32>,
    /// Port of the HTTPS API (off).
    #[arg(long, allow_hyphen_values = true)]
    https_port: Option<i32>,
    /// Port of DNS (8600); -1 turns it off.
    #[arg(long, allow_hyphen_values = true)]
    dns_port: Option<i32>,
    /// Port for the machine's proxies (8502); -1 turns it off.
    #[arg(long, allow_hyphen_values = true)]
    grpc_port: Option<i32>,
    /// Port for other nodes (8300).
    #[arg(long)]
    server_port: Option<i32>,
    /// DNS domain (consul.).
    #[arg(long)]
    domain: Option<String>,
    /// A second DNS domain.
    #[arg(long)]
    alt_domain: Option<String>,
    /// A DNS server for other names; may be given several times.
    #[arg(long)]
    recursor: Vec<String>,
    /// Allow script checks from configuration files.
    #[arg(long)]
    enable_local_script_checks: bool,
    /// Allow script checks from files and the API. Whoever reaches the API can then run programs.
    #[arg(long)]
    enable_script_checks: bool,
    /// trace, debug, info, warn or error (info).
    #[arg(long)]
    log_level: Option<String>,
    /// Log as JSON.
    #[arg(long)]
    log_json: bool,
    /// Write the process id here.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    ignored: IgnoredFlags,
}

/// Consul's flags that have no use here. They are accepted and named in one warning.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted for Consul's sake, without effect")]
struct IgnoredFlags {
    #[arg(long, hide = true)]
    ui: bool,
    #[arg(long, hide = true)]
    ui_dir: Option<String>,
    #[arg(long, hide = true)]
    ui_content_path: Option<String>,
    #[arg(long, hide = true)]
    disable_host_node_id: Option<Option<bool>>,
    #[arg(long, hide = true)]
    disable_keyring_file: bool,
    #[arg(long, hide = true)]
    grpc_tls_port: Option<i32>,
    #[arg(long, hide = true)]
    protocol: Option<u32>,
    #[arg(long, hide = true)]
    raft_protocol: Option<u32>,
    #[arg(long, hide = true)]
    rejoin: bool,
    #[arg(long, hide = true)]
    retry_interval: Option<String>,
    #[arg(long, hide = true)]
    retry_interval_wan: Option<String>,
    #[arg(long, hide = true)]
    retry_max: Option<u32>,
    #[arg(long, hide = true)]
    retry_max_wan: Option<u32>,
    #[arg(long, hide = true)]
    serf_lan_bind: Option<String>,
    #[arg(long, hide = true)]
    serf_lan_port: Option<i32>,
    #[arg(long, hide = true)]
    serf_wan_bind: Option<String>,
    #[arg(long, hide = true)]
    serf_wan_port: Option<i32>,
    #[arg(long, hide = true)]
    log_file: Option<String>,
    #[arg(long, hide = true)]
    syslog: bool,
}

pub(super) fn run(args: AgentArgs) -> Outcome {
    let scratch = if args.dev && args.flags.data_dir.is_none() { Some(scratch_dir()?) } else { None };
    let loaded = load(&sources(&args, scratch.as_ref()))?;
    crate::telemetry::start(&loaded.settings.log_level, loaded.settings.log_json);
    warn_of_ignored(&loaded, &args.flags.ignored);
    let ran = crate::node::run(loaded.settings);
    if let Some(dir) = scratch {
        // The folder is ours and temporary; what cannot be removed is the system's to clean.
        let _ = std::fs::remove_dir_all(dir);
    }
    ran.map(|()| ExitCode::SUCCESS).map_err(|e| Failure::Other(e.to_string()))
}

fn scratch_dir() -> Result<PathBuf, Failure> {
    let dir = std::env::temp_dir().join(format!("tribune-dev-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(Failure::io(format!("cannot make {}", dir.display())))?;
    Ok(dir)
}

fn sources(args: &AgentArgs, scratch: Option<&PathBuf>) -> Vec<Source> {
    let dev = args.dev.then(|| {
        Source::Flags(object_of([
            ("server", json!(true)),
            ("bootstrap", json!(true)),
            ("bind_addr", json!("127.0.0.1")),
            ("data_dir", json!(scratch)),
        ]))
    });
    let files = args.config_files.iter().cloned().map(Source::File);
    let dirs = args.config_dirs.iter().cloned().map(Source::Dir);
    let pieces = args.hcl.iter().cloned().map(Source::Hcl);
    dev.into_iter().chain(files).chain(dirs).chain(pieces).chain([Source::Flags(args.flags.keys())]).collect()
}

fn warn_of_ignored(loaded: &Loaded, flags: &IgnoredFlags) {
    let mut ignored = loaded.ignored.clone();
    ignored.extend(flags.given());
    if !ignored.is_empty() {
        tracing::warn!("settings without effect: {}", ignored.join("; "));
    }
}

impl Flags {
    /// The configuration that these flags stand for.
    fn keys(&self) -> Value {
        let mut pairs: Vec<(&'static str, Value)> = Vec::new();
        let mut set = |key: &'static str, value: Option<Value>| pairs.extend(value.map(|value| (key, value)));
        set("server", self.server.map(Value::from));
        set("bootstrap", self.bootstrap.map(Value::from));
        set("bootstrap_expect", self.bootstrap_expect.map(Value::from));
        set("datacenter", self.datacenter.clone().map(Value::from));
        set("primary_datacenter", self.primary_datacenter.clone().map(Value::from));
        set("data_dir", self.data_dir.as_ref().map(|dir| json!(dir)));
        set("node_name", self.node.clone().map(Value::from));
        set("node_id", self.node_id.clone().map(Value::from));
        set("node_meta", pairs_of(&self.node_meta));
        set("bind_addr", self.bind.clone().map(Value::from));
        set("client_addr", self.client.clone().map(Value::from));
        set("advertise_addr", self.advertise.clone().map(Value::from));
        set("advertise_addr_wan", self.advertise_wan.clone().map(Value::from));
        set("encrypt", self.encrypt.clone().map(Value::from));
        set("retry_join", list(&self.retry_join));
        set("start_join", list(&self.join));
        set("retry_join_wan", list(&self.retry_join_wan));
        set("start_join_wan", list(&self.join_wan));
        set("ports.http", self.http_port.map(Value::from));
        set("ports.https", self.https_port.map(Value::from));
        set("ports.dns", self.dns_port.map(Value::from));
        set("ports.grpc", self.grpc_port.map(Value::from));
        set("ports.server", self.server_port.map(Value::from));
        set("domain", self.domain.clone().map(Value::from));
        set("alt_domain", self.alt_domain.clone().map(Value::from));
        set("recursors", list(&self.recursor));
        set("enable_local_script_checks", self.enable_local_script_checks.then_some(json!(true)));
        set("enable_script_checks", self.enable_script_checks.then_some(json!(true)));
        set("log_level", self.log_level.clone().map(Value::from));
        set("log_json", self.log_json.then_some(json!(true)));
        set("pid_file", self.pid_file.as_ref().map(|file| json!(file)));
        object_of(pairs)
    }
}

impl IgnoredFlags {
    fn given(&self) -> Vec<String> {
        let flags = [
            (
                "-ui",
                self.ui || self.ui_dir.is_some() || self.ui_content_path.is_some(),
                "there is no web interface yet",
            ),
            ("-disable-host-node-id", self.disable_host_node_id.is_some(), "node ids are random"),
            ("-disable-keyring-file", self.disable_keyring_file, "there is no gossip"),
            ("-grpc-tls-port", self.grpc_tls_port.is_some(), "proxies of this machine use the loopback gRPC port"),
            ("-protocol", self.protocol.is_some() || self.raft_protocol.is_some(), "there is one protocol"),
            ("-rejoin", self.rejoin, "a node always rejoins"),
            (
                "-retry-interval",
                self.retry_interval.is_some() || self.retry_interval_wan.is_some(),
                "backs off by itself",
            ),
            (
                "-retry-max",
                self.retry_max.is_some() || self.retry_max_wan.is_some(),
                "joining is tried until it succeeds",
            ),
            ("-serf-lan-port", self.serf_lan_bind.is_some() || self.serf_lan_port.is_some(), "there is no gossip"),
            ("-serf-wan-port", self.serf_wan_bind.is_some() || self.serf_wan_port.is_some(), "there is no gossip"),
            (
                "-log-file",
                self.log_file.is_some() || self.syslog,
                "log to standard error and let the supervisor keep it",
            ),
        ];
        flags.into_iter().filter(|(_, given, _)| *given).map(|(flag, _, reason)| format!("{flag} ({reason})")).collect()
    }
}

fn list(items: &[String]) -> Option<Value> {
    (!items.is_empty()).then(|| json!(items))
}

/// `key:value` flags as an object.
fn pairs_of(items: &[String]) -> Option<Value> {
    let pair = |item: &String| {
        let (key, value) = item.split_once(':').unwrap_or((item, ""));
        (key.to_string(), json!(value))
    };
    (!items.is_empty()).then(|| Value::Object(items.iter().map(pair).collect()))
}
