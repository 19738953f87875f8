//! Who may call, and what becomes of those who no longer may.

use crate::apps::{App, Client, collect, get};
use crate::kit::{Pair, rule, spiffe, until, within};
use crate::l4::talk;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use model::config_entry::Protocol;
use model::intention::Action;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn denied_bytes_get_a_closed_connection() {
    let app = App::echo().await;
    let mut pair = Pair::start(Protocol::Tcp, app.address).await;
    assert_eq!(talk(pair.at, b"x").await.expect("allowed"), b"xbye");
    pair.change(|inbound| {
        inbound.intentions = vec![rule("api", Action::Deny), rule("*", Action::Allow)];
    });
    within("denied", async { while talk(pair.at, b"x").await.is_ok_and(|got| got == b"xbye") {} }).await;
    let inbound = pair.server.metrics().inbound.expect("inbound");
    assert!(inbound.denied + inbound.connections_cut > 0, "{inbound:?}");
    pair.change(|inbound| {
        inbound.intentions = vec![rule("api", Action::Allow), rule("*", Action::Deny)];
    });
    within("allowed again", async { while !talk(pair.at, b"x").await.is_ok_and(|got| got == b"xbye") {} }).await;
}

#[tokio::test]
async fn a_flip_cuts_live_bytes_and_spares_other_changes() {
    let app = App::echo().await;
    let mut pair = Pair::start(Protocol::Tcp, app.address).await;
    let mut tcp = TcpStream::connect(pair.at).await.expect("connect");
    let exchange = async |tcp: &mut TcpStream| {
        tcp.write_all(b"x").await?;
        tcp.read_exact(&mut [0]).await
    };
    exchange(&mut tcp).await.expect("allowed");
    pair.change(|inbound| {
        inbound.intentions = vec![rule("other", Action::Deny), rule("api", Action::Allow)];
    });
    until("the change has come", || {
        pair.server.config().is_some_and(|c| c.inbound.as_ref().is_some_and(|i| i.intentions.len() == 2))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    exchange(&mut tcp).await.expect("a change that allows it cuts nothing");
    pair.change(|inbound| inbound.intentions = vec![rule("*", Action::Deny)]);
    within("cut", async { while exchange(&mut tcp).await.is_ok() {} }).await;
    assert_eq!(pair.server.metrics().inbound.expect("inbound").connections_cut, 1);
}

#[tokio::test]
async fn denied_requests_get_403_and_are_taken_as_soon_as_they_may() {
    let app = App::http().await;
    let mut pair = Pair::start(Protocol::Http, app.address).await;
    pair.change(|inbound| inbound.default_action = Action::Deny);
    within("denied", async { while get(pair.at, "/name").await != (403, "denied by an intention\n".into()) {} }).await;
    let mut client = Client::connect(pair.at).await;
    let request = || Request::get("/name").header("host", "web").body(Empty::<Bytes>::new()).expect("request");
    assert_eq!(collect(client.send(request()).await.expect("response")).await.0, 403);
    pair.change(|inbound| inbound.intentions = vec![rule("api", Action::Allow)]);
    within("allowed on the same connection", async {
        while collect(client.send(request()).await.expect("response")).await.0 != 200 {}
    })
    .await;
}

#[tokio::test]
async fn a_flip_cuts_streams_and_tunnels_of_http() {
    let app = App::http().await;
    let mut pair = Pair::start(Protocol::Http, app.address).await;
    let mut client = Client::connect(pair.at).await;
    let endless = Request::get("/endless").header("host", "web").body(Empty::<Bytes>::new()).expect("request");
    let mut body = client.send(endless).await.expect("response").into_body();
    let mut sender2 = crate::apps::client2::<Empty<Bytes>>(pair.at).await;
    let endless = Request::get("http://web/endless").body(Empty::new()).expect("request");
    let mut body2 = within("a response", sender2.send_request(endless)).await.expect("response").into_body();
    let mut upgrading = Client::connect(pair.at).await;
    let upgrade = Request::get("/upgrade").header("host", "web").header("connection", "upgrade").header("upgrade", "x");
    let response = upgrading.send(upgrade.body(Empty::<Bytes>::new()).expect("request")).await.expect("response");
    let mut tunnel = TokioIo::new(within("the upgrade", hyper::upgrade::on(response)).await.expect("upgraded"));
    tunnel.write_all(b"x").await.expect("write");
    within("the echo", tunnel.read_exact(&mut [0])).await.expect("read");
    pair.change(|inbound| inbound.intentions = vec![rule("api", Action::Deny)]);
    within("the stream is cut", async { while let Some(Ok(_)) = body.frame().await {} }).await;
    within("the HTTP/2 stream is cut", async { while let Some(Ok(_)) = body2.frame().await {} }).await;
    within("the tunnel is cut", async {
        while tunnel.write_all(b"x").await.is_ok() && tunnel.read_exact(&mut [0]).await.is_ok() {}
    })
    .await;
    assert_eq!(get(pair.at, "/name").await.0, 403);
}

#[tokio::test]
async fn a_revoked_id_is_cut_at_once_on_both_sides() {
    let app = App::echo().await;
    let mut pair = Pair::start(Protocol::Tcp, app.address).await;
    let mut tcp = TcpStream::connect(pair.at).await.expect("connect");
    let exchange = async |tcp: &mut TcpStream| {
        tcp.write_all(b"x").await?;
        tcp.read_exact(&mut [0]).await
    };
    exchange(&mut tcp).await.expect("trusted");
    // The server hears that its caller's id is no longer good.
    pair.server_config.revoked_ids = vec![spiffe("api", "dc1")];
    pair.agent.tell(&pair.server_config);
    within("cut", async { while exchange(&mut tcp).await.is_ok() {} }).await;
    assert_ne!(talk(pair.at, b"x").await.unwrap_or_default(), b"xbye");
    // And back; then the client hears that the server's is not.
    pair.server_config.revoked_ids.clear();
    pair.agent.tell(&pair.server_config);
    within("trusted again", async {
        while !talk(pair.at, b"x").await.is_ok_and(|got| got == b"xbye") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let mut tcp = TcpStream::connect(pair.at).await.expect("connect");
    exchange(&mut tcp).await.expect("trusted");
    pair.client_config.revoked_ids = vec![spiffe("web", "dc1")];
    pair.agent.tell(&pair.client_config);
    within("cut", async { while exchange(&mut tcp).await.is_ok() {} }).await;
    assert_eq!(pair.client.metrics().upstreams["web"].connections_cut, 1);
}

#[tokio::test]
async fn a_revoked_caller_gets_no_answer_in_http_either() {
    let app = App::http().await;
    let mut pair = Pair::start(Protocol::Http, app.address).await;
    let mut client = Client::connect(pair.at).await;
    let request = || Request::get("/name").header("host", "web").body(Empty::<Bytes>::new()).expect("request");
    assert_eq!(collect(client.send(request()).await.expect("response")).await.0, 200);
    pair.server_config.revoked_ids = vec![spiffe("api", "dc1")];
    pair.agent.tell(&pair.server_config);
    within("refused", async { while client.send(request()).await.is_ok_and(|r| r.status() == 200) {} }).await;
}

#[tokio::test]
async fn a_revoked_server_is_cut_off_from_http_clients() {
    let app = App::http().await;
    let mut pair = Pair::start(Protocol::Http, app.address).await;
    let mut client = Client::connect(pair.at).await;
    let request = |path: &str| Request::get(path).header("host", "web").body(Empty::<Bytes>::new()).expect("request");
    let mut body = client.send(request("/endless")).await.expect("response").into_body();
    pair.client_config.revoked_ids = vec![spiffe("web", "dc1")];
    pair.agent.tell(&pair.client_config);
    within("the stream is cut", async { while let Some(Ok(_)) = body.frame().await {} }).await;
    assert_eq!(get(pair.at, "/name").await.0, 503);
}
