//! Tests of reading user JSON.

use super::*;
use model::config_entry::{ConfigEntry, ServiceDefaults};
use model::{Check, CheckDefinition, GoDuration, Intention, Node, ServiceInstance};
use proptest::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// The text with keys of structs changed at random: case turned, underscores put in.
fn scramble(value: Value, coins: &mut dyn FnMut() -> bool, maps: &[&str]) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(|v| scramble(v, coins, maps)).collect()),
        Value::Object(map) => {
            let entries = map.into_iter().map(|(key, value)| {
                let value = if maps.contains(&key.as_str()) { value } else { scramble(value, coins, maps) };
                (scramble_key(&key, coins), value)
            });
            Value::Object(entries.collect())
        }
        scalar => scalar,
    }
}

fn scramble_key(key: &str, coins: &mut dyn FnMut() -> bool) -> String {
    let mut out = String::new();
    for (at, c) in key.chars().enumerate() {
        if at > 0 && coins() && coins() {
            out.push('_');
        }
        out.push(if coins() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() });
    }
    out
}

/// Maps whose keys are the user's.
const MAPS: [&str; 4] = ["Meta", "Config", "TaggedAddresses", "Header"];

fn reads_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(noun: &T, seed: u64) {
    let mut state = seed | 1;
    let mut coins = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & 1 == 1
    };
    let text = scramble(serde_json::to_value(noun).expect("writes"), &mut coins, &MAPS);
    let bytes = serde_json::to_vec(&text).expect("writes");
    assert_eq!(&from_slice::<T>(&bytes).unwrap_or_else(|e| panic!("{e} in {text}")), noun);
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z_é.-]{0,8}"
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(name(), name(), 0..4)
}

fn node() -> impl Strategy<Value = Node> {
    (name(), name(), labels(), labels()).prop_map(|(name, address, tagged_addresses, meta)| Node {
        name,
        address,
        tagged_addresses,
        meta,
        ..Node::default()
    })
}

fn instance() -> impl Strategy<Value = ServiceInstance> {
    let config = proptest::collection::btree_map(name(), (0..9u8).prop_map(|n| serde_json::json!({"A_b": n})), 0..3);
    (name(), name(), any::<u16>(), any::<bool>(), labels(), proptest::collection::vec(name(), 0..3), config).prop_map(
        |(id, service, port, yes, meta, tags, config)| {
            let mut instance =
                ServiceInstance { id, service, port, meta, tags, enable_tag_override: yes, ..Default::default() };
            instance.proxy.config = config;
            instance.connect.native = yes;
            instance.weights.warning = port;
            instance
        },
    )
}

fn check() -> impl Strategy<Value = Check> {
    (name(), name(), any::<u32>(), any::<bool>(), labels()).prop_map(|(id, http, ms, yes, header)| Check {
        check_id: id.clone(),
        service_id: id,
        definition: CheckDefinition {
            http,
            tls_skip_verify: yes,
            grpc_use_tls: yes,
            header: header.into_iter().map(|(k, v)| (k, vec![v])).collect(),
            interval: GoDuration(std::time::Duration::from_millis(ms.into())),
            deregister_critical_service_after: GoDuration::from_secs(ms.into()),
            ..Default::default()
        },
        ..Check::default()
    })
}

proptest! {
    #[test]
    fn any_noun_reads_back_equal(node in node(), instance in instance(), check in check(), words in name(), seed: u64) {
        reads_back(&node, seed);
        reads_back(&instance, seed);
        reads_back(&check, seed);
        reads_back(&Intention { source_name: words.clone(), destination_name: words.clone(), ..Intention::default() }, seed);
        reads_back(&ServiceDefaults { name: words, ..ServiceDefaults::default() }, seed);
    }

    #[test]
    fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}\":,0-9a-zN_. -]{0,64}") {
        drop(from_slice::<ServiceInstance>(&bytes));
        drop(from_slice::<ServiceInstance>(text.as_bytes()));
        drop(from_slice_weak::<Check>(text.as_bytes()));
    }
}

