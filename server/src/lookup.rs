//! What DNS asks, answered from memory: the catalog for this datacenter, watched views for the others.
//!
//! An answer is encoded once and kept until one of the topics that it was read from changes.

mod remote;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use catalog::View;
use catalog::query::{HealthEntry, Selection, datacenter, dns as query, node as nodes, service as services};
use dns::{EndpointRecord, Endpoints, Found, Lookup, LookupKind, NodeRecord, ReverseName, ServiceQuery};

use crate::core::Core;
use crate::watch::{Following, Watch};
use remote::RemoteViews;

/// Answers that are kept. When there are more, all are forgotten.
const KEPT_MAX: usize = 16 * 1024;

/// The catalog as DNS sees it. Cheap to clone. Before this server was up to date for once since its start, everything is unavailable.
#[derive(Clone)]
pub struct ServerLookup {
    shared: Arc<Shared>,
}

struct Shared {
    core: Arc<Core>,
    services: Kept<ServiceKey, Option<Arc<Endpoints>>>,
    nodes: Kept<String, Option<Arc<NodeRecord>>>,
    servers: Kept<(), Vec<Arc<NodeRecord>>>,
    remote: RemoteViews,
}

/// Service, tag, kind.
type ServiceKey = (String, Option<String>, LookupKind);

impl ServerLookup {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let remote = RemoteViews::new(core.clone());
        let shared =
            Shared { core, services: Kept::default(), nodes: Kept::default(), servers: Kept::default(), remote };
        ServerLookup { shared: Arc::new(shared) }
    }

    /// The datacenter if it is another one.
    fn elsewhere<'a>(&self, datacenter: Option<&'a str>) -> Option<&'a str> {
        datacenter.filter(|name| !name.eq_ignore_ascii_case(self.datacenter()))
    }

    /// A server that was just started may hold little of what the others know, and would say that there is none.
    fn is_fit(&self) -> bool {
        self.shared.core.reads.as_of().age().is_some()
    }

    /// The name of a datacenter as it is spelled, if there is one.
    fn known(&self, name: &str) -> Option<String> {
        let find = |view: &View<'_>| {
            datacenter::datacenters(view)
                .into_iter()
                .map(|row| &row.value.name)
                .find(|known| known.eq_ignore_ascii_case(name))
                .cloned()
        };
        self.shared.core.watch.read(find).0
    }
}

impl Lookup for ServerLookup {
    fn service(&self, asked: &ServiceQuery<'_>) -> Found<Arc<Endpoints>> {
        if !self.is_fit() {
            return Found::Unavailable;
        }
        if let Some(name) = self.elsewhere(asked.datacenter) {
            return match self.known(name) {
                Some(datacenter) => self.shared.remote.service(&datacenter, asked),
                None => Found::NoSuchDatacenter,
            };
        }
        let key = (asked.service.to_string(), asked.tag.map(str::to_string), asked.kind);
        let found = self.shared.services.get(&self.shared.core.watch, key, |view, (service, tag, kind)| {
            let entries = match kind {
                LookupKind::Service => services::health(view, service, &selection(tag.as_deref())),
                LookupKind::Connect => services::health_connect(view, service, &selection(tag.as_deref())),
                LookupKind::Ingress => Vec::new(),
            };
            (!entries.is_empty()).then(|| Arc::new(encode(&self.shared.core.config.datacenter, &entries)))
        });
        found.map_or(Found::NoSuchName, Found::Ready)
    }

    fn node(&self, datacenter: Option<&str>, name: &str) -> Found<Arc<NodeRecord>> {
        if !self.is_fit() {
            return Found::Unavailable;
        }
        if let Some(elsewhere) = self.elsewhere(datacenter) {
            return match self.known(elsewhere) {
                Some(datacenter) => self.shared.remote.node(&datacenter, name),
                None => Found::NoSuchDatacenter,
            };
        }
        let found = self.shared.nodes.get(&self.shared.core.watch, name.to_string(), |view, name| {
            nodes::node(view, name).map(|row| {
                Arc::new(NodeRecord::new(&row.name, &self.shared.core.config.datacenter, &row.address, &row.meta))
            })
        });
        found.map_or(Found::NoSuchName, Found::Ready)
    }

