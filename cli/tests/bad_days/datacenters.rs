//! Two datacenters: each answers for the other, from servers and from plain agents, over HTTP and DNS.

use crate::support::{Process, agent_args, block, client, health_is, server_args, until, value_of, writable};
use api::client::Client;
use model::AgentServiceRegistration as ServiceRegistration;
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

#[tokio::test]
async fn each_datacenter_answers_for_the_other() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let net = block();
    let (first, second, agent) = (format!("{net}.1"), format!("{net}.2"), format!("{net}.3"));
    let more = ["-datacenter=dc2", "-primary-datacenter=dc1", &format!("-retry-join-wan={first}")];
    let _first = Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &first, 1, &[], &[]));
    let mut far = Process::start(folder.path(), "t1", &server_args(folder.path(), "t1", &second, 1, &[], &more));
    let _agent = Process::start(
        folder.path(),
        "a1",
        &agent_args(folder.path(), "a1", &agent, std::slice::from_ref(&first), &[]),
    );
    writable(&first).await;
    writable(&second).await;
    health_is(&first, "a1", "passing").await;
    for ip in [&first, &second, &agent] {
        knows_both(&client(ip)).await;
    }

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
    far.kill();
    let error = client(&first).get::<serde_json::Value>("/v1/kv/by-server?dc=dc2").await.expect_err("nobody is there");
    assert!(error.to_string().contains("500"), "{error}");
    writable(&first).await;
}
