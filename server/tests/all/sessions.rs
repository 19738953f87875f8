//! Sessions of agents, and what the catalog says of their nodes; who may call what on the RPC port.

use std::time::Duration;

use api::proto::mesh_client::MeshClient;
use api::proto::server_message::Message;
use api::proto::watch_client::WatchClient;
use api::proto::{ConfigureRequest, WatchRequest};
use model::ServiceInstance;
use tonic::Code;

use crate::agent::{Agent, Session, ping};
use crate::support::{Node, PATIENCE, cluster, eventually};

async fn health(node: &Node, name: &str) -> String {
    let checks = node.get(&format!("/v1/health/node/{name}")).await.json();
    checks
        .as_array()
        .and_then(|list| list.iter().find(|check| check["CheckID"] == "serfHealth"))
        .map_or_else(String::new, |check| check["Status"].as_str().expect("text").into())
}

async fn becomes(node: &Node, name: &str, status: &str) {
    eventually(&format!("{name} is {status:?}"), || async { health(node, name).await == status }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_the_nodes_liveness() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let mut session = agent.open_session(&rpc).await.expect("a session");
    let welcome = session.replies.message().await.expect("a message").expect("one").message;
    let Some(Message::Welcome(welcome)) = welcome else { panic!("{welcome:?}") };
    assert_eq!((welcome.server.as_str(), welcome.servers.expect("servers").servers.len()), ("s1", 1));
    assert!(!welcome.bundle.expect("bundle").roots_pem.is_empty());
    session.ping(7).await;
    let pong = session.replies.message().await.expect("a message").expect("one").message;
    assert!(matches!(pong, Some(Message::Pong(pong)) if pong.seq == 7));
    becomes(&node, "a1", "passing").await;
    drop(session);
    becomes(&node, "a1", "critical").await;
    let session = agent.open_session(&rpc).await.expect("a session");
    becomes(&node, "a1", "passing").await;
    session.leave().await;
    becomes(&node, "a1", "").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_data_has_its_name_again_and_a_second_one_of_that_name_has_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let with_id = async |id: &str| {
        let mut agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
        agent.node.id = id.into();
        agent
    };
    let ids = ["11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"];
    let (old, new) = (with_id(ids[0]).await, with_id(ids[1]).await);
    let session = old.open_session(&rpc).await.expect("a session");
    becomes(&node, "a1", "passing").await;
    let refused = new.open_session(&rpc).await.err().expect("refused");
    assert!(refused.message().contains("is reserved by node 1111"), "{refused}");
    drop(session);
    let mut session = None;
    eventually("the name is free", || async { new.open_session(&rpc).await.is_ok() }).await;
    session.replace(new.open_session(&rpc).await.expect("a session"));
    becomes(&node, "a1", "passing").await;
    assert_eq!(node.get("/v1/catalog/node/a1").await.json()["Node"]["ID"], ids[1]);
    let web = ServiceInstance { id: "web".into(), service: "web".into(), port: 80, ..ServiceInstance::default() };
    let reply = new.push(&rpc, &[web], &[]).await.expect("pushed");
    assert!(reply.errors.is_empty(), "{reply:?}");
    drop(session);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_agent_is_critical() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let _frozen = agent.open_session(&rpc).await.expect("a session");
    becomes(&node, "a1", "passing").await;
    becomes(&node, "a1", "critical").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_a_dead_server_move_and_never_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = cluster(&folder, "dc1", 3).await;
    let at = nodes.iter().position(|node| !node.is_leader()).expect("a follower");
    let dead = nodes.remove(at);
    let rpc = dead.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let held = agent.open_session(&rpc).await.expect("a session").keep();
    becomes(&nodes[0], "a1", "passing").await;
    dead.stop().await;
    held.await.expect("ends with the server");
    let moved = agent.open_session(&nodes[1].config.rpc_bind.to_string()).await.expect("a session").keep();
    for _ in 0..20 {
        assert_eq!(health(&nodes[0], "a1").await, "passing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    moved.abort();
    becomes(&nodes[0], "a1", "critical").await;
    for node in nodes {
        node.stop().await;
    }
}

/// Whoever listens to it would hear nothing new, and the leader would not learn that its agents live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_leader_sends_its_agents_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = cluster(&folder, "dc1", 3).await;
    let alone = nodes.remove(0);
    let rpc = alone.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let Session { to_server, mut replies } = agent.open_session(&rpc).await.expect("a session");
    let mut watch = WatchClient::new(agent.channel(&rpc));
    let request = || WatchRequest { target: "/v1/kv/a".into() };
    let mut watched = watch.stream(request()).await.expect("a stream").into_inner();
    let (one, other) = (nodes.remove(0).stop().await, nodes.remove(0).stop().await);
    let pings = async {
        for seq in 1.. {
            to_server.send(ping(seq)).await.ok();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ends = async {
        while let Ok(Some(_)) = replies.message().await {}
        while let Ok(Some(_)) = watched.message().await {}
    };
    tokio::select! {
        () = pings => {}
        ended = tokio::time::timeout(PATIENCE, ends) => ended.expect("both streams end"),
    }
    let refused = agent.open_session(&rpc).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::Unavailable));
    let refused = watch.stream(request()).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::Unavailable));
    let proxy = ConfigureRequest { node: "a1".into(), proxy_id: "web".into() };
    let refused = MeshClient::new(agent.channel(&rpc)).configure(proxy).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::Unavailable));
    let nodes = [Node::start(one).await, Node::start(other).await];
    eventually("it takes agents again", || async { agent.open_session(&rpc).await.is_ok() }).await;
    alone.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_speaks_for_itself_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let refused = Agent::enroll_as("a1", "dc1", &rpc, "s1").await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::PermissionDenied));
    let refused = Agent::enroll("a1", "dc2", &rpc).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::FailedPrecondition));
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let web = ServiceInstance { id: "web".into(), service: "web".into(), port: 80, ..ServiceInstance::default() };
    let reply = agent.push(&rpc, std::slice::from_ref(&web), &[]).await.expect("pushed");
    assert!(reply.index > 1 && reply.errors.is_empty(), "{reply:?}");
    assert_eq!(node.get("/v1/catalog/service/web").await.json()[0]["Node"], "a1");
    let other = model::Node { name: "s1".into(), ..agent.node.clone() };
    let refused = agent.push_for(&rpc, &other, &[web], &[]).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut peer = api::proto::peer_client::PeerClient::new(agent.channel(&rpc));
    let refused = peer.propose(api::proto::ProposeRequest::default()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_comes_late_undoes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let web = ServiceInstance { id: "web".into(), service: "web".into(), port: 80, ..ServiceInstance::default() };
    let first = agent.push_all_after(&rpc, std::slice::from_ref(&web), 0).await.expect("pushed");
    let second = agent.push_all_after(&rpc, &[], first.index).await.expect("pushed");
    assert!(!first.outdated && !second.outdated && first.index < second.index, "{first:?} {second:?}");
    for after in [0, first.index] {
        let late = agent.push_all_after(&rpc, std::slice::from_ref(&web), after).await.expect("answered");
        assert!(late.outdated && late.index == second.index, "{late:?}");
    }
    assert_eq!(node.get("/v1/catalog/service/web").await.json(), serde_json::json!([]));
    let third = agent.push_all_after(&rpc, &[web], second.index).await.expect("pushed");
    assert!(!third.outdated, "{third:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_travels_on_the_rpc_port() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let agent = Agent::enroll("a1", "dc1", &rpc).await.expect("enrolled");
    let get = |target: &'static str| {
        let channel = agent.channel(&rpc);
        async move {
            let request = http::Request::get(target).body(http_body_util::Empty::new()).expect("request");
            api::transport::forward(&channel, request).await.expect("an answer").status().as_u16()
        }
    };
    assert_eq!(get("/v1/catalog/nodes").await, 200);
    assert_eq!(get("/v1/agent/self").await, 404);
    assert_eq!(get("/ui/").await, 200, "gRPC's refusals are in the trailers");
    node.stop().await;
}
