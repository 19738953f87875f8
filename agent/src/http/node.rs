//! The node itself: who it is, whom it knows, coming and going.

use super::{Answer, Failure, Params, bytes_of, done};
use crate::agent::Agent;
use crate::config::CONSUL_VERSION;
use api::Error;
use api::proto::ServerInfo;
use api::reply::{AgentConfig, AgentSelf, Indexed, Member, MemberStatus};
use axum::extract::{Path, State};
use http::{Method, StatusCode};
use model::check::SERF_HEALTH;
use model::{Check, CheckStatus, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

pub(super) async fn this(State(agent): State<Agent>, params: Params) -> Answer {
    let config = &agent.inner.config;
    let primary =
        if config.primary_datacenter.is_empty() { &config.node.datacenter } else { &config.primary_datacenter };
    let this = AgentSelf {
        config: AgentConfig {
            datacenter: config.node.datacenter.clone(),
            primary_datacenter: primary.clone(),
            node_name: config.node.name.clone(),
            node_id: config.node.id.clone(),
            revision: config.version.clone(),
            server: config.is_server(),
            version: CONSUL_VERSION.to_string(),
            build_date: String::new(),
        },
        debug_config: config.debug.clone(),
        coord: None,
        member: member(&config.node, &agent.inner.servers.known(), MemberStatus::Alive),
        stats: stats(&agent),
        meta: config.node.meta.clone(),
    };
    Ok(params.json(&this))
}

fn stats(agent: &Agent) -> BTreeMap<String, BTreeMap<String, String>> {
    let (services, checks) = agent.inner.local.counts();
    let server = agent.inner.servers.current().map_or_else(String::new, |s| s.to_string());
    let (views, oldest) = agent.lookup().health();
    let oldest = oldest.map_or_else(|| "0".to_string(), |age| age.as_millis().to_string());
    let of_agent = [("services", services.to_string()), ("checks", checks.to_string())];
    let of_session = [("server", server), ("known_servers", agent.inner.servers.known().len().to_string())];
    let of_views = [("count", views.to_string()), ("cut_for_ms_max", oldest)];
    let own = |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| ((*k).to_string(), v.clone())).collect();
    let all = [("agent", own(&of_agent)), ("session", own(&of_session)), ("views", own(&of_views))];
    all.map(|(name, values)| (name.to_string(), values)).into()
}

/// The nodes of this datacenter as the servers see them; with `wan`, the servers of all.
pub(super) async fn members(State(agent): State<Agent>, params: Params) -> Answer {
    let known = agent.inner.servers.known();
    if params.0.has("wan") {
        let members: Vec<Member> = known
            .iter()
            .map(|server| server_member(server, &format!("{}.{}", server.name, server.datacenter)))
            .collect();
        return Ok(params.json(&members));
    }
    let nodes: Vec<Indexed<Node>> = agent.inner.servers.ask(Method::GET, "/v1/catalog/nodes", Vec::new()).await?;
    let failed: Vec<Indexed<Check>> =
        agent.inner.servers.ask(Method::GET, "/v1/health/state/critical", Vec::new()).await?;
    let is_dead =
        |check: &&Indexed<Check>| check.noun.check_id == SERF_HEALTH && check.noun.status == CheckStatus::Critical;
    let failed: BTreeSet<&str> = failed.iter().filter(is_dead).map(|check| check.noun.node.as_str()).collect();
    let status =
        |node: &Node| if failed.contains(node.name.as_str()) { MemberStatus::Failed } else { MemberStatus::Alive };
    let members: Vec<Member> = nodes.iter().map(|row| member(&row.noun, &known, status(&row.noun))).collect();
    Ok(params.json(&members))
}

fn member(node: &Node, servers: &[ServerInfo], status: MemberStatus) -> Member {
    if let Some(server) = servers.iter().find(|server| !server.wan && server.name == node.name) {
        return Member { status, ..server_member(server, &server.name) };
    }
    let tags =
        [("role", "node"), ("dc", node.datacenter.as_str()), ("id", node.id.as_str()), ("build", CONSUL_VERSION)];
    Member::new(&node.name, &node.address, 0, owned(&tags), status)
}

