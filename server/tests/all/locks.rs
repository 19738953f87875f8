//! Sessions and the locks that they hold: over HTTP, through elections and restarts.

use std::time::{Duration, Instant};

use serde_json::Value;
use server::ServerConfig;
use tempfile::TempDir;

use crate::support::{Node, cluster, cluster_of, config, eventually};

/// Short enough for a test, long enough for a loaded machine.
const TTL: Duration = Duration::from_secs(3);

fn quick(mut config: ServerConfig) -> ServerConfig {
    config.session_ttl_min = Duration::from_millis(100);
    config
}

async fn quick_single(folder: &TempDir) -> Node {
    let node = Node::start(quick(config(folder.path(), "s1", "dc1"))).await;
    node.ready().await;
    node
}

/// A node for sessions that no agent keeps alive.
async fn register(node: &Node) {
    let body = r#"{"Node": "n1", "Address": "10.0.0.1", "Check": {"CheckID": "c1", "Status": "passing"}}"#;
    assert_eq!(node.put("/v1/catalog/register", body).await.text(), "true");
}

async fn create(node: &Node, more: &str) -> String {
    let body = format!(r#"{{"Node": "n1", "NodeChecks": [], {more}}}"#);
    let answer = node.put("/v1/session/create", body).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    answer.json()["ID"].as_str().expect("an id").to_string()
}

async fn acquire(node: &Node, key: &str, session: &str) -> bool {
    let answer = node.put(&format!("/v1/kv/{key}?acquire={session}"), "mine").await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    answer.json() == Value::Bool(true)
}

async fn renew(node: &Node, session: &str) -> u16 {
    node.put(&format!("/v1/session/renew/{session}"), "").await.status.as_u16()
}

async fn is_there(node: &Node, session: &str) -> bool {
    node.get(&format!("/v1/session/info/{session}")).await.text() != "[]"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_has_one_holder() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = quick_single(&folder).await;
    register(&node).await;
    let (a, b) = (create(&node, r#""LockDelay": "0s""#).await, create(&node, r#""LockDelay": "0s""#).await);
    assert!(acquire(&node, "lead", &a).await);
    assert!(!acquire(&node, "lead", &b).await);
    assert!(acquire(&node, "lead", &a).await);
    let entry = node.get("/v1/kv/lead").await.json();
    assert_eq!((&entry[0]["LockIndex"], &entry[0]["Session"]), (&1.into(), &a.clone().into()));
    // Who waits for the lock is woken by its end, and gets it.
    let index = node.get("/v1/kv/lead").await.index();
    let free_target = format!("/v1/kv/lead?index={index}&wait=60s");
    let list_target = format!("/v1/session/list?index={}&wait=60s", node.get("/v1/session/list").await.index());
    let (waiting, listing) = (node.get(&free_target), node.get(&list_target));
    let destroyed = async {
        assert_eq!(node.put(&format!("/v1/session/destroy/{a}"), "").await.text(), "true");
    };
    let (free, sessions, ()) = tokio::join!(waiting, listing, destroyed);
    assert_eq!((free.json()[0].get("Session"), &free.json()[0]["LockIndex"]), (None, &1.into()));
    assert_eq!(sessions.json().as_array().map(Vec::len), Some(1));
    assert!(acquire(&node, "lead", &b).await);
    assert_eq!(node.get("/v1/kv/lead").await.json()[0]["LockIndex"], 2);
    assert_eq!(node.put(&format!("/v1/kv/lead?release={b}"), "free").await.text(), "true");
    assert_eq!(node.get("/v1/kv/lead?raw").await.text(), "free");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critical_check_frees_the_lock_after_the_delay() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = quick_single(&folder).await;
    register(&node).await;
    let held = create(&node, r#""NodeChecks": ["c1"], "LockDelay": "1s""#).await;
    let other = create(&node, r#""Name": "other""#).await;
    assert!(acquire(&node, "lead", &held).await);
    let failed = Instant::now();
    let body = r#"{"Node": "n1", "Address": "10.0.0.1", "Check": {"CheckID": "c1", "Status": "critical"}}"#;
    node.put("/v1/catalog/register", body).await;
    assert!(!is_there(&node, &held).await);
    assert_eq!(node.get("/v1/kv/lead").await.json()[0].get("Session"), None);
    eventually("the lock", || acquire(&node, "lead", &other)).await;
    assert!(failed.elapsed() >= Duration::from_secs(1), "{:?}", failed.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_lives_on_the_node_that_was_asked_and_dies_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = quick_single(&folder).await;
    let rpc = node.config.rpc_bind.to_string();
    let own = crate::agent::Agent::enroll("s1", "dc1", &rpc).await.expect("enrolled");
    let alive = own.open_session(&rpc).await.expect("a session").keep();
    let passing = || async { node.get("/v1/health/state/passing").await.text().contains("serfHealth") };
    eventually("serfHealth", passing).await;
    let made = node.put("/v1/session/create", "").await;
    assert_eq!(made.status.as_u16(), 200, "{}", made.text());
    let id = made.json()["ID"].as_str().expect("an id").to_string();
    let info = node.get(&format!("/v1/session/info/{id}")).await.json();
    assert_eq!((&info[0]["Node"], &info[0]["NodeChecks"][0]), (&"s1".into(), &"serfHealth".into()));
    // An agent that handed the request on would have named its own node.
    let other = node.put("/v1/session/create?asked-node=n1", "").await;
    assert_eq!(other.text(), "apply failed: Missing node registration");
    alive.abort();
    eventually("the session's end", || async { !is_there(&node, &id).await }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_lives_as_long_as_it_is_renewed() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = quick_single(&folder).await;
    register(&node).await;
    let ttl = format!(r#""TTL": "{}ms", "Behavior": "delete", "LockDelay": 0"#, TTL.as_millis());
    let (renewed, forgotten) = (create(&node, &ttl).await, create(&node, &ttl).await);
    assert!(acquire(&node, "renewed", &renewed).await && acquire(&node, "forgotten", &forgotten).await);
    let mut last = Instant::now();
    let begun = last;
    while is_there(&node, &forgotten).await {
        if last.elapsed() > TTL / 4 {
            last = Instant::now();
            assert_eq!(renew(&node, &renewed).await, 200);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() < Duration::from_secs(40), "never ended");
    }
    assert!(begun.elapsed() >= TTL, "{:?}", begun.elapsed());
    assert_eq!(renew(&node, &forgotten).await, 404);
    assert_eq!(node.get("/v1/kv/forgotten").await.status.as_u16(), 404);
    assert_eq!(node.get("/v1/kv/renewed?raw").await.text(), "mine");
    assert_eq!(renew(&node, &renewed).await, 200);
    let acknowledged = Instant::now();
    eventually("the end of the other", || async { !is_there(&node, &renewed).await }).await;
    assert!(acknowledged.elapsed() >= TTL - Duration::from_millis(100), "{:?}", acknowledged.elapsed());
    node.stop().await;
}

/// A leader that goes on for seconds without an answer from the two others, with a node for sessions.
async fn patient_leader(folder: &TempDir) -> (Node, Vec<Node>) {
    let mut nodes = cluster_of(folder, "dc1", 3, |config| {
        let mut config = quick(config);
        config.timing.election_ms_max = 3_000;
        config
    })
    .await;
    let leader = nodes.iter().position(Node::is_leader).expect("a leader");
    let leader = nodes.remove(leader);
    register(&leader).await;
    (leader, nodes)
}

/// The others are away for longer than a session is given beyond its time to live, and come back before the leader gives up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_took_too_long_to_confirm_is_not_acknowledged() {
    const SHORT_TTL: Duration = Duration::from_secs(2);
    let folder = tempfile::tempdir().expect("a folder");
    let (leader, others) = patient_leader(&folder).await;
    let id = create(&leader, &format!(r#""TTL": "{}ms""#, SHORT_TTL.as_millis())).await;
    let away = futures_util::future::join_all(others.into_iter().map(Node::stop)).await;
    let renewal = async { (renew(&leader, &id).await, Instant::now()) };
    let back = async {
        tokio::time::sleep(SHORT_TTL * 3 / 4).await;
        futures_util::future::join_all(away.into_iter().map(Node::start)).await
    };
    let ((status, acknowledged), back) = tokio::join!(renewal, back);
    // If it was acknowledged after all, it must hold.
    while status == 200 && acknowledged.elapsed() < SHORT_TTL {
        let is_there = is_there(&leader, &id).await;
        assert!(
            is_there || acknowledged.elapsed() >= SHORT_TTL,
            "ended {:?} after its renewal",
            acknowledged.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    futures_util::future::join_all(back.into_iter().chain([leader]).map(Node::stop)).await;
}

/// A leader that nobody answers may have a successor, who knows of sessions and renewals that it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_says_of_no_session_that_it_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (leader, others) = patient_leader(&folder).await;
    let gone = create(&leader, r#""Name": "gone""#).await;
    leader.put(&format!("/v1/session/destroy/{gone}"), "").await;
    assert_eq!(renew(&leader, &gone).await, 404);
    futures_util::future::join_all(others.into_iter().map(Node::stop)).await;
    assert_eq!(renew(&leader, &gone).await, 500);
    leader.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_locks_and_delays_outlive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = quick_single(&folder).await;
    register(&node).await;
    let (holder, gone) = (create(&node, r#""TTL": "60s""#).await, create(&node, r#""LockDelay": "3s""#).await);
    assert!(acquire(&node, "held", &holder).await && acquire(&node, "was-held", &gone).await);
    node.put(&format!("/v1/session/destroy/{gone}"), "").await;
    let taken = Instant::now();
    let hash = node.get("/v1/operator/state-hash").await;
    let node = Node::start(node.stop().await).await;
    node.ready().await;
    // Leaders may record something at their start; that what was restored is the same is tested with the catalog.
    assert_eq!(hash.json()["Hash"].as_str().map(str::len), Some(16));
    assert!(is_there(&node, &holder).await);
    assert_eq!(renew(&node, &holder).await, 200);
    let other = create(&node, r#""Name": "other""#).await;
    assert!(!acquire(&node, "held", &other).await);
    eventually("the lock after its delay", || acquire(&node, "was-held", &other)).await;
    assert!(taken.elapsed() >= Duration::from_secs(3), "{:?}", taken.elapsed());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_knows_sessions_and_delays_and_all_servers_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nodes = cluster(&folder, "dc1", 3).await;
    register(&nodes[0]).await;
    let (holder, gone) = (create(&nodes[1], r#""TTL": "20s""#).await, create(&nodes[2], r#""LockDelay": "4s""#).await);
    assert!(acquire(&nodes[0], "held", &holder).await && acquire(&nodes[1], "was-held", &gone).await);
    // Every server hands a renewal to the leader.
    for node in &nodes {
        assert_eq!(renew(node, &holder).await, 200);
    }
    nodes[2].put(&format!("/v1/session/destroy/{gone}"), "").await;
    let taken = Instant::now();
    let leader = nodes.iter().position(Node::is_leader).expect("a leader");
    nodes.remove(leader).stop().await;
    assert_eq!(renew(&nodes[0], &holder).await, 200);
    let other = create(&nodes[1], r#""Name": "other""#).await;
    assert!(!acquire(&nodes[0], "held", &other).await);
    eventually("the lock after its delay", || acquire(&nodes[0], "was-held", &other)).await;
    assert!(taken.elapsed() >= Duration::from_secs(4), "{:?}", taken.elapsed());
    assert!(is_there(&nodes[1], &holder).await);
    eventually("the same state", || async {
        let (a, b) = (
            nodes[0].get("/v1/operator/state-hash").await.json(),
            nodes[1].get("/v1/operator/state-hash").await.json(),
        );
        a == b
    })
    .await;
    futures_util::future::join_all(nodes.into_iter().map(Node::stop)).await;
}

/// A follower sends those that come at the same time in one request; their answers are larger than what gRPC takes by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_transactions_that_read_much_are_answered_through_a_follower() {
    let folder = tempfile::tempdir().expect("a folder");
    let nodes = cluster(&folder, "dc1", 3).await;
    let follower = nodes.iter().find(|node| !node.is_leader()).expect("a follower");
    for key in ["a", "b"] {
        assert_eq!(follower.put(&format!("/v1/kv/large/{key}"), vec![b'x'; 500_000]).await.text(), "true");
    }
    let ops = |n: usize| {
        format!(
            r#"[{{"KV": {{"Verb": "get-tree", "Key": "large/"}}}}, {{"KV": {{"Verb": "set", "Key": "n/{n}", "Value": "eA=="}}}}]"#
        )
    };
    let all = (0..10).map(|n| async move { follower.put("/v1/txn", ops(n)).await });
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.status.as_u16(), 200, "{}", &answer.text()[..answer.text().len().min(200)]);
        assert_eq!(answer.json()["Results"].as_array().map(Vec::len), Some(3));
    }
    futures_util::future::join_all(nodes.into_iter().map(Node::stop)).await;
}

/// What cannot be sent in one piece is refused as a whole, and the words say what helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_reads_too_much_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = quick_single(&folder).await;
    let small: Vec<String> = (0..100).map(|n| format!(r#"{{"KV": {{"Verb": "set", "Key": "tree/{n}"}}}}"#)).collect();
    assert_eq!(node.put("/v1/txn", format!("[{}]", small.join(","))).await.status.as_u16(), 200);
    let body = format!(
        r#"{{"Node": "n", "Address": "10.0.0.1", "Service": {{"Service": "web", "Tags": ["{}"]}}}}"#,
        "y".repeat(200_000)
    );
    assert_eq!(node.put("/v1/catalog/register", body).await.text(), "true");
    let get_service = r#"{"Service": {"Verb": "get", "Node": "n", "Service": {"ID": "web"}}}"#;
    let get_tree = r#"{"KV": {"Verb": "get-tree", "Key": "tree/"}}"#;
    for (read, few, many) in [(get_service, 5, 6), (get_tree, 50, 80)] {
        for (count, status) in [(few, 200), (many, 409)] {
            let reads = vec![read; count].join(",");
            let ops = format!(r#"[{{"KV": {{"Verb": "set", "Key": "mark/{status}"}}}}, {reads}]"#);
            let answer = node.put("/v1/txn", ops).await;
            assert_eq!(answer.status.as_u16(), status, "{read} {count}");
            let words = answer.json()["Errors"].to_string();
            assert_eq!(words.contains("read in a transaction that only reads"), status == 409, "{words}");
        }
    }
    assert_eq!(node.get("/v1/kv/mark/200").await.status.as_u16(), 200);
    assert_eq!(node.get("/v1/kv/mark/409").await.status.as_u16(), 404);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_has_at_most_128_operations() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = quick_single(&folder).await;
    let ops = |count: usize| {
        let ops: Vec<String> = (0..count).map(|n| format!(r#"{{"KV": {{"Verb": "set", "Key": "k/{n}"}}}}"#)).collect();
        format!("[{}]", ops.join(","))
    };
    let refused = node.put("/v1/txn", ops(129)).await;
    assert_eq!(refused.status.as_u16(), 413);
    assert_eq!(refused.text(), "Transaction contains too many operations (129 > 128)");
    assert_eq!(node.put("/v1/txn", ops(128)).await.json()["Results"].as_array().map(Vec::len), Some(128));
    // All are one change.
    let entries = node.get("/v1/kv/k?recurse").await.json();
    let indexes: Vec<_> = entries.as_array().expect("a list").iter().map(|entry| &entry["ModifyIndex"]).collect();
    assert!(indexes.len() == 128 && indexes.iter().all(|index| *index == indexes[0]), "{indexes:?}");
    node.stop().await;
}
