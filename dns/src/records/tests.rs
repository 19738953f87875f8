//! What is kept of the catalog's records, and how it is spelled.

use super::*;

fn record(node: &str, node_address: &str, service_address: &str, status: CheckStatus) -> EndpointRecord {
    EndpointRecord {
        node: node.into(),
        node_address: node_address.into(),
        node_meta: Meta::new(),
        service_address: service_address.into(),
        port: 80,
        weights: Weights { passing: 5, warning: 2 },
        status,
    }
}

#[test]
fn passing_instances_come_first_and_critical_ones_not_at_all() {
    let records = [
        record("n1", "10.0.0.1", "", CheckStatus::Critical),
        record("n2", "10.0.0.2", "", CheckStatus::Warning),
        record("n3", "10.0.0.3", "", CheckStatus::Passing),
        // The same address once more: the passing one counts.
        record("n4", "10.0.0.3", "", CheckStatus::Warning),
    ];
    let endpoints = Endpoints::new("dc1", &records);
    assert_eq!(endpoints.v4.healthy(false), [[10, 0, 0, 3], [10, 0, 0, 2]]);
    assert_eq!(endpoints.v4.healthy(true), [[10, 0, 0, 3]]);
    assert_eq!(endpoints.len(), 3);
    assert_eq!(endpoints.targets.healthy(true).len(), 1);
    assert_eq!(endpoints.targets.healthy(true)[0].srv[..SRV_FIXED_BYTES], [0, 1, 0, 5, 0, 80]);
    assert!(Endpoints::new("dc1", &records[..1]).is_empty());
}

#[test]
fn a_duplicate_among_the_passing_shortens_the_passing() {
    let records = [
        record("n1", "10.0.0.1", "", CheckStatus::Passing),
        record("n1", "10.0.0.1", "", CheckStatus::Passing),
        record("n2", "10.0.0.2", "", CheckStatus::Warning),
    ];
    let endpoints = Endpoints::new("dc1", &records);
    assert_eq!(endpoints.v4.healthy(true), [[10, 0, 0, 1]]);
    assert_eq!(endpoints.targets.healthy(true).len(), 1);
    assert_eq!(endpoints.len(), 2);
}

#[test]
fn targets_are_named_by_node_by_address_or_by_host() {
    let long = "x".repeat(64);
    let cases: [(&str, &str, &[u8]); 5] = [
        ("n1", "", b"\x02n1\x04node\x03dc1"),
        ("n1", "172.16.0.9", b"\x08ac100009\x04addr\x03dc1"),
        ("n1", "2001:db8::1", b"\x2020010db8000000000000000000000001\x04addr\x03dc1"),
        ("n1", "www.example.com.", b"\x03www\x07example\x03com"),
        // No DNS name can be made of this node: its address stands for it.
        (&long, "", b"\x080a000001\x04addr\x03dc1"),
    ];
    for (node, service_address, expected) in cases {
        let endpoints = Endpoints::new("dc1", &[record(node, "10.0.0.1", service_address, CheckStatus::Passing)]);
        assert_eq!(endpoints.targets.healthy(true)[0].name(), expected, "{node} {service_address}");
    }
    let nowhere = Endpoints::new("dc1", &[record("n1", "", "", CheckStatus::Passing)]);
    assert!(nowhere.is_empty(), "an instance without an address cannot be told");
}

#[test]
fn labels_have_limits() {
    assert_eq!(encode_labels(&["a.b"]).as_deref(), Some(b"\x01a\x01b".as_slice()));
    assert!(encode_labels(&["a..b"]).is_none());
    assert!(encode_labels(&[""]).is_none());
    assert!(encode_labels(&[&"x".repeat(63)]).is_some());
    assert!(encode_labels(&[&"x".repeat(64)]).is_none());
    assert!(encode_labels(&[&["x"; 100].join(".")]).is_some());
    assert!(encode_labels(&[&["x"; 101].join(".")]).is_none());
}

#[test]
fn metadata_is_quoted_as_rfc_1464_says() {
    let cases = [
        ("color", "blue", "color=blue"),
        ("equation;a=4", "true", "equation;a`=4=true"),
        ("a`b", "", "a``b="),
        (" edge ", "x=y", "` edge` =x=y"),
        ("rfc1035-a=b", "only this", "only this"),
        ("  ", "v", "` ` =v"),
    ];
    for (key, value, expected) in cases {
        let data = encode_meta(&Meta::from([(key.to_string(), value.to_string())]));
        let mut wanted = vec![u8::try_from(expected.len()).expect("short")];
        wanted.extend_from_slice(expected.as_bytes());
        assert_eq!(*data[0], wanted[..], "{key:?}");
    }
}

#[test]
fn long_text_is_cut_into_strings_and_no_text_is_an_empty_string() {
    let data = encode_text(&[b'x'; 300]);
    assert_eq!((data.len(), data[0], data[256]), (302, 255, 45));
    assert_eq!(*encode_text(b""), [0]);
    assert_eq!(encode_text(&[b'x'; 255]).len(), 256);
}
