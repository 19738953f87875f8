//! `tribune connect proxy|gateway|ca`.

mod admin;
mod gateway;
mod sidecar;

use super::client::{Agent, ClientArgs};
use super::{Failure, Outcome, block_on};
use clap::{Args, Subcommand};
use proxy::{ConfigSource, Handle};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// The mesh: sidecars, gateways, and the certificate authority.
///
///   tribune connect proxy -sidecar-for=web-1
///   tribune connect gateway -register -address=10.0.0.5:8443 -wan-address=203.0.113.7:8443
///   tribune connect ca roots
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ConnectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Proxy(sidecar::SidecarArgs),
    Gateway(gateway::GatewayArgs),
    /// The certificate authority.
    ///
    ///   tribune connect ca roots
    ///   tribune connect ca roots -pem > roots.pem
    #[command(verbatim_doc_comment)]
    Ca {
        #[command(subcommand)]
        what: CaWhat,
    },
}

#[derive(Debug, Subcommand)]
enum CaWhat {
    /// The roots that the mesh trusts.
    Roots {
        /// Print certificates in PEM.
        #[arg(long)]
        pem: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// What sidecars and gateways share.
#[derive(Debug, Args)]
struct ProxyArgs {
    /// The agent's gRPC address on this machine.
    #[arg(long, env = "CONSUL_GRPC_ADDR", default_value = "127.0.0.1:8502")]
    grpc_addr: String,
    /// Take everything from this file (a ProxyConfig in JSON with CertFile, KeyFile and RootFiles) instead of an agent.
    #[arg(long)]
    config_file: Option<std::path::PathBuf>,
    /// Serve /stats, /config and /ready here.
    #[arg(long)]
    admin_bind: Option<SocketAddr>,
    /// Threads; one is right for nearly every service.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// How many seconds connections may go on after a stop was asked for.
    #[arg(long, default_value_t = 5)]
    drain_s: u64,
    /// trace, debug, info, warn or error.
    #[arg(long, default_value = "info")]
    log_level: String,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) fn run(args: ConnectArgs) -> Outcome {
    match args.what {
        What::Proxy(args) => sidecar::run(args),
        What::Gateway(args) => gateway::run(args),
        What::Ca { what: CaWhat::Roots { pem, client } } => block_on(roots(pem, client)),
    }
}

/// Runs a proxy until a signal or the end of its parent.
fn run_proxy(
    args: &ProxyArgs,
    what: &str,
    source: impl Future<Output = Result<(ConfigSource, String), Failure>>,
    start: fn(ConfigSource) -> Handle,
) -> Outcome {
    crate::telemetry::start(&args.log_level, false);
    let runtime = proxy::runtime(args.threads).map_err(Failure::io("cannot start the runtime"))?;
    let outcome = runtime.block_on(async {
        let (source, name) = source.await?;
        let handle = start(source);
        let _admin = match args.admin_bind {
            Some(at) => Some(
                admin::serve(at, handle.clone())
                    .await
                    .map_err(Failure::io(format!("cannot listen on {at} (-admin-bind)")))?,
            ),
            None => None,
        };
        tokio::select! {
            ready = handle.ready() => ready.map_err(|e| Failure::Other(e.to_string()))?,
            _ = crate::signals::stop_asked() => return Ok(ExitCode::SUCCESS),
        }
        tracing::info!("{what} of {name} serves at {}", addresses(&handle));
        crate::signals::stop_asked().await;
        tracing::info!("stopping: connections have {} s", args.drain_s);
        handle.shutdown(Duration::from_secs(args.drain_s)).await;
        Ok(ExitCode::SUCCESS)
    });
    runtime.shutdown_background();
    outcome
}

fn addresses(handle: &Handle) -> String {
    let at = handle.addresses();
    let mesh = at.mesh.map(|a| format!("{a} (mutual TLS)"));
    let tunnel = at.tunnel.map(|a| format!("{a} (QUIC)"));
    let upstreams = at.upstreams.iter().map(|(name, a)| format!("{a} (to {name})"));
    mesh.into_iter().chain(tunnel).chain(upstreams).collect::<Vec<_>>().join(", ")
}

/// The name of the agent's node.
async fn node_name(agent: &Agent) -> Result<String, Failure> {
    let answer = agent.get("/v1/agent/self").await?;
    let name = answer["Config"]["NodeName"].as_str();
    name.map(str::to_string).ok_or_else(|| {
        Failure::Other("the agent does not say its node's name: is it a Tribune or Consul agent?".into())
    })
}

async fn roots(pem: bool, client: ClientArgs) -> Outcome {
    let found = Agent::connect(&client)?.get("/v1/connect/ca/roots").await?;
    for root in found["Roots"].as_array().into_iter().flatten() {
        let text = |key: &str| root[key].as_str().unwrap_or_default().to_string();
        if pem {
            print!("{}", text("RootCert"));
            continue;
        }
        let active = if root["Active"] == true { " (active)" } else { "" };
        println!(
            "{}{active}\n  name     {}\n  valid    {} to {}",
            text("ID"),
            text("Name"),
            text("NotBefore"),
            text("NotAfter")
        );
    }
    if !pem {
        println!("trust domain {}", found["TrustDomain"].as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}
