//! DNS from views, forwarding, and the proxies' gRPC.

use super::*;
use dns::{Found, Lookup, LookupKind, ServiceQuery};
use std::net::SocketAddr;
use tokio::net::TcpListener;

const ONE: &str = r#"[{"Node": {"Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1"},
    "Service": {"ID": "web-1", "Service": "web", "Port": 80}, "Checks": [{"Status": "passing"}]}]"#;

fn query(service: &'static str, datacenter: Option<&'static str>, tag: Option<&'static str>) -> ServiceQuery<'static> {
    ServiceQuery { datacenter, service, tag, kind: LookupKind::Service }
}

/// The outcome of a look-up, waiting if it must: a number of instances, or what was said instead.
async fn count(agent: &Agent, query: ServiceQuery<'static>) -> Result<usize, &'static str> {
    let found = agent.lookup().service(&query);
    let found = match found {
        Found::Wait(later) => tokio::time::timeout(Duration::from_secs(20), later).await.map_err(|_| "timeout")?,
        other => other,
    };
    match found {
        Found::Ready(endpoints) => Ok(endpoints.len()),
        Found::NoSuchName => Err("no such name"),
        Found::NoSuchDatacenter => Err("no such datacenter"),
        Found::Unavailable => Err("unavailable"),
        Found::Wait(_) => Err("wait"),
    }
}

async fn until(agent: &Agent, query: ServiceQuery<'static>, wanted: Result<usize, &'static str>) {
    for _ in 0..3000 {
        if count(agent, query).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {wanted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_from_memory_and_follow_changes() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let facts = server.facts.clone();
    facts.answer("/v1/health/service/web", 200, ONE);
    facts.answer("/v1/health/service/web?tag=a%20b&dc=dc2", 200, ONE);
    facts.answer("/v1/health/service/web?dc=dc9", 500, "No path to datacenter");
    facts.answer("/v1/catalog/node/n1", 200, r#"{"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Services": {}}"#);
    facts.answer("/v1/catalog/node/n2", 200, "null");
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    assert_eq!(count(&agent, query("web", None, None)).await, Ok(1));
    assert_eq!(
        count(&agent, query("web", Some("DC1"), None)).await,
        Ok(1),
        "our own datacenter by name is the same view"
    );
    assert_eq!(count(&agent, query("web", Some("dc2"), Some("a b"))).await, Ok(1));
    assert_eq!(count(&agent, query("web", Some("dc9"), None)).await, Err("no such datacenter"));
    assert_eq!(count(&agent, query("none", None, None)).await, Ok(0));
    for _ in 0..100 {
        assert_eq!(count(&agent, query("web", None, None)).await, Ok(1));
    }
    assert_eq!(facts.streams.load(SeqCst), 4, "one stream for each question");
    facts.answer("/v1/health/service/web", 200, "[]");
    until(&agent, query("web", None, None), Ok(0)).await;
    facts.answer("/v1/health/service/web", 200, ONE);
    until(&agent, query("web", None, None), Ok(1)).await;
    facts.answer("/v1/health/service/web", 500, "No cluster leader");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(count(&agent, query("web", None, None)).await, Ok(1), "trouble is no news");
    let lookup = agent.lookup();
    let node = |name: &'static str| match lookup.node(None, name) {
        Found::Wait(later) => later,
        _ => panic!("known already"),
    };
    assert!(matches!(node("n1").await, Found::Ready(_)));
    assert!(matches!(node("n2").await, Found::NoSuchName));
    assert_eq!(lookup.name_servers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_cut_goes_on_answering_and_says_so() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    server.facts.answer("/v1/health/service/web", 200, ONE);
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    assert_eq!(count(&agent, query("web", None, None)).await, Ok(1));
    eventually("its stream is whole", || agent.lookup().health() == (1, None)).await;
    let (at, facts) = server.kill().await;
    eventually("the loss is noticed", || agent.lookup().health().1.is_some()).await;
    assert_eq!(count(&agent, query("web", None, None)).await, Ok(1));
    facts.answer("/v1/health/service/web", 200, "[]");
    let _server = FakeServer::start_at(&pki, "s1", &at.to_string(), facts).await;
    until(&agent, query("web", None, None), Ok(0)).await;
    eventually("it is whole again", || agent.lookup().health() == (1, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_nobody_asks_for_is_dropped() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(
        &pki,
        &folder,
        AgentConfig { view_idle: Duration::from_millis(100), ..config(&[server.address.to_string()]) },
    );
    assert_eq!(count(&agent, query("web", None, None)).await, Ok(0));
    eventually("it is dropped", || agent.lookup().health().0 == 0).await;
    assert_eq!(count(&agent, query("web", None, None)).await, Ok(0));
}

async fn mesh_client(agent: &Agent) -> (api::proto::mesh_client::MeshClient<api::transport::Channel>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let agent = agent.clone();
    tokio::spawn(async move { agent.serve_mesh(listener).await });
    let channel = api::transport::connect_plain(&address.to_string()).expect("an address");
    (api::proto::mesh_client::MeshClient::new(channel), address)
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_served_in_the_nodes_name() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    register(&agent, "web-1").await;
    eventually("it is there", || server.facts.service("web-1").is_some()).await;
    let (mut mesh, _) = mesh_client(&agent).await;
    let name = identity::LeafName::service(crate::testing::TRUST_DOMAIN, DC, "web").expect("a name");
    let csr = identity::Csr::new(&name).expect("a request");
    let request = api::proto::SignRequest { csr_pem: csr.pem, node: "another".into() };
    assert!(mesh.sign(request).await.expect("signs").into_inner().chain_pem.contains("BEGIN CERTIFICATE"));
    assert_eq!(*server.facts.last_mesh_node.lock().expect("no panic"), "n1");
    let foreign =
        identity::Csr::new(&identity::LeafName::service(crate::testing::TRUST_DOMAIN, DC, "db").expect("a name"))
            .expect("a request");
    let refused =
        mesh.sign(api::proto::SignRequest { csr_pem: foreign.pem, node: String::new() }).await.expect_err("refused");
    assert_eq!((refused.code(), refused.message()), (tonic::Code::PermissionDenied, "no such service on that node"));
    let request = api::proto::ConfigureRequest { proxy_id: "web-1-sidecar-proxy".into(), ..Default::default() };
    let mut stream = mesh.configure(request).await.expect("streams").into_inner();
    for version in [1, 2] {
        let reply = stream.message().await.expect("streams").expect("a reply");
        assert_eq!((reply.version, &reply.delta_mp[..]), (version, &b"web-1-sidecar-proxy"[..]));
    }
    server.kill().await;
    let lost = mesh.sign(api::proto::SignRequest::default()).await.expect_err("nobody there");
    assert_eq!(lost.code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_listens_where_the_session_is() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    let (mut mesh, _) = mesh_client(&agent).await;
    let request = || api::proto::ConfigureRequest { proxy_id: "web".into(), ..Default::default() };
    // Perhaps there is no session yet: then it waits for it.
    let mut stream = mesh.configure(request()).await.expect("streams").into_inner();
    assert_eq!(stream.message().await.expect("streams").expect("a reply").version, 1);
    assert_eq!(stream.message().await.expect("streams").expect("a reply").version, 2);
    // Frozen: the connection stands, and nothing comes of it any more.
    server.facts.is_mute.store(true, SeqCst);
    let lost = stream.message().await.expect_err("it ends");
    assert_eq!(lost.code(), tonic::Code::Unavailable);
    assert!(lost.message().contains("session"), "{lost}");
    server.facts.is_mute.store(false, SeqCst);
    let mut stream = mesh.configure(request()).await.expect("streams").into_inner();
    assert_eq!(stream.message().await.expect("streams").expect("a reply").version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_waits_for_a_silent_server_is_answered_by_the_next() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let servers = [FakeServer::start(&pki, "s1").await, FakeServer::start(&pki, "s2").await];
    for (one, other) in [(0, 1), (1, 0)] {
        servers[one].facts.others.lock().expect("no panic").push(servers[other].info.clone());
    }
    let agent = start(&pki, &folder, config(&servers.each_ref().map(|server| server.address.to_string())));
    let has_session = |server: &FakeServer| server.facts.open_sessions.load(SeqCst) > 0;
    eventually("there is a session", || servers.iter().any(has_session)).await;
    let (mut mesh, _) = mesh_client(&agent).await;
    let (silent, other) = if has_session(&servers[0]) { (0, 1) } else { (1, 0) };
    servers[silent].facts.is_mute.store(true, SeqCst);
    let request = api::proto::ConfigureRequest { proxy_id: "web".into(), ..Default::default() };
    let mut stream = mesh.configure(request).await.expect("streams").into_inner();
    assert_eq!(stream.message().await.expect("streams").expect("a reply").version, 1);
    assert!(has_session(&servers[other]));
}
