//! What an operator is told when something is wrong, and that nothing was changed: real processes, real sockets, real folders.

mod support;

use nix::sys::signal::Signal;
use support::{Process, agent_args, block, client, server_args, until, writable};

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ip = format!("{}.1", block());
    for (port, setting) in [(8300, "ports.server"), (8500, "ports.http"), (8600, "ports.dns")] {
        let taken = std::net::TcpListener::bind((ip.as_str(), port)).expect("a free port");
        let mut process =
            Process::start(folder.path(), &format!("p{port}"), &server_args(folder.path(), "s1", &ip, 1, &[], &[]));
        assert!(!process.ended().success());
        let words = process.words();
        assert!(words.contains(&format!("{ip}:{port}")) && words.contains(setting), "{words}");
        drop(taken);
    }
}

#[test]
fn a_data_folder_without_rights_or_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let net = block();
    // A file where the folder should be: refused for every user, root too.
    std::fs::write(folder.path().join("s1"), "not a folder").expect("a file");
    let mut process =
        Process::start(folder.path(), "file", &server_args(folder.path(), "s1", &format!("{net}.1"), 1, &[], &[]));
    assert!(!process.ended().success());
    assert!(process.words().contains("data folder"), "{}", process.words());

    let first =
        Process::start(folder.path(), "first", &server_args(folder.path(), "s2", &format!("{net}.2"), 1, &[], &[]));
    tokio::runtime::Runtime::new().expect("a runtime").block_on(writable(&format!("{net}.2")));
    let mut second =
        Process::start(folder.path(), "second", &server_args(folder.path(), "s2", &format!("{net}.3"), 1, &[], &[]));
    assert!(!second.ended().success());
    assert!(second.words().contains("in use"), "{}", second.words());
    drop(first);
}

#[test]
fn a_data_folder_of_another_node_is_refused() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ip = format!("{}.1", block());
    let mut process = Process::start(folder.path(), "first", &server_args(folder.path(), "s1", &ip, 1, &[], &[]));
    tokio::runtime::Runtime::new().expect("a runtime").block_on(writable(&ip));
    process.kill();
    std::fs::rename(folder.path().join("s1"), folder.path().join("other")).expect("moved");
    let mut stranger = Process::start(folder.path(), "second", &server_args(folder.path(), "other", &ip, 1, &[], &[]));
    assert!(!stranger.ended().success());
    let words = stranger.words();
    assert!(words.contains("s1") && words.contains("other"), "{words}");
}

#[test]
fn without_a_data_folder_an_agent_says_what_to_give() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let mut process =
        Process::start(folder.path(), "none", &["agent".into(), "-server".into(), "-bootstrap-expect=1".into()]);
    assert!(!process.ended().success());
    assert!(process.words().contains("-data-dir"), "{}", process.words());
}

#[tokio::test]
async fn a_wrong_join_secret_is_told_and_keeps_the_node_out() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let net = block();
    let (server, agent) = (format!("{net}.1"), format!("{net}.2"));
    let good = "-encrypt=pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";
    let bad = "-encrypt=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let _server = Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &server, 1, &[], &[good]));
    writable(&server).await;
    let agent = Process::start(
        folder.path(),
        "a1",
        &agent_args(folder.path(), "a1", &agent, std::slice::from_ref(&server), &[bad]),
    );
    agent.says("encrypt");
    let nodes = client(&server).nodes("").await.expect("nodes");
    assert_eq!(nodes.len(), 1, "only the server itself");
}

#[test]
fn a_secret_that_is_none_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ip = format!("{}.1", block());
    let mut process =
        Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &ip, 1, &[], &["-encrypt=short"]));
    assert!(!process.ended().success());
    assert!(process.words().contains("tribune keygen"), "{}", process.words());
}

#[tokio::test]
async fn an_unknown_datacenter_has_consuls_error() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ip = format!("{}.1", block());
    let _server = Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &ip, 1, &[], &[]));
    writable(&ip).await;
    for path in ["/v1/catalog/nodes?dc=nowhere", "/v1/kv/x?dc=nowhere", "/v1/health/service/web?dc=nowhere"] {
        let error = client(&ip).get::<serde_json::Value>(path).await.expect_err(path).to_string();
        assert!(error.contains("No path to datacenter"), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_polite_stop_is_quick_and_clean() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ip = format!("{}.1", block());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &ip, 1, &[], &[]));
        writable(&ip).await;
        server.signal(signal);
        assert!(server.ended().success(), "{}", server.words());
    }
}

#[tokio::test]
async fn killed_agents_are_critical_and_frozen_ones_too() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let net = block();
    let server = format!("{net}.1");
    let _server = Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &server, 1, &[], &[]));
    writable(&server).await;
    let asked = client(&server);
    let asked = &asked;
    let status = |node: &'static str, want: &'static str| {
        until("the node's health", move || async move {
            let checks: serde_json::Value = asked.get(&format!("/v1/health/node/{node}")).await.ok()?.value;
            let serf = checks.as_array()?.iter().find(|c| c["CheckID"] == "serfHealth")?.clone();
            (serf["Status"] == want).then_some(serf)
        })
    };
    let join = std::slice::from_ref(&server);
    let mut killed =
        Process::start(folder.path(), "a1", &agent_args(folder.path(), "a1", &format!("{net}.2"), join, &[]));
    let frozen = Process::start(folder.path(), "a2", &agent_args(folder.path(), "a2", &format!("{net}.3"), join, &[]));
    assert_eq!(status("a1", "passing").await["Output"], "Agent alive and reachable");
    status("a2", "passing").await;
    killed.kill();
    assert_eq!(status("a1", "critical").await["Output"], "Agent not live or unreachable");
    frozen.signal(Signal::SIGSTOP);
    status("a2", "critical").await;
    frozen.signal(Signal::SIGCONT);
    status("a2", "passing").await;
}
