//! Requests that two readers could read in two ways: none of them reaches the application as two.

use crate::apps::{App, raw};
use crate::kit::Pair;
use model::config_entry::Protocol;

/// What comes after the request in doubt; if the app answers it, it was smuggled.
const HIDDEN: &str = "GET /name HTTP/1.1\r\nHost: hidden\r\n\r\n";

#[tokio::test]
async fn doubtful_requests_are_refused_or_read_in_one_way() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let hidden = HIDDEN.len();
    let cases = [
        (
            "two lengths",
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: {hidden}\r\n\r\n{HIDDEN}"),
        ),
        ("a list of lengths", format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0, {hidden}\r\n\r\n{HIDDEN}")),
        ("a signed length", format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +{hidden}\r\n\r\n{HIDDEN}")),
        (
            "another coding",
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "an unknown coding",
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        (
            "chunked twice",
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "a space before the colon",
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length : {hidden}\r\n\r\n{HIDDEN}"),
        ),
        (
            "a folded line",
            format!("POST /echo HTTP/1.1\r\nHost: a\r\nX: 1\r\n Content-Length: {hidden}\r\n\r\n{HIDDEN}"),
        ),
        (
            "HTTP/1.0 and chunked",
            format!("POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
        ),
        ("two hosts", format!("GET /name HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n{HIDDEN}")),
        (
            "a chunk size that overflows",
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{HIDDEN}"
            ),
        ),
        ("a bare line feed in a name", format!("GET /name HTTP/1.1\r\nHost: a\r\nX\nY: 1\r\n\r\n{HIDDEN}")),
        ("a zero in a value", format!("GET /name HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n{HIDDEN}")),
        ("CONNECT", format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: close\r\n\r\n{HIDDEN}")),
    ];
    for (case, request) in cases {
        let answer = raw(pair.at, &request).await;
        assert_eq!(answer.matches("200 OK").count(), 0, "{case}: {answer}");
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 40") || answer.starts_with("HTTP/1.0 40"),
            "{case}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_believed_and_ends_the_connection() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    for headers in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        // RFC 9112 §6.3: the chunks decide, and no request after it is believed.
        let answer = raw(
            pair.at,
            &format!("POST /echo HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n5\r\nhello\r\n0\r\n\r\n{HIDDEN}"),
        )
        .await;
        assert!(answer.matches("HTTP/1.1 ").count() == 1 && !answer.contains("app"), "{answer}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = App::http().await;
    let pair = Pair::start(Protocol::Http, app.address).await;
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    let answer = raw(pair.at, &format!("GET /name HTTP/1.1\r\nHost: a\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = "x".repeat(100 << 10);
    let answer = raw(pair.at, &format!("GET /name HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    assert_eq!(
        raw(pair.at, "GET /name HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.matches("200 OK").count(),
        1
    );
}