    fn node_by_address(&self, address: IpAddr) -> Found<ReverseName> {
        if !self.is_fit() {
            return Found::Unavailable;
        }
        let (address, datacenter) = (address.to_string(), self.datacenter().to_string());
        let find = |view: &View<'_>| {
            let node = query::nodes_at(view, &address)
                .first()
                .map(|node| ReverseName::Node { name: node.name.clone(), datacenter: datacenter.clone() });
            let service = || {
                query::services_at(view, &address)
                    .first()
                    .map(|name| ReverseName::Service { name: (*name).to_string(), datacenter: datacenter.clone() })
            };
            node.or_else(service)
        };
        self.shared.core.watch.read(find).0.map_or(Found::NoSuchName, Found::Ready)
    }

    fn name_servers(&self) -> Vec<Arc<NodeRecord>> {
        let datacenter = &self.shared.core.config.datacenter;
        self.shared.servers.get(&self.shared.core.watch, (), |view, ()| {
            let servers = services::instances(view, model::service::SERVER_SERVICE, &Selection::default());
            servers
                .into_iter()
                .map(|placed| {
                    Arc::new(NodeRecord::new(&placed.node.name, datacenter, &placed.node.address, &placed.node.meta))
                })
                .collect()
        })
    }

    fn datacenter(&self) -> &str {
        &self.shared.core.config.datacenter
    }
}

fn selection(tag: Option<&str>) -> Selection {
    Selection { tags: tag.map(str::to_string).into_iter().collect(), ..Selection::default() }
}

fn encode(datacenter: &str, entries: &[HealthEntry<'_>]) -> Endpoints {
    let record = |entry: &HealthEntry<'_>| EndpointRecord {
        node: entry.node.name.clone(),
        node_address: entry.node.address.clone(),
        node_meta: entry.node.meta.clone(),
        service_address: entry.service.address.clone(),
        port: entry.service.port,
        weights: entry.service.weights,
        status: entry.status(),
    };
    Endpoints::new(datacenter, &entries.iter().map(record).collect::<Vec<_>>())
}

/// Answers by question, each with what tells that it is out of date.
struct Kept<K, V>(RwLock<HashMap<K, (V, Following)>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Kept(RwLock::default())
    }
}

impl<K: std::hash::Hash + Eq, V: Clone> Kept<K, V> {
    fn get(&self, watch: &Watch, key: K, run: impl Fn(&View<'_>, &K) -> V) -> V {
        if let Some((value, following)) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key)
            && !following.is_over()
        {
            return value.clone();
        }
        let (value, following) = watch.follow(|view| run(view, &key));
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let value = match kept.get(&key) {
            Some((old, _)) if faults::has_each(faults::Bug::DnsAnswerKept, 16) => old.clone(),
            _ => value,
        };
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, (value.clone(), following));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::{Catalog, Command, KvCommand};

    #[test]
    fn an_answer_is_kept_until_what_it_read_changes() {
        let (kept, watch) = (Kept::default(), Watch::new(Catalog::new()));
        let runs = std::cell::Cell::new(0);
        let ask = || {
            kept.get(&watch, "a", |view, key| {
                runs.set(runs.get() + 1);
                catalog::query::kv::get(view, key).map(|row| row.value.value.clone())
            })
        };
        let put = |key: &str| {
            let mut catalog = (*watch.current()).clone();
            let (_, changes) =
                catalog.apply(Command::Kv(KvCommand::Set { key: key.into(), value: "1".into(), flags: 0 }));
            watch.publish(catalog, &changes.topics);
        };
        assert_eq!((ask(), ask(), runs.get()), (None, None, 1));
        put("b");
        assert_eq!((ask(), runs.get()), (None, 1));
        put("a");
        assert_eq!((ask(), ask(), runs.get()), (Some("1".into()), Some("1".into()), 2));
    }
}