#[test]
fn null_means_not_given() {
    let instance: ServiceInstance = from_slice(
        br#"{"ID": null, "Service": "web", "Tags": null, "Port": null, "Meta": null, "Weights": null, "Proxy": {"Upstreams": null}, "Locality": null}"#,
    )
    .expect("reads");
    assert_eq!(instance, ServiceInstance { service: "web".into(), ..ServiceInstance::default() });
    assert_eq!(from_slice::<Node>(b"null").expect("reads"), Node::default());
    assert_eq!(from_slice::<Vec<Node>>(b"[null]").expect("reads"), [Node::default()]);
    let meta: BTreeMap<String, String> = from_slice(br#"{"a": null}"#).expect("reads");
    assert_eq!(meta["a"], "");
}

#[test]
fn the_exact_key_wins_and_unknown_keys_are_ignored() {
    let node: Node = from_slice(br#"{"node": "a", "Node": "b", "NODE": "c", "Nope": {"x": [1]}}"#).expect("reads");
    assert_eq!(node.name, "b");
    let node: Node = from_slice(br#"{"NODE": "c", "node": "a"}"#).expect("reads");
    assert!(node.name == "a" || node.name == "c");
}

#[test]
fn keys_of_maps_are_left_alone() {
    let node: Node = from_slice(br#"{"meta": {"Rack_No": "1", "rack_no": "2"}}"#).expect("reads");
    assert_eq!(node.meta.len(), 2);
    let instance: ServiceInstance = from_slice(br#"{"proxy": {"config": {"local_x": {"Y_z": 1}}}}"#).expect("reads");
    assert_eq!(instance.proxy.config["local_x"], serde_json::json!({"Y_z": 1}));
}

#[test]
fn mistakes_say_where_they_are() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "Request decode failed: EOF"),
        (b"  \n", "Request decode failed: EOF"),
        (b"{", "Request decode failed: EOF while parsing an object at line 1 column 1"),
        (br#"{"Port": "80"}"#, "Request decode failed: Port: invalid type: string \"80\", expected u16"),
        (br#"{"Port": 70000}"#, "Request decode failed: Port: invalid value: integer `70000`, expected u16"),
        (
            br#"{"weights": {"passing": -1}}"#,
            "Request decode failed: Weights.Passing: invalid value: integer `-1`, expected u16",
        ),
        (b"[]", "Request decode failed: invalid type: sequence, expected struct ServiceInstance"),
    ];
    for (text, message) in cases {
        let error = from_slice::<ServiceInstance>(text).expect_err(message);
        assert_eq!(error.to_string(), message);
        assert_eq!(crate::Error::from(error).status, 400);
    }
    assert!(
        from_slice::<Check>(br#"{"Definition": {"Interval": "x"}}"#)
            .expect_err("no duration")
            .reason
            .starts_with("Definition.Interval: ")
    );
    assert!(from_slice::<Node>(br#"{"Node": 5}"#).is_err());
}

#[test]
fn nesting_is_limited() {
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    assert!(from_slice::<Value>(&deep).is_err());
}

#[test]
fn durations_are_text_or_nanoseconds() {
    for text in [r#"{"interval": "10s"}"#, r#"{"Interval": 10000000000}"#] {
        let definition: CheckDefinition = from_slice(text.as_bytes()).expect(text);
        assert_eq!(definition.interval, GoDuration::from_secs(10));
    }
}

#[test]
fn config_entries_are_lenient() {
    let text = br#"{"name": 5, "max_inbound_connections": "7", "local_connect_timeout_ms": 8}"#;
    let entry: ServiceDefaults = from_slice_weak(text).expect("reads");
    assert_eq!((entry.name.as_str(), entry.max_inbound_connections, entry.local_connect_timeout_ms), ("5", 7, 8));
    assert!(from_slice::<ServiceDefaults>(text).is_err());
    let entry: ConfigEntry =
        from_slice(br#"{"Kind": "service-defaults", "Name": "web", "Protocol": "http"}"#).expect("reads");
    assert_eq!(entry.name(), "web");
}

#[test]
fn enums_with_content_are_read() {
    #[derive(serde::Deserialize, PartialEq, Debug)]
    enum Shape {
        Point,
        Circle(u32),
        Line { from_x: u32 },
    }
    let shapes: Vec<Shape> = from_slice(br#"["Point", {"Circle": 3}, {"Line": {"FromX": 1}}]"#).expect("reads");
    assert_eq!(shapes, [Shape::Point, Shape::Circle(3), Shape::Line { from_x: 1 }]);
    assert!(from_slice::<Shape>(br#"{"Circle": 1, "Point": 1}"#).is_err());
}

#[test]
fn find_ignores_case_too() {
    let Value::Object(object) = serde_json::json!({"kind": 1, "Name": 2, "name": 3}) else { panic!("an object") };
    assert_eq!(find(&object, "Kind"), Some(&Value::from(1)));
    assert_eq!(find(&object, "Name"), Some(&Value::from(2)));
    assert_eq!(find(&object, "None"), None);
}

#[test]
fn replies_are_written_compact_or_pretty() {
    let value = serde_json::json!({"a": [1]});
    assert_eq!(to_bytes(&value, false), "{\"a\":[1]}");
    assert_eq!(to_bytes(&value, true), "{\n    \"a\": [\n        1\n    ]\n}\n");
}
