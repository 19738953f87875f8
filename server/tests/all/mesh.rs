//! Certificates and configuration of proxies; push streams of reads.

use std::time::Duration;

use api::proto::mesh_client::MeshClient;
use api::proto::watch_client::WatchClient;
use api::proto::{ConfigureRequest, SignRequest, WatchRequest};
use identity::{Csr, LeafName};
use model::intention::Action;
use model::proxy_config::{ProxyDelta, apply};
use model::{ProxyConfig, ServiceInstance, ServiceKind};
use server::ServerConfig;
use tonic::Code;

use crate::agent::Agent;
use crate::support::{Node, cluster_of};

fn service(name: &str, port: u16) -> ServiceInstance {
    ServiceInstance { id: name.into(), service: name.into(), port, ..ServiceInstance::default() }
}

fn sidecar(of: &str, port: u16) -> ServiceInstance {
    let mut proxy =
        ServiceInstance { kind: ServiceKind::ConnectProxy, ..service(&format!("{of}-sidecar-proxy"), port) };
    proxy.proxy.destination_service_name = of.into();
    proxy.proxy.destination_service_id = of.into();
    proxy
}

fn csr(agent: &Agent, datacenter: &str, name: &str) -> Csr {
    let trust_domain = &agent.reply.bundle.as_ref().expect("bundle").trust_domain;
    Csr::new(&LeafName::service(trust_domain, datacenter, name).expect("name")).expect("CSR")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_is_signed_for_what_is_registered_on_the_node() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    agent.push(&rpc, &[service("web", 80), sidecar("web", 21000)], &[]).await.expect("pushed");
    let mut mesh = MeshClient::new(agent.channel(&rpc));
    let mut sign = async |datacenter: &str, name: &str, node: &str| {
        let request = SignRequest { csr_pem: csr(&agent, datacenter, name).pem, node: node.into() };
        mesh.sign(request).await.map(|reply| reply.into_inner()).map_err(|status| status.code())
    };
    let signed = sign("dc1", "web", "a1").await.expect("signed");
    assert!(signed.chain_pem.contains("BEGIN CERTIFICATE") && signed.bundle.is_some());
    assert_eq!(sign("dc1", "db", "a1").await.err(), Some(Code::PermissionDenied));
    assert_eq!(sign("dc1", "web", "s1").await.err(), Some(Code::PermissionDenied));
    assert_eq!(sign("dc2", "web", "a1").await.err(), Some(Code::InvalidArgument));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_its_configuration_and_then_what_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    agent.push(&rpc, &[service("web", 80), sidecar("web", 21000)], &[]).await.expect("pushed");
    let request = ConfigureRequest { node: "a1".into(), proxy_id: "web-sidecar-proxy".into() };
    let mut stream = MeshClient::new(agent.channel(&rpc)).configure(request).await.expect("a stream").into_inner();
    let mut config = ProxyConfig::default();
    let mut next = async |config: &mut ProxyConfig| {
        let reply = stream.message().await.expect("a message").expect("one");
        apply(config, api::mp::decode::<ProxyDelta>(&reply.delta_mp).expect("a delta"));
    };
    next(&mut config).await;
    assert_eq!(config.inbound.as_ref().expect("inbound").local, "127.0.0.1:80");
    let intention = r#"{"Action": "deny"}"#;
    assert_eq!(node.put("/v1/connect/intentions/exact?source=*&destination=web", intention).await.text(), "true");
    next(&mut config).await;
    assert_eq!(config.inbound.as_ref().expect("inbound").intentions.len(), 1);
    node.stop().await;
}

/// It may be behind: what was denied since would be allowed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_ask_the_leader_gives_no_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let hold_timeout = Duration::from_millis(500);
    let mut nodes = cluster_of(&folder, "dc1", 3, |config| ServerConfig { hold_timeout, ..config }).await;
    let at = nodes.iter().position(|node| !node.is_leader()).expect("a follower");
    let alone = nodes.remove(at);
    let rpc = alone.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    agent.push(&rpc, &[service("web", 80), sidecar("web", 21000)], &[]).await.expect("pushed");
    let mut mesh = MeshClient::new(agent.channel(&rpc));
    let request = || ConfigureRequest { node: "a1".into(), proxy_id: "web-sidecar-proxy".into() };
    let mut stream = mesh.configure(request()).await.expect("a stream").into_inner();
    assert!(stream.message().await.expect("a message").is_some());
    for node in nodes {
        node.stop().await;
    }
    let refused = mesh.configure(request()).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::Unavailable));
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_intention_names_follows_the_policy() {
    for (policy, allowed) in [(Action::Allow, true), (Action::Deny, false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let config = crate::support::config(folder.path(), "s1", "dc1");
        let node = Node::start(ServerConfig { default_intention_policy: policy, ..config }).await;
        node.ready().await;
        let check = "/v1/connect/intentions/check?source=web&destination=db";
        assert_eq!(node.get(check).await.json()["Allowed"], allowed, "{policy:?}");
        let rpc = node.config.rpc_bind.to_string();
        let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
        agent.push(&rpc, &[service("web", 80), sidecar("web", 21000)], &[]).await.expect("pushed");
        let request = ConfigureRequest { node: "a1".into(), proxy_id: "web-sidecar-proxy".into() };
        let mut stream = MeshClient::new(agent.channel(&rpc)).configure(request).await.expect("a stream").into_inner();
        let reply = stream.message().await.expect("a message").expect("one");
        let mut told = ProxyConfig::default();
        apply(&mut told, api::mp::decode::<ProxyDelta>(&reply.delta_mp).expect("a delta"));
        assert_eq!(told.inbound.expect("inbound").default_action, policy);
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_read_can_be_watched_as_a_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let mut client = WatchClient::new(agent.channel(&rpc));
    let mut stream =
        client.stream(WatchRequest { target: "/v1/kv/a?raw".into() }).await.expect("a stream").into_inner();
    let mut next = async || {
        let reply = stream.message().await.expect("a message").expect("one");
        (reply.status, String::from_utf8(reply.body.to_vec()).expect("text"))
    };
    assert_eq!(next().await, (404, String::new()));
    node.put("/v1/kv/a", "1").await;
    assert_eq!(next().await, (200, "1".into()));
    node.put("/v1/kv/b", "1").await;
    node.put("/v1/kv/a", "2").await;
    assert_eq!(next().await, (200, "2".into()));
    let refused =
        client.stream(WatchRequest { target: "/v1/agent/self".into() }).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::InvalidArgument));
    node.stop().await;
}
