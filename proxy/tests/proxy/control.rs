//! The agent's side: fresh proxies, renewal, and what happens when the agent goes away.

use crate::apps::{App, Client, collect, get};
use crate::kit::{Agent, Pair, mesh_address, until, upstream_address, within};
use crate::l4::talk;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use model::config_entry::Protocol;
use proxy::{Error, Gateway, Options, Sidecar};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_fresh_proxy_listens_to_nobody_before_it_has_heard() {
    let mut agent = Agent::start();
    agent.kill();
    let handle = Sidecar::start(Options { source: agent.source("api-dc1-sidecar-proxy") });
    until("it tells what is wrong", || matches!(handle.problem(), Some(Error::Control { .. }))).await;
    assert_eq!((handle.addresses(), handle.config()), (proxy::Addresses::default(), None));
    let message = handle.problem().expect("a problem").to_string();
    assert!(message.starts_with(&format!("the agent at {} does not serve this proxy: ", agent.address)), "{message}");
    // As soon as the agent is there, it is served.
    agent.resume();
    agent.tell(&agent.client("api", "web", "dc1", Protocol::Tcp, &[]));
    within("ready", handle.ready()).await.expect("ready");
    assert_eq!(handle.addresses().upstreams.len(), 1);
    until("the problem is gone", || handle.problem().is_none()).await;
}

#[tokio::test]
async fn a_proxy_that_lost_its_agent_goes_on_and_hears_again_later() {
    let app = App::echo().await;
    let mut pair = Pair::start(Protocol::Tcp, app.address).await;
    let mut tcp = tokio::net::TcpStream::connect(pair.at).await.expect("connect");
    pair.agent.kill();
    until("both know", || pair.server.problem().is_some() && pair.client.problem().is_some()).await;
    tcp.write_all(b"x").await.expect("write");
    within("the old connection", tcp.read_exact(&mut [0])).await.expect("read");
    for _ in 0..5 {
        assert_eq!(talk(pair.at, b"new").await.expect("a new connection"), b"newbye");
    }
    pair.agent.resume();
    pair.change(|inbound| inbound.default_action = model::intention::Action::Deny);
    within("the change is heard", async {
        while tcp.write_all(b"x").await.is_ok() && tcp.read_exact(&mut [0]).await.is_ok() {}
    })
    .await;
}

#[tokio::test]
async fn leaves_are_renewed_without_dropping_a_connection() {
    let app = App::http().await;
    let agent = Agent::start();
    // Backdating apart, a leaf lives three seconds here, so that it is renewed every other one.
    agent.knowledge.leaf_ttl_ms.store(3_000, SeqCst);
    let server = agent.sidecar(&agent.server("web", "dc1", Protocol::Http, app.address)).await;
    let client = agent.sidecar(&agent.client("api", "web", "dc1", Protocol::Http, &[mesh_address(&server)])).await;
    let at = upstream_address(&client, "web");
    let mut kept = Client::connect(at).await;
    let signed = agent.knowledge.signed.load(SeqCst);
    within("renewals", async {
        while agent.knowledge.signed.load(SeqCst) < signed + 4 {
            let request = Request::get("/name").header("host", "web").body(Empty::<Bytes>::new()).expect("request");
            assert_eq!(collect(kept.send(request).await.expect("the connection lives")).await.0, 200);
            assert_eq!(get(at, "/name").await.0, 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(client.metrics().upstreams["web"].requests_failed, 0);
}

#[tokio::test]
async fn a_new_root_is_taken_over_without_a_gap() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let old = pair.agent.root();
    pair.agent.replace_ca();
    let signed = pair.agent.knowledge.signed.load(SeqCst);
    // Both roots are trusted while the leaves change.
    for config in [&pair.server_config, &pair.client_config] {
        let mut config = config.clone();
        config.roots = vec![old.clone(), pair.agent.root()];
        pair.agent.tell(&config);
    }
    assert_eq!(get(pair.at, "/name").await.0, 200);
    // Rotation is spread over half a minute; told again, each proxy draws anew whether it is its turn.
    within("both have new leaves", async {
        let mut turn = 0;
        while pair.agent.knowledge.signed.load(SeqCst) < signed + 2 {
            turn += 1;
            for config in [&pair.server_config, &pair.client_config] {
                let mut config = config.clone();
                config.roots = vec![old.clone(), pair.agent.root()];
                if turn % 2 == 0 {
                    config.roots.reverse();
                }
                pair.agent.tell(&config);
            }
            assert_eq!(get(pair.at, "/name").await.0, 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(get(pair.at, "/name").await.0, 200);
}

#[tokio::test]
async fn a_port_in_use_is_said_and_tried_again() {
    let agent = Agent::start();
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("address");
    let mut config = agent.client("api", "web", "dc1", Protocol::Tcp, &[]);
    config.upstreams.get_mut("web").expect("upstream").listen = address.to_string();
    agent.tell(&config);
    let handle = Sidecar::start(Options { source: agent.source(&config.id) });
    let error = within("an error", handle.ready()).await.expect_err("in use");
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("cannot listen on {address} for upstream \"web\": ")), "{error}");
    drop(held);
    until("it listens", || handle.addresses().upstreams.contains_key("web")).await;
    until("the problem is gone", || handle.problem().is_none()).await;
}

#[tokio::test]
async fn a_proxy_of_the_wrong_kind_is_told_how_to_start() {
    let agent = Agent::start();
    let (sidecar, gateway) =
        (agent.client("api", "web", "dc1", Protocol::Tcp, &[]), agent.gateway_config("dc1", 1, &[], &[]));
    agent.tell(&sidecar);
    agent.tell(&gateway);
    let wrong = Sidecar::start(Options { source: agent.source(&gateway.id) });
    let error = within("an error", wrong.ready()).await.expect_err("a gateway").to_string();
    assert!(error.contains("start it with `tribune connect gateway`"), "{error}");
    let wrong = Gateway::start(Options { source: agent.source(&sidecar.id) });
    let error = within("an error", wrong.ready()).await.expect_err("a sidecar").to_string();
    assert!(error.contains("start it with `tribune connect proxy`"), "{error}");
}

#[tokio::test]
async fn dropping_the_handle_stops_everything() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Tcp, app.address).await;
    let mut tcp = tokio::net::TcpStream::connect(pair.at).await.expect("connect");
    tcp.write_all(b"x").await.expect("write");
    within("the echo", tcp.read_exact(&mut [0])).await.expect("read");
    let at = pair.at;
    drop(pair);
    within("cut", async { while tcp.write_all(b"x").await.is_ok() && tcp.read_exact(&mut [0]).await.is_ok() {} }).await;
    within("closed", async { while tokio::net::TcpStream::connect(at).await.is_ok() {} }).await;
}
