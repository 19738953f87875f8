//! Requests that are malformed, of the wrong type or too large: refused with words, and nothing was changed.

use crate::support::{PATIENCE, Process, block, client, server_args, until, writable};
use api::client::Client;
use bytes::Bytes;
use http::Method;
use serde_json::Value;

/// Consul's limit of a value.
const VALUE_BYTES_MAX: usize = 512 * 1024;

/// A running server and its client.
async fn server(folder: &std::path::Path) -> (Process, Client) {
    let ip = format!("{}.1", block());
    let process = Process::start(folder, "s1", &server_args(folder, "s1", &ip, 1, &[], &[]));
    writable(&ip).await;
    (process, client(&ip))
}

async fn ask(client: &Client, method: Method, path: &str, body: impl Into<Bytes>) -> Option<(u16, String)> {
    let reply = client.send(method, path, body.into(), PATIENCE).await.ok()?;
    Some((reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned()))
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (_process, client) = server(folder.path()).await;
    let services = || async { client.agent_services().await.expect("services") };
    let before = (
        services().await,
        client.nodes("").await.expect("nodes").len(),
        client.configs("service-defaults").await.expect("entries"),
    );
    let (register, catalog, config) = ("/v1/agent/service/register", "/v1/catalog/register", "/v1/config");
    let cases = [
        (register, "{", 400, "Request decode failed"),
        (register, "[]", 400, "Request decode failed"),
        (register, r#""web""#, 400, "Request decode failed"),
        (register, "{}", 400, "Missing service name"),
        (register, r#"{"Name": 7}"#, 400, "Name"),
        (register, r#"{"Name": "web", "Port": "eighty"}"#, 400, "Port"),
        (register, r#"{"Name": "web", "Port": 70000}"#, 400, "Port"),
        (register, r#"{"Name": "web", "Tags": "blue"}"#, 400, "Tags"),
        (register, r#"{"Name": "web", "Meta": [1]}"#, 400, "Meta"),
        (register, r#"{"Name": "web", "Check": {"TTL": "10"}}"#, 400, "TTL"),
        (register, r#"{"Name": "web", "Check": {"HTTP": "http://127.0.0.1"}}"#, 400, "Interval"),
        (catalog, "{", 400, "Request decode failed"),
        (catalog, r#"{"Node": 7, "Address": "10.0.0.1"}"#, 400, "Node"),
        (catalog, r#"{"Node": "n"}"#, 500, "Must provide node and address"),
        (catalog, r#"{"Node": "n", "Address": "10.0.0.1", "Service": {"Port": 1}}"#, 500, "Must provide service name"),
        (config, "{", 400, "Request decoding failed"),
        (config, "[]", 400, "Request decoding failed"),
        (config, r#"{"Kind": "nonsense", "Name": "a"}"#, 400, "invalid config entry kind"),
        (config, r#"{"Kind": "service-defaults", "Name": "a", "Protocol": 7}"#, 400, "Protocol"),
        ("/v1/kv/a?cas=x", "1", 400, "invalid syntax"),
        ("/v1/kv/a?cas=1&acquire=x", "1", 400, ""),
        ("/v1/agent/check/update/none", r#"{"Status": "green"}"#, 400, "Invalid check status"),
        ("/v1/connect/intentions/exact?source=a&destination=b", r#"{"Action": "maybe"}"#, 400, ""),
    ];
    for (path, body, status, text) in cases {
        let (got, words) = ask(&client, Method::PUT, path, body).await.expect("an answer");
        assert!(got == status && words.contains(text) && !words.trim().is_empty(), "PUT {path} {body}: {got} {words}");
    }
    let after = (
        services().await,
        client.nodes("").await.expect("nodes").len(),
        client.configs("service-defaults").await.expect("entries"),
    );
    assert_eq!(before, after);
    assert_eq!(ask(&client, Method::GET, "/v1/kv/a", "").await, Some((404, String::new())));
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (_process, client) = server(folder.path()).await;
    let most = vec![b'x'; VALUE_BYTES_MAX];
    assert_eq!(ask(&client, Method::PUT, "/v1/kv/most", most).await, Some((200, "true".into())));
    // The refusal is heard each time, though the server has not wanted what was sent.
    for bytes in [VALUE_BYTES_MAX + 1, 4 * VALUE_BYTES_MAX, 16 * VALUE_BYTES_MAX].repeat(5) {
        let (status, words) = ask(&client, Method::PUT, "/v1/kv/more", vec![b'x'; bytes]).await.expect("an answer");
        assert_eq!(status, 413, "{words}");
        let want = format!("Request body({bytes} bytes) too large, max size: 524288 bytes. See ");
        assert!(words.starts_with(&want), "{words}");
    }
    assert_eq!(ask(&client, Method::GET, "/v1/kv/more", "").await, Some((404, String::new())));

    // An agent may hang up while so much is sent; then no answer is read, and the next request finds it in good health.
    let huge = Bytes::from(vec![b' '; model::limits::BODY_BYTES_MAX + 1]);
    for path in ["/v1/agent/service/register", "/v1/catalog/register", "/v1/config"] {
        let (asked, huge) = (&client, &huge);
        let refusal =
            until("the refusal is heard", || async move { ask(asked, Method::PUT, path, huge.clone()).await }).await;
        assert_eq!(refusal.0, 413, "{path}: {}", refusal.1);
    }
    let leader: Value = client.get("/v1/status/leader").await.expect("an answer").value;
    assert!(leader.as_str().is_some_and(|leader| leader.ends_with(":8300")), "{leader}");
}
