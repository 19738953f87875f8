//! Proxies that go by files, without servers.

use crate::apps::{App, get};
use crate::kit::{Agent, mesh_address, upstream_address, within};
use identity::LeafName;
use model::ProxyConfig;
use model::config_entry::Protocol;
use model::intention::Action;
use proxy::{ConfigSource, Handle, Options, Sidecar};
use std::path::{Path, PathBuf};

/// Writes what a proxy needs: its configuration, its certificate and key, and the root.
fn write(dir: &Path, agent: &Agent, config: &ProxyConfig) -> PathBuf {
    let name = LeafName::service(&config.trust_domain, &config.datacenter, &config.service).expect("a name");
    let leaf = agent.leaf(&name);
    let file = |what: &str| dir.join(format!("{}.{what}", config.service));
    std::fs::write(file("pem"), &leaf.cert_chain_pem).expect("write");
    std::fs::write(file("key"), leaf.key_pem.as_bytes()).expect("write");
    std::fs::write(dir.join("ca.pem"), agent.root()).expect("write");
    let mut json = serde_json::to_value(config).expect("json");
    json["Roots"] = serde_json::json!([]);
    json["CertFile"] = serde_json::json!(format!("{}.pem", config.service));
    json["KeyFile"] = serde_json::json!(format!("{}.key", config.service));
    json["RootFiles"] = serde_json::json!(["ca.pem"]);
    std::fs::write(file("json"), serde_json::to_vec_pretty(&json).expect("json")).expect("write");
    file("json")
}

async fn start(path: PathBuf) -> Handle {
    let handle = Sidecar::start(Options { source: ConfigSource::File(path) });
    within("ready", handle.ready()).await.expect("ready");
    handle
}

#[tokio::test]
async fn a_pair_goes_by_files_and_by_their_changes() {
    let (agent, app, dir) = (Agent::start(), App::http().await, tempfile::tempdir().expect("folder"));
    let mut server_config = agent.server("web", "dc1", Protocol::Http, app.address);
    let server = start(write(dir.path(), &agent, &server_config)).await;
    let client_config = agent.client("api", "web", "dc1", Protocol::Http, &[mesh_address(&server)]);
    let client = start(write(dir.path(), &agent, &client_config)).await;
    let at = upstream_address(&client, "web");
    assert_eq!(get(at, "/name").await, (200, "app".into()));
    server_config.inbound.as_mut().expect("inbound").default_action = Action::Deny;
    let path = write(dir.path(), &agent, &server_config);
    within("the change is seen", async {
        while get(at, "/name").await.0 != 403 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    // A file that is wrong changes nothing, and is told.
    std::fs::write(path, "{").expect("write");
    within("the mistake is told", async {
        while server.problem().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(get(at, "/name").await.0, 403);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_an_error_at_once() {
    let handle = Sidecar::start(Options { source: ConfigSource::File("/nowhere/proxy.json".into()) });
    let error = within("an error", handle.ready()).await.expect_err("no file").to_string();
    assert!(error.starts_with("cannot read /nowhere/proxy.json: "), "{error}");
}
