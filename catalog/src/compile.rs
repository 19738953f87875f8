//! From the catalog to what a proxy obeys.

pub(crate) mod address;
mod gateway;
mod sidecar;

pub use gateway::gateway;
pub use sidecar::sidecar;

use crate::query::service::instance;
use crate::view::View;
use model::config_entry::Protocol;
use model::intention::Action;
use model::proxy_config::Endpoint;
use model::{ProxyConfig, ServiceKind};

/// Time limit for connecting to a service or an application when nobody says otherwise, in milliseconds (Consul: 5 s).
pub const CONNECT_TIMEOUT_MS: u32 = 5_000;

/// What the proxy with this id on this node needs to know: [`sidecar`] or [`gateway`], by its kind. Nothing if there is
/// no such proxy, or no certificate authority yet. `default_action` is for calls that no intention names.
pub fn proxy(
    view: &View<'_>,
    node: &str,
    proxy_id: &str,
    datacenter: &str,
    default_action: Action,
) -> Option<ProxyConfig> {
    match instance(view, node, proxy_id)?.kind {
        ServiceKind::ConnectProxy => sidecar(view, node, proxy_id, datacenter, default_action),
        ServiceKind::MeshGateway => gateway(view, node, proxy_id, datacenter),
        ServiceKind::Typical
        | ServiceKind::TerminatingGateway
        | ServiceKind::IngressGateway
        | ServiceKind::ApiGateway => None,
    }
}

/// What every proxy needs to know: who it is, whom to trust and whom not any more.
fn common(view: &View<'_>, id: &str, service: &str, datacenter: &str) -> Option<ProxyConfig> {
    let ca = crate::query::ca::ca(view)?;
    let (serials, ids) = crate::query::ca::revoked(view);
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_string).collect();
    Some(ProxyConfig {
        id: id.to_string(),
        datacenter: datacenter.to_string(),
        trust_domain: ca.trust_domain.clone(),
        service: service.to_string(),
        roots: ca.roots.iter().map(|root| root.root_cert.clone()).collect(),
        revoked_serials: owned(serials),
        revoked_ids: owned(ids),
        ..ProxyConfig::default()
    })
}

/// What a service speaks: its own setting, else that of all proxies, else TCP.
fn protocol_of(view: &View<'_>, service: &str) -> Protocol {
    let own = crate::query::config_entry::service_defaults(view, service)
        .map_or(Protocol::Unset, |defaults| defaults.protocol);
    if own != Protocol::Unset {
        return own;
    }
    let shared = crate::query::config_entry::proxy_defaults(view).and_then(|defaults| defaults.protocol());
    shared.unwrap_or(Protocol::Tcp)
}

/// Where what speaks the mesh's protocol for a service can be reached: instances that are not critical.
fn endpoints_of(view: &View<'_>, service: &str) -> Vec<Endpoint> {
    let entries = crate::query::dns::connect_endpoints(view, service, false);
    let mut endpoints: Vec<Endpoint> = entries.iter().filter_map(address::endpoint).collect();
    endpoints.sort();
    endpoints
}
