//! What DNS asks, answered from views: the first question for a name opens a view, later ones are answered from memory.

use crate::metrics::Metrics;
use crate::servers::Servers;
use crate::views::{Known, Views};
use api::client::segment;
use api::reply::{Indexed, NodeServices, ServiceEntryOwned};
use dns::{EndpointRecord, Endpoints, Found, Lookup, LookupKind, NodeRecord, ReverseName, ServiceQuery};
use model::{CheckStatus, Node};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// [`dns::Lookup`] from the agent's views.
pub struct ViewLookup {
    endpoints: Views<Answer<Endpoints>>,
    nodes: Views<Answer<NodeRecord>>,
    names: Views<Answer<ReverseName>>,
    servers: Servers,
    datacenter: String,
}

/// What a server has said about a name.
enum Answer<T> {
    Is(Arc<T>),
    NoSuchName,
    NoSuchDatacenter,
}

impl<T> Answer<T> {
    fn found(&self) -> Found<Arc<T>> {
        match self {
            Answer::Is(value) => Found::Ready(value.clone()),
            Answer::NoSuchName => Found::NoSuchName,
            Answer::NoSuchDatacenter => Found::NoSuchDatacenter,
        }
    }
}

impl ViewLookup {
    pub(crate) fn new(
        servers: Servers,
        metrics: Arc<Metrics>,
        runtime: Handle,
        idle: Duration,
        datacenter: &str,
    ) -> Self {
        ViewLookup {
            endpoints: Views::new(servers.clone(), metrics.clone(), runtime.clone(), idle, read_endpoints),
            nodes: Views::new(servers.clone(), metrics.clone(), runtime.clone(), idle, read_node),
            names: Views::new(servers.clone(), metrics, runtime, idle, read_name),
            servers,
            datacenter: datacenter.to_string(),
        }
    }

    /// How many views there are, and the age of the oldest that hears nothing from a server.
    pub fn health(&self) -> (usize, Option<Duration>) {
        let (endpoints, nodes, names) = (self.endpoints.health(), self.nodes.health(), self.names.health());
        (endpoints.0 + nodes.0 + names.0, endpoints.1.max(nodes.1).max(names.1))
    }

    pub(crate) fn stop(&self) {
        self.endpoints.stop();
        self.nodes.stop();
        self.names.stop();
    }

    /// `?dc=` (or `&dc=`) for another datacenter; nothing for our own.
    fn dc(&self, datacenter: Option<&str>, joint: char) -> String {
        match datacenter {
            Some(dc) if !dc.eq_ignore_ascii_case(&self.datacenter) => format!("{joint}dc={}", segment(dc)),
            _ => String::new(),
        }
    }
}

impl Lookup for ViewLookup {
    fn service(&self, query: &ServiceQuery<'_>) -> Found<Arc<Endpoints>> {
        let kind = match query.kind {
            LookupKind::Service => "service",
            LookupKind::Connect => "connect",
            LookupKind::Ingress => "ingress",
        };
        let tag = query.tag.map_or_else(String::new, |tag| format!("?tag={}", segment(tag)));
        let dc = self.dc(query.datacenter, if tag.is_empty() { '?' } else { '&' });
        found(&self.endpoints, &format!("/v1/health/{kind}/{}{tag}{dc}", segment(query.service)))
    }

    fn node(&self, datacenter: Option<&str>, name: &str) -> Found<Arc<NodeRecord>> {
        found(&self.nodes, &format!("/v1/catalog/node/{}{}", segment(name), self.dc(datacenter, '?')))
    }

    fn node_by_address(&self, address: IpAddr) -> Found<ReverseName> {
        let filter = segment(&format!("Address == \"{address}\""));
        found(&self.names, &format!("/v1/catalog/nodes?filter={filter}")).map(|name| (*name).clone())
    }

    fn name_servers(&self) -> Vec<Arc<NodeRecord>> {
        let record = |server: &api::proto::ServerInfo| {
            let host = server.rpc_address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
            Arc::new(NodeRecord::new(&server.name, &server.datacenter, host, &model::Meta::new()))
        };
        self.servers.known().iter().filter(|s| !s.wan).map(record).collect()
    }

    fn datacenter(&self) -> &str {
        &self.datacenter
    }
}

fn found<T: Send + Sync + 'static>(views: &Views<Answer<T>>, target: &str) -> Found<Arc<T>> {
    match views.ask(target) {
        Known::Now(answer) => answer.found(),
        Known::Full => Found::Unavailable,
        Known::Soon(mut latest) => Found::Wait(Box::pin(async move {
            // DNS limits the wait.
            match latest.wait_for(Option::is_some).await {
                Ok(answer) => answer.as_ref().map_or(Found::Unavailable, |answer| answer.found()),
                Err(_) => Found::Unavailable,
            }
        })),
    }
}

