//! What a sidecar needs to know.

use super::{CONNECT_TIMEOUT_MS, address, common, endpoints_of, protocol_of};
use crate::query;
use crate::tables::Row;
use crate::view::View;
use model::intention::Action;
use model::proxy_config::{Endpoint, Inbound, Rule, UpstreamConfig, service_sni};
use model::service::Upstream;
use model::{CheckStatus, Node, ProxyConfig, ServiceInstance, ServiceKind, SpiffeId};
use std::net::IpAddr;

/// What the sidecar with this id on this node needs to know; `default_action` is for calls that no intention names.
/// Nothing if there is no such sidecar, or no certificate authority yet.
pub fn sidecar(
    view: &View<'_>,
    node: &str,
    proxy_id: &str,
    datacenter: &str,
    default_action: Action,
) -> Option<ProxyConfig> {
    let node = query::node::node(view, node)?;
    let proxy =
        query::service::instance(view, &node.name, proxy_id).filter(|row| row.kind == ServiceKind::ConnectProxy)?;
    let mut config = common(view, proxy_id, &proxy.proxy.destination_service_name, datacenter)?;
    config.inbound = Some(Inbound { default_action, ..inbound(view, node, proxy) });
    for upstream in proxy.proxy.upstreams.iter().filter(|upstream| is_service(upstream)) {
        let compiled = compile_upstream(view, upstream, datacenter, &config.trust_domain);
        let mut name = upstream_name(&compiled, datacenter);
        if config.upstreams.contains_key(&name) {
            // The application calls the same service in two places.
            name = format!("{name}@{}", compiled.listen);
        }
        config.upstreams.insert(name, compiled);
    }
    Some(config)
}

/// `db`, or `db.dc2` when it is elsewhere.
fn upstream_name(upstream: &UpstreamConfig, here: &str) -> String {
    if upstream.datacenter == here {
        upstream.service.clone()
    } else {
        format!("{}.{}", upstream.service, upstream.datacenter)
    }
}

fn is_service(upstream: &Upstream) -> bool {
    matches!(&*upstream.destination_type, "" | "service") && !upstream.destination_name.is_empty()
}

fn inbound(view: &View<'_>, node: &Node, row: &Row<ServiceInstance>) -> Inbound {
    let proxy = &row.proxy;
    let service = &*proxy.destination_service_name;
    let defaults = query::config_entry::service_defaults(view, service);
    let own_limit = address::number_setting(&proxy.config, "max_inbound_connections");
    let own_connect_ms = address::number_setting(&proxy.config, "local_connect_timeout_ms");
    let own_request_ms = address::number_setting(&proxy.config, "local_request_timeout_ms");
    let bind_port = address::port_setting(&proxy.config, "bind_port").unwrap_or(row.port);
    let bind_address = address::text_setting(&proxy.config, "bind_address").unwrap_or_else(|| bind_host(node, row));
    let connect_ms = own_connect_ms.or(defaults.map(|d| d.local_connect_timeout_ms)).filter(|ms| *ms > 0);
    Inbound {
        listen: address::join(bind_address, bind_port),
        local: local_address(view, node, row),
        protocol: protocol_of(view, service),
        intentions: rules_for(view, service),
        max_connections: own_limit.or(defaults.map(|d| d.max_inbound_connections)).unwrap_or(0),
        connect_timeout_ms: connect_ms.unwrap_or(CONNECT_TIMEOUT_MS),
        request_timeout_ms: own_request_ms.or(defaults.map(|d| d.local_request_timeout_ms)).unwrap_or(0),
        ..Inbound::default()
    }
}

/// Where to listen: on the sidecar's own address if it has one, else everywhere, as in Consul: its check asks at 127.0.0.1. A host
/// name may not be ours to bind.
fn bind_host<'a>(node: &Node, row: &'a ServiceInstance) -> &'a str {
    match (row.address.parse::<IpAddr>(), node.address.parse::<IpAddr>()) {
        (Ok(_), _) => &row.address,
        (Err(_), Ok(IpAddr::V6(_))) => "::",
        (Err(_), _) => "0.0.0.0",
    }
}

/// Where the application listens.
fn local_address(view: &View<'_>, node: &Node, row: &Row<ServiceInstance>) -> String {
    let proxy = &row.proxy;
    let host = if proxy.local_service_address.is_empty() { "127.0.0.1" } else { &proxy.local_service_address };
    if proxy.local_service_port != 0 {
        return address::join(host, proxy.local_service_port);
    }
    let application = query::service::instance(view, &node.name, &proxy.destination_service_id);
    address::join(host, application.map_or(0, |application| application.port))
}

fn rules_for(view: &View<'_>, service: &str) -> Vec<Rule> {
    let intentions = query::intention::matching_destination(view, service);
    intentions.iter().map(|row| Rule { source: row.source_name.clone(), action: row.action }).collect()
}

fn compile_upstream(view: &View<'_>, upstream: &Upstream, here: &str, trust_domain: &str) -> UpstreamConfig {
    let service = &upstream.destination_name;
    let datacenter = if upstream.datacenter.is_empty() { here } else { &upstream.datacenter };
    let host = if upstream.local_bind_address.is_empty() { "127.0.0.1" } else { &upstream.local_bind_address };
    let connect_ms = address::number_setting(&upstream.config, "connect_timeout_ms").filter(|ms| *ms > 0);
    let protocol = address::text_setting(&upstream.config, "protocol").and_then(|text| text.parse().ok());
    UpstreamConfig {
        listen: address::join(host, upstream.local_bind_port),
        service: service.clone(),
        datacenter: datacenter.to_string(),
        protocol: protocol.unwrap_or_else(|| protocol_of(view, service)),
        sni: service_sni(service, datacenter, trust_domain),
        spiffe_ids: vec![SpiffeId::service(trust_domain, datacenter, service).to_string()],
        endpoints: if datacenter == here { endpoints_of(view, service) } else { local_gateways(view) },
        connect_timeout_ms: connect_ms.unwrap_or(CONNECT_TIMEOUT_MS),
    }
}

/// The gateways of this datacenter, through which services elsewhere are reached.
fn local_gateways(view: &View<'_>) -> Vec<Endpoint> {
    let gateways = query::gateway::mesh_gateways(view);
    let healthy = gateways.iter().filter(|entry| entry.status() != CheckStatus::Critical);
    let mut endpoints: Vec<Endpoint> = healthy.filter_map(address::endpoint).collect();
    endpoints.sort();
    endpoints
}
