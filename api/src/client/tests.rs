//! Tests of the client against a small HTTP server.

use super::*;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Mutex;
use tokio::net::{TcpListener, UnixListener};

type Seen = Arc<Mutex<Vec<String>>>;

/// Answers `Method path` with what `answer` says, and remembers what was asked.
async fn agent(answer: fn(&str, &str) -> Response<String>) -> (Client, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = Address::Http(listener.local_addr().expect("bound").to_string());
    let seen = Seen::default();
    let remembered = seen.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(TokioIo::new(tcp), answer, remembered.clone()));
        }
    });
    (Client::new(address, None), seen)
}

async fn serve<T>(io: TokioIo<T>, answer: fn(&str, &str) -> Response<String>, seen: Seen)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let handle = hyper::service::service_fn(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            let token = head.headers.get("x-consul-token").map_or("", |t| t.to_str().expect("text"));
            let line = format!("{} {} {token} {body}", head.method, head.uri);
            seen.lock().expect("no panic").push(line.trim_end().to_string());
            Ok::<_, Infallible>(answer(&format!("{} {}", head.method, head.uri), &body))
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(io, handle).await.ok();
}

fn json(index: u64, body: &str) -> Response<String> {
    Response::builder().header("X-Consul-Index", index).body(body.to_string()).expect("a response")
}

fn refuse(status: u16, text: &str) -> Response<String> {
    Response::builder().status(status).body(text.to_string()).expect("a response")
}

