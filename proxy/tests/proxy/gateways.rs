//! Two datacenters: sidecars that reach each other through gateways and QUIC.

use crate::apps::{App, get};
use crate::kit::{Agent, TRUST_DOMAIN, mesh_address, until, upstream_address, within};
use crate::l4::talk;
use model::ProxyConfig;
use model::config_entry::Protocol;
use model::proxy_config::service_sni;
use proxy::{Gateway, Handle, Options};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// `web` in dc2 behind gateways there; `api` in dc1, whose calls go through gateways here.
struct TwoDatacenters {
    agent: Agent,
    app: App,
    server: Handle,
    near: Vec<Handle>,
    far: Vec<Handle>,
    far_configs: Vec<ProxyConfig>,
    client: Handle,
    client_config: ProxyConfig,
    at: SocketAddr,
}

fn tunnel_address(handle: &Handle) -> SocketAddr {
    handle.addresses().tunnel.expect("it listens for tunnels")
}

fn tunnels(handle: &Handle, dc: &str) -> usize {
    handle.metrics().gateway.map_or(0, |gateway| gateway.tunnels.get(dc).copied().unwrap_or(0))
}

impl TwoDatacenters {
    async fn start(protocol: Protocol, app: App, gateways: usize) -> Self {
        let agent = Agent::start();
        let server = agent.sidecar(&agent.server("web", "dc2", protocol, app.address)).await;
        let (mut far, mut far_configs, mut near) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..gateways {
            let mut config = agent.gateway_config("dc2", number, &[], &[("web", mesh_address(&server))]);
            let handle = agent.gateway(&config).await;
            // On the same port when it is started again.
            config.gateway.as_mut().expect("gateway").tunnel_listen = tunnel_address(&handle).to_string();
            far.push(handle);
            far_configs.push(config);
        }
        let far_addresses: Vec<_> = far.iter().map(tunnel_address).collect();
        for number in 0..gateways {
            near.push(
                agent.gateway(&agent.gateway_config("dc1", number, &[("dc2", far_addresses.clone())], &[])).await,
            );
        }
        let entries: Vec<_> = near.iter().map(mesh_address).collect();
        let client_config = agent.client("api", "web", "dc2", protocol, &entries);
        let client = agent.sidecar(&client_config).await;
        let at = upstream_address(&client, "web");
        for gateway in &near {
            until("the tunnels stand", || tunnels(gateway, "dc2") >= gateways).await;
        }
        TwoDatacenters { agent, app, server, near, far, far_configs, client, client_config, at }
    }
}

#[tokio::test]
async fn calls_cross_datacenters_and_both_ends_are_proven() {
    let two = TwoDatacenters::start(Protocol::Http, App::http().await, 1).await;
    let (status, body) = get(two.at, "/head").await;
    assert_eq!(status, 200);
    // The identity of the caller has come through two gateways untouched.
    let caller = format!("URI=spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/api");
    assert!(body.contains(&caller), "{body}");
    let (near, far) = (two.near[0].metrics().gateway.expect("gateway"), two.far[0].metrics().gateway.expect("gateway"));
    assert_eq!((near.local.connections, far.remote.connections), (1, 1));
    assert_eq!(get(two.at, "/big").await.1.len(), 3 << 20);
    assert_eq!(two.server.metrics().inbound.expect("inbound").requests, 2);
}

#[tokio::test]
async fn bytes_cross_with_half_close_and_break_off() {
    let two = TwoDatacenters::start(Protocol::Tcp, App::echo().await, 1).await;
    let large: Vec<u8> = (0..3 << 20).map(|i: usize| (i * 7 % 253).to_le_bytes()[0]).collect();
    let got = talk(two.at, &large).await.expect("talk");
    assert!(got.len() == large.len() + 3 && got[..large.len()] == large && got.ends_with(b"bye"));
    let mut tcp = TcpStream::connect(two.at).await.expect("connect");
    tcp.write_all(b"x").await.expect("write");
    within("the echo", tcp.read_exact(&mut [0])).await.expect("read");
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(tcp);
    until("it is gone at the far end", || two.app.open.load(SeqCst) == 0).await;
    until("nothing is left", || two.far[0].metrics().gateway.is_some_and(|g| g.remote.connections_open == 0)).await;
}

#[tokio::test]
async fn a_gateway_that_restarts_is_found_again() {
    let mut two = TwoDatacenters::start(Protocol::Http, App::http().await, 1).await;
    assert_eq!(get(two.at, "/name").await.0, 200);
    two.far.remove(0).shutdown(Duration::ZERO).await;
    until("the tunnel is down", || tunnels(&two.near[0], "dc2") == 0).await;
    two.agent.tell(&two.far_configs[0]);
    let again = two.agent.source(&two.far_configs[0].id);
    let again = Gateway::start(Options { source: again });
    // The old socket may be there for a moment; it is tried again.
    until("it listens again", || again.addresses().tunnel.is_some()).await;
    two.far.push(again);
    until("the tunnel stands again", || tunnels(&two.near[0], "dc2") > 0).await;
    within("calls pass again", async { while get(two.at, "/name").await.0 != 200 {} }).await;
}

