//! A zone written as text, for the tests: the facts behind the questions.
//!
//! One fact a line:
//! `node <dc> <name> <address> [key=value …]`,
//! `service <dc> <name> <node> <port> [address=… tags=a,b status=warning weights=5/2 kind=connect meta=key:value]`,
//! `slow <name>` (a service or node that has to be waited for), `down <dc>`, `ptr-service <address> <service>`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dns::{EndpointRecord, Endpoints, Found, Lookup, LookupKind, NodeRecord, ReverseName, ServiceQuery};
use model::service::Weights;
use model::{CheckStatus, Meta};

#[derive(Debug, Default, Clone)]
pub(crate) struct TestZone {
    nodes: BTreeMap<(String, String), (String, Meta)>,
    services: Vec<Service>,
    slow: BTreeSet<String>,
    down: BTreeSet<String>,
    service_addresses: BTreeMap<IpAddr, String>,
}

#[derive(Debug, Clone)]
struct Service {
    datacenter: String,
    name: String,
    kind: LookupKind,
    tags: Vec<String>,
    record: EndpointRecord,
}

impl TestZone {
    pub(crate) fn parse(text: &str) -> Self {
        let mut zone = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            zone.add(&line.split_whitespace().collect::<Vec<_>>());
        }
        zone
    }

    pub(crate) fn add(&mut self, words: &[&str]) {
        match words {
            ["node", dc, name, address, meta @ ..] => {
                let meta = meta.iter().map(|pair| split(pair, '=')).collect();
                self.nodes.insert((dc.to_string(), name.to_string()), (address.to_string(), meta));
            }
            ["service", dc, name, node, port, options @ ..] => {
                self.add_service(dc, name, node, port, options);
            }
            ["slow", name] => drop(self.slow.insert(name.to_string())),
            ["down", dc] => drop(self.down.insert(dc.to_string())),
            ["ptr-service", address, service] => {
                self.service_addresses.insert(address.parse().expect("address"), service.to_string());
            }
            _ => panic!("not a fact: {words:?}"),
        }
    }

    fn add_service(&mut self, dc: &str, name: &str, node: &str, port: &str, options: &[&str]) {
        let (node_address, node_meta) = self.nodes[&(dc.to_string(), node.to_string())].clone();
        let mut service = Service {
            datacenter: dc.to_string(),
            name: name.to_string(),
            kind: LookupKind::Service,
            tags: Vec::new(),
            record: EndpointRecord {
                node: node.to_string(),
                node_address,
                node_meta,
                service_address: String::new(),
                port: port.parse().expect("port"),
                weights: Weights::default(),
                status: CheckStatus::Passing,
            },
        };
        for option in options {
            match option.split_once('=').expect("key=value") {
                ("address", address) => service.record.service_address = address.to_string(),
                ("tags", tags) => service.tags = tags.split(',').map(str::to_string).collect(),
                ("status", "warning") => service.record.status = CheckStatus::Warning,
                ("status", "critical") => service.record.status = CheckStatus::Critical,
                ("weights", weights) => {
                    let (passing, warning) = split(weights, '/');
                    service.record.weights = Weights {
                        passing: passing.parse().expect("weight"),
                        warning: warning.parse().expect("weight"),
                    };
                }
                ("kind", "connect") => service.kind = LookupKind::Connect,
                ("kind", "ingress") => service.kind = LookupKind::Ingress,
                _ => panic!("not an option: {option}"),
            }
        }
        self.services.push(service);
    }

    fn knows<T>(&self, datacenter: &str) -> Result<(), Found<T>> {
        if self.down.contains(datacenter) {
            return Err(Found::Unavailable);
        }
        let is_known = self.nodes.keys().any(|(dc, _)| dc == datacenter);
        if is_known { Ok(()) } else { Err(Found::NoSuchDatacenter) }
    }

    fn maybe_later<T: Send + 'static>(&self, name: &str, found: Found<T>) -> Found<T> {
        if !self.slow.contains(name) {
            return found;
        }
        let found = match found {
            Found::Ready(value) => Ok(value),
            other => Err(matches!(other, Found::NoSuchName)),
        };
        let is_endless = name.starts_with("endless");
        Found::Wait(Box::pin(async move {
            if is_endless {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            match found {
                Ok(value) => Found::Ready(value),
                Err(true) => Found::NoSuchName,
                Err(false) => Found::Unavailable,
            }
        }))
    }
}

impl Lookup for TestZone {
    fn service(&self, query: &ServiceQuery<'_>) -> Found<Arc<Endpoints>> {
        assert_ne!(query.datacenter, Some(self.datacenter()), "the local one is never named");
        let datacenter = query.datacenter.unwrap_or(self.datacenter());
        if let Err(found) = self.knows(datacenter) {
            return found;
        }
        let named: Vec<_> = self
            .services
            .iter()
            .filter(|service| service.datacenter == datacenter && service.name.eq_ignore_ascii_case(query.service))
            .filter(|service| service.kind == query.kind)
            .filter(|service| query.tag.is_none_or(|tag| service.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))))
            .map(|service| service.record.clone())
            .collect();
        let found = if named.is_empty() {
            Found::NoSuchName
        } else {
            Found::Ready(Arc::new(Endpoints::new(datacenter, &named)))
        };
        self.maybe_later(query.service, found)
    }

    fn node(&self, datacenter: Option<&str>, name: &str) -> Found<Arc<NodeRecord>> {
        assert_ne!(datacenter, Some(self.datacenter()), "the local one is never named");
        let datacenter = datacenter.unwrap_or(self.datacenter());
        if let Err(found) = self.knows(datacenter) {
            return found;
        }
        let node = self.nodes.iter().find(|((dc, node), _)| dc == datacenter && node.eq_ignore_ascii_case(name));
        let found = node.map_or(Found::NoSuchName, |((_, name), (address, meta))| {
            Found::Ready(Arc::new(NodeRecord::new(name, datacenter, address, meta)))
        });
        self.maybe_later(name, found)
    }

    fn node_by_address(&self, address: IpAddr) -> Found<ReverseName> {
        let node = self.nodes.iter().find(|(_, (text, _))| text.parse() == Ok(address));
        if let Some(((datacenter, name), _)) = node {
            return Found::Ready(ReverseName::Node { name: name.clone(), datacenter: datacenter.clone() });
        }
        let datacenter = self.datacenter().to_string();
        match self.service_addresses.get(&address) {
            Some(name) => Found::Ready(ReverseName::Service { name: name.clone(), datacenter }),
            None => Found::NoSuchName,
        }
    }

    fn name_servers(&self) -> Vec<Arc<NodeRecord>> {
        let servers = self.nodes.iter().filter(|((dc, name), _)| dc == self.datacenter() && name.starts_with("server"));
        servers.map(|((dc, name), (address, meta))| Arc::new(NodeRecord::new(name, dc, address, meta))).collect()
    }

    fn datacenter(&self) -> &str {
        "dc1"
    }
}

fn split(text: &str, at: char) -> (String, String) {
    let (left, right) = text.split_once(at).unwrap_or_else(|| panic!("no {at} in {text}"));
    (left.to_string(), right.to_string())
}
