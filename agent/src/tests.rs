//! Whole agents against a server that is strict about the protocol.

mod http;
mod views;

use crate::testing::{DC, FakeServer, Pki, eventually};
use crate::{Agent, AgentConfig, Deps, Home, Source};
use api::agent::ServiceRegistration;
use identity::Role;
use model::{AgentCheck, CheckStatus, GoDuration, Node};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tempfile::TempDir;

fn node(name: &str) -> Node {
    let id = "6ba7b811-9dad-11d1-80b4-00c04fd430c8";
    Node { id: id.into(), name: name.into(), address: "127.0.0.1".into(), datacenter: DC.into(), ..Node::default() }
}

fn config(servers: &[String]) -> AgentConfig {
    AgentConfig::new(node("n1"), Home::Join(servers.to_vec()))
}

fn start(pki: &Pki, folder: &TempDir, config: AgentConfig) -> Agent {
    let store = store::Store::open(folder.path()).expect("a store");
    let rpc = pki.joiner(Role::Client, &config.node.name);
    Agent::start(config, Deps { store, rpc }).expect("starts")
}

fn service(id: &str) -> ServiceRegistration {
    let check = AgentCheck { ttl: GoDuration::from_secs(600), status: "passing".into(), ..AgentCheck::default() };
    ServiceRegistration {
        id: id.into(),
        name: "web".into(),
        port: 80,
        check: Some(Box::new(check)),
        ..ServiceRegistration::default()
    }
}

async fn register(agent: &Agent, id: &str) {
    agent.register_service(&service(id), false, Source::Http).await.expect("registers");
}

fn keeps_the_rules(server: &FakeServer) {
    assert_eq!(*server.facts.broken_rules.lock().expect("no panic"), Vec::<String>::new());
}

