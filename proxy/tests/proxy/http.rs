//! HTTP through a pair of sidecars.

use crate::apps::{App, Client, client2, collect, get, raw};
use crate::kit::{Pair, spiffe, until, within};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Request, Version};
use hyper_util::rt::TokioIo;
use model::config_entry::Protocol;
use std::convert::Infallible;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn requests_of_one_client_share_one_connection_all_the_way() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let mut client = Client::connect(pair.at).await;
    for i in 0..50 {
        let request = Request::post("/echo")
            .header("host", "web")
            .header("content-type", "text/x")
            .body(Full::new(Bytes::from(format!("hello {i}"))));
        let response = client.send(request.expect("request")).await.expect("response");
        assert_eq!(
            (response.version(), response.headers()["content-type"].to_str().expect("text")),
            (Version::HTTP_11, "text/x")
        );
        assert_eq!(collect(response).await, (200, Bytes::from(format!("hello {i}")), None));
    }
    assert_eq!(app.taken.load(SeqCst), 1);
    let (inbound, outbound) =
        (pair.server.metrics().inbound.expect("inbound"), pair.client.metrics().upstreams["web"].clone());
    assert_eq!((inbound.connections, inbound.requests, outbound.requests, outbound.requests_failed), (1, 50, 50, 0));
    // When the client has gone, the next one gets its connections.
    drop(client);
    until("the client is gone", || pair.client.metrics().upstreams["web"].connections_open == 0).await;
    assert_eq!(get(pair.at, "/name").await, (200, "app".into()));
    assert_eq!(app.taken.load(SeqCst), 1);
}

#[tokio::test]
async fn the_app_is_told_who_calls_and_nobody_can_forge_it() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let answer = raw(
        pair.at,
        "GET /head?a=b HTTP/1.1\r\nHost: web:80\r\nX-Forwarded-Client-Cert: URI=spiffe://evil\r\nX-Gone: 1\r\nX-End: 2\r\nTE: trailers\r\nConnection: close, x-gone, TE\r\n\r\n",
    )
    .await;
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let caller = format!("x-forwarded-client-cert: By={};URI={}", spiffe("web", "dc1"), spiffe("api", "dc1"));
    assert_eq!(body, format!("GET /head?a=b HTTP/1.1\nhost: web:80\nte: trailers\nx-end: 2\n{caller}"));
}

#[tokio::test]
async fn hop_by_hop_headers_of_answers_end_here() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let answer = raw(pair.at, "GET /hops HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("x-end: 2") && answer.ends_with("hops"), "{answer}");
    for gone in ["x-hop", "keep-alive", "proxy-authenticate"] {
        assert!(!answer.contains(gone), "{answer}");
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let large = Bytes::from((0..4 << 20).map(|i: usize| (i * 13 % 251).to_le_bytes()[0]).collect::<Vec<_>>());
    let mut client = Client::connect(pair.at).await;
    let mut client2 = client2(pair.at).await;
    for _ in 0..2 {
        let request =
            || Request::post("http://web/echo").header("host", "web").body(Full::new(large.clone())).expect("request");
        let (status, got, _) = collect(client.send(request()).await.expect("response")).await;
        assert!(status == 200 && got == large);
        let (status, got, _) =
            collect(within("a response", client2.send_request(request())).await.expect("response")).await;
        assert!(status == 200 && got == large);
    }
    let (status, body) = get(pair.at, "/big").await;
    assert!(status == 200 && body.len() == 3 << 20);
}

#[tokio::test]
async fn streams_pass_as_they_come() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let (chunks, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let mut client = Client::connect(pair.at).await;
    let sending = tokio::spawn(async move {
        let response = client
            .send(Request::post("/echo").header("host", "web").body(body).expect("request"))
            .await
            .expect("response");
        (client, response)
    });
    chunks.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.expect("sent");
    let (client, response) = within("the head, before the body is whole", sending).await.expect("task");
    let mut body = response.into_body();
    for expected in ["one", "two", "three"] {
        let got = within("a chunk", body.frame()).await.expect("frame").expect("frame").into_data().expect("data");
        assert_eq!(got, expected);
        if expected != "three" {
            let next = if expected == "one" { "two" } else { "three" };
            chunks.send(Ok(Frame::data(Bytes::from_static(next.as_bytes())))).await.expect("sent");
        }
    }
    drop(chunks);
    assert!(within("the end", body.frame()).await.is_none());
    drop(client);
}

#[tokio::test]
async fn grpc_trailers_pass_in_both_versions() {
    let app = App::http().await;
    for protocol in [Protocol::Http, Protocol::Grpc] {
        let pair = Pair::start(protocol, app.address).await;
        let mut client = client2(pair.at).await;
        for _ in 0..20 {
            let trailers: HeaderMap =
                [("x-sum".parse().expect("name"), "1".parse().expect("value"))].into_iter().collect();
            let frames =
                [Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[1, 2, 3]))), Ok(Frame::trailers(trailers))];
            let request = Request::post("http://web/trailers")
                .header("te", "trailers")
                .header("content-type", "application/grpc");
            let response = within(
                "a response",
                client.send_request(request.body(StreamBody::new(tokio_stream::iter(frames))).expect("request")),
            )
            .await;
            let (status, body, trailers) = collect(response.expect("response")).await;
            assert_eq!((status, &body[..]), (200, &b"sum=6"[..]));
            assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
        }
        assert_eq!(pair.server.metrics().inbound.expect("inbound").connections, 1, "all share one connection");
    }
    let pair = Pair::start(Protocol::Http, app.address).await;
    let answer = raw(
        pair.at,
        "POST /trailers HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nContent-Length: 1\r\nConnection: close\r\n\r\n\x02",
    )
    .await;
    assert!(answer.contains("sum=2") && answer.contains("grpc-status: 0"), "{answer}");
}

