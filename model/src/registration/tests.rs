//! Registrations as users send them.

use super::*;
use crate::agent_check::CheckKind;

fn registration(json: &str) -> AgentServiceRegistration {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

#[test]
fn what_cannot_be_kept_is_refused_in_consuls_words() {
    let sidecar = |rest: &str| format!(r#"{{"Name": "p", "Kind": "connect-proxy", {rest}}}"#);
    let upstreams = |list: &str| {
        sidecar(&format!(r#""Port": 1, "Proxy": {{"DestinationServiceName": "web", "Upstreams": {list}}}"#))
    };
    let cases = [
        (r#"{"Name": "web"}"#.to_string(), ""),
        (r#"{"ID": "x"}"#.to_string(), "Missing service name"),
        (
            r#"{"Name": "a\u0000"}"#.to_string(),
            "service name \"a\\0\" has a character that is not allowed: use letters, digits, '-', '_' and '.'",
        ),
        (
            r#"{"Name": "web", "Weights": {"Passing": 0}}"#.to_string(),
            "Invalid Weights: Passing must be greater than 0",
        ),
        (
            r#"{"Name": "web", "Meta": {"": ""}}"#.to_string(),
            "Invalid Service Meta: Couldn't load metadata pair ('', ''): Key cannot be blank",
        ),
        (sidecar(r#""Port": 1"#), "Proxy.DestinationServiceName must be non-empty for Connect proxy services"),
        (
            sidecar(r#""Proxy": {"DestinationServiceName": "web"}"#),
            "Port or SocketPath must be set for a Connect proxy",
        ),
        (
            sidecar(r#""Port": 1, "Proxy": {"DestinationServiceName": "web"}, "Connect": {"Native": true}"#),
            "A Proxy cannot also be Connect Native, only typical services",
        ),
        (upstreams(r#"[{"DestinationName": "db", "LocalBindPort": 1}]"#), ""),
        (upstreams(r#"[{"LocalBindPort": 1}]"#), "upstream destination name cannot be empty"),
        (
            upstreams(r#"[{"DestinationName": "db"}]"#),
            "upstream local bind port or local socket path must be defined and nonzero",
        ),
        (
            upstreams(
                r#"[{"DestinationName": "db", "LocalBindPort": 1}, {"DestinationName": "x", "LocalBindPort": 1}]"#,
            ),
            "upstreams cannot contain duplicates of local bind address 127.0.0.1:1",
        ),
        (
            r#"{"Name": "web", "Connect": {"SidecarService": {"Connect": {"SidecarService": {}}}}}"#.to_string(),
            "Invalid SidecarService: a sidecar cannot itself have a sidecar",
        ),
        (
            r#"{"Name": "web", "Check": {"HTTP": "x"}}"#.to_string(),
            "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
        ),
    ];
    for (json, problem) in cases {
        let outcome = registration(&json).validate().err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(outcome, problem, "{json}");
    }
}

#[test]
fn a_sidecar_is_filled_from_its_application() {
    let web = registration(
        r#"{"ID": "web-1", "Name": "web", "Port": 8080, "Address": "10.0.0.5", "Tags": ["v1"], "Meta": {"a": "b"},
            "Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "db", "LocalBindPort": 9191}]}}}}"#,
    );
    assert_eq!(web.validate(), Ok(()));
    let sidecar = web.sidecar(21000).expect("has one");
    assert_eq!(sidecar.validate(), Ok(()));
    let instance = sidecar.instance();
    assert_eq!((instance.id.as_str(), instance.service.as_str()), ("web-1-sidecar-proxy", "web-sidecar-proxy"));
    assert_eq!(
        (instance.kind, instance.port, instance.address.as_str()),
        (ServiceKind::ConnectProxy, 21000, "10.0.0.5")
    );
    assert_eq!((instance.tags, instance.meta), (web.tags.clone(), web.meta));
    assert_eq!(instance.proxy.destination_service_name, "web");
    assert_eq!(instance.proxy.destination_service_id, "web-1");
    assert_eq!((instance.proxy.local_service_address.as_str(), instance.proxy.local_service_port), ("127.0.0.1", 8080));
    assert_eq!(instance.proxy.upstreams[0].destination_name, "db");
    let checks = sidecar.all_checks();
    assert_eq!(checks.iter().map(AgentCheck::kind).collect::<Vec<_>>(), [CheckKind::Tcp, CheckKind::Alias]);
    assert_eq!(checks[0].tcp, "10.0.0.5:21000");
    assert_eq!(checks[0].check_id, "service:web-1-sidecar-proxy:1");
    assert_eq!(registration(r#"{"Name": "web"}"#).sidecar(1), None);
}

#[test]
fn what_a_sidecar_says_itself_stands() {
    let web = registration(
        r#"{"Name": "web", "Port": 8080, "Tags": ["v1"], "Connect": {"SidecarService":
            {"Name": "edge", "Port": 2, "Tags": ["own"], "Check": {"TTL": "1s"}, "Proxy": {"LocalServicePort": 9}}}}"#,
    );
    let sidecar = web.sidecar(21000).expect("has one");
    assert_eq!(
        (sidecar.name.as_str(), sidecar.port, sidecar.tags.as_slice()),
        ("edge", 2, ["own".to_string()].as_slice())
    );
    assert_eq!(sidecar.proxy.local_service_port, 9);
    assert_eq!(sidecar.all_checks().len(), 1);
}

#[test]
fn ids_default_to_names_and_checks_are_numbered() {
    let web = registration(
        r#"{"Name": "web", "Check": {"TTL": "1s"}, "Checks": [{"TTL": "2s"}, {"CheckID": "own", "TTL": "3s"}]}"#,
    );
    assert_eq!(web.instance().id, "web");
    assert_eq!(web.instance().weights, Weights::default());
    let ids: Vec<String> = web.all_checks().into_iter().map(|check| check.check_id).collect();
    assert_eq!(ids, ["service:web:1", "service:web:2", "own"]);
}
