//! Whether a proxy can obey a configuration, for those that come from a file.

use super::{Endpoint, GatewayConfig, Inbound, ProxyConfig, UpstreamConfig};
use crate::SpiffeId;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Why a configuration cannot be obeyed. The operator's fault; correct the file at `path`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct InvalidProxyConfig {
    /// Where in the configuration: `Upstreams.db.Listen`.
    pub path: String,
    /// What is wrong and what to write.
    pub problem: String,
}

impl ProxyConfig {
    /// Whether a proxy can obey it. Finds the first problem.
    pub fn validate(&self) -> Result<(), InvalidProxyConfig> {
        for (path, text) in [("ID", &self.id), ("Datacenter", &self.datacenter), ("Service", &self.service)] {
            require(!text.is_empty(), path, "must be set")?;
        }
        let domain_ok =
            self.trust_domain.ends_with(".consul") && self.trust_domain == self.trust_domain.to_ascii_lowercase();
        require(domain_ok, "TrustDomain", "must be \"<uuid>.consul\" in lower case")?;
        require(!self.roots.is_empty(), "Roots", "must hold at least one root certificate in PEM")?;
        for (n, root) in self.roots.iter().enumerate() {
            require(
                root.contains("-----BEGIN CERTIFICATE-----"),
                &format!("Roots[{n}]"),
                "is not a certificate in PEM",
            )?;
        }
        let has_work = self.inbound.is_some() || self.gateway.is_some() || !self.upstreams.is_empty();
        require(has_work, "Inbound", "there is nothing to do: set Inbound, Upstreams or Gateway")?;
        let mut listeners = Listeners::default();
        if let Some(inbound) = &self.inbound {
            validate_inbound(inbound, &mut listeners)?;
        }
        for (name, upstream) in &self.upstreams {
            validate_upstream(&format!("Upstreams.{name}"), upstream, &mut listeners)?;
        }
        match &self.gateway {
            Some(gateway) => validate_gateway(gateway, &mut listeners),
            None => Ok(()),
        }
    }
}

fn validate_inbound(inbound: &Inbound, listeners: &mut Listeners) -> Result<(), InvalidProxyConfig> {
    listeners.add("Inbound.Listen", &inbound.listen)?;
    dialable("Inbound.Local", &inbound.local)?;
    for (n, rule) in inbound.intentions.iter().enumerate() {
        require(!rule.source.is_empty(), &format!("Inbound.Intentions[{n}].Source"), "must be a service or \"*\"")?;
    }
    require(inbound.connect_timeout_ms > 0, "Inbound.ConnectTimeoutMs", "must be more than 0")
}

fn validate_upstream(
    path: &str,
    upstream: &UpstreamConfig,
    listeners: &mut Listeners,
) -> Result<(), InvalidProxyConfig> {
    listeners.add(&format!("{path}.Listen"), &upstream.listen)?;
    for (field, text) in [("Service", &upstream.service), ("Datacenter", &upstream.datacenter), ("Sni", &upstream.sni)]
    {
        require(!text.is_empty(), &format!("{path}.{field}"), "must be set")?;
    }
    require(
        !upstream.spiffe_ids.is_empty(),
        &format!("{path}.SpiffeIds"),
        "must name who may answer: without it nobody is accepted",
    )?;
    for (n, id) in upstream.spiffe_ids.iter().enumerate() {
        let parsed = id.parse::<SpiffeId>().map_err(|e| e.to_string());
        parsed.map_err(|problem| InvalidProxyConfig { path: format!("{path}.SpiffeIds[{n}]"), problem })?;
    }
    require(upstream.connect_timeout_ms > 0, &format!("{path}.ConnectTimeoutMs"), "must be more than 0")?;
    validate_endpoints(&format!("{path}.Endpoints"), &upstream.endpoints)
}

fn validate_gateway(gateway: &GatewayConfig, listeners: &mut Listeners) -> Result<(), InvalidProxyConfig> {
    listeners.add("Gateway.Listen", &gateway.listen)?;
    // UDP: may share its number with a TCP listener.
    Listeners::default().add("Gateway.TunnelListen", &gateway.tunnel_listen)?;
    for (name, addresses) in &gateway.datacenters {
        for address in addresses {
            dialable(&format!("Gateway.Datacenters.{name}"), address)?;
        }
    }
    gateway
        .services
        .iter()
        .try_for_each(|(sni, endpoints)| validate_endpoints(&format!("Gateway.Services.{sni}"), endpoints))
}

fn validate_endpoints(path: &str, endpoints: &[Endpoint]) -> Result<(), InvalidProxyConfig> {
    for (n, endpoint) in endpoints.iter().enumerate() {
        dialable(&format!("{path}[{n}].Address"), &endpoint.address)?;
        require(endpoint.weight > 0, &format!("{path}[{n}].Weight"), "must be 1 to 65535")?;
    }
    Ok(())
}

/// Addresses that are listened on, and which setting said so.
#[derive(Default)]
struct Listeners(BTreeMap<SocketAddr, String>);

impl Listeners {
    fn add(&mut self, path: &str, listen: &str) -> Result<(), InvalidProxyConfig> {
        let problem = || format!("{listen:?} is not an address to listen on: write \"ip:port\"");
        let address: SocketAddr =
            listen.parse().map_err(|_| InvalidProxyConfig { path: path.into(), problem: problem() })?;
        // The system chooses port 0, so two of them do not collide.
        if address.port() == 0 {
            return Ok(());
        }
        match self.0.insert(address, path.to_string()) {
            None => Ok(()),
            Some(other) => {
                Err(InvalidProxyConfig { path: path.into(), problem: format!("{address} is already used by {other}") })
            }
        }
    }
}

