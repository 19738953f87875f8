//! What changed between two configurations of a proxy, so that a change of one endpoint is not a new configuration.

use super::{Endpoint, GatewayConfig, Inbound, ProxyConfig, UpstreamConfig};
use crate::is_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What changed between two configurations. A stream begins with a delta that is [`ProxyDelta::whole`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProxyDelta {
    /// Forget everything first: the rest is a complete configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub whole: bool,
    /// Who the proxy is.
    #[serde(skip_serializing_if = "is_default")]
    pub identity: Option<ProxyIdentity>,
    /// Roots that it trusts.
    #[serde(skip_serializing_if = "is_default")]
    pub roots: Option<Vec<String>>,
    /// Serial numbers that are no longer good.
    #[serde(skip_serializing_if = "is_default")]
    pub revoked_serials: Option<Vec<String>>,
    /// SPIFFE ids that are no longer good.
    #[serde(skip_serializing_if = "is_default")]
    pub revoked_ids: Option<Vec<String>>,
    /// What it accepts for its application.
    #[serde(skip_serializing_if = "is_default")]
    pub inbound: Change<Inbound>,
    /// Upstreams that are new, gone, or changed in more than their endpoints.
    #[serde(skip_serializing_if = "is_default")]
    pub upstreams: BTreeMap<String, Change<UpstreamConfig>>,
    /// New endpoints of upstreams that changed in nothing else.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: BTreeMap<String, Vec<Endpoint>>,
    /// A gateway that is new, gone, or listens elsewhere. One that is set here has no datacenters and services yet.
    #[serde(skip_serializing_if = "is_default")]
    pub gateway: Change<GatewayConfig>,
    /// Other datacenters that are new, gone or changed.
    #[serde(skip_serializing_if = "is_default")]
    pub gateway_datacenters: BTreeMap<String, Change<Vec<String>>>,
    /// Services behind the gateway that are new, gone or changed, by SNI.
    #[serde(skip_serializing_if = "is_default")]
    pub gateway_services: BTreeMap<String, Change<Vec<Endpoint>>>,
}

/// Who a proxy is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProxyIdentity {
    /// [`ProxyConfig::id`]
    #[serde(rename = "ID")]
    pub id: String,
    /// [`ProxyConfig::datacenter`]
    pub datacenter: String,
    /// [`ProxyConfig::trust_domain`]
    pub trust_domain: String,
    /// [`ProxyConfig::service`]
    pub service: String,
}

/// What becomes of a part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Change<T> {
    /// Nothing.
    #[default]
    Keep,
    /// It goes.
    Remove,
    /// It is this now.
    Set(T),
}

impl ProxyDelta {
    /// A complete configuration as a delta.
    pub fn whole(new: &ProxyConfig) -> ProxyDelta {
        ProxyDelta { whole: true, ..diff(&ProxyConfig::default(), new) }
    }

    /// Whether nothing changed, so that there is nothing to send.
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }
}

/// What to tell a proxy that has `old` so that it has `new`.
pub fn diff(old: &ProxyConfig, new: &ProxyConfig) -> ProxyDelta {
    let mut delta = ProxyDelta {
        identity: changed(&identity(old), &identity(new)),
        roots: changed(&old.roots, &new.roots),
        revoked_serials: changed(&old.revoked_serials, &new.revoked_serials),
        revoked_ids: changed(&old.revoked_ids, &new.revoked_ids),
        inbound: change(old.inbound.as_ref(), new.inbound.as_ref()),
        ..ProxyDelta::default()
    };
    diff_upstreams(old, new, &mut delta);
    diff_gateway(old.gateway.as_ref(), new.gateway.as_ref(), &mut delta);
    delta
}

/// Changes a configuration as a delta says. A delta that was made for another one does no harm: what it names and the
/// configuration does not have is left out.
pub fn apply(config: &mut ProxyConfig, delta: ProxyDelta) {
    if delta.whole {
        *config = ProxyConfig::default();
    }
    if let Some(ProxyIdentity { id, datacenter, trust_domain, service }) = delta.identity {
        (config.id, config.datacenter, config.trust_domain, config.service) = (id, datacenter, trust_domain, service);
    }
    replace(&mut config.roots, delta.roots);
    replace(&mut config.revoked_serials, delta.revoked_serials);
    replace(&mut config.revoked_ids, delta.revoked_ids);
    delta.inbound.apply_to(&mut config.inbound);
    apply_to_map(&mut config.upstreams, delta.upstreams);
    for (name, endpoints) in delta.endpoints {
        if let Some(upstream) = config.upstreams.get_mut(&name) {
            upstream.endpoints = endpoints;
        }
    }
    delta.gateway.apply_to(&mut config.gateway);
    if let Some(gateway) = &mut config.gateway {
        apply_to_map(&mut gateway.datacenters, delta.gateway_datacenters);
        apply_to_map(&mut gateway.services, delta.gateway_services);
    }
}

