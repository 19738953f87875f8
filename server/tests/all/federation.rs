//! Two datacenters: they find each other, answer for each other, and the second takes over what the first decides.

use dns::{Found, Lookup, LookupKind, ServiceQuery};
use tempfile::TempDir;

use crate::support::{Node, config, eventually};

/// The first question may have to wait for its answer.
async fn resolve<T>(found: Found<T>) -> Option<T> {
    match found {
        Found::Ready(value) => Some(value),
        Found::Wait(later) => match later.await {
            Found::Ready(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// The primary `dc1` and the secondary `dc2`, one server each, ready.
async fn two(folder: &TempDir) -> (Node, Node) {
    let first = Node::single(folder).await;
    let mut config = config(folder.path(), "t1", "dc2");
    config.primary_datacenter = "dc1".into();
    config.retry_join_wan = vec![first.config.rpc_bind.to_string()];
    let second = Node::start(config).await;
    second.ready().await;
    for node in [&first, &second] {
        eventually("both know each other", || async {
            node.get("/v1/catalog/datacenters").await.json().as_array().map(Vec::len) == Some(2)
        })
        .await;
    }
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secondary_of_three_servers_joins_by_the_secret_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = Node::single(&folder).await;
    let mut configs: Vec<_> = ["t1", "t2", "t3"].map(|name| config(folder.path(), name, "dc2")).into();
    let addresses: Vec<String> = configs.iter().map(|config| config.rpc_bind.to_string()).collect();
    for config in &mut configs {
        config.primary_datacenter = "dc1".into();
        config.bootstrap_expect = 3;
        config.retry_join.clone_from(&addresses);
        config.retry_join_wan = vec![first.config.rpc_bind.to_string()];
    }
    let nodes = futures_util::future::join_all(configs.into_iter().map(Node::start)).await;
    for (i, node) in nodes.iter().enumerate() {
        node.ready().await;
        assert_eq!(node.put(&format!("/v1/kv/{i}"), "1").await.text(), "true");
    }
    // The one that made the first connections goes; the others still speak with each other and with the primary.
    let mut nodes = nodes;
    let leader = nodes.iter().position(Node::is_leader).expect("a leader");
    nodes.remove(leader).stop().await;
    for node in &nodes {
        // A write that was under way to the one that went may have to be made again.
        let mut answer = String::new();
        for _ in 0..10 {
            answer = node.put("/v1/kv/after", "1").await.text().to_owned();
            if answer == "true" {
                break;
            }
        }
        assert_eq!(answer, "true");
    }
    eventually("the primary reaches them", || async { first.get("/v1/kv/after?raw&dc=dc2").await.text() == "1" }).await;
    futures_util::future::join_all(nodes.into_iter().map(Node::stop)).await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_datacenters_answer_for_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = two(&folder).await;
    assert_eq!(first.put("/v1/kv/a?dc=dc2", "1").await.text(), "true");
    assert_eq!(second.get("/v1/kv/a?raw").await.text(), "1");
    assert_eq!(first.get("/v1/kv/a").await.status.as_u16(), 404);
    let there = first.get("/v1/kv/a?dc=dc2").await;
    assert_eq!((there.json()[0]["Value"].as_str(), there.index() > 1), (Some("MQ=="), true));
    let nowhere = first.get("/v1/kv/a?dc=dc3").await;
    assert_eq!((nowhere.status.as_u16(), nowhere.text()), (500, "No path to datacenter"));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_has_an_intermediate_of_the_firsts_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = two(&folder).await;
    let roots = |node: Node| async move { (node.get("/v1/connect/ca/roots").await.json(), node) };
    let ((one, first), (two, second)) = tokio::join!(roots(first), roots(second));
    assert_eq!(one["ActiveRootID"], two["ActiveRootID"]);
    assert_eq!(one["TrustDomain"], two["TrustDomain"]);
    assert_eq!(two["Roots"][0]["IntermediateCerts"].as_array().map(Vec::len), Some(1));
    assert!(one["Roots"][0]["IntermediateCerts"].is_null());
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intentions_and_config_entries_are_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = two(&folder).await;
    first.put("/v1/connect/intentions/exact?source=web&destination=db", r#"{"Action": "deny"}"#).await;
    first.put("/v1/config", r#"{"Kind": "service-defaults", "Name": "web", "Protocol": "http"}"#).await;
    let denied = || async {
        second.get("/v1/connect/intentions/check?source=web&destination=db").await.json()["Allowed"] == false
    };
    eventually("the intention is here", denied).await;
    eventually("the entry is here", || async {
        second.get("/v1/config/service-defaults/web").await.text().contains("\"Protocol\":\"http\"")
    })
    .await;
    first.delete("/v1/connect/intentions/exact?source=web&destination=db").await;
    eventually("the intention is gone", || async { !denied().await }).await;
    // While the primary is away its decisions stand.
    let config = first.stop().await;
    assert_eq!(second.get("/v1/config/service-defaults/web").await.status.as_u16(), 200);
    assert_eq!(second.put("/v1/kv/a", "1").await.text(), "true");
    let back = Node::start(config).await;
    back.ready().await;
    back.delete("/v1/config/service-defaults/web").await;
    eventually("the entry is gone", || async {
        second.get("/v1/config/service-defaults/web").await.status.as_u16() == 404
    })
    .await;
    back.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_the_other_datacenter_are_answered_from_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = two(&folder).await;
    let register = |port: u16| {
        format!(
            r#"{{"Node": "n1", "Address": "10.0.0.1", "Service": {{"ID": "web{port}", "Service": "web", "Port": {port}}}}}"#
        )
    };
    first.put("/v1/catalog/register", register(1)).await;
    let lookup = second.server.dns_lookup();
    let ask = |datacenter, service| {
        let query = ServiceQuery { datacenter: Some(datacenter), service, tag: None, kind: LookupKind::Service };
        lookup.service(&query)
    };
    let Some(endpoints) = resolve(ask("dc1", "web")).await else { panic!("there is one") };
    assert_eq!(endpoints.len(), 1);
    first.put("/v1/catalog/register", register(2)).await;
    eventually("the change is here", || async {
        matches!(ask("dc1", "web"), Found::Ready(endpoints) if endpoints.len() == 2)
    })
    .await;
    assert!(matches!(ask("dc3", "web"), Found::NoSuchDatacenter));
    assert!(matches!(ask("dc2", "web"), Found::NoSuchName));
    assert!(matches!(ask("DC2", "consul"), Found::Ready(_)));
    assert!(resolve(lookup.node(Some("dc1"), "n1")).await.is_some());
    first.stop().await;
    second.stop().await;
}