#[tokio::test]
async fn versions_are_translated_for_a_service_of_http2() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http2, app.address).await;
    let (status, body) = get(pair.at, "/head").await;
    assert_eq!(status, 200);
    assert!(body.starts_with("GET http://web/head HTTP/2.0\n"), "{body}");
    let mut client = client2::<Empty<Bytes>>(pair.at).await;
    let response =
        within("a response", client.send_request(Request::get("http://web/head").body(Empty::new()).expect("request")))
            .await;
    assert!(collect(response.expect("response")).await.1.starts_with(b"GET http://web/head HTTP/2.0\n"));
}

#[tokio::test]
async fn a_preface_in_pieces_is_still_http2() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let mut tcp = tokio::net::TcpStream::connect(pair.at).await.expect("connect");
    for piece in [&b"PRI * HTT"[..], b"P/2.0\r\n\r\nSM\r\n\r\n", &[0, 0, 0, 4, 0, 0, 0, 0, 0]] {
        tcp.write_all(piece).await.expect("write");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut frame = [0; 9];
    within("its settings", tcp.read_exact(&mut frame)).await.expect("read");
    assert_eq!(frame[3], 4, "a SETTINGS frame");
}

#[tokio::test]
async fn a_websocket_becomes_a_tunnel() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let mut client = Client::connect(pair.at).await;
    let request =
        Request::get("/upgrade").header("host", "web").header("connection", "Upgrade").header("upgrade", "websocket");
    let response = client.send(request.body(Empty::<Bytes>::new()).expect("request")).await.expect("response");
    assert_eq!((response.status().as_u16(), response.headers()["upgrade"].to_str().expect("text")), (101, "websocket"));
    let upgraded = within("the upgrade", hyper::upgrade::on(response)).await.expect("upgraded");
    let mut io = TokioIo::new(upgraded);
    for i in 0..20u8 {
        io.write_all(&[i; 5000]).await.expect("write");
        let mut got = [0; 5000];
        within("the echo", io.read_exact(&mut got)).await.expect("read");
        assert_eq!(got, [i; 5000]);
    }
    io.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    within("the end", io.read_to_end(&mut rest)).await.expect("read");
    assert!(rest.is_empty());
    until("the tunnel is gone", || {
        app.open.load(SeqCst) == 0 && pair.server.metrics().inbound.is_some_and(|i| i.connections_open == 0)
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_the_app_does_not_want_is_an_ordinary_answer() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let answer = raw(pair.at, "GET /name HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /name HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
}

#[tokio::test]
async fn a_client_that_gives_up_ends_the_exchange_at_the_app() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    for path in ["/slow", "/endless"] {
        let mut tcp = tokio::net::TcpStream::connect(pair.at).await.expect("connect");
        tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n").as_bytes()).await.expect("write");
        until("the app has it", || app.open.load(SeqCst) == 1).await;
        drop(tcp);
        until("the app's connection is gone", || app.open.load(SeqCst) == 0).await;
    }
    let mut client = client2::<Empty<Bytes>>(pair.at).await;
    let request = Request::get("http://web/endless").body(Empty::new()).expect("request");
    let response = within("a response", client.send_request(request)).await.expect("response");
    drop(response);
    // The shared connection lives on.
    let request = Request::get("http://web/name").body(Empty::new()).expect("request");
    assert_eq!(collect(within("a response", client.send_request(request)).await.expect("response")).await.1, "app");
}

#[tokio::test]
async fn failures_of_the_app_have_their_own_answers() {
    let app = App::http().await;
    let mut pair = Pair::start(Protocol::Http, app.address).await;
    pair.change(|inbound| inbound.request_timeout_ms = 50);
    until("the change has come", || {
        pair.server.config().is_some_and(|c| c.inbound.as_ref().is_some_and(|i| i.request_timeout_ms == 50))
    })
    .await;
    assert_eq!(get(pair.at, "/slow").await, (504, "the service did not answer in time\n".into()));
    assert_eq!(get(pair.at, "/none").await, (404, "not here".into()));
    for (answer, status) in
        [(&b"rubbish\r\n\r\n"[..], 502), (b"", 502), (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200)]
    {
        let raw = App::raw(answer).await;
        pair.change(|inbound| inbound.local = raw.address.to_string());
        let local = raw.address.to_string();
        until("the change has come", || {
            pair.server.config().is_some_and(|c| c.inbound.as_ref().is_some_and(|i| i.local == local))
        })
        .await;
        // The runner applies it a moment after it has heard it.
        within("the answer of the new app", async {
            while get(pair.at, "/").await.0 != status {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    pair.change(|inbound| inbound.local = "127.0.0.1:1".into());
    within("nobody there", async {
        while get(pair.at, "/").await != (503, "the service cannot be reached\n".into()) {}
    })
    .await;
}

#[tokio::test]
async fn no_endpoint_is_said_so() {
    let app = App::http().await;
    let mut pair = Pair::start(Protocol::Http, app.address).await;
    pair.client_config.upstreams.get_mut("web").expect("upstream").endpoints.clear();
    pair.agent.tell(&pair.client_config);
    within("no endpoint", async {
        while get(pair.at, "/name").await != (503, "no healthy instance of the service is known\n".into()) {}
    })
    .await;
}

#[tokio::test]
async fn an_app_that_closes_idle_connections_costs_no_request() {
    let app = App::raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let mut client = Client::connect(pair.at).await;
    for i in 0..10 {
        until("the app has closed", || app.open.load(SeqCst) == 0).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let request = Request::get("/").header("host", "web").body(Empty::<Bytes>::new()).expect("request");
        let (status, body, _) = collect(client.send(request).await.expect("response")).await;
        assert_eq!((status, &body[..]), (200, &b"ok"[..]), "request {i}");
    }
}

#[tokio::test]
async fn a_shutdown_lets_requests_end() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let mut client = Client::connect(pair.at).await;
    let request = || Request::get("/endless").header("host", "web").body(Empty::<Bytes>::new()).expect("request");
    let mut body = client.send(request()).await.expect("response").into_body();
    let handle = pair.client.clone();
    let stopping = tokio::spawn(async move { handle.shutdown(Duration::from_millis(300)).await });
    within("ticks go on", async {
        for _ in 0..5 {
            body.frame().await.expect("frame").expect("frame");
        }
    })
    .await;
    within("the shutdown ends", stopping).await.expect("task");
    within("and cuts", async { while let Some(Ok(_)) = body.frame().await {} }).await;
}