impl<T> Change<T> {
    fn apply_to(self, part: &mut Option<T>) {
        match self {
            Change::Keep => {}
            Change::Remove => *part = None,
            Change::Set(value) => *part = Some(value),
        }
    }
}

fn identity(config: &ProxyConfig) -> ProxyIdentity {
    ProxyIdentity {
        id: config.id.clone(),
        datacenter: config.datacenter.clone(),
        trust_domain: config.trust_domain.clone(),
        service: config.service.clone(),
    }
}

fn diff_upstreams(old: &ProxyConfig, new: &ProxyConfig, delta: &mut ProxyDelta) {
    for (name, upstream) in &new.upstreams {
        match old.upstreams.get(name) {
            Some(known) if known == upstream => {}
            Some(known) if same_but_endpoints(known, upstream) => {
                delta.endpoints.insert(name.clone(), upstream.endpoints.clone());
            }
            _ => {
                delta.upstreams.insert(name.clone(), Change::Set(upstream.clone()));
            }
        }
    }
    for name in old.upstreams.keys().filter(|name| !new.upstreams.contains_key(*name)) {
        delta.upstreams.insert(name.clone(), Change::Remove);
    }
}

fn same_but_endpoints(a: &UpstreamConfig, b: &UpstreamConfig) -> bool {
    let UpstreamConfig { listen, service, datacenter, protocol, sni, spiffe_ids, endpoints: _, connect_timeout_ms } = a;
    *listen == b.listen
        && *service == b.service
        && *datacenter == b.datacenter
        && *protocol == b.protocol
        && *sni == b.sni
        && *spiffe_ids == b.spiffe_ids
        && *connect_timeout_ms == b.connect_timeout_ms
}

fn diff_gateway(old: Option<&GatewayConfig>, new: Option<&GatewayConfig>, delta: &mut ProxyDelta) {
    let Some(new) = new else {
        delta.gateway = change(old, None);
        return;
    };
    let same_place = |old: &&GatewayConfig| old.listen == new.listen && old.tunnel_listen == new.tunnel_listen;
    let kept = old.filter(same_place);
    if kept.is_none() {
        let bare = GatewayConfig {
            listen: new.listen.clone(),
            tunnel_listen: new.tunnel_listen.clone(),
            ..GatewayConfig::default()
        };
        delta.gateway = Change::Set(bare);
    }
    let nothing = GatewayConfig::default();
    let base = kept.unwrap_or(&nothing);
    delta.gateway_datacenters = diff_map(&base.datacenters, &new.datacenters);
    delta.gateway_services = diff_map(&base.services, &new.services);
}

fn changed<T: Clone + PartialEq>(old: &T, new: &T) -> Option<T> {
    (old != new).then(|| new.clone())
}

fn change<T: Clone + PartialEq>(old: Option<&T>, new: Option<&T>) -> Change<T> {
    match new {
        _ if old == new => Change::Keep,
        Some(new) => Change::Set(new.clone()),
        None => Change::Remove,
    }
}

fn diff_map<T: Clone + PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> BTreeMap<String, Change<T>> {
    let names = old.keys().chain(new.keys());
    let changes = names.map(|name| (name.clone(), change(old.get(name), new.get(name))));
    changes.filter(|(_, change)| *change != Change::Keep).collect()
}

fn apply_to_map<T>(map: &mut BTreeMap<String, T>, changes: BTreeMap<String, Change<T>>) {
    for (name, change) in changes {
        match change {
            Change::Keep => {}
            Change::Remove => {
                map.remove(&name);
            }
            Change::Set(value) => {
                map.insert(name, value);
            }
        }
    }
}

fn replace<T>(part: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *part = new;
    }
}

#[cfg(test)]
mod tests;