/// `host:port` with a port that can be called.
fn dialable(path: &str, address: &str) -> Result<(), InvalidProxyConfig> {
    let port =
        address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    let problem = || format!("{address:?} is not an address to connect to: write \"host:port\"");
    if port.is_some_and(|port| port > 0) {
        Ok(())
    } else {
        Err(InvalidProxyConfig { path: path.into(), problem: problem() })
    }
}

fn require(holds: bool, path: &str, problem: &str) -> Result<(), InvalidProxyConfig> {
    if holds { Ok(()) } else { Err(InvalidProxyConfig { path: path.into(), problem: problem.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_config::Rule;

    fn good() -> ProxyConfig {
        let endpoint = Endpoint { address: "10.0.0.2:21000".into(), weight: 1, ..Endpoint::default() };
        let db = UpstreamConfig {
            listen: "127.0.0.1:9191".into(),
            service: "db".into(),
            datacenter: "dc1".into(),
            sni: "db.default.dc1.internal.t.consul".into(),
            spiffe_ids: vec!["spiffe://t.consul/ns/default/dc/dc1/svc/db".into()],
            endpoints: vec![endpoint.clone()],
            connect_timeout_ms: 5000,
            ..UpstreamConfig::default()
        };
        let inbound = Inbound {
            listen: "0.0.0.0:21000".into(),
            local: "127.0.0.1:8080".into(),
            intentions: vec![Rule { source: "*".into(), ..Rule::default() }],
            connect_timeout_ms: 5000,
            ..Inbound::default()
        };
        let gateway = GatewayConfig {
            listen: "0.0.0.0:8443".into(),
            tunnel_listen: "0.0.0.0:8443".into(),
            datacenters: [("dc2".to_string(), vec!["gw.example.com:8443".to_string()])].into(),
            services: [("db".to_string(), vec![endpoint])].into(),
        };
        ProxyConfig {
            id: "web-1-sidecar-proxy".into(),
            datacenter: "dc1".into(),
            trust_domain: "t.consul".into(),
            service: "web".into(),
            roots: vec!["-----BEGIN CERTIFICATE-----\n".into()],
            inbound: Some(inbound),
            upstreams: [("db".to_string(), db)].into(),
            gateway: Some(gateway),
            ..ProxyConfig::default()
        }
    }

    fn problem(spoil: impl FnOnce(&mut ProxyConfig)) -> String {
        let mut config = good();
        spoil(&mut config);
        config.validate().expect_err("is spoilt").to_string()
    }

    #[test]
    fn a_good_one_passes() {
        assert_eq!(good().validate(), Ok(()));
        let upstreams_only = ProxyConfig { inbound: None, gateway: None, ..good() };
        assert_eq!(upstreams_only.validate(), Ok(()));
    }

    #[test]
    fn problems_are_named_with_their_place() {
        type Spoil = fn(&mut ProxyConfig);
        let cases: [(Spoil, &str); 12] = [
            (|c| c.id.clear(), "ID: must be set"),
            (|c| c.trust_domain = "T.consul".into(), "TrustDomain: must be \"<uuid>.consul\" in lower case"),
            (|c| c.roots.clear(), "Roots: must hold at least one root certificate in PEM"),
            (|c| c.roots[0].clear(), "Roots[0]: is not a certificate in PEM"),
            (
                |c| (c.inbound, c.gateway, c.upstreams) = (None, None, BTreeMap::new()),
                "Inbound: there is nothing to do: set Inbound, Upstreams or Gateway",
            ),
            (
                |c| upstream(c).listen = "9191".into(),
                "Upstreams.db.Listen: \"9191\" is not an address to listen on: write \"ip:port\"",
            ),
            (
                |c| upstream(c).listen = "0.0.0.0:21000".into(),
                "Upstreams.db.Listen: 0.0.0.0:21000 is already used by Inbound.Listen",
            ),
            (
                |c| upstream(c).spiffe_ids.clear(),
                "Upstreams.db.SpiffeIds: must name who may answer: without it nobody is accepted",
            ),
            (
                |c| upstream(c).spiffe_ids[0] = "db".into(),
                "Upstreams.db.SpiffeIds[0]: \"db\" is not a SPIFFE id of this mesh",
            ),
            (
                |c| upstream(c).endpoints[0].address = "10.0.0.2".into(),
                "Upstreams.db.Endpoints[0].Address: \"10.0.0.2\" is not an address to connect to: write \"host:port\"",
            ),
            (|c| upstream(c).endpoints[0].weight = 0, "Upstreams.db.Endpoints[0].Weight: must be 1 to 65535"),
            (
                |c| c.gateway.as_mut().expect("gateway").tunnel_listen.clear(),
                "Gateway.TunnelListen: \"\" is not an address to listen on: write \"ip:port\"",
            ),
        ];
        for (spoil, expected) in cases {
            assert_eq!(problem(spoil), expected);
        }
    }

    fn upstream(config: &mut ProxyConfig) -> &mut UpstreamConfig {
        config.upstreams.get_mut("db").expect("there is one")
    }
}
