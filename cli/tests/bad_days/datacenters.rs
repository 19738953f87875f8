//! Two datacenters: each answers for the other, from servers and from plain agents, over HTTP and DNS.

use crate::support::{PATIENCE, Process, agent_args, block, client, health_is, server_args, until, value_of, writable};
use api::client::Client;
use http::Method;
use model::AgentServiceRegistration as ServiceRegistration;
use serde_json::{Value, json};
use std::net::SocketAddr;

const DNS_PORT: u16 = 8600;

async fn addresses(ip: &str, name: &str) -> Vec<String> {
    let server = SocketAddr::new(ip.parse().expect("an address"), DNS_PORT);
    let mut found = dns::client::ask(server, name, "A").await.unwrap_or_default();
    found.sort();
    found
}

async fn until_found(ip: &str, name: &str, want: &str) {
    until(&format!("{ip} finds {name}"), || async move { (addresses(ip, name).await == [want]).then_some(()) }).await;
}

fn shop() -> ServiceRegistration {
    serde_json::from_value(serde_json::json!({ "Name": "shop", "Port": 80, "Address": "10.9.9.9" }))
        .expect("a registration")
}

async fn knows_both(of: &Client) {
    until("both datacenters are known", || async move {
        of.datacenters().await.ok().filter(|all| *all == ["dc1", "dc2"] || *all == ["dc2", "dc1"])
    })
    .await;
}

/// A server `s1` of dc1, one `t1` of dc2, and a plain agent `a1` of dc1.
struct Two {
    _folder: tempfile::TempDir,
    _first: Process,
    far: Process,
    near: Process,
    /// Addresses of `s1`, `t1` and `a1`.
    ips: [String; 3],
}

impl Two {
    async fn start() -> Two {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let net = block();
        let ips @ [first, second, agent] = &[format!("{net}.1"), format!("{net}.2"), format!("{net}.3")];
        let more = ["-datacenter=dc2", "-primary-datacenter=dc1", &format!("-retry-join-wan={first}")];
        let start = |name: &str, args: &[String]| Process::start(folder.path(), name, args);
        let _first = start("s1", &server_args(folder.path(), "s1", first, 1, &[], &[]));
        let far = start("t1", &server_args(folder.path(), "t1", second, 1, &[], &more));
        let near = start("a1", &agent_args(folder.path(), "a1", agent, std::slice::from_ref(first), &[]));
        writable(first).await;
        writable(second).await;
        health_is(first, "a1", "passing").await;
        for ip in ips {
            knows_both(&client(ip)).await;
        }
        Two { _first, far, near, ips: ips.clone(), _folder: folder }
    }
}

#[tokio::test]
async fn each_datacenter_answers_for_the_other() {
    let mut two = Two::start().await;
    let [first, second, agent] = two.ips.clone();

    // Written from here, it is there and not here; read through a server and through a plain agent.
    client(&first).put("/v1/kv/by-server?dc=dc2", "there").await.expect("a write in the other datacenter");
    client(&agent).put("/v1/kv/by-agent?dc=dc2", "there").await.expect("a write in the other datacenter");
    for key in ["by-server", "by-agent"] {
        assert!(value_of(&second, key).await.is_some_and(|value| value.contains("there")), "{key}");
        assert_eq!(value_of(&first, key).await, None, "{key}");
    }
    client(&second).register_service(&shop()).await.expect("a registration");
    for ip in [&first, &agent] {
        let found = until("the service is found across", || async {
            client(ip).health_service("shop", "?dc=dc2").await.ok().filter(|all| !all.is_empty())
        })
        .await;
        assert_eq!(found[0].service.noun.address, "10.9.9.9");
        assert!(client(ip).health_service("shop", "").await.expect("here").is_empty());
        until_found(ip, "shop.service.dc2.consul.", "10.9.9.9").await;
        until_found(ip, "t1.node.dc2.consul.", &second).await;
        assert!(addresses(ip, "shop.service.consul.").await.is_empty());
        assert!(addresses(ip, "shop.service.dc3.consul.").await.is_empty());
    }
    until_found(&second, "a1.node.dc1.consul.", &agent).await;

    // The other datacenter is gone: that is an error, not silence, and this one goes on.
    two.far.kill();
    let error = client(&first).get::<Value>("/v1/kv/by-server?dc=dc2").await.expect_err("nobody is there");
    assert!(error.to_string().contains("500"), "{error}");
    writable(&first).await;
}