fn server_member(server: &ServerInfo, name: &str) -> Member {
    let (host, port) = server.rpc_address.rsplit_once(':').unwrap_or((&server.rpc_address, "0"));
    let id = format!("{:016x}", server.id);
    let tags = [
        ("role", "consul"),
        ("dc", server.datacenter.as_str()),
        ("id", &id),
        ("port", port),
        ("build", CONSUL_VERSION),
    ];
    Member::new(name, host.trim_matches(['[', ']']), port.parse().unwrap_or(0), owned(&tags), MemberStatus::Alive)
}

fn owned(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
}

pub(super) async fn host(params: Params) -> Answer {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let host = serde_json::json!({"Host": {
        "hostname": hostname.trim(), "os": std::env::consts::OS, "kernelArch": std::env::consts::ARCH, "kernelVersion": kernel.trim(),
    }});
    Ok(params.json(&host))
}

pub(super) async fn version(State(agent): State<Agent>, params: Params) -> Answer {
    let version = serde_json::json!({"SHA": "", "BuildDate": "", "HumanVersion": CONSUL_VERSION, "Tribune": agent.inner.config.version});
    Ok(params.json(&version))
}

/// JSON in the shape of go-metrics, or Prometheus' text.
pub(super) async fn metrics(State(agent): State<Agent>, params: Params) -> Answer {
    let all = agent.inner.metrics.all();
    if params.0.get("format") == Some("prometheus") {
        let mut text = String::new();
        for (name, value) in all {
            let name = name.replace('.', "_");
            // Writing into a String cannot fail.
            writeln!(text, "# TYPE tribune_{name} counter\ntribune_{name} {value}").ok();
        }
        return Ok(bytes_of(StatusCode::OK, "text/plain; version=0.0.4", text.into()));
    }
    let counters = all.map(|(name, value)| serde_json::json!({"Name": format!("tribune.{name}"), "Count": value, "Sum": value, "Labels": {}}));
    let (services, checks) = agent.inner.local.counts();
    let gauges = [("services", services), ("checks", checks)].map(
        |(name, value)| serde_json::json!({"Name": format!("tribune.agent.{name}"), "Value": value, "Labels": {}}),
    );
    let now = crate::leaf::rfc3339(std::time::SystemTime::now());
    Ok(params.json(
        &serde_json::json!({"Timestamp": now, "Gauges": gauges, "Points": [], "Counters": counters, "Samples": []}),
    ))
}

pub(super) async fn maintenance(State(agent): State<Agent>, params: Params) -> Answer {
    let (enable, reason) = params.maintenance()?;
    agent.set_maintenance(None, enable, reason).await?;
    done()
}

/// Tells the agent of one more server. It is asked when those that are known do not answer.
pub(super) async fn join(State(agent): State<Agent>, Path(address): Path<String>, params: Params) -> Answer {
    if params.0.has("wan") {
        return Err(Failure(Error::bad_request("only servers join other datacenters: ask one of them")));
    }
    let address = if address.contains(':') { address } else { format!("{address}:8300") };
    agent.inner.servers.channel(&address).map_err(|e| Error::bad_request(e.to_string()))?;
    agent.inner.servers.add(&address);
    done()
}

/// Answers, and then goes.
pub(super) async fn leave(State(agent): State<Agent>) -> Answer {
    tokio::spawn(async move { agent.leave().await });
    done()
}

/// Removes a node that is gone from the catalog.
pub(super) async fn force_leave(State(agent): State<Agent>, Path(node): Path<String>) -> Answer {
    let path = format!("/v1/catalog/node/{}", api::client::segment(&node));
    let known: Option<serde_json::Value> = agent.inner.servers.ask(Method::GET, &path, Vec::new()).await?;
    if known.is_none() {
        return Err(Failure(Error::internal(format!("agent: No node found with name '{node}'"))));
    }
    let body = serde_json::json!({"Node": node}).to_string().into_bytes();
    let _: serde_json::Value = agent.inner.servers.ask(Method::PUT, "/v1/catalog/deregister", body).await?;
    done()
}
