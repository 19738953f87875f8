//! Several endpoints: sharing, the death of one, and new ones.

use crate::apps::{App, Client, collect, get};
use crate::kit::{Agent, endpoint, mesh_address, until, upstream_address, within};
use crate::l4::talk;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use model::config_entry::Protocol;
use proxy::Handle;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A sidecar for each app, all of the same service.
async fn servers(agent: &Agent, apps: &[&App], protocol: Protocol) -> Vec<Handle> {
    let mut servers = Vec::new();
    for (number, app) in apps.iter().enumerate() {
        let mut config = agent.server("web", "dc1", protocol, app.address);
        config.id = format!("web-{number}");
        servers.push(agent.sidecar(&config).await);
    }
    servers
}

async fn names(at: SocketAddr, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(at).await;
    let mut got = BTreeMap::new();
    for _ in 0..requests {
        let request = Request::get("/name").header("host", "web").body(Empty::<Bytes>::new()).expect("request");
        let (status, body, _) = collect(client.send(request).await.expect("response")).await;
        assert_eq!(status, 200);
        *got.entry(String::from_utf8_lossy(&body).into_owned()).or_default() += 1;
    }
    got
}

#[tokio::test]
async fn requests_of_one_client_go_to_all_endpoints() {
    let (agent, a, b) = (Agent::start(), App::http_named("a").await, App::http_named("b").await);
    let servers = servers(&agent, &[&a, &b], Protocol::Http).await;
    let addresses: Vec<_> = servers.iter().map(mesh_address).collect();
    let client = agent.sidecar(&agent.client("api", "web", "dc1", Protocol::Http, &addresses)).await;
    let got = names(upstream_address(&client, "web"), 200).await;
    assert_eq!(got.len(), 2, "{got:?}");
    // Each request chose anew, and yet each sidecar has taken but a connection or two.
    assert!(servers.iter().all(|server| server.metrics().inbound.is_some_and(|i| i.connections <= 2)));
}

#[tokio::test]
async fn the_death_of_an_endpoint_costs_no_request() {
    for protocol in [Protocol::Http, Protocol::Http2] {
        let (agent, a, b) = (Agent::start(), App::http_named("a").await, App::http_named("b").await);
        let servers = servers(&agent, &[&a, &b], protocol).await;
        let addresses: Vec<_> = servers.iter().map(mesh_address).collect();
        let client = agent.sidecar(&agent.client("api", "web", "dc1", protocol, &addresses)).await;
        let at = upstream_address(&client, "web");
        names(at, 30).await;
        servers[0].shutdown(Duration::ZERO).await;
        until("the port is closed", || std::net::TcpStream::connect(addresses[0]).is_err()).await;
        // The kernel tells of closed connections a moment later.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let got = names(at, 200).await;
        assert_eq!(got, BTreeMap::from([("b".to_string(), 200)]), "{protocol:?}");
        let metrics = client.metrics().upstreams["web"].clone();
        assert!(metrics.retries <= 20 && metrics.requests_failed == 0, "{metrics:?}");
    }
}

#[tokio::test]
async fn a_sidecar_that_drains_costs_no_request() {
    let (agent, a, b) = (Agent::start(), App::http_named("a").await, App::http_named("b").await);
    let servers = servers(&agent, &[&a, &b], Protocol::Http2).await;
    let addresses: Vec<_> = servers.iter().map(mesh_address).collect();
    let config = agent.client("api", "web", "dc1", Protocol::Http2, &addresses);
    let client = agent.sidecar(&config).await;
    let at = upstream_address(&client, "web");
    let (one, two) = (names(at, 50).await, servers[0].clone());
    assert_eq!(one.len(), 2, "{one:?}");
    let draining = tokio::spawn(async move { two.shutdown(Duration::from_secs(5)).await });
    names(at, 300).await;
    within("drained", draining).await.expect("task");
    assert_eq!(names(at, 50).await, BTreeMap::from([("b".to_string(), 50)]));
}

#[tokio::test]
async fn bytes_find_the_endpoint_that_lives() {
    let (agent, app) = (Agent::start(), App::named("here").await);
    let servers = servers(&agent, &[&app], Protocol::Tcp).await;
    let nobody: SocketAddr = ([127, 0, 0, 1], 1).into();
    let client = agent
        .sidecar(&agent.client("api", "web", "dc1", Protocol::Tcp, &[nobody, mesh_address(&servers[0]), nobody]))
        .await;
    for _ in 0..20 {
        assert_eq!(talk(upstream_address(&client, "web"), b"").await.expect("talk"), b"here");
    }
    let metrics = client.metrics().upstreams["web"].clone();
    assert!(metrics.connects_failed <= 6, "the dead are left alone: {metrics:?}");
}

#[tokio::test]
async fn endpoints_come_and_go_with_the_configuration() {
    let (agent, a, b) = (Agent::start(), App::http_named("a").await, App::http_named("b").await);
    let servers = servers(&agent, &[&a, &b], Protocol::Http).await;
    let mut config = agent.client("api", "web", "dc1", Protocol::Http, &[mesh_address(&servers[0])]);
    let client = agent.sidecar(&config).await;
    let at = upstream_address(&client, "web");
    assert_eq!(get(at, "/name").await.1, "a");
    config.upstreams.get_mut("web").expect("upstream").endpoints = vec![endpoint(mesh_address(&servers[1]))];
    agent.tell(&config);
    within("the other", async { while get(at, "/name").await.1 != "b" {} }).await;
    assert_eq!(names(at, 20).await.len(), 1);
    // An upstream that is told no more is closed.
    config.upstreams.clear();
    agent.tell(&config);
    within("closed", async { while tokio::net::TcpStream::connect(at).await.is_ok() {} }).await;
    assert!(client.addresses().upstreams.is_empty());
}
