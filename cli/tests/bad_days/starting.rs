//! Nodes that cannot start or join, and how running ones end.

use crate::support::{Process, agent_args, block, client, server_args, writable};
use nix::sys::signal::Signal;

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
fn a_server_that_is_told_to_stop_while_it_starts_ends_well() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ip = format!("{}.1", block());
    for round in 0..5 {
        let args = server_args(folder.path(), "s1", &ip, 1, &[], &[]);
        let mut process = Process::start(folder.path(), &format!("p{round}"), &args);
        process.says("server started");
        process.signal(Signal::SIGTERM);
        let status = process.ended();
        assert!(status.success(), "{status}: {}", process.words());
    }
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

#[test]
fn a_configuration_that_means_nothing_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let cases = [
        ("typo.hcl", "datacentre = \"dc1\"", "did you mean \"datacenter\""),
        ("nested.json", r#"{"ports": {"htttp": 1}}"#, "did you mean \"ports.http\""),
        ("type.json", r#"{"bootstrap_expect": "three"}"#, "bootstrap_expect"),
        ("broken.json", r#"{"server": true"#, "not valid JSON"),
        ("broken.hcl", "server = = true", "not valid HCL"),
        ("acl.hcl", "acl { enabled = true }", "not supported"),
        ("notes.txt", "hello", ".json or .hcl"),
    ];
    for (name, text, hint) in cases {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        let args = [
            "agent".to_string(),
            format!("-config-file={}", file.display()),
            format!("-data-dir={}/data", folder.path().display()),
        ];
        let mut process = Process::start(folder.path(), name, &args);
        assert!(!process.ended().success(), "{name}");
        assert!(process.words().contains(hint), "{name}: {}", process.words());
        assert!(!folder.path().join("data").exists(), "{name}: nothing was made");
    }
}