#[tokio::test]
async fn several_gateways_share_the_load_and_stand_in_for_each_other() {
    let two = TwoDatacenters::start(Protocol::Tcp, App::named("far").await, 2).await;
    for _ in 0..60 {
        assert_eq!(talk(two.at, b"").await.expect("talk"), b"far");
    }
    let shares = |handles: &[Handle], side: fn(proxy::GatewaySnapshot) -> proxy::ListenerSnapshot| -> Vec<u64> {
        handles.iter().map(|handle| side(handle.metrics().gateway.expect("gateway")).connections).collect()
    };
    let (near, far) = (shares(&two.near, |g| g.local), shares(&two.far, |g| g.remote));
    assert!(near.iter().chain(&far).all(|&count| count > 0), "{near:?} {far:?}");
    // One dies on each side.
    two.far[0].shutdown(Duration::ZERO).await;
    two.near[1].shutdown(Duration::ZERO).await;
    until("the tunnels are down", || tunnels(&two.near[0], "dc2") <= proxy::limits::TUNNEL_CONNECTIONS).await;
    for _ in 0..20 {
        assert_eq!(talk(two.at, b"").await.expect("talk"), b"far");
    }
}

#[tokio::test]
async fn what_is_not_for_this_gateway_is_closed() {
    let two = TwoDatacenters::start(Protocol::Tcp, App::named("far").await, 1).await;
    let entry = mesh_address(&two.near[0]);
    // Not TLS, and a name that leads nowhere.
    assert_eq!(talk(entry, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap_or_default(), b"");
    for (service, dc) in [("web", "dc3"), ("none", "dc2")] {
        let mut config = two.client_config.clone();
        config.id = format!("lost-{service}-{dc}");
        config.upstreams.get_mut("web").expect("upstream").sni = service_sni(service, dc, TRUST_DOMAIN);
        let lost = two.agent.sidecar(&config).await;
        assert_eq!(talk(upstream_address(&lost, "web"), b"").await.unwrap_or_default(), b"", "{service} in {dc}");
    }
    let refused = (
        two.near[0].metrics().gateway.expect("gateway").local.connections_refused,
        two.far[0].metrics().gateway.expect("gateway").remote.connections_refused,
    );
    assert!(refused.0 >= 2 && refused.1 >= 1, "{refused:?}");
    assert_eq!(talk(two.at, b"").await.expect("talk"), b"far");
}

#[tokio::test]
async fn a_gateway_serves_its_own_datacenter_too() {
    let two = TwoDatacenters::start(Protocol::Tcp, App::named("far").await, 1).await;
    let mut config = two.client_config.clone();
    config.id = "local".into();
    config.upstreams.get_mut("web").expect("upstream").endpoints =
        vec![crate::kit::endpoint(mesh_address(&two.far[0]))];
    let local = two.agent.sidecar(&config).await;
    assert_eq!(talk(upstream_address(&local, "web"), b"").await.expect("talk"), b"far");
    assert_eq!(two.far[0].metrics().gateway.expect("gateway").local.connections, 1);
}

#[tokio::test]
async fn only_gateways_make_tunnels() {
    let two = TwoDatacenters::start(Protocol::Tcp, App::named("far").await, 1).await;
    // A service with a good certificate of the mesh, and a gateway of another mesh.
    let service = identity::LeafName::service(TRUST_DOMAIN, "dc1", "api").expect("name");
    let gateway = identity::LeafName::gateway(TRUST_DOMAIN, "dc1").expect("name");
    for (agent, name) in [(&two.agent, &service), (&Agent::start(), &gateway)] {
        let bundle = identity::TrustBundle::new(TRUST_DOMAIN, [two.agent.root()]).expect("bundle");
        let identity = identity::Identity::new(bundle);
        identity.update_leaf(&agent.leaf(name)).expect("leaf");
        let far = format!("spiffe://{TRUST_DOMAIN}/gateway/mesh/dc/dc2").parse().expect("id");
        let tls = identity.client_config([far], &[b"tribune-tunnel/1"]).expect("config");
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("QUIC");
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("endpoint");
        let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
        let connecting = endpoint.connect_with(config, tunnel_address(&two.far[0]), "gateway").expect("connecting");
        if let Ok(connection) = within("the handshake", connecting).await {
            within("it is closed", connection.closed()).await;
        }
    }
    until("both are counted", || {
        two.far[0].metrics().gateway.is_some_and(|g| g.remote.denied + g.remote.handshakes_failed >= 2)
    })
    .await;
}

#[tokio::test]
async fn a_revoked_gateway_loses_its_tunnels() {
    let mut two = TwoDatacenters::start(Protocol::Tcp, App::named("far").await, 1).await;
    assert_eq!(talk(two.at, b"").await.expect("talk"), b"far");
    two.far_configs[0].revoked_ids = vec![format!("spiffe://{TRUST_DOMAIN}/gateway/mesh/dc/dc1")];
    let mut told = two.far_configs[0].clone();
    told.gateway.as_mut().expect("gateway").tunnel_listen = "127.0.0.1:0".into();
    two.agent.tell(&told);
    until("the tunnels are cut", || tunnels(&two.near[0], "dc2") == 0).await;
    assert_ne!(within("refused", talk(two.at, b"")).await.unwrap_or_default(), b"far");
    drop(two.client);
}

#[tokio::test]
async fn a_gateway_that_goes_in_the_midst_does_not_look_like_a_good_end() {
    let mut two = TwoDatacenters::start(Protocol::Tcp, App::echo().await, 1).await;
    let mut tcp = TcpStream::connect(two.at).await.expect("connect");
    tcp.write_all(b"x").await.expect("write");
    within("the echo", tcp.read_exact(&mut [0])).await.expect("read");
    two.far.remove(0).shutdown(Duration::ZERO).await;
    let end = within("the end", tcp.read(&mut [0])).await;
    assert!(end.is_err(), "{end:?}");
}
