//! What a gateway between datacenters needs to know.

use super::{address, common, endpoints_of};
use crate::query;
use crate::view::View;
use model::proxy_config::{Endpoint, GatewayConfig, service_sni};
use model::{ProxyConfig, ServiceKind};
use std::collections::BTreeMap;

/// What the mesh gateway with this id on this node needs to know. Nothing if there is no such gateway, or no
/// certificate authority yet.
pub fn gateway(view: &View<'_>, node: &str, proxy_id: &str, datacenter: &str) -> Option<ProxyConfig> {
    let node = query::node::node(view, node)?;
    let row =
        query::service::instance(view, &node.name, proxy_id).filter(|row| row.kind == ServiceKind::MeshGateway)?;
    let mut config = common(view, proxy_id, &row.service, datacenter)?;
    let settings = &row.proxy.config;
    let bind = address::text_setting(settings, "bind_address").unwrap_or("0.0.0.0");
    config.gateway = Some(GatewayConfig {
        listen: address::join(bind, address::port_setting(settings, "bind_port").unwrap_or(row.port)),
        tunnel_listen: address::join(bind, address::tunnel_port(settings)),
        datacenters: other_datacenters(view, datacenter),
        services: services_by_sni(view, datacenter, &config.trust_domain),
    });
    Some(config)
}

fn other_datacenters(view: &View<'_>, here: &str) -> BTreeMap<String, Vec<String>> {
    let others = query::datacenter::datacenters(view).into_iter().filter(|row| row.name != here);
    others.map(|row| (row.name.clone(), row.gateways.clone())).collect()
}

fn services_by_sni(view: &View<'_>, datacenter: &str, trust_domain: &str) -> BTreeMap<String, Vec<Endpoint>> {
    let names = query::service::connect_names(view);
    names.into_iter().map(|name| (service_sni(name, datacenter, trust_domain), endpoints_of(view, name))).collect()
}