#[test]
fn addresses_as_consul_takes_them() {
    let cases = [
        ("127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("http://a:1", "http://a:1"),
        ("http://a:1/", "http://a:1"),
        ("https://a", "https://a:8500"),
        ("[::1]:8500", "http://[::1]:8500"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
    ];
    for (text, printed) in cases {
        assert_eq!(text.parse::<Address>().expect(text).to_string(), printed);
    }
    for text in ["", "http://", "unix://", "a:b", "http://a:1/v1", "http://u@a:1", "a:99999"] {
        let error = text.parse::<Address>().expect_err(text);
        assert!(error.to_string().contains("is not the address of an agent"), "{error}");
    }
}

#[tokio::test]
async fn kv_is_base64_and_paths_are_encoded() {
    let (client, seen) = agent(|line, _| match line {
        "GET /v1/kv/a%20b/c%3F" => {
            json(9, r#"[{"Key":"a b/c?","Value":"aGk=","Flags":3,"LockIndex":0,"CreateIndex":1,"ModifyIndex":2}]"#)
        }
        "PUT /v1/kv/k?flags=1&cas=7" => json(9, "false"),
        "DELETE /v1/kv/k?recurse" => json(9, "true"),
        "GET /v1/kv/p?keys&separator=%2F" => json(9, r#"["p/a"]"#),
        _ => refuse(404, ""),
    })
    .await;
    let entry = client.kv_get("a b/c?").await.expect("answers").expect("is there");
    assert_eq!((entry.value.as_ref(), entry.flags, entry.modify_index), (&b"hi"[..], 3, 2));
    assert_eq!(client.kv_get("none").await.expect("answers"), None);
    assert_eq!(client.kv_list("none").await.expect("answers"), []);
    assert_eq!(client.kv_keys("p", "/").await.expect("answers"), ["p/a"]);
    assert!(!client.kv_put("k", "v".into(), KvPut { flags: 1, cas: Some(7) }).await.expect("answers"));
    assert!(client.kv_delete("k", true, None).await.expect("answers"));
    assert!(seen.lock().expect("no panic").contains(&"PUT /v1/kv/k?flags=1&cas=7  v".to_string()));
}

#[tokio::test]
async fn refusals_keep_status_and_text() {
    let (client, _) = agent(|_, _| refuse(500, "No cluster leader")).await;
    let error = client.leader().await.expect_err("refused");
    assert_eq!(error.to_string(), "No cluster leader (status 500)");
    let (client, _) = agent(|_, _| refuse(403, "")).await;
    assert_eq!(client.nodes("").await.expect_err("refused").to_string(), "Forbidden (status 403)");
    let (client, _) = agent(|_, _| json(1, "<html>")).await;
    assert!(matches!(client.nodes("").await, Err(ClientError::Malformed { .. })));
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = Address::Http(listener.local_addr().expect("bound").to_string());
    drop(listener);
    let error = Client::new(address, None).leader().await.expect_err("nobody there");
    assert!(matches!(error, ClientError::Unreachable(_)), "{error:?}");
    let error = Client::new(Address::Unix("/nonexistent/x.sock".into()), None).leader().await;
    assert!(matches!(error, Err(ClientError::Unreachable(_))));
}

#[tokio::test]
async fn the_token_goes_with_each_request() {
    let (client, seen) = agent(|_, _| json(1, "[]")).await;
    client.clone().with_token("s3").expect("a token").nodes("?dc=b").await.expect("answers");
    assert_eq!(*seen.lock().expect("no panic"), ["GET /v1/catalog/nodes?dc=b s3"]);
    assert!(matches!(client.with_token("a\nb"), Err(ClientError::Invalid(_))));
}

#[tokio::test]
async fn a_watch_obeys_the_rules_of_indexes() {
    let (client, seen) = agent(|line, _| match line {
        "GET /v1/catalog/nodes" => json(5, "[]"),
        "GET /v1/catalog/nodes?index=5&wait=300s" => json(8, "[]"),
        _ => json(3, "[]"),
    })
    .await;
    let mut watch = Watch::new(client, "/v1/catalog/nodes");
    let mut indexes = Vec::new();
    for _ in 0..4 {
        indexes.push(watch.next::<Vec<String>>().await.expect("answers").index);
    }
    assert_eq!(indexes, [5, 8, 3, 5]);
    assert_eq!(seen.lock().expect("no panic")[3], "GET /v1/catalog/nodes");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let folder = std::env::temp_dir().join(format!("tribune-api-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("agent.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("binds");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(TokioIo::new(stream), |_, _| json(1, "\"10.0.0.1:8300\""), Seen::default()));
        }
    });
    let client = Client::new(format!("unix://{}", path.display()).parse().expect("an address"), None);
    assert_eq!(client.leader().await.expect("answers"), "10.0.0.1:8300");
    std::fs::remove_dir_all(&folder).expect("removes");
}

#[tokio::test]
async fn verbs_ask_the_right_questions() {
    let (client, seen) = agent(|line, _| match line {
        "GET /v1/connect/intentions/check?source=a&destination=b%2Fc" => json(1, r#"{"Allowed":true}"#),
        "GET /v1/connect/intentions/exact?source=a&destination=b" => refuse(404, "Intention not found"),
        "PUT /v1/config?cas=3" => json(1, "true"),
        "GET /v1/agent/members?wan=1" => json(1, r#"[{"Name":"n1","Status":4}]"#),
        _ => json(1, "{}"),
    })
    .await;
    assert!(client.check_intention("a", "b/c").await.expect("answers"));
    assert_eq!(client.intention("a", "b").await.expect("answers"), None);
    assert!(client.put_config(&serde_json::json!({}), Some(3)).await.expect("answers"));
    assert_eq!(client.members(true).await.expect("answers")[0].status, crate::reply::MemberStatus::Failed);
    client.deregister_service("a/b").await.expect("answers");
    client.maintenance(Some("web"), true, "why not").await.expect("answers");
    client.raft_transfer_leader(None).await.expect("answers");
    let seen = seen.lock().expect("no panic");
    let last: Vec<&str> = seen.iter().rev().take(3).map(String::as_str).collect();
    assert_eq!(last[0], "POST /v1/operator/raft/transfer-leader");
    assert_eq!(last[1], "PUT /v1/agent/service/maintenance/web?enable=true&reason=why%20not");
    assert_eq!(last[2], "PUT /v1/agent/service/deregister/a%2Fb");
}
