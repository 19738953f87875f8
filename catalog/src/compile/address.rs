//! Addresses of instances, as proxies dial them.

use crate::query::HealthEntry;
use model::proxy_config::Endpoint;
use model::{CheckStatus, JsonMap, Node, ServiceInstance};
use std::net::Ipv6Addr;

/// Port of a gateway for other datacenters' gateways (UDP), unless `Proxy.Config["tunnel_port"]` says otherwise.
pub(crate) const TUNNEL_PORT: u16 = 8443;

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn join(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(ip) => format!("[{ip}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The instance's own address, or its node's.
pub(crate) fn host<'a>(node: &'a Node, service: &'a ServiceInstance) -> &'a str {
    if service.address.is_empty() { &node.address } else { &service.address }
}

/// Where an instance is reached inside its datacenter; nothing without a port.
pub(crate) fn endpoint(entry: &HealthEntry<'_>) -> Option<Endpoint> {
    let (node, service) = (entry.node, entry.service);
    if service.port == 0 {
        return None;
    }
    let weight = match entry.status() {
        CheckStatus::Passing => service.weights.passing,
        CheckStatus::Warning | CheckStatus::Critical => service.weights.warning,
    };
    Some(Endpoint {
        address: join(host(node, service), service.port),
        instance: service.id.clone(),
        node: node.name.clone(),
        weight: weight.max(1),
    })
}

/// Where a gateway is reached by QUIC from other datacenters: its tagged address `wan`, else its address.
pub(crate) fn tunnel(node: &Node, service: &ServiceInstance) -> String {
    let wan = service.tagged_addresses.get("wan").map(|wan| wan.address.as_str()).filter(|address| !address.is_empty());
    let node_wan = || node.tagged_addresses.get("wan").map(String::as_str).filter(|_| service.address.is_empty());
    let host = wan.or_else(node_wan).unwrap_or_else(|| host(node, service));
    join(host, tunnel_port(&service.proxy.config))
}

/// The port of a gateway's tunnels.
pub(crate) fn tunnel_port(config: &JsonMap) -> u16 {
    port_setting(config, "tunnel_port").unwrap_or(TUNNEL_PORT)
}

/// A port in opaque settings: a number, or a text of one.
pub(crate) fn port_setting(config: &JsonMap, name: &str) -> Option<u16> {
    let value = config.get(name)?;
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))?;
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// A text in opaque settings.
pub(crate) fn text_setting<'a>(config: &'a JsonMap, name: &str) -> Option<&'a str> {
    config.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// A whole number in opaque settings.
pub(crate) fn number_setting(config: &JsonMap, name: &str) -> Option<u32> {
    config.get(name)?.as_u64().and_then(|number| u32::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_wears_brackets() {
        assert_eq!(join("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(join("::1", 80), "[::1]:80");
        assert_eq!(join("gw.example.com", 443), "gw.example.com:443");
    }
}
