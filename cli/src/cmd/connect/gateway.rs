//! `tribune connect gateway`: the way between datacenters.

use super::{ProxyArgs, node_name, run_proxy};
use crate::cmd::client::Agent;
use crate::cmd::{Failure, Outcome};
use clap::Args;
use proxy::{ConfigSource, Gateway, Options};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Run a gateway between datacenters. Sidecars of this datacenter connect to it by TCP, gateways of others by QUIC; it passes their
/// connections on without decrypting them. Several in a datacenter share the load.
///
///   tribune connect gateway -register -address=10.0.0.5:8443 -wan-address=203.0.113.7:8443
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct GatewayArgs {
    /// Register it with the agent first.
    #[arg(long, requires = "address")]
    register: bool,
    /// Its service name.
    #[arg(long, default_value = "mesh-gateway")]
    service: String,
    /// Its instance id [the service name].
    #[arg(long)]
    proxy_id: Option<String>,
    /// With -register: `ip:port` where this datacenter's sidecars reach it.
    #[arg(long)]
    address: Option<SocketAddr>,
    /// With -register: `ip:port` (UDP) where other datacenters' gateways reach it (as -address).
    #[arg(long)]
    wan_address: Option<SocketAddr>,
    /// With -register: the IP address to listen on [that of -address].
    #[arg(long)]
    bind_address: Option<std::net::IpAddr>,
    #[command(flatten)]
    proxy: ProxyArgs,
}

pub(super) fn run(args: GatewayArgs) -> Outcome {
    run_proxy(&args.proxy, "gateway", source(&args), |source| Gateway::start(Options { source }))
}

async fn source(args: &GatewayArgs) -> Result<(ConfigSource, String), Failure> {
    if let Some(path) = &args.proxy.config_file {
        return Ok((ConfigSource::File(path.clone()), path.display().to_string()));
    }
    let agent = Agent::connect(&args.proxy.client)?;
    let proxy_id = args.proxy_id.clone().unwrap_or_else(|| args.service.clone());
    if let (true, Some(address)) = (args.register, args.address) {
        let body = registration(args, &proxy_id, address);
        agent.put("/v1/agent/service/register", body.to_string().into_bytes()).await?;
    }
    let node = node_name(&agent).await?;
    Ok((ConfigSource::Control { agent: args.proxy.grpc_addr.clone(), proxy_id: proxy_id.clone(), node }, proxy_id))
}

fn registration(args: &GatewayArgs, proxy_id: &str, address: SocketAddr) -> Value {
    let wan = args.wan_address.unwrap_or(address);
    json!({
        "Kind": "mesh-gateway",
        "ID": proxy_id,
        "Name": args.service,
        "Address": address.ip(),
        "Port": address.port(),
        "TaggedAddresses": {
            "lan": {"Address": address.ip(), "Port": address.port()},
            "wan": {"Address": wan.ip(), "Port": wan.port()},
        },
        "Proxy": {"Config": {"bind_address": args.bind_address.unwrap_or(address.ip()), "tunnel_port": wan.port()}},
        "Check": {"Name": "Mesh Gateway Listening", "TCP": address, "Interval": "10s", "DeregisterCriticalServiceAfter": "6h"},
    })
}