/// An answer of the agent at `ip`: its status, and its body as JSON if it is any, else as text.
async fn ask(ip: &str, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let reply = client(ip).send(method, path, body.into(), PATIENCE).await.expect("an answer");
    let text = || Value::String(String::from_utf8_lossy(&reply.body).into_owned());
    (reply.status.as_u16(), serde_json::from_slice(&reply.body).unwrap_or_else(|_| text()))
}

async fn put(ip: &str, path: &str, body: Value) -> (u16, Value) {
    ask(ip, Method::PUT, path, &body).await
}

async fn get(ip: &str, path: &str) -> Value {
    ask(ip, Method::GET, path, &Value::Null).await.1
}

async fn create_session(ip: &str, query: &str, body: Value) -> String {
    let (status, made) = put(ip, &format!("/v1/session/create{query}"), body).await;
    assert_eq!(status, 200, "{made}");
    made["ID"].as_str().expect("an id").to_string()
}

#[tokio::test]
async fn sessions_are_made_through_plain_agents_and_in_the_other_datacenter() {
    let mut two = Two::start().await;
    let [first, second, agent] = two.ips.clone();

    // It lives on the agent's node, which was asked, and not on the server's that has made it.
    let mine = create_session(&agent, "", json!({"Name": "mine", "TTL": "60s", "LockDelay": "0s"})).await;
    let info = get(&first, &format!("/v1/session/info/{mine}")).await;
    assert_eq!((&info[0]["Node"], &info[0]["Name"]), (&json!("a1"), &json!("mine")));
    let (status, renewed) = put(&agent, &format!("/v1/session/renew/{mine}"), Value::Null).await;
    assert_eq!((status, &renewed[0]["ID"]), (200, &json!(mine)));
    let other = create_session(&first, "", json!({})).await;
    assert_eq!(put(&agent, &format!("/v1/kv/lead?acquire={mine}"), Value::Null).await, (200, json!(true)));
    assert_eq!(put(&agent, &format!("/v1/kv/lead?acquire={other}"), Value::Null).await, (200, json!(false)));
    assert_eq!(get(&first, "/v1/kv/lead").await[0]["Session"], json!(mine));

    // There are no nodes of this datacenter in the other one: the node must be named, as in Consul.
    for ip in [&first, &agent] {
        let (status, words) = put(ip, "/v1/session/create?dc=dc2", json!({})).await;
        assert_eq!((status, words), (500, json!("apply failed: Missing node registration")));
        let far = create_session(ip, "?dc=dc2", json!({"Node": "t1", "LockDelay": "0s"})).await;
        assert_eq!(get(&second, &format!("/v1/session/info/{far}")).await[0]["Node"], json!("t1"));
        assert_eq!(get(ip, &format!("/v1/session/info/{far}?dc=dc2")).await[0]["Node"], json!("t1"));
        assert_eq!(get(ip, &format!("/v1/session/info/{far}")).await, json!([]));
        assert_eq!(put(ip, &format!("/v1/session/renew/{far}?dc=dc2"), Value::Null).await.0, 200);
        assert_eq!(put(ip, &format!("/v1/kv/far?dc=dc2&acquire={far}"), Value::Null).await, (200, json!(true)));
        assert_eq!(get(&second, "/v1/kv/far").await[0]["Session"], json!(far));
        let (status, words) = put(ip, &format!("/v1/kv/far?dc=dc2&acquire={mine}"), Value::Null).await;
        assert!(status == 500 && words.to_string().contains("invalid session"), "{status} {words}");
        assert_eq!(put(ip, &format!("/v1/session/destroy/{far}?dc=dc2"), Value::Null).await, (200, json!(true)));
        assert_eq!(get(&second, "/v1/kv/far").await[0].get("Session"), None);
    }

    // It dies with the agent's node, and its lock is free.
    two.near.kill();
    until("the session's end", || async {
        (get(&first, &format!("/v1/session/info/{mine}")).await == json!([])).then_some(())
    })
    .await;
    assert_eq!(put(&first, &format!("/v1/kv/lead?acquire={other}"), Value::Null).await, (200, json!(true)));
}
