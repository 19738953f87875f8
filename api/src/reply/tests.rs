//! Tests of the shapes of replies.

use super::*;
use crate::json::to_bytes;
use expect_test::expect;
use model::CheckStatus;
use model::config_entry::{ConfigEntry, ServiceDefaults};

fn text<T: Serialize>(value: &T) -> String {
    String::from_utf8(to_bytes(value, false).to_vec()).expect("text")
}

fn node() -> Node {
    Node { id: "u".into(), name: "n1".into(), address: "10.0.0.1".into(), datacenter: "dc1".into(), ..Node::default() }
}

fn service() -> ServiceInstance {
    ServiceInstance { id: "web-1".into(), service: "web".into(), port: 80, ..ServiceInstance::default() }
}

#[test]
fn a_noun_with_indexes_is_flat() {
    expect![[r#"{"ID":"u","Node":"n1","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":{},"Meta":{},"CreateIndex":3,"ModifyIndex":4}"#]]
        .assert_eq(&text(&Indexed::new(&node(), 3, 4)));
    let entry = ConfigEntry::ServiceDefaults(ServiceDefaults { name: "web".into(), ..ServiceDefaults::default() });
    let written = text(&Indexed::new(&entry, 1, 2));
    assert!(written.contains(r#""Kind":"service-defaults""#) && written.contains(r#""Name":"web""#), "{written}");
    assert!(written.ends_with(r#""CreateIndex":1,"ModifyIndex":2}"#), "{written}");
}

#[test]
fn a_catalog_row_has_consuls_names() {
    let (node, service) = (node(), service());
    let row: serde_json::Value =
        serde_json::from_str(&text(&CatalogService::new(&node, &service, 3, 4))).expect("JSON");
    for name in [
        "ID",
        "Node",
        "Address",
        "Datacenter",
        "TaggedAddresses",
        "NodeMeta",
        "ServiceKind",
        "ServiceID",
        "ServiceName",
        "ServiceTags",
        "ServiceAddress",
        "ServiceWeights",
        "ServiceMeta",
        "ServicePort",
        "ServiceSocketPath",
        "ServiceEnableTagOverride",
        "ServiceProxy",
        "ServiceConnect",
        "CreateIndex",
        "ModifyIndex",
    ] {
        assert!(row.get(name).is_some(), "{name} is missing in {row}");
    }
    assert_eq!(row["ServiceTags"], serde_json::json!([]));
    assert_eq!(row["ServiceWeights"], serde_json::json!({"Passing": 1, "Warning": 1}));
    let read: crate::client::CatalogServiceRow = serde_json::from_value(row).expect("reads");
    assert_eq!((read.service_id.as_str(), read.service_port, read.modify_index), ("web-1", 80, 4));
}

#[test]
fn an_entry_of_health_is_three_things() {
    let (node, service) = (node(), service());
    let check = Check { check_id: "c".into(), status: CheckStatus::Passing, ..Check::default() };
    let entry = ServiceEntryRef {
        node: Indexed::new(&node, 1, 1),
        service: Indexed::new(&service, 2, 2),
        checks: vec![Indexed::new(&check, 3, 3)],
    };
    let read: ServiceEntryOwned = serde_json::from_str(&text(&entry)).expect("reads");
    assert_eq!((&read.node.noun, &read.service.noun, &read.checks[0].noun), (&node, &service, &check));
    assert_eq!(read.checks[0].modify_index, 3);
}

#[test]
fn a_value_is_base64_or_null() {
    let mut entry = KvEntry { key: "a/b".into(), value: "hi".into(), flags: 42, ..KvEntry::default() };
    expect![[r#"{"LockIndex":0,"Key":"a/b","Flags":42,"Value":"aGk=","CreateIndex":1,"ModifyIndex":2}"#]]
        .assert_eq(&text(&KvPair::new(&entry, 1, 2)));
    entry.value = Bytes::new();
    entry.session = Some("s".into());
    expect![[r#"{"LockIndex":0,"Key":"a/b","Flags":42,"Value":null,"Session":"s","CreateIndex":1,"ModifyIndex":2}"#]]
        .assert_eq(&text(&KvPair::new(&entry, 1, 2)));
}

#[test]
fn lists_and_maps_are_written_while_they_are_walked() {
    let names = ["a", "b"];
    assert_eq!(text(&List(names.iter())), r#"["a","b"]"#);
    assert_eq!(text(&List(names.iter().filter(|n| n.len() > 1))), "[]");
    assert_eq!(text(&Map(names.iter().map(|n| (n, 1)))), r#"{"a":1,"b":1}"#);
}

#[test]
fn members_and_roots() {
    let member = Member::new("n1", "10.0.0.1", 8300, BTreeMap::new(), MemberStatus::Failed);
    expect![[r#"{"Name":"n1","Addr":"10.0.0.1","Port":8300,"Tags":{},"Status":4,"ProtocolMin":1,"ProtocolMax":5,"ProtocolCur":2,"DelegateMin":2,"DelegateMax":5,"DelegateCur":4}"#]]
        .assert_eq(&text(&member));
    assert_eq!(serde_json::from_str::<Member>(&text(&member)).expect("reads"), member);
    assert!(serde_json::from_str::<MemberStatus>("9").is_err());
    let root = CaRoot { id: "aa:bb".into(), active: true, ..CaRoot::default() };
    let roots = CaRoots {
        active_root_id: "aa:bb".into(),
        trust_domain: "x.consul".into(),
        roots: vec![Indexed::new(&root, 1, 1)],
    };
    let written = text(&roots);
    assert!(
        written.starts_with(r#"{"ActiveRootID":"aa:bb","TrustDomain":"x.consul","Roots":[{"ID":"aa:bb","#),
        "{written}"
    );
    let read: CaRoots = serde_json::from_str(&written).expect("reads");
    assert_eq!(read.roots[0].noun, root);
}