/// What the status says before the body is read: none to read it, else the answer (or that it is no news).
fn refusal<T>(status: u32, body: &[u8]) -> Option<Option<Answer<T>>> {
    match status {
        200 => None,
        404 => Some(Some(Answer::NoSuchName)),
        _ if body.starts_with(b"No path to datacenter") => Some(Some(Answer::NoSuchDatacenter)),
        _ => Some(None),
    }
}

fn read_endpoints(target: &str, status: u32, body: &[u8]) -> Option<Answer<Endpoints>> {
    if let Some(refused) = refusal(status, body) {
        return refused;
    }
    let entries: Vec<ServiceEntryOwned> = parse(target, body)?;
    let records: Vec<EndpointRecord> = entries.iter().map(record).collect();
    let datacenter = entries.first().map_or("", |entry| &entry.node.noun.datacenter);
    Some(Answer::Is(Arc::new(Endpoints::new(datacenter, &records))))
}

fn record(entry: &ServiceEntryOwned) -> EndpointRecord {
    let (node, service) = (&entry.node.noun, &entry.service.noun);
    EndpointRecord {
        node: node.name.clone(),
        node_address: node.address.clone(),
        node_meta: node.meta.clone(),
        service_address: service.address.clone(),
        port: service.port,
        weights: service.weights,
        status: CheckStatus::worst(entry.checks.iter().map(|check| check.noun.status)),
    }
}

fn read_node(target: &str, status: u32, body: &[u8]) -> Option<Answer<NodeRecord>> {
    if let Some(refused) = refusal(status, body) {
        return refused;
    }
    let answer: Option<NodeServices<Option<Indexed<Node>>, serde::de::IgnoredAny>> = parse(target, body)?;
    Some(match answer.and_then(|answer| answer.node) {
        Some(Indexed { noun: node, .. }) => {
            Answer::Is(Arc::new(NodeRecord::new(&node.name, &node.datacenter, &node.address, &node.meta)))
        }
        None => Answer::NoSuchName,
    })
}

fn read_name(target: &str, status: u32, body: &[u8]) -> Option<Answer<ReverseName>> {
    if let Some(refused) = refusal(status, body) {
        return refused;
    }
    let nodes: Vec<Indexed<Node>> = parse(target, body)?;
    Some(match nodes.into_iter().next() {
        Some(Indexed { noun: node, .. }) => {
            Answer::Is(Arc::new(ReverseName::Node { name: node.name, datacenter: node.datacenter }))
        }
        None => Answer::NoSuchName,
    })
}

fn parse<T: serde::de::DeserializeOwned>(target: &str, body: &[u8]) -> Option<T> {
    serde_json::from_slice(body)
        .map_err(|error| tracing::error!(view = target, %error, "a server's answer cannot be read"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_trouble() {
        assert!(matches!(read_endpoints("t", 200, b"[]"), Some(Answer::Is(endpoints)) if endpoints.is_empty()));
        assert!(matches!(read_endpoints("t", 500, b"No path to datacenter"), Some(Answer::NoSuchDatacenter)));
        assert!(read_endpoints("t", 500, b"No cluster leader").is_none());
        assert!(read_endpoints("t", 200, b"<").is_none());
        assert!(matches!(read_node("t", 200, b"null"), Some(Answer::NoSuchName)));
        assert!(matches!(
            read_node("t", 200, br#"{"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Services": {"a": {}}}"#),
            Some(Answer::Is(_))
        ));
        assert!(matches!(read_name("t", 200, b"[]"), Some(Answer::NoSuchName)));
        let named = read_name("t", 200, br#"[{"Node": "n1", "Datacenter": "dc1"}]"#);
        assert!(
            matches!(named, Some(Answer::Is(name)) if *name == ReverseName::Node { name: "n1".into(), datacenter: "dc1".into() })
        );
    }

    #[test]
    fn the_worst_check_decides() {
        let body = br#"[{"Node": {"Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1"}, "Service": {"Service": "web", "Port": 80},
            "Checks": [{"Status": "passing"}, {"Status": "warning"}]}]"#;
        let entries: Vec<ServiceEntryOwned> = parse("t", body).expect("reads");
        assert_eq!(record(&entries[0]).status, CheckStatus::Warning);
        assert!(matches!(read_endpoints("t", 200, body), Some(Answer::Is(endpoints)) if endpoints.len() == 1));
    }
}
