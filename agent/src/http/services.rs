//! Services of this node.

use super::{Answer, Failure, Params, done, filter, json};
use crate::agent::Agent;
use crate::config::Source;
use api::Error;
use api::agent::ServiceRegistration;
use api::json::from_slice;
use axum::body::Bytes;
use axum::extract::{Path, State};
use http::{HeaderValue, StatusCode};
use model::ServiceInstance;
use serde::Serialize;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use tokio::time::timeout;

/// A service as its own agent tells it. (Consul: `api.AgentService`.)
#[derive(Serialize)]
pub(super) struct Row<'a> {
    #[serde(flatten)]
    service: &'a ServiceInstance,
    #[serde(rename = "ContentHash", skip_serializing_if = "Option::is_none")]
    content_hash: Option<&'a str>,
    #[serde(rename = "Datacenter")]
    datacenter: &'a str,
}

impl<'a> Row<'a> {
    pub(super) fn new(service: &'a ServiceInstance, datacenter: &'a str) -> Self {
        Row { service, content_hash: None, datacenter }
    }
}

pub(super) async fn list(State(agent): State<Agent>, params: Params) -> Answer {
    let filter = filter::<ServiceInstance>(&params.options()?)?;
    let services = agent.inner.local.services();
    let datacenter = &agent.inner.config.node.datacenter;
    let wanted = services.iter().filter(|s| filter.as_ref().is_none_or(|f| f.matches(s)));
    let rows: BTreeMap<&str, Row<'_>> = wanted.map(|s| (s.id.as_str(), Row::new(s, datacenter))).collect();
    Ok(params.json(&rows))
}

/// Waits for another content than that of `hash`, if one is given.
pub(super) async fn read(State(agent): State<Agent>, Path(id): Path<String>, params: Params) -> Answer {
    let options = params.options()?;
    let mut changes = agent.inner.local.changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            let hash = agent.inner.local.service(&id).map(|s| content_hash(&s));
            if hash.is_none() || hash != options.hash || changes.changed().await.is_err() {
                return;
            }
        }
    };
    if options.hash.is_some() {
        // When the time is up, the content is sent as it is.
        timeout(options.wait, wait).await.ok();
    }
    let service =
        agent.inner.local.service(&id).ok_or_else(|| Error::not_found(format!("unknown service ID: {id}")))?;
    let hash = content_hash(&service);
    let row = Row { content_hash: Some(&hash), ..Row::new(&service, &agent.inner.config.node.datacenter) };
    let mut response = params.json(&row);
    if let Ok(value) = HeaderValue::from_str(&hash) {
        response.headers_mut().insert("X-Consul-ContentHash", value);
    }
    Ok(response)
}

/// The same for the same content as long as the agent runs; after a restart a waiter merely gets its answer at once.
fn content_hash(service: &ServiceInstance) -> String {
    let mut hasher = DefaultHasher::new();
    api::json::to_bytes(service, false).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

pub(super) async fn register(State(agent): State<Agent>, params: Params, body: Bytes) -> Answer {
    let registration: ServiceRegistration = from_slice(&body)?;
    let replace =
        params.0.get("replace-existing-checks").is_some_and(|text| text.is_empty() || text == "true" || text == "1");
    agent.register_service(&registration, replace, Source::Http).await?;
    done()
}

pub(super) async fn deregister(State(agent): State<Agent>, Path(id): Path<String>) -> Answer {
    if agent.deregister_service(&id).await? { done() } else { Err(unknown(&id)) }
}

pub(super) async fn maintenance(State(agent): State<Agent>, Path(id): Path<String>, params: Params) -> Answer {
    let (enable, reason) = params.maintenance()?;
    if agent.set_maintenance(Some(&id), enable, reason).await? { done() } else { Err(unknown(&id)) }
}

fn unknown(id: &str) -> Failure {
    Failure(Error::not_found(format!(
        "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
    )))
}

/// For health: a row within another reply.
pub(super) fn reply<T: Serialize>(status: StatusCode, value: &T, pretty: bool) -> axum::response::Response {
    json(status, value, pretty)
}
