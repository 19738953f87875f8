//! One server, over HTTP.

use std::sync::Arc;
use std::time::Duration;

use api::proto::ProposeRequest;
use api::proto::outcome::Outcome as Kind;
use api::proto::peer_client::PeerClient;

use crate::support::{Node, PATIENCE};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_is_found_in_every_way() {
    let folder = folder();
    let node = Node::single(&folder).await;
    let body = r#"{"Node": "n1", "Address": "10.0.0.1", "Service": {"Service": "web", "Port": 80, "Tags": ["blue"]},
        "Check": {"CheckID": "alive", "Name": "alive", "ServiceID": "web", "Status": "passing"}}"#;
    let answer = node.put("/v1/catalog/register", body).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "true"));
    let found = node.get("/v1/health/service/web?passing&tag=blue").await;
    assert_eq!(found.json()[0]["Service"]["Port"], 80, "{}", found.text());
    assert_eq!(node.get("/v1/catalog/service/web").await.json()[0]["ServiceName"], "web");
    assert_eq!(node.get("/v1/catalog/services").await.json()["web"][0], "blue");
    assert_eq!(node.get("/v1/catalog/node/n1").await.json()["Services"]["web"]["ID"], "web");
    assert_eq!(node.get("/v1/health/state/passing").await.json()[0]["CheckID"], "alive");
    assert_eq!(node.get("/v1/health/service/web?filter=Service.Port==81").await.text(), "[]");
    let answer = node.put("/v1/catalog/deregister", r#"{"Node": "n1"}"#).await;
    assert_eq!(answer.text(), "true");
    assert_eq!(node.get("/v1/health/service/web").await.text(), "[]");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_query_is_woken_by_its_own_change_only() {
    let folder = folder();
    let node = Node::single(&folder).await;
    node.put("/v1/kv/a/x", "1").await;
    let index = node.get("/v1/kv/a/x").await.index();
    let target = format!("/v1/kv/a/x?index={index}&wait=60s");
    let waiting = node.get(&target);
    let change = async {
        for i in 0..20 {
            node.put(&format!("/v1/kv/a/other{i}"), "1").await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.put("/v1/kv/a/x", "2").await;
    };
    let (answer, ()) = tokio::join!(waiting, change);
    assert_eq!(answer.json()[0]["Value"], "Mg==");
    assert!(answer.index() > index);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_polls_of_one_service_are_all_answered() {
    let folder = folder();
    let node = Node::single(&folder).await;
    let register = |port: u16| {
        format!(r#"{{"Node": "n1", "Address": "10.0.0.1", "Service": {{"Service": "web", "Port": {port}}}}}"#)
    };
    node.put("/v1/catalog/register", register(1)).await;
    let index = node.get("/v1/health/service/web").await.index();
    let target = format!("/v1/health/service/web?index={index}&wait=60s");
    let polls = futures_util::future::join_all((0..1_000).map(|_| node.get(&target)));
    let change = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.put("/v1/catalog/register", register(2)).await;
    };
    let (answers, ()) = tokio::join!(polls, change);
    assert!(answers.iter().all(|answer| answer.json()[0]["Service"]["Port"] == 2 && answer.index() > index));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_without_a_change_and_at_a_shutdown() {
    let folder = folder();
    let node = Node::single(&folder).await;
    let index = node.get("/v1/kv/none").await.index();
    let answer = node.get(&format!("/v1/kv/none?index={index}&wait=50ms")).await;
    assert_eq!((answer.status.as_u16(), answer.index()), (404, index));
    let (to, target) = (node.http, format!("/v1/kv/none?index={index}&wait=500s"));
    let waiting = tokio::spawn(async move { crate::support::send(to, http::Method::GET, &target, "".into()).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.stop().await;
    let answer = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("an answer");
    assert_eq!(answer.status.as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_what_was_acknowledged() {
    let folder = folder();
    let node = Node::single(&folder).await;
    node.put("/v1/kv/a", "1").await;
    let roots = node.get("/v1/connect/ca/roots").await.json();
    let config = node.stop().await;
    let node = Node::start(config).await;
    node.ready().await;
    assert_eq!(node.get("/v1/kv/a?raw").await.text(), "1");
    assert_eq!(node.get("/v1/connect/ca/roots").await.json()["ActiveRootID"], roots["ActiveRootID"]);
    node.stop().await;
}

/// What it keeps of its identity is there to be quick. The catalog has it, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trust_bundle_that_is_damaged_on_the_disk_is_left_aside() {
    let folder = folder();
    let node = Node::single(&folder).await;
    node.put("/v1/kv/a", "1").await;
    let mut config = node.stop().await;
    let file = config.data_dir.join("identity/bundle");
    let good = std::fs::read(&file).expect("a bundle");
    for at in [0, 12, 14, good.len() / 2] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&file, &bad).expect("written");
        let node = Node::start(config).await;
        node.ready().await;
        assert_eq!(node.get("/v1/kv/a?raw").await.text(), "1", "byte {at}");
        config = node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_in_its_own_catalog() {
    let folder = folder();
    let node = Node::single(&folder).await;
    crate::support::eventually("the service consul", || async {
        node.get("/v1/catalog/service/consul").await.json()[0]["Node"] == "s1"
    })
    .await;
    let rpc = node.config.rpc_bind;
    assert_eq!(node.get("/v1/catalog/service/consul").await.json()[0]["ServicePort"], rpc.port());
    assert_eq!(node.get("/v1/status/leader").await.json(), rpc.to_string());
    assert_eq!(node.get("/v1/status/peers").await.json()[0], rpc.to_string());
    let raft = node.get("/v1/operator/raft/configuration").await.json();
    assert_eq!((&raft["Servers"][0]["Node"], &raft["Servers"][0]["Leader"]), (&"s1".into(), &true.into()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_the_leader_cannot_read_does_not_get_into_the_log() {
    let folder = folder();
    let node = Node::single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let tls = node.server.rpc_identity().client_config("dc1", &[b"h2"]).expect("TLS");
    let channel = api::transport::connect(&rpc, Arc::new(tls), "server.dc1.consul").expect("an address");
    let good = catalog::Command::Deregister(catalog::Deregistration::default()).encode();
    let newer = [&[200], &good[1..]].concat();
    let commands = [newer, vec![1, 0xc1], Vec::new(), good].map(Into::into).to_vec();
    let reply = PeerClient::new(channel).propose(ProposeRequest { commands }).await.expect("a reply").into_inner();
    let refused =
        |at: usize| matches!(&reply.outcomes[at].outcome, Some(Kind::Refused(why)) if why.contains("cannot read"));
    assert!((0..3).all(refused) && matches!(reply.outcomes[3].outcome, Some(Kind::ResponseMp(_))), "{reply:?}");
    assert_eq!(node.put("/v1/kv/a", "1").await.text(), "true");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_start_says_what_to_do() {
    let folder = folder();
    let node = Node::single(&folder).await;
    let start =
        |config| async { server::Server::start(config).await.err().map(|error| error.to_string()).expect("refused") };
    let mut other = crate::support::config(folder.path(), "s2", "dc1");
    other.rpc_bind = node.config.rpc_bind;
    assert!(start(other.clone()).await.contains("is the port taken"));
    other.rpc_bind = crate::support::free_address(crate::support::fresh_ip());
    other.data_dir = "/proc/nope".into();
    assert!(start(other.clone()).await.contains("cannot use the data folder"));
    other.datacenter = "a.b".into();
    assert!(start(other).await.contains("datacenter name"));
    let mut same = crate::support::config(folder.path(), "s1", "dc1");
    same.data_dir = node.config.data_dir.clone();
    let text = start(same).await;
    assert!(text.contains("another") || text.contains("in use") || text.contains("lock"), "{text}");
    node.stop().await;
}
