//! A corpus of heads: what is taken out, what stays, what is refused.

use super::*;

/// `METHOD target [version]`, then header lines.
fn request(text: &str) -> Request<()> {
    let mut lines = text.lines().map(str::trim);
    let mut words = lines.next().expect("a request line").split(' ');
    let version = |word: Option<&str>| match word {
        Some("HTTP/2") => Version::HTTP_2,
        Some("HTTP/1.0") => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let mut request = Request::builder()
        .method(words.next().expect("method"))
        .uri(words.next().expect("target"))
        .version(version(words.next()));
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").expect("a header line");
        request = request.header(name, value);
    }
    request.body(()).expect("a request")
}

fn lines(headers: &HeaderMap) -> String {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn hop_by_hop_headers_are_taken_out() {
    let cases = [
        ("plain", "GET / HTTP/1.1\nHost: a\nAccept: */*", "accept: */*\nhost: a"),
        ("keep-alive", "GET /\nHost: a\nConnection: keep-alive\nKeep-Alive: 5", "host: a"),
        (
            "named ones",
            "GET /\nHost: a\nConnection: close, X-One\nConnection: x-two\nX-One: 1\nX-Two: 2\nX-Three: 3",
            "host: a\nx-three: 3",
        ),
        (
            "proxy headers",
            "GET /\nHost: a\nProxy-Connection: x\nProxy-Authorization: x\nProxy-Authenticate: x",
            "host: a",
        ),
        ("chunked", "POST /\nHost: a\nTransfer-Encoding: Chunked", "host: a"),
        ("trailers stay wanted", "GET /\nHost: a\nTE: gzip;q=0.5, trailers\nConnection: te", "host: a\nte: trailers"),
        ("other TE goes", "GET /\nHost: a\nTE: gzip\nConnection: TE", "host: a"),
        (
            "gRPC",
            "POST /s/m HTTP/2\nHost: a\nte: trailers\ncontent-type: application/grpc",
            "content-type: application/grpc\nhost: a\nte: trailers",
        ),
        (
            "a forged caller",
            "GET /\nHost: a\nX-Forwarded-Client-Cert: URI=spiffe://x\nX-Forwarded-Client-Cert: more",
            "host: a",
        ),
        (
            "h2c",
            "GET /\nHost: a\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk",
            "host: a",
        ),
        (
            "what is needed cannot be named",
            "POST /\nHost: a\nContent-Length: 3\nConnection: host, content-length",
            "content-length: 3\nhost: a",
        ),
        ("Upgrade that Connection does not name", "GET /\nHost: a\nUpgrade: websocket", "host: a"),
        (
            "trailer announcements stay",
            "POST /\nHost: a\nTrailer: X-Sum\nTransfer-Encoding: chunked",
            "host: a\ntrailer: X-Sum",
        ),
    ];
    for (case, text, expected) in cases {
        let mut request = request(text);
        assert_eq!(clean_request(&mut request), Ok(None), "{case}");
        assert_eq!(lines(request.headers()), expected, "{case}");
    }
}

#[test]
fn ambiguous_requests_are_refused() {
    let cases = [
        ("CONNECT a:443\nHost: a:443", 405),
        ("GET /", 400),
        ("GET / HTTP/1.0", 200),
        ("GET /\nHost: a\nHost: b", 400),
        ("GET /\nHost: a\nHost: a", 400),
        ("GET /\nHost: a, b", 400),
        ("GET /\nHost: a/b", 400),
        ("GET /\nHost: u@a", 400),
        ("GET /\nHost: a b", 400),
        ("GET /\nHost: [::1]:8080", 200),
        ("GET http://u@a/ HTTP/1.1\nHost: a", 400),
        ("GET http://a/ HTTP/1.1\nHost: b", 200),
        ("GET http://a/ HTTP/2\nHost: a", 200),
        ("GET http://a/ HTTP/2\nHost: b", 400),
        ("GET http://a/ HTTP/2", 200),
        ("POST /\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked", 400),
        ("POST /\nHost: a\nTransfer-Encoding: gzip, chunked", 400),
        ("POST /\nHost: a\nTransfer-Encoding: xchunked", 400),
        ("POST /\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked", 400),
        ("POST /\nHost: a\nTransfer-Encoding: identity\nTransfer-Encoding: chunked", 400),
        ("GET /\nHost: a\nConnection: a b", 400),
        ("GET /\nHost: a\nConnection: \"close\"", 400),
    ];
    for (text, status) in cases {
        let got = clean_request(&mut request(text)).map_or_else(|refusal| refusal.status.as_u16(), |_| 200);
        assert_eq!(got, status, "{text}");
    }
    let many: Vec<String> = (0..40).map(|i| format!("x-{i}")).collect();
    assert!(clean_request(&mut request(&format!("GET /\nHost: a\nConnection: {}", many.join(",")))).is_err());
}

#[test]
fn an_upgrade_is_seen_and_asked_for_again() {
    let mut websocket =
        request("GET /chat\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: x");
    let protocol = clean_request(&mut websocket).expect("clean").expect("an upgrade");
    assert_eq!(lines(websocket.headers()), "host: a\nsec-websocket-key: x");
    ask_upgrade(websocket.headers_mut(), protocol);
    assert_eq!(lines(websocket.headers()), "connection: upgrade\nhost: a\nsec-websocket-key: x\nupgrade: websocket");
    for not_one in [
        "GET / HTTP/2\nHost: a\nUpgrade: websocket\nConnection: upgrade",
        "GET /\nHost: a\nConnection: upgrade\nUpgrade: websocket, h2c",
    ] {
        assert_eq!(clean_request(&mut request(not_one)), Ok(None), "{not_one}");
    }
}

#[test]
fn responses_are_cleaned_too() {
    let response = |status: u16| {
        let response = Response::builder()
            .status(status)
            .version(Version::HTTP_10)
            .header("Connection", "Upgrade, X-Hop")
            .header("Upgrade", "websocket");
        response.header("X-Hop", "1").header("Keep-Alive", "9").header("X-End", "2").body(()).expect("a response")
    };
    let mut switching = response(101);
    clean_response(&mut switching, Version::HTTP_11);
    assert_eq!(lines(switching.headers()), "connection: upgrade\nupgrade: websocket\nx-end: 2");
    let mut plain = response(200);
    clean_response(&mut plain, Version::HTTP_2);
    assert_eq!((lines(plain.headers()).as_str(), plain.version()), ("x-end: 2", Version::HTTP_2));
}

#[test]
fn versions_are_translated() {
    let mut absolute = request("GET http://a:80/x?y HTTP/1.1\nHost: b");
    for_http1(&mut absolute);
    assert_eq!((absolute.uri().to_string().as_str(), lines(absolute.headers()).as_str()), ("/x?y", "host: a:80"));

    let mut from2 = request("GET http://a/x HTTP/2\ncookie: a=1\ncookie: b=2");
    for_http1(&mut from2);
    assert_eq!((from2.version(), from2.uri().to_string().as_str()), (Version::HTTP_11, "/x"));
    assert_eq!(lines(from2.headers()), "cookie: a=1; b=2\nhost: a");

    let mut from1 = request("GET /x?y HTTP/1.1\nHost: a:81");
    for_http2(&mut from1);
    assert_eq!(
        (from1.version(), from1.uri().to_string().as_str(), from1.headers().len()),
        (Version::HTTP_2, "http://a:81/x?y", 0)
    );

    let mut origin = request("GET /x HTTP/1.1\nHost: a");
    for_http1(&mut origin);
    assert_eq!((origin.uri().to_string().as_str(), lines(origin.headers()).as_str()), ("/x", "host: a"));
}
