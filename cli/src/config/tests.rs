//! Configuration as operators write it: good files, bad files, and what they are told.

use super::file::object_of;
use super::{Source, load};
use serde_json::json;

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> Source {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("a scratch file");
    Source::File(path)
}

#[test]
fn hcl_and_json_say_the_same() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let hcl = file(
        &dir,
        "a.hcl",
        "server = true\nbootstrap_expect = 3\nports { http = 9500 }\nretry_join = [\"10.0.0.1\"]\nservice { name = \"web\" port = 80 }\n",
    );
    let hcl_split = "server = true\nbootstrap_expect = 3\nports {\n http = 9500\n}\nretry_join = [\"10.0.0.1\"]\nservice {\n name = \"web\"\n port = 80\n}\n";
    let hcl = match load(&[hcl]) {
        Ok(loaded) => loaded,
        Err(_) => load(&[file(&dir, "b.hcl", hcl_split)]).expect("valid HCL"),
    };
    let json = json!({"server": true, "bootstrap_expect": 3, "ports": {"http": 9500}, "retry_join": ["10.0.0.1"], "service": {"name": "web", "port": 80}});
    let json = load(&[file(&dir, "a.json", &json.to_string())]).expect("valid JSON");
    for settings in [&hcl.settings, &json.settings] {
        assert!(settings.server);
        assert_eq!(settings.bootstrap_expect, 3);
        assert_eq!(settings.ports.http, 9500);
        assert_eq!(settings.retry_join, ["10.0.0.1"]);
        assert_eq!(settings.service[0]["name"], "web");
    }
}

#[test]
fn later_sources_win_and_lists_are_joined() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    file(&dir, "2.json", r#"{"datacenter": "b", "retry_join": ["2"]}"#);
    file(&dir, "1.json", r#"{"datacenter": "a", "retry_join": ["1"], "node_name": "n"}"#);
    file(&dir, "notes.txt", "not read");
    let flags = object_of([("retry_join", json!(["3"])), ("ports.http", json!(1234))]);
    let loaded = load(&[Source::Dir(dir.path().into()), Source::Flags(flags)]).expect("valid");
    assert_eq!(loaded.settings.datacenter, "b");
    assert_eq!(loaded.settings.node_name.as_deref(), Some("n"));
    assert_eq!(loaded.settings.retry_join, ["1", "2", "3"]);
    assert_eq!(loaded.settings.ports.http, 1234);
}

#[test]
fn keys_without_use_are_named_and_do_nothing() {
    let flags = json!({"performance": {"raft_multiplier": 1}, "disable_update_check": true, "limits": {"http_max_conns_per_client": 19000}});
    let loaded = load(&[Source::Flags(flags)]).expect("valid");
    assert_eq!(loaded.settings.limits.http_max_conns_per_client, 19_000);
    assert_eq!(loaded.ignored.len(), 2);
    assert!(loaded.ignored[1].starts_with("performance.raft_multiplier"), "{:?}", loaded.ignored);
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    let cases = [
        (json!({"datacentre": "x"}), "unknown key \"datacentre\": did you mean \"datacenter\"?"),
        (json!({"ports": {"htttp": 1}}), "unknown key \"ports.htttp\": did you mean \"ports.http\"?"),
        (json!({"ports": {"http": "x"}}), "ports.http: invalid type: string \"x\", expected i32"),
        (json!({"ports": 5}), "ports: must be an object"),
        (json!({"bootstrap_expect": 3}), "needs a server"),
        (json!({"raft_snapshot_threshold": 0}), "raft_snapshot_threshold"),
        (json!({"acl": {"enabled": true}}), "not supported yet"),
        (json!({"acl": {"default_policy": "deny"}}), "not supported yet"),
        (json!({"datacenter": "a.b"}), "not allowed"),
        (json!({"server": true, "bootstrap": true, "bootstrap_expect": 3}), "exclude each other"),
        (json!({"check_update_interval": "5 minutes"}), "invalid duration"),
        (json!({"session_ttl_min": "25h"}), "more than 24h"),
        (json!({"session_ttl_min": "-1s"}), "session_ttl_min: invalid duration"),
    ];
    for (given, want) in cases {
        let error = load(&[Source::Flags(given.clone())]).expect_err(&given.to_string()).to_string();
        assert!(error.contains(want), "{given}: {error}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let cases = [
        (Source::File(dir.path().join("none.json")), "cannot read"),
        (file(&dir, "bad.json", "{"), "is not valid JSON"),
        (file(&dir, "bad.hcl", "a = = 1"), "is not valid HCL"),
        (file(&dir, "x.yaml", "a: 1"), "must end in .json or .hcl"),
    ];
    for (source, want) in cases {
        let error = load(std::slice::from_ref(&source)).expect_err(want).to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn addresses_follow_bind_and_client() {
    let flags =
        json!({"bind_addr": "127.20.1.1", "client_addr": "127.20.1.2", "node_name": "s1", "ports": {"dns": -1}});
    let node = load(&[Source::Flags(flags)]).expect("valid").settings.node().expect("addresses");
    assert_eq!(node.rpc.to_string(), "127.20.1.1:8300");
    assert_eq!(node.advertise.to_string(), "127.20.1.1");
    assert_eq!(node.http.expect("on").to_string(), "127.20.1.2:8500");
    assert_eq!(node.dns, None);
    for (key, value) in [("bind_addr", "nowhere"), ("node_name", "a/b")] {
        let bad = load(&[Source::Flags(json!({key: value}))]).expect("syntax is fine").settings.node();
        assert!(bad.expect_err(value).to_string().contains(key));
    }
}
