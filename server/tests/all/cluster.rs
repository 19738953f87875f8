//! Three servers: they find each other, forward, agree, and lose a leader.

use std::time::{Duration, Instant};

use dns::{Found, Lookup, LookupKind, ServiceQuery};
use identity::JoinSecret;
use server::Server;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::support::{Answer, Node, PATIENCE, cluster, config, eventually};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn stop_all(nodes: Vec<Node>) {
    futures_util::future::join_all(nodes.into_iter().map(Node::stop)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_anywhere_reads_it_there_and_everywhere() {
    let folder = folder();
    let nodes = cluster(&folder, "dc1", 3).await;
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(node.put(&format!("/v1/kv/from/{i}"), format!("{i}")).await.text(), "true");
        assert_eq!(node.get(&format!("/v1/kv/from/{i}?raw&stale")).await.text(), format!("{i}"));
        for other in &nodes {
            assert_eq!(other.get(&format!("/v1/kv/from/{i}?raw")).await.text(), format!("{i}"));
            let consistent = other.get(&format!("/v1/kv/from/{i}?consistent")).await;
            assert_eq!(consistent.headers["x-consul-effective-consistency"], "consistent");
            assert_eq!(consistent.status.as_u16(), 200);
        }
    }
    let leaders: Vec<_> =
        futures_util::future::join_all(nodes.iter().map(|node| async { node.get("/v1/status/leader").await.json() }))
            .await;
    assert!(leaders.iter().all(|leader| *leader == leaders[0] && *leader != ""), "{leaders:?}");
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_query_is_woken_on_every_server() {
    let folder = folder();
    let nodes = cluster(&folder, "dc1", 3).await;
    nodes[0].put("/v1/kv/a", "1").await;
    let polls = nodes.iter().map(|node| async move {
        let index = node.get("/v1/kv/a").await.index();
        node.get(&format!("/v1/kv/a?index={index}&wait=60s")).await
    });
    let change = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        nodes[1].put("/v1/kv/a", "2").await;
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(polls), change);
    assert!(answers.iter().all(|answer| answer.json()[0]["Value"] == "Mg=="));
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_without_the_leader_and_it_comes_back() {
    let folder = folder();
    let mut nodes = cluster(&folder, "dc1", 3).await;
    nodes[0].put("/v1/kv/before", "1").await;
    let leader = nodes.iter().position(Node::is_leader).expect("a leader");
    let config = nodes.remove(leader).stop().await;
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(node.put(&format!("/v1/kv/after{i}"), "1").await.text(), "true");
        assert_eq!(node.get("/v1/kv/before?raw&consistent").await.text(), "1");
    }
    let back = Node::start(config).await;
    back.ready().await;
    assert_eq!(back.get("/v1/kv/after1?raw").await.text(), "1");
    nodes.push(back);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_has_no_answer_before_the_server_was_up_to_date_for_once() {
    let folder = folder();
    let mut nodes = cluster(&folder, "dc1", 3).await;
    let body = r#"{"Node": "n1", "Address": "10.0.0.1", "Service": {"ID": "web", "Service": "web", "Port": 1}}"#;
    nodes[0].put("/v1/catalog/register", body).await;
    let ask = |node: &Node| {
        let query = ServiceQuery { datacenter: None, service: "web", tag: None, kind: LookupKind::Service };
        let lookup = node.server.dns_lookup();
        (lookup.service(&query), lookup.node(None, "n1"), lookup.node_by_address([10, 0, 0, 1].into()))
    };
    for node in &nodes {
        eventually("names are known", || async {
            matches!(ask(node), (Found::Ready(_), Found::Ready(_), Found::Ready(_)))
        })
        .await;
    }
    let [one, other, third] = [nodes.remove(0), nodes.remove(0), nodes.remove(0)];
    let (one, other) = (one.stop().await, other.stop().await);
    third.stop().await;
    let alone = Node::start(one).await;
    assert!(matches!(ask(&alone), (Found::Unavailable, Found::Unavailable, Found::Unavailable)));
    let back = Node::start(other).await;
    eventually("names are known again", || async {
        matches!(ask(&alone), (Found::Ready(_), Found::Ready(_), Found::Ready(_)))
    })
    .await;
    stop_all(vec![alone, back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_only_stale_reads_answer() {
    let folder = folder();
    let mut nodes = cluster(&folder, "dc1", 3).await;
    nodes[0].put("/v1/kv/a", "1").await;
    let mut last = nodes.remove(0).stop().await;
    for node in nodes {
        node.stop().await;
    }
    last.hold_timeout = Duration::from_millis(300);
    let alone = Node::start(last).await;
    let refused = alone.get("/v1/kv/a").await;
    assert_eq!((refused.status.as_u16(), refused.text()), (500, "No cluster leader"));
    let refused = alone.put("/v1/kv/a", "2").await;
    assert_eq!((refused.status.as_u16(), refused.text()), (500, "No cluster leader"));
    let stale = alone.get("/v1/kv/a?stale").await;
    assert_eq!(stale.headers["x-consul-knownleader"], "false");
    assert!(last_contact_ms(&stale) > 0);
    assert_eq!(alone.get("/v1/status/leader").await.text(), "\"\"");
    alone.stop().await;
}

fn last_contact_ms(answer: &Answer) -> u64 {
    answer.headers["x-consul-lastcontact"].to_str().expect("text").parse().expect("a number")
}

/// It has heard of the leader long before it has caught up with what was acknowledged while it was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_comes_back_does_not_call_itself_fresher_than_it_is() {
    let folder = folder();
    let mut nodes = cluster(&folder, "dc1", 3).await;
    let follower = nodes.iter().position(|node| !node.is_leader()).expect("a follower");
    let config = nodes.remove(follower).stop().await;
    let large = vec![b'x'; 400_000];
    for i in 0..60 {
        assert_eq!(nodes[0].put(&format!("/v1/kv/large/{i}"), large.clone()).await.text(), "true");
    }
    assert_eq!(nodes[0].put("/v1/kv/last", "1").await.text(), "true");
    let acknowledged = Instant::now();
    // It may be forgotten for the time between two of the leader's heartbeats, and measured in whole milliseconds.
    let slack_ms = u128::from(config.timing.heartbeat_ms) + 1;
    let back = Node::start(config).await;
    let is_there = loop {
        let since_ms = acknowledged.elapsed().as_millis();
        let answer = back.get("/v1/kv/last?raw&stale").await;
        if answer.status.as_u16() == 200 {
            break true;
        }
        let said_ms = u128::from(last_contact_ms(&answer));
        assert!(said_ms + slack_ms >= since_ms, "says {said_ms} ms and lacks what was written {since_ms} ms ago");
        if since_ms > PATIENCE.as_millis() {
            break false;
        }
    };
    assert!(is_there);
    let is_fresh = || async { last_contact_ms(&back.get("/v1/kv/last?stale").await) < 1_000 };
    eventually("the follower says that it is fresh", is_fresh).await;
    nodes.push(back);
    stop_all(nodes).await;
}

/// A leader without a majority may have been replaced: it does not know how old its answers are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_majority_counts_from_there() {
    let folder = folder();
    let mut nodes = cluster(&folder, "dc1", 3).await;
    let leader = nodes.iter().position(Node::is_leader).expect("a leader");
    let leader = nodes.remove(leader);
    eventually("the leader answers 0", || async { last_contact_ms(&leader.get("/v1/kv/a?stale").await) == 0 }).await;
    stop_all(nodes).await;
    let lost = Instant::now();
    let slack_ms = 2 * u128::from(leader.config.timing.heartbeat_ms) + 1;
    eventually("the age grows", || async {
        let since_ms = lost.elapsed().as_millis();
        let said_ms = u128::from(last_contact_ms(&leader.get("/v1/kv/a?stale").await));
        assert!(said_ms + slack_ms >= since_ms, "says {said_ms} ms, {since_ms} ms after its majority was lost");
        said_ms > 1_500
    })
    .await;
    leader.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_joins_a_cluster_votes_and_leaves() {
    let folder = folder();
    let first = Node::single(&folder).await;
    first.put("/v1/kv/a", "1").await;
    let mut config = config(folder.path(), "s2", "dc1");
    config.bootstrap_expect = 0;
    config.retry_join = vec![first.config.rpc_bind.to_string()];
    let second = Node::start(config).await;
    second.ready().await;
    let voters = || async { first.server.status().raft.voters.len() };
    eventually("two voters", || async { voters().await == 2 }).await;
    assert_eq!(second.get("/v1/kv/a?raw").await.text(), "1");
    eventually("both in the catalog", || async {
        first.get("/v1/catalog/service/consul").await.json().as_array().map(Vec::len) == Some(2)
    })
    .await;
    second.server.leave().await.expect("left");
    eventually("one voter", || async { voters().await == 1 }).await;
    assert_eq!(first.put("/v1/kv/b", "1").await.text(), "true");
    eventually("one in the catalog", || async {
        first.get("/v1/catalog/service/consul").await.json().as_array().map(Vec::len) == Some(1)
    })
    .await;
    // It may come back, as a new one.
    let back = Node::start(second.stop().await).await;
    back.ready().await;
    eventually("two voters again", || async { voters().await == 2 }).await;
    stop_all(vec![back, first]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_server_comes_back_as_a_new_one() {
    let folder = folder();
    let mut nodes = cluster(&folder, "dc1", 3).await;
    let at = nodes.iter().position(|node| !node.is_leader()).expect("a follower");
    let old = nodes.remove(at);
    let (name, rpc) = (old.config.node_name.clone(), old.config.rpc_bind.to_string());
    let session = Agent::of_server(&old, "11111111-1111-1111-1111-111111111111").open_session(&rpc).await;
    let held = session.expect("a session").keep();
    let id = || async { nodes[0].get(&format!("/v1/catalog/node/{name}")).await.json()["Node"]["ID"].clone() };
    eventually("its agent has the name", || async { id().await == "11111111-1111-1111-1111-111111111111" }).await;
    let config = old.stop().await;
    held.await.expect("ends with the server");
    std::fs::remove_dir_all(&config.data_dir).expect("wiped");
    let back = Node::start(config).await;
    back.ready().await;
    // Its former self may still be thought to be alive; but it has joined in its place, and so has its name.
    let session = Agent::of_server(&back, "22222222-2222-2222-2222-222222222222").open_session(&rpc).await;
    let _held = session.expect("a session").keep();
    eventually("its new agent has the name", || async { id().await == "22222222-2222-2222-2222-222222222222" }).await;
    eventually("three voters again", || async {
        let raft = nodes[0].server.status().raft;
        raft.voters.len() == 3
            && raft.learners.is_empty()
            && raft.voters.iter().any(|voter| voter.id == back.server.status().raft.id)
    })
    .await;
    nodes.push(back);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_came_empty_does_not_say_that_there_is_nothing() {
    let folder = folder();
    let mut config = config(folder.path(), "s2", "dc1");
    config.bootstrap_expect = 0;
    config.hold_timeout = Duration::from_millis(300);
    let alone = Node::start(config).await;
    for path in ["/v1/kv/a?stale", "/v1/catalog/nodes?stale"] {
        let answer = alone.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.text().trim()), (500, "No cluster leader"), "{path}");
    }
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_is_handed_over_from_any_server() {
    let folder = folder();
    let nodes = cluster(&folder, "dc1", 3).await;
    let follower = nodes.iter().find(|node| !node.is_leader()).expect("a follower");
    let before = follower.get("/v1/status/leader").await.json();
    let answer = follower.send(http::Method::POST, "/v1/operator/raft/transfer-leader", "").await;
    assert_eq!(answer.json()["Success"], true);
    eventually("another leader", || async {
        let now = follower.get("/v1/status/leader").await.json();
        now != before && now != ""
    })
    .await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_joins_nothing() {
    let folder = folder();
    let first = Node::single(&folder).await;
    let mut config = config(folder.path(), "s2", "dc1");
    config.bootstrap_expect = 0;
    config.retry_join = vec![first.config.rpc_bind.to_string()];
    config.join_secret = JoinSecret::parse("MTIzNDU2Nzg5MDEyMzQ1Ng==").expect("a secret");
    let stranger = Server::start(config).await.expect("starts");
    assert!(!stranger.ready(Duration::from_secs(2)).await);
    assert_eq!(first.server.status().raft.voters.len() + first.server.status().raft.learners.len(), 1);
    stranger.shutdown().await;
    first.stop().await;
}
