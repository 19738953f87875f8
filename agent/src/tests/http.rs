//! `/v1/agent/*` and forwarding, over real HTTP.

use super::*;
use ::http::Method;
use api::client::{Address, Client, RawReply};
use bytes::Bytes;
use serde_json::{Value, json};
use std::path::Path;
use tokio::net::TcpListener;

struct Site {
    agent: Agent,
    client: Client,
    server: FakeServer,
    folder: TempDir,
}

async fn site() -> Site {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let server = FakeServer::start(&pki, "s1").await;
    let agent = start(&pki, &folder, config(&[server.address.to_string()]));
    eventually("the session is open", || agent.servers().current().is_some()).await;
    let client = serve(&agent).await;
    Site { agent, client, server, folder }
}

async fn serve(agent: &Agent) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = Address::Http(listener.local_addr().expect("bound").to_string());
    let router = agent.router_local().merge(agent.forward_fallback());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Client::new(address, None)
}

impl Site {
    async fn send(&self, method: &str, path: &str, body: &str) -> RawReply {
        let method: Method = method.parse().expect("a method");
        self.client.send(method, path, Bytes::from(body.to_string()), Duration::from_secs(30)).await.expect("an answer")
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.send("GET", path, "").await.body).expect("JSON")
    }

    async fn ok(&self, method: &str, path: &str, body: &str) {
        let reply = self.send(method, path, body).await;
        assert_eq!((reply.status.as_u16(), &*reply.body), (200, &b""[..]), "{method} {path}");
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir(&to).expect("a folder");
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copies");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_status_is_on_the_disk_when_it_is_acknowledged() {
    let site = site().await;
    let body = r#"{"Name": "web", "Check": {"CheckID": "c1", "Name": "c1", "TTL": "1h", "Status": "passing"}}"#;
    site.ok("PUT", "/v1/agent/service/register", body).await;
    site.ok("PUT", "/v1/agent/check/fail/c1", "").await;
    // As the disk would be found after a crash.
    let found = tempfile::tempdir().expect("a folder");
    copy(site.folder.path(), found.path());
    let store = store::Store::open(found.path()).expect("a store");
    let local = crate::local::Local::open(store, Duration::from_secs(300), Arc::default()).expect("opens");
    assert_eq!(local.check("c1").expect("is kept").status, CheckStatus::Critical);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_told_which_node_near_agent_means() {
    let site = site().await;
    let node = &site.agent.inner.config.node.name;
    for (asked, said) in [
        ("/v1/health/service/web?near=_agent&passing", format!("/v1/health/service/web?near={node}&passing")),
        ("/v1/health/service/web?near=n9", "/v1/health/service/web?near=n9".to_string()),
    ] {
        let reply = site.send("GET", asked, "").await;
        assert_eq!(String::from_utf8_lossy(&reply.body), format!("GET {said} 0 bytes"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_consuls() {
    let site = site().await;
    site.ok(
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "web", "Check": {"HTTP": "http://127.0.0.1:1/", "Interval": "1h"}}"#,
    )
    .await;
    let unknown_service = "Unknown service ID \"x\". Ensure that the service ID is passed, not the service name.";
    let unknown_check = "Unknown check ID \"x\". Ensure that the check ID is passed, not the check name.";
    let cases: [(&str, &str, &str, u16, &str); 21] = [
        ("PUT", "/v1/agent/service/register", "", 400, "Request decode failed: EOF"),
        ("PUT", "/v1/agent/service/register", "{}", 400, "Missing service name"),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name": "a", "Port": "x"}"#,
            400,
            "Request decode failed: Port: invalid type",
        ),
        ("PUT", "/v1/agent/service/register", r#"{"Name": "a", "Address": "0.0.0.0"}"#, 400, "Invalid service address"),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name": "a", "Check": {}}"#,
            400,
            "Invalid check: TTL must be > 0 for TTL checks",
        ),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name": "a", "Check": {"TTL": "1s", "Status": "x"}}"#,
            400,
            "Invalid check: Bad check status",
        ),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name": "a", "Check": {"Args": ["x"], "Interval": "1s"}}"#,
            400,
            "Scripts are disabled on this agent",
        ),
        ("PUT", "/v1/agent/service/deregister/x", "", 404, unknown_service),
        ("PUT", "/v1/agent/service/maintenance/x?enable=true", "", 404, unknown_service),
        ("PUT", "/v1/agent/service/maintenance/web", "", 400, "Missing value for enable"),
        ("PUT", "/v1/agent/service/maintenance/web?enable=x", "", 400, "Invalid value for enable: \"x\""),
        ("GET", "/v1/agent/service/x", "", 404, "unknown service ID: x"),
        ("PUT", "/v1/agent/check/register", r#"{"TTL": "1s"}"#, 400, "Missing check name"),
        (
            "PUT",
            "/v1/agent/check/register",
            r#"{"Name": "a", "ServiceID": "x", "TTL": "1s"}"#,
            500,
            "ServiceID \"x\" does not exist",
        ),
        ("PUT", "/v1/agent/check/deregister/x", "", 404, unknown_check),
        ("PUT", "/v1/agent/check/pass/x", "", 404, unknown_check),
        ("PUT", "/v1/agent/check/pass/service:web", "", 500, "CheckID \"service:web\" does not have associated TTL"),
        ("PUT", "/v1/agent/check/update/x", r#"{"Status": "fine"}"#, 400, "Invalid check status: 'fine'"),
        ("GET", "/v1/agent/services?filter=Nope+==+1", "", 500, "Selector \"Nope\" is not valid"),
        ("GET", "/v1/agent/nope", "", 404, "Invalid URL path: not a recognized HTTP API endpoint"),
        ("GET", "/nope", "", 404, "Invalid URL path: if attempting to use the HTTP API"),
    ];
    for (method, path, body, status, text) in cases {
        let reply = site.send(method, path, body).await;
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status.as_u16(), status, "{method} {path} {body}: {said}");
        assert!(said.starts_with(text), "{method} {path} {body}: {said}");
    }
    assert_eq!(site.send("POST", "/v1/agent/service/register", "{}").await.status, 405);
    assert_eq!(site.json("/v1/agent/services").await.as_object().expect("a map").len(), 1, "refusals change nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_checks_are_listed() {
    let site = site().await;
    let body = r#"{"name": "web", "id": "web/1", "tags": ["a"], "port": 80, "checks": [{"ttl": "10m"}, {"name": "two", "ttl": "10m"}]}"#;
    site.ok("PUT", "/v1/agent/service/register", body).await;
    site.ok("PUT", "/v1/agent/check/register", r#"{"Name": "disk", "TTL": "10m", "Notes": "n"}"#).await;
    site.ok("PUT", "/v1/agent/check/pass/disk?note=plenty+left", "").await;
    site.ok("PUT", "/v1/agent/check/warn/service:web%2F1:1?note=hm", "").await;
    site.ok("PUT", "/v1/agent/check/update/service:web/1:2", r#"{"status": "critical", "output": "no"}"#).await;
    let services = site.json("/v1/agent/services?filter=Port+==+80").await;
    assert_eq!(services["web/1"]["Tags"], json!(["a"]));
    assert_eq!(services["web/1"]["Datacenter"], json!("dc1"));
    assert_eq!(site.json("/v1/agent/services?filter=Port+==+81").await, json!({}));
    let checks = site.json("/v1/agent/checks").await;
    assert_eq!((&checks["disk"]["Status"], &checks["disk"]["Output"]), (&json!("passing"), &json!("plenty left")));
    assert_eq!((&checks["disk"]["Node"], &checks["disk"]["Type"]), (&json!("n1"), &json!("ttl")));
    assert_eq!(checks["service:web/1:1"]["Status"], json!("warning"));
    assert_eq!(
        (&checks["service:web/1:2"]["Name"], &checks["service:web/1:2"]["ServiceTags"]),
        (&json!("two"), &json!(["a"]))
    );
    assert_eq!(site.json("/v1/agent/checks?filter=Status+==+critical").await.as_object().expect("a map").len(), 1);
    let facts = &site.server.facts;
    eventually("the servers know", || facts.check("service:web/1:1").is_some_and(|c| c.output == "hm")).await;
    site.ok("PUT", "/v1/agent/check/deregister/disk", "").await;
    site.ok("PUT", "/v1/agent/service/deregister/web/1", "").await;
    assert_eq!(site.json("/v1/agent/checks").await, json!({}));
    keeps_the_rules(&site.server);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_can_be_followed_by_its_hash() {
    let site = site().await;
    site.ok("PUT", "/v1/agent/service/register", r#"{"Name": "web", "Port": 80}"#).await;
    let hash = site.json("/v1/agent/service/web").await["ContentHash"].as_str().expect("a hash").to_string();
    let same = site.json(&format!("/v1/agent/service/web?hash={hash}&wait=50ms")).await;
    assert_eq!(same["ContentHash"], json!(hash), "the time is up");
    let path = format!("/v1/agent/service/web?hash={hash}&wait=25s");
    let (changed, ()) = tokio::join!(site.json(&path), async {
        site.ok("PUT", "/v1/agent/service/register", r#"{"Name": "other"}"#).await;
        site.ok("PUT", "/v1/agent/service/register", r#"{"Name": "web", "Port": 81}"#).await;
    });
    assert_eq!(changed["Port"], json!(81));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_of_health_is_the_answer() {
    let site = site().await;
    site.ok(
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "web", "ID": "w1", "Check": {"TTL": "10m", "Status": "passing"}}"#,
    )
    .await;
    site.ok(
        "PUT",
        "/v1/agent/service/register",
        r#"{"Name": "web", "ID": "w2", "Check": {"TTL": "10m", "Status": "warning"}}"#,
    )
    .await;
    let ask = async |path: &str| {
        let reply = site.send("GET", path, "").await;
        (reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned())
    };
    assert_eq!(ask("/v1/agent/health/service/id/w1?format=text").await, (200, "passing".into()));
    assert_eq!(ask("/v1/agent/health/service/id/w2?format=text").await, (429, "warning".into()));
    assert_eq!(ask("/v1/agent/health/service/name/web?format=text").await, (429, "warning".into()));
    assert_eq!(ask("/v1/agent/health/service/id/x?format=text").await, (404, "ServiceId x not found".into()));
    assert_eq!(ask("/v1/agent/health/service/name/x").await, (404, "[]".into()));
    site.ok("PUT", "/v1/agent/check/fail/service:w1", "").await;
    let (code, body) = ask("/v1/agent/health/service/id/w1").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, &body["AggregatedStatus"], &body["Service"]["ID"]), (503, &json!("critical"), &json!("w1")));
    assert_eq!(body["Checks"].as_array().expect("a list").len(), 1);
    site.ok("PUT", "/v1/agent/service/maintenance/w2?enable=true&reason=why", "").await;
    assert_eq!(ask("/v1/agent/health/service/id/w2?format=text").await, (503, "maintenance".into()));
    assert_eq!(site.json("/v1/agent/checks").await["_service_maintenance:w2"]["Notes"], json!("why"));
    site.ok("PUT", "/v1/agent/service/maintenance/w2?enable=false", "").await;
    site.ok("PUT", "/v1/agent/maintenance?enable=true", "").await;
    assert_eq!(ask("/v1/agent/health/service/id/w2?format=text").await, (503, "maintenance".into()));
    let notes = site.json("/v1/agent/checks").await["_node_maintenance"]["Notes"].to_string();
    assert!(notes.contains("enabled for this node, but no reason was provided"), "{notes}");
    site.ok("PUT", "/v1/agent/maintenance?enable=false", "").await;
    assert_eq!(ask("/v1/agent/health/service/id/w2?format=text").await, (429, "warning".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_comes_and_goes_with_its_service() {
    let site = site().await;
    let body = r#"{"Name": "web", "Port": 80, "Tags": ["a"], "Check": {"TTL": "10m", "Status": "passing"},
        "connect": {"sidecar_service": {"proxy": {"upstreams": [{"destination_name": "db", "local_bind_port": 9191}]}}}}"#;
    site.ok("PUT", "/v1/agent/service/register", body).await;
    site.ok("PUT", "/v1/agent/service/register", r#"{"Name": "api", "Connect": {"SidecarService": {}}}"#).await;
    site.ok("PUT", "/v1/agent/service/register", body).await;
    let services = site.json("/v1/agent/services").await;
    let sidecar = &services["web-sidecar-proxy"];
    assert_eq!((&sidecar["Kind"], &sidecar["Port"]), (&json!("connect-proxy"), &json!(21000)));
    assert_eq!(services["api-sidecar-proxy"]["Port"], json!(21001));
    assert_eq!(sidecar["Proxy"]["DestinationServiceID"], json!("web"));
    assert_eq!(sidecar["Proxy"]["LocalServicePort"], json!(80));
    let checks = site.json("/v1/agent/checks").await;
    let of_sidecar: Vec<&Value> =
        checks.as_object().expect("a map").values().filter(|c| c["ServiceID"] == "web-sidecar-proxy").collect();
    assert_eq!(of_sidecar.len(), 2, "{checks}");
    assert!(of_sidecar.iter().any(|c| c["Type"] == "alias" && c["Status"] == "passing"), "{checks}");
    let facts = &site.server.facts;
    eventually("the servers know", || facts.service("web-sidecar-proxy").is_some()).await;
    site.ok("PUT", "/v1/agent/service/deregister/web", "").await;
    eventually("both are gone", || facts.service("web").is_none() && facts.service("web-sidecar-proxy").is_none())
        .await;
    assert_eq!(site.json("/v1/agent/services").await.as_object().expect("a map").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_it_is_and_whom_it_knows() {
    let site = site().await;
    let facts = &site.server.facts;
    let this = site.json("/v1/agent/self").await;
    assert_eq!((&this["Config"]["NodeName"], &this["Config"]["Datacenter"]), (&json!("n1"), &json!("dc1")));
    assert_eq!((&this["Config"]["Server"], &this["Member"]["Status"]), (&json!(false), &json!(1)));
    assert_eq!(this["Stats"]["session"]["server"], json!(site.server.address.to_string()));
    let nodes = json!([{"Node": "n1", "Address": "127.0.0.1", "Datacenter": "dc1"}, {"Node": "s1", "Address": "127.0.0.1"}, {"Node": "n2"}]);
    facts.answer("/v1/catalog/nodes", 200, &nodes.to_string());
    facts.answer(
        "/v1/health/state/critical",
        200,
        r#"[{"Node": "n2", "CheckID": "serfHealth", "Status": "critical"}]"#,
    );
    let members = site.client.members(false).await.expect("members");
    let rows: Vec<(&str, u8, &str)> =
        members.iter().map(|m| (m.name.as_str(), u8::from(m.status), m.tags["role"].as_str())).collect();
    assert_eq!(rows, [("n1", 1, "node"), ("s1", 1, "consul"), ("n2", 4, "node")]);
    assert_eq!(site.client.members(true).await.expect("members")[0].name, "s1.dc1");
    assert!(site.json("/v1/agent/metrics").await["Counters"].as_array().is_some_and(|c| c.len() > 5));
    let text = site.send("GET", "/v1/agent/metrics?format=prometheus", "").await.body;
    assert!(String::from_utf8_lossy(&text).contains("tribune_agent_sessions 1"));
    assert!(site.json("/v1/agent/host").await["Host"]["os"].is_string());
    assert_eq!(site.json("/v1/agent/version").await["HumanVersion"], json!("1.16.1"));
    site.ok("PUT", "/v1/agent/join/127.0.0.1:9", "").await;
    assert!(site.agent.servers().candidates().contains(&"127.0.0.1:9".to_string()));
    facts.answer("/v1/catalog/node/n2", 200, r#"{"Node": {"Node": "n2"}, "Services": {}}"#);
    facts.answer("/v1/catalog/deregister", 200, "true");
    site.ok("PUT", "/v1/agent/force-leave/n2", "").await;
    facts.answer("/v1/catalog/node/n3", 200, "null");
    let refusal = site.send("PUT", "/v1/agent/force-leave/n3", "").await;
    assert_eq!((refusal.status.as_u16(), &*refusal.body), (500, &b"agent: No node found with name 'n3'"[..]));
    site.ok("PUT", "/v1/agent/leave", "").await;
    site.agent.left().await;
    eventually("it said goodbye", || facts.leaves.load(SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_is_made_here_and_kept() {
    let site = site().await;
    site.ok("PUT", "/v1/agent/service/register", r#"{"Name": "web"}"#).await;
    eventually("the servers know", || site.server.facts.service("web").is_some()).await;
    let leaf = site.json("/v1/agent/connect/ca/leaf/web").await;
    assert!(leaf["PrivateKeyPEM"].as_str().is_some_and(|pem| pem.contains("PRIVATE KEY")));
    let uri = leaf["ServiceURI"].as_str().expect("a name").to_string();
    assert!(uri.ends_with("/ns/default/dc/dc1/svc/web"), "{uri}");
    assert_eq!(site.json("/v1/agent/connect/ca/leaf/web").await, leaf, "the second time from memory");
    let index = leaf["ModifyIndex"].as_u64().expect("an index");
    let waited = site.json(&format!("/v1/agent/connect/ca/leaf/web?index={index}&wait=50ms")).await;
    assert_eq!(waited, leaf);
    assert_eq!(site.send("GET", "/v1/agent/connect/ca/leaf/db", "").await.status, 403);
    site.server.facts.answer("/v1/connect/ca/roots?index=3", 200, "roots");
    assert_eq!(site.send("GET", "/v1/agent/connect/ca/roots?index=3", "").await.body, "roots");
    site.server.facts.answer("/v1/connect/intentions/check?source=web&destination=db", 200, r#"{"Allowed": true}"#);
    let ask = json!({"Target": "db", "ClientCertURI": uri, "ClientCertSerial": "1"}).to_string();
    let verdict = site.send("POST", "/v1/agent/connect/authorize", &ask).await;
    assert!(String::from_utf8_lossy(&verdict.body).starts_with(r#"{"Authorized":true,"#));
    let foreign = json!({"Target": "db", "ClientCertURI": "spiffe://x.consul/ns/default/dc/dc1/svc/web"}).to_string();
    let verdict = site.send("POST", "/v1/agent/connect/authorize", &foreign).await;
    assert!(String::from_utf8_lossy(&verdict.body).starts_with(r#"{"Authorized":false,"#));
    assert_eq!(site.send("POST", "/v1/agent/connect/authorize", "{}").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_goes_to_a_server() {
    let site = site().await;
    let reply = site.send("GET", "/v1/kv/a%20b?recurse", "").await;
    assert_eq!((&*reply.body, reply.index), (&b"GET /v1/kv/a%20b?recurse 0 bytes"[..], 7));
    let large = "x".repeat(3 << 20);
    assert_eq!(site.send("PUT", "/v1/kv/a", &large).await.body, "PUT /v1/kv/a 3145728 bytes");
    site.server.facts.answer("/v1/kv/none", 404, "");
    assert_eq!(site.send("GET", "/v1/kv/none", "").await.status, 404);
    site.server.kill().await;
    let reply =
        site.client.send(Method::GET, "/v1/kv/a", Bytes::new(), Duration::from_secs(30)).await.expect("an answer");
    assert_eq!(reply.status, 500);
    assert!(reply.body.starts_with(b"rpc error making call: "), "{:?}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_server_it_says_so() {
    let (pki, folder) = (Pki::new(), tempfile::tempdir().expect("a folder"));
    let agent = start(&pki, &folder, config(&[]));
    let client = serve(&agent).await;
    let error = client.leader().await.expect_err("refused");
    assert_eq!(error.to_string(), "No known Consul servers (status 500)");
    assert!(client.agent_services().await.expect("answers").is_empty(), "what is local is answered");
}