/// Stops an agent and waits until its store is closed, so that the folder can be opened again.
async fn stop(agent: Agent) {
    agent.shutdown().await;
    drop(agent);
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn restart(pki: &Pki, folder: &TempDir, config: AgentConfig) -> Agent {
    for _ in 0..500 {
        match store::Store::open(folder.path()) {
            Ok(store) => {
                let rpc = pki.joiner(Role::Client, &config.node.name);
                return Agent::start(config, Deps { store, rpc }).expect("starts");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("the store was never closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_and_tells_what_it_has() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    register(&agent, "web-1").await;
    let facts = server.facts.clone();
    eventually("it is in the catalog", || {
        facts.check("service:web-1").is_some_and(|c| c.status == CheckStatus::Passing)
    })
    .await;
    assert_eq!(facts.service("web-1").expect("is there").port, 80);
    assert_eq!((facts.enrolled.load(SeqCst), facts.sessions.load(SeqCst)), (1, 1));
    agent.deregister_service("web-1").await.expect("deregisters");
    eventually("it is gone", || facts.service("web-1").is_none() && facts.check("service:web-1").is_none()).await;
    keeps_the_rules(&server);
    agent.leave().await;
    eventually("it said goodbye", || facts.leaves.load(SeqCst) == 1).await;
    agent.left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_registrations_becomes_few_pushes() {
    const SERVICES: usize = 300;
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    let facts = server.facts.clone();
    eventually("the session is open", || facts.full_pushes.load(SeqCst) == 1).await;
    facts.push_delay_ms.store(20, SeqCst);
    let mut storm = tokio::task::JoinSet::new();
    for i in 0..SERVICES {
        let agent = agent.clone();
        storm.spawn(async move { register(&agent, &format!("web-{i}")).await });
    }
    storm.join_all().await;
    eventually("all are there", || facts.services.lock().expect("no panic").len() == SERVICES).await;
    eventually("all checks are there", || facts.checks.lock().expect("no panic").len() == SERVICES).await;
    assert!(facts.pushes.load(SeqCst) < SERVICES / 2, "{} pushes", facts.pushes.load(SeqCst));
    assert!(facts.largest_push.load(SeqCst) > 2);
    keeps_the_rules(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_push_is_repeated() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    server.facts.refuse_pushes.store(3, SeqCst);
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    register(&agent, "web-1").await;
    eventually("it is there in the end", || server.facts.service("web-1").is_some()).await;
    assert!(agent.metrics().push_failures.get() >= 3);
    keeps_the_rules(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_item_holds_up_nobody() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    server.facts.refused_ids.lock().expect("no panic").insert("bad".into());
    let agent = start(
        &pki,
        &folder,
        AgentConfig { sync_interval: Duration::from_millis(200), ..config(&[server.address.to_string()]) },
    );
    register(&agent, "bad").await;
    register(&agent, "good").await;
    eventually("the good one is there", || server.facts.service("good").is_some()).await;
    eventually("the refusal is counted", || agent.metrics().refused_items.get() >= 1).await;
    server.facts.refused_ids.lock().expect("no panic").clear();
    eventually("it is tried again", || server.facts.service("bad").is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_servers_forget_or_invent_is_set_right() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(
        &pki,
        &folder,
        AgentConfig { sync_interval: Duration::from_millis(200), ..config(&[server.address.to_string()]) },
    );
    register(&agent, "web-1").await;
    let facts = server.facts.clone();
    eventually("it is there", || facts.service("web-1").is_some()).await;
    let ghost = facts.services.lock().expect("no panic").remove("web-1").expect("a service");
    facts.services.lock().expect("no panic").insert("ghost".into(), ghost);
    eventually("it is there again", || facts.service("web-1").is_some() && facts.service("ghost").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_moves_when_its_server_dies() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let servers = [FakeServer::start(&pki, "s1").await, FakeServer::start(&pki, "s2").await];
    for (server, other) in [(0, 1), (1, 0)] {
        servers[server].facts.others.lock().expect("no panic").push(servers[other].info.clone());
    }
    let agent = start(&pki, &folder, config(&[servers[0].address.to_string()]));
    register(&agent, "web-1").await;
    eventually("somebody has it", || servers.iter().any(|s| s.facts.service("web-1").is_some())).await;
    let [first, second] = servers;
    let first_has = first.facts.open_sessions.load(SeqCst) == 1;
    let (dead, alive) = if first_has { (first, second) } else { (second, first) };
    register(&agent, "web-2").await;
    dead.kill().await;
    agent.deregister_service("web-1").await.expect("deregisters without a server");
    eventually("the other has it", || alive.facts.service("web-2").is_some() && alive.facts.service("web-1").is_none())
        .await;
    assert_eq!(alive.facts.open_sessions.load(SeqCst), 1);
    keeps_the_rules(&alive);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_ends_with_its_session() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    register(&agent, "web-1").await;
    let facts = server.facts.clone();
    eventually("it is there", || facts.service("web-1").is_some()).await;
    // Frozen: it takes pushes and says nothing, for longer than this test may take.
    facts.push_delay_ms.store(600_000, SeqCst);
    register(&agent, "web-2").await;
    eventually("the push is under way", || facts.pushes_in_flight() == 1).await;
    facts.is_mute.store(true, SeqCst);
    eventually("it is given up", || facts.pushes_in_flight() == 0).await;
    facts.push_delay_ms.store(0, SeqCst);
    facts.is_mute.store(false, SeqCst);
    eventually("it is there in the end", || facts.service("web-2").is_some()).await;
    keeps_the_rules(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_push_is_outdated_compares_everything() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let facts = server.facts.clone();
    facts.last_push.store(41, SeqCst);
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    register(&agent, "web-1").await;
    eventually("it is there", || facts.service("web-1").is_some()).await;
    let full = facts.full_pushes.load(SeqCst);
    facts.last_push.fetch_add(1, SeqCst);
    facts.services.lock().expect("no panic").clear();
    register(&agent, "web-2").await;
    eventually("both are there", || facts.service("web-1").is_some() && facts.service("web-2").is_some()).await;
    assert_eq!(facts.full_pushes.load(SeqCst), full + 1);
    keeps_the_rules(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_left() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let servers = [FakeServer::start(&pki, "s1").await, FakeServer::start(&pki, "s2").await];
    for server in &servers {
        server.facts.is_mute.store(true, SeqCst);
    }
    let addresses: Vec<String> = servers.iter().map(|s| s.address.to_string()).collect();
    let agent = start(&pki, &folder, config(&addresses));
    let sessions = || servers.iter().map(|s| s.facts.sessions.load(SeqCst)).sum::<usize>();
    eventually("it goes on to the next", || sessions() >= 2).await;
    for server in &servers {
        server.facts.is_mute.store(false, SeqCst);
    }
    register(&agent, "web-1").await;
    eventually("it works again", || servers.iter().any(|s| s.facts.service("web-1").is_some())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing_and_needs_no_enrolling() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let address = server.address.to_string();
    let agent = start(&pki, &folder, config(std::slice::from_ref(&address)));
    register(&agent, "web-1").await;
    register(&agent, "web-2").await;
    eventually("they are there", || server.facts.service("web-2").is_some()).await;
    let (at, facts) = server.kill().await;
    agent.deregister_service("web-1").await.expect("deregisters without a server");
    register(&agent, "web-3").await;
    stop(agent).await;
    // The address that it is given now is no server's: it knows the other one from before.
    let agent = restart(&pki, &folder, config(&["127.0.0.1:1".to_string()])).await;
    let server = FakeServer::start_at(&pki, "s1", &at.to_string(), facts).await;
    eventually("all is as it was left", || {
        let has = |id| server.facts.service(id).is_some();
        has("web-3") && has("web-2") && !has("web-1")
    })
    .await;
    assert_eq!(server.facts.enrolled.load(SeqCst), 1);
    assert_eq!(server.facts.check("service:web-2").expect("is there").status, CheckStatus::Passing);
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_made_anew_is_joined_anew() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    register(&agent, "web-1").await;
    eventually("it is there", || server.facts.service("web-1").is_some()).await;
    let (at, _) = server.kill().await;
    let anew = Pki::new();
    let server = FakeServer::start_at(&anew, "s1", &at.to_string(), Arc::default()).await;
    eventually("it is there again", || server.facts.service("web-1").is_some()).await;
    assert_eq!(server.facts.enrolled.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_belongs_to_one_node() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    stop(start(&pki, &folder, config(&[]))).await;
    let store = store::Store::open(folder.path()).expect("a store");
    let other = AgentConfig::new(node("n2"), Home::Join(Vec::new()));
    let refusal = Agent::start(other, Deps { store, rpc: pki.joiner(Role::Client, "n2") }).err().expect("refused");
    assert!(refusal.to_string().contains("belongs to node \"n1\", not to \"n2\""), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_says_what_is_wrong() {
    let pki = Pki::new();
    let server = FakeServer::start(&pki, "s1").await;
    let address = server.address.to_string();
    let hello = |rpc: identity::RpcIdentity, datacenter: &'static str| {
        let address = address.clone();
        async move {
            let tls = Arc::new(rpc.join_client_config(&[b"h2"]).expect("a configuration"));
            let channel = api::transport::connect(&address, tls, identity::JOIN_TRUST_DOMAIN).expect("an address");
            let mut client = api::proto::join_client::JoinClient::new(channel);
            crate::enroll::hello(&mut client, &address, datacenter).await.map(drop)
        }
    };
    let other = identity::JoinSecret::open();
    let identity = identity::Identity::new(identity::TrustBundle::empty());
    let stranger = identity::RpcIdentity::new(identity, &other, Role::Client, DC, "n1").expect("an identity");
    let wrong = hello(stranger, DC).await.expect_err("refused").to_string();
    assert!(wrong.contains("another join secret"), "{wrong}");
    let elsewhere = hello(pki.joiner(Role::Client, "n1"), "dc9").await.expect_err("refused").to_string();
    assert!(elsewhere.contains("is of datacenter \"dc1\", this node of \"dc9\""), "{elsewhere}");
    server.facts.has_no_ca.store(true, SeqCst);
    let early = hello(pki.joiner(Role::Client, "n1"), DC).await.expect_err("refused").to_string();
    assert!(early.contains("no certificate authority yet"), "{early}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_ready_is_asked_again() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    server.facts.has_no_ca.store(true, SeqCst);
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    register(&agent, "web-1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.facts.sessions.load(SeqCst), 0);
    server.facts.has_no_ca.store(false, SeqCst);
    eventually("it joins", || server.facts.service("web-1").is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_node_speaks_to_itself() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let rpc = pki.joiner(Role::Server, "s1");
    let store = store::Store::open(folder.path()).expect("a store");
    let config = AgentConfig::new(node("s1"), Home::Own(server.address.to_string()));
    let agent = Agent::start(config, Deps { store, rpc: rpc.clone() }).expect("starts");
    register(&agent, "web-1").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.facts.sessions.load(SeqCst), 0, "it waits for the server's certificate");
    let name = identity::LeafName::server(crate::testing::TRUST_DOMAIN, DC, "s1").expect("a name");
    pki.give_leaf(rpc.identity(), &name);
    eventually("it is there", || server.facts.service("web-1").is_some()).await;
    assert_eq!(server.facts.enrolled.load(SeqCst), 0);
}
