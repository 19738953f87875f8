//! Bytes through a pair of sidecars.

use crate::apps::App;
use crate::kit::{Agent, LONG, Pair, mesh_address, until, upstream, upstream_address, within};
use model::config_entry::Protocol;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Sends, finishes, and reads all that comes back.
pub(crate) async fn talk(at: std::net::SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    within("a talk", async {
        let (mut read, mut write) = TcpStream::connect(at).await?.into_split();
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            write.write_all(&bytes).await?;
            write.shutdown().await?;
            std::io::Result::Ok(write)
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await?;
        writing.await.expect("task")?;
        Ok(got)
    })
    .await
}

#[tokio::test]
async fn bytes_pass_both_ways_with_half_close() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Tcp, app.address).await;
    assert_eq!(talk(pair.at, b"hello").await.expect("talk"), b"hellobye");
    // The app says `bye` after its client has finished: the other direction was still open.
    let large: Vec<u8> = (0..5 << 20).map(|i: usize| (i * 7 % 253).to_le_bytes()[0]).collect();
    let got = talk(pair.at, &large).await.expect("talk");
    assert!(got.len() == large.len() + 3 && got[..large.len()] == large);
    until("the connections are gone", || pair.server.metrics().inbound.is_some_and(|i| i.connections_open == 0)).await;
    let (inbound, outbound) =
        (pair.server.metrics().inbound.expect("inbound"), pair.client.metrics().upstreams["web"].clone());
    assert_eq!((inbound.connections, inbound.denied, outbound.connections), (2, 0, 2));
    assert_eq!((inbound.bytes_sent, inbound.bytes_received), (large.len() as u64 + 5, large.len() as u64 + 11));
    assert_eq!((outbound.bytes_sent, outbound.bytes_received), (inbound.bytes_sent, inbound.bytes_received));
}

#[tokio::test]
async fn many_connections_at_once() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Unset, app.address).await;
    let talks: Vec<_> =
        (0..40).map(|i| tokio::spawn(async move { (i, talk(pair.at, &vec![i; 50_000]).await) })).collect();
    for task in talks {
        let (i, got) = task.await.expect("task");
        let got = got.expect("talk");
        assert!(got.len() == 50_003 && got[..50_000].iter().all(|&b| b == i));
    }
}

#[tokio::test]
async fn a_caller_that_goes_in_the_midst_does_not_look_like_a_good_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let pair = Pair::start(Protocol::Tcp, listener.local_addr().expect("address")).await;
    let mut tcp = TcpStream::connect(pair.at).await.expect("connect");
    tcp.write_all(b"x").await.expect("write");
    let (mut app, _) = within("the call", listener.accept()).await.expect("accept");
    within("its byte", app.read_exact(&mut [0])).await.expect("read");
    pair.client.shutdown(Duration::ZERO).await;
    let end = within("the end", app.read(&mut [0])).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_does_not_look_like_a_good_end() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Tcp, app.address).await;
    pair.server.shutdown(Duration::ZERO).await;
    let mut tcp = TcpStream::connect(pair.at).await.expect("connect");
    let end = within("the end", tcp.read(&mut [0])).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_client_that_breaks_off_is_gone_at_the_app_too() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Tcp, app.address).await;
    let mut tcp = TcpStream::connect(pair.at).await.expect("connect");
    tcp.write_all(b"x").await.expect("write");
    tcp.read_exact(&mut [0]).await.expect("read");
    assert_eq!(app.open.load(SeqCst), 1);
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(tcp);
    until("the app's connection is gone", || app.open.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn an_app_that_is_down_closes_the_connection() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Tcp, app.address).await;
    let address = app.address;
    drop(app);
    until("the port is closed", || std::net::TcpStream::connect(address).is_err()).await;
    assert!(talk(pair.at, b"").await.map_or(true, |got| got.is_empty()));
    let inbound = pair.server.metrics().inbound.expect("inbound");
    assert_eq!(inbound.connections_refused, 1);
}

#[tokio::test]
async fn another_service_at_the_address_is_refused() {
    let app = App::echo().await;
    let agent = Agent::start();
    let server = agent.sidecar(&agent.server("other", "dc1", Protocol::Tcp, app.address)).await;
    let mut config = agent.client("api", "web", "dc1", Protocol::Tcp, &[mesh_address(&server)]);
    // The right service in the wrong datacenter is another one, too.
    config.upstreams.insert("far".into(), upstream("other", "dc2", Protocol::Tcp, &[mesh_address(&server)]));
    config.upstreams.insert("right".into(), upstream("other", "dc1", Protocol::Tcp, &[mesh_address(&server)]));
    let client = agent.sidecar(&config).await;
    for (name, expected) in [("web", &b""[..]), ("far", b""), ("right", b"xbye")] {
        let got = talk(upstream_address(&client, name), b"x").await.unwrap_or_default();
        assert_eq!(got, expected, "{name}");
    }
    assert_eq!(client.metrics().upstreams["web"].connects_failed, 1);
    assert_eq!(app.taken.load(SeqCst), 1);
}

#[tokio::test]
async fn strangers_are_refused() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Tcp, app.address).await;
    let at = mesh_address(&pair.server);
    // Plain bytes, and silence until the other side hangs up.
    let got = talk(at, b"GET / HTTP/1.1\r\n\r\n").await.unwrap_or_default();
    assert!(!got.windows(3).any(|w| w == b"bye"));
    // A certificate of another CA.
    let other = Agent::start();
    let mut foreign = other.client("api", "web", "dc1", Protocol::Tcp, &[at]);
    foreign.roots.push(pair.agent.root());
    let foreign = other.sidecar(&foreign).await;
    assert_eq!(talk(upstream_address(&foreign, "web"), b"x").await.unwrap_or_default(), b"");
    assert_eq!(app.taken.load(SeqCst), 0);
    until("both are counted", || pair.server.metrics().inbound.is_some_and(|i| i.handshakes_failed == 2)).await;
}

#[tokio::test]
async fn a_connection_too_many_is_closed() {
    let app = App::echo().await;
    let mut pair = Pair::start(Protocol::Tcp, app.address).await;
    pair.change(|inbound| inbound.max_connections = 1);
    until("the change has come", || {
        pair.server.config().is_some_and(|c| c.inbound.as_ref().is_some_and(|i| i.max_connections == 1))
    })
    .await;
    let mut first = TcpStream::connect(pair.at).await.expect("connect");
    first.write_all(b"x").await.expect("write");
    first.read_exact(&mut [0]).await.expect("read");
    assert_eq!(talk(pair.at, b"y").await.unwrap_or_default(), b"");
    first.write_all(b"z").await.expect("the first still works");
    first.read_exact(&mut [0]).await.expect("read");
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_in_hand() {
    let app = App::echo().await;
    let pair = Pair::start(Protocol::Tcp, app.address).await;
    let mut tcp = TcpStream::connect(pair.at).await.expect("connect");
    tcp.write_all(b"x").await.expect("write");
    tcp.read_exact(&mut [0]).await.expect("read");
    let (client, at) = (pair.client.clone(), pair.at);
    let stopping = tokio::spawn(async move { client.shutdown(LONG).await });
    within("it listens no more", async {
        while TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    tcp.write_all(b"y").await.expect("write");
    tcp.read_exact(&mut [0]).await.expect("what is in hand goes on");
    drop(tcp);
    within("the shutdown ends", stopping).await.expect("task");
    // And one that does not wait cuts.
    let at = mesh_address(&pair.server);
    within("at once", pair.server.shutdown(Duration::ZERO)).await;
    within("it listens no more", async {
        while TcpStream::connect(at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
