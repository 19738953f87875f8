//! Names of other datacenters: the first question opens a stream to a server there; then answers come from memory.
//!
//! While the stream is down there is no answer rather than an old one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::reply::{Indexed, NodeServices, ServiceEntryOwned};
use dns::{EndpointRecord, Endpoints, Found, LookupKind, NodeRecord, ServiceQuery};
use model::{CheckStatus, Node};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::core::Core;

/// Streams that are kept open. When there are more, those that nobody waits on are closed.
const VIEWS_MAX: usize = 1024;
/// How long the first answer may take.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// After a stream has ended, another server is asked.
const RETRY: Duration = Duration::from_millis(200);

/// Views of other datacenters.
pub(super) struct RemoteViews {
    core: Arc<Core>,
    /// DNS threads are not the runtime's.
    runtime: Handle,
    services: Mutex<HashMap<String, View<Endpoints>>>,
    nodes: Mutex<HashMap<String, View<NodeRecord>>>,
}

/// The outer `None`: not known now. The inner one: there is none.
type Seen<T> = Option<Option<Arc<T>>>;
type View<T> = watch::Receiver<Seen<T>>;

impl RemoteViews {
    pub(super) fn new(core: Arc<Core>) -> Self {
        RemoteViews { core, runtime: Handle::current(), services: Mutex::default(), nodes: Mutex::default() }
    }

    pub(super) fn service(&self, datacenter: &str, asked: &ServiceQuery<'_>) -> Found<Arc<Endpoints>> {
        let family = match asked.kind {
            LookupKind::Service => "service",
            LookupKind::Connect => "connect",
            LookupKind::Ingress => return Found::NoSuchName,
        };
        let tag = asked.tag.map(|tag| format!("?tag={}", segment(tag))).unwrap_or_default();
        let target = format!("/v1/health/{family}/{}{tag}", segment(asked.service));
        let name = datacenter.to_string();
        self.look(&self.services, datacenter, target, move |body| endpoints(&name, body))
    }

    pub(super) fn node(&self, datacenter: &str, name: &str) -> Found<Arc<NodeRecord>> {
        let target = format!("/v1/catalog/node-services/{}", segment(name));
        let datacenter_name = datacenter.to_string();
        self.look(&self.nodes, datacenter, target, move |body| node(&datacenter_name, body))
    }

    fn look<T: Send + Sync + 'static>(
        &self,
        views: &Mutex<HashMap<String, View<T>>>,
        datacenter: &str,
        target: String,
        read: impl Fn(&[u8]) -> Option<Arc<T>> + Send + Sync + 'static,
    ) -> Found<Arc<T>> {
        let mut views = views.lock().unwrap_or_else(PoisonError::into_inner);
        if views.len() >= VIEWS_MAX {
            // The tasks end when their receivers are gone.
            views.clear();
        }
        let key = format!("{datacenter} {target}");
        let view = views.entry(key).or_insert_with(|| {
            let (sender, view) = watch::channel(None);
            let (core, datacenter) = (self.core.clone(), datacenter.to_string());
            self.runtime.spawn(async move {
                tokio::select! {
                    () = follow(&core, &datacenter, &target, read, &sender) => {}
                    () = sender.closed() => {}
                    () = core.closing.cancelled() => {}
                }
            });
            view
        });
        let seen = view.borrow().clone();
        match seen {
            Some(Some(found)) => Found::Ready(found),
            Some(None) => Found::NoSuchName,
            None => Found::Wait(Box::pin(first(view.clone()))),
        }
    }
}

async fn first<T>(mut view: View<T>) -> Found<Arc<T>> {
    let seen = tokio::time::timeout(FIRST_TIMEOUT, view.wait_for(Option::is_some)).await;
    match seen {
        Ok(Ok(seen)) => match (*seen).clone().flatten() {
            Some(found) => Found::Ready(found),
            None => Found::NoSuchName,
        },
        Ok(Err(_)) | Err(_) => Found::Unavailable,
    }
}

async fn follow<T>(
    core: &Core,
    datacenter: &str,
    target: &str,
    read: impl Fn(&[u8]) -> Option<Arc<T>>,
    seen: &watch::Sender<Seen<T>>,
) {
    loop {
        if let Ok(mut replies) = crate::leader::federation::watch(core, datacenter, target).await {
            while let Ok(Some(reply)) = replies.message().await {
                seen.send_replace((reply.status == 200).then(|| read(&reply.body)));
            }
        }
        seen.send_replace(None);
        tokio::time::sleep(RETRY).await;
    }
}

fn endpoints(datacenter: &str, body: &[u8]) -> Option<Arc<Endpoints>> {
    let entries: Vec<ServiceEntryOwned> = serde_json::from_slice(body).ok()?;
    let record = |entry: ServiceEntryOwned| EndpointRecord {
        status: CheckStatus::worst(entry.checks.iter().map(|check| check.noun.status)),
        node: entry.node.noun.name,
        node_address: entry.node.noun.address,
        node_meta: entry.node.noun.meta,
        service_address: entry.service.noun.address,
        port: entry.service.noun.port,
        weights: entry.service.noun.weights,
    };
    let records: Vec<EndpointRecord> = entries.into_iter().map(record).collect();
    (!records.is_empty()).then(|| Arc::new(Endpoints::new(datacenter, &records)))
}

fn node(datacenter: &str, body: &[u8]) -> Option<Arc<NodeRecord>> {
    let reply: NodeServices<Option<Indexed<Node>>, serde_json::Value> = serde_json::from_slice(body).ok()?;
    let node = reply.node?.noun;
    Some(Arc::new(NodeRecord::new(&node.name, datacenter, &node.address, &node.meta)))
}

fn segment(name: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_datacenter_answers_is_read() {
        let body = br#"[{"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": {"ID": "web", "Service": "web", "Port": 80},
            "Checks": [{"CheckID": "a", "Status": "passing"}]}]"#;
        assert_eq!(endpoints("dc2", body).map(|found| found.len()), Some(1));
        assert!(endpoints("dc2", b"[]").is_none());
        assert!(node("dc2", br#"{"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Services": []}"#).is_some());
        assert!(node("dc2", br#"{"Node": null, "Services": []}"#).is_none());
    }
}
