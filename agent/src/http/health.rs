//! The health of this node's services, for load balancers: the status code is the answer.

use super::services::{Row, reply};
use super::{Answer, Params, bytes_of};
use crate::agent::Agent;
use axum::extract::{Path, State};
use axum::response::Response;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use model::check::{NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX};
use model::{Check, CheckStatus, ServiceInstance};
use serde::Serialize;
use std::sync::Arc;

/// A service with its checks. (Consul: `api.AgentServiceChecksInfo`.)
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health<'a> {
    aggregated_status: &'static str,
    service: Option<Row<'a>>,
    checks: Option<&'a [Arc<Check>]>,
}

pub(super) async fn by_id(
    State(agent): State<Agent>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Answer {
    let is_text = wants_text(&params, &headers);
    let Some(service) = agent.inner.local.service(&id) else {
        let none = Health { aggregated_status: "critical", service: None, checks: None };
        return Ok(missing(&format!("ServiceId {id} not found"), &none, is_text, &params));
    };
    let checks = agent.inner.local.checks_for(&id);
    let status = aggregate(&checks);
    let health = health(&agent, &service, &checks);
    Ok(answer(status, &health, is_text, &params))
}

pub(super) async fn by_name(
    State(agent): State<Agent>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Answer {
    let is_text = wants_text(&params, &headers);
    let services: Vec<_> = agent.inner.local.services().into_iter().filter(|s| s.service == name).collect();
    if services.is_empty() {
        return Ok(missing(&format!("ServiceName {name} Not Found"), &[0_u8; 0], is_text, &params));
    }
    let rows: Vec<_> = services.iter().map(|s| (s, agent.inner.local.checks_for(&s.id))).collect();
    let worst =
        rows.iter().map(|(_, checks)| aggregate(checks)).max_by_key(|status| severity(status)).unwrap_or("passing");
    let list: Vec<Health<'_>> = rows.iter().map(|(service, checks)| health(&agent, service, checks)).collect();
    Ok(answer(worst, &list, is_text, &params))
}

fn health<'a>(agent: &'a Agent, service: &'a ServiceInstance, checks: &'a [Arc<Check>]) -> Health<'a> {
    let row = Row::new(service, &agent.inner.config.node.datacenter);
    Health { aggregated_status: aggregate(checks), service: Some(row), checks: Some(checks) }
}

/// Maintenance, or the worst of the checks.
fn aggregate(checks: &[Arc<Check>]) -> &'static str {
    let is_maintenance = |check: &Arc<Check>| {
        check.check_id == NODE_MAINTENANCE || check.check_id.starts_with(SERVICE_MAINTENANCE_PREFIX)
    };
    if checks.iter().any(is_maintenance) {
        return "maintenance";
    }
    CheckStatus::worst(checks.iter().map(|check| check.status)).as_str()
}

fn severity(status: &str) -> u8 {
    match status {
        "passing" => 0,
        "warning" => 1,
        "critical" => 2,
        _ => 3,
    }
}

fn code(status: &str) -> StatusCode {
    match status {
        "passing" => StatusCode::OK,
        "warning" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn wants_text(params: &Params, headers: &HeaderMap) -> bool {
    params.0.get("format") == Some("text") || headers.get(ACCEPT).is_some_and(|accept| accept == "text/plain")
}

fn answer<T: Serialize>(status: &'static str, value: &T, is_text: bool, params: &Params) -> Response {
    let code = code(status);
    let mut response = match is_text {
        true => bytes_of(code, "text/plain", status.into()),
        false => reply(code, value, params.0.has("pretty")),
    };
    response.headers_mut().insert("X-Consul-Reason", HeaderValue::from_static(status));
    response
}

fn missing<T: Serialize + ?Sized>(reason: &str, value: &T, is_text: bool, params: &Params) -> Response {
    let mut response = match is_text {
        true => bytes_of(StatusCode::NOT_FOUND, "text/plain", reason.to_string().into()),
        false => super::json(StatusCode::NOT_FOUND, value, params.0.has("pretty")),
    };
    if let Ok(reason) = HeaderValue::from_str(reason) {
        response.headers_mut().insert("X-Consul-Reason", reason);
    }
    response
}
