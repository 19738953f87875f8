//! Nouns that break their own rules are not kept, whoever sent them; nothing changes.

use crate::language::{catalog_after, command};
use catalog::{Command, ItemKind, Registration, Response, SyncPush};
use model::config_entry::{ConfigEntry, ProxyDefaults};
use model::limits::{CHECK_OUTPUT_BYTES_MAX, META_PAIRS_MAX, TAGS_MAX};
use model::{Check, Intention, Meta, Node, ServiceInstance};

const BASE: &str = "
    node n1 address=10.0.0.1
    service n1 web1 web
";

fn too_much_meta() -> Meta {
    (0..=META_PAIRS_MAX).map(|n| (n.to_string(), String::new())).collect()
}

fn node(name: &str) -> Node {
    Node { name: name.into(), address: "10.0.0.1".into(), ..Node::default() }
}

fn service(id: &str, name: &str) -> ServiceInstance {
    ServiceInstance { id: id.into(), service: name.into(), ..ServiceInstance::default() }
}

fn check(id: &str) -> Check {
    Check { check_id: id.into(), ..Check::default() }
}

#[test]
fn nouns_that_break_their_rules_are_refused_whole() {
    let registration = |node, service, checks| {
        Command::Register(Box::new(Registration { node, skip_node_update: false, service, checks }))
    };
    let with_service = |service| registration(node("n2"), Some(service), vec![]);
    let tags = (0..=TAGS_MAX).map(|n| n.to_string()).collect();
    let cases = [
        registration(node("a\nb"), None, vec![]),
        registration(node(&"x".repeat(300)), None, vec![]),
        registration(Node { meta: too_much_meta(), ..node("n2") }, None, vec![]),
        with_service(service("a", "we\0b")),
        with_service(service("a\u{7f}", "web")),
        with_service(service("", "web")),
        with_service(ServiceInstance { meta: too_much_meta(), ..service("a", "web") }),
        with_service(ServiceInstance { tags, ..service("a", "web") }),
        registration(node("n2"), Some(service("a", "web")), vec![check("c"), check("")]),
        registration(node("n2"), Some(service("a", "web")), vec![check("c"), check("\r")]),
        registration(node("n2"), None, vec![Check { service_id: "web1".into(), ..check("c") }]),
        Command::SetIntention(Box::new(Intention {
            source_name: "we*".into(),
            destination_name: "db".into(),
            ..Intention::default()
        })),
        Command::SetConfigEntry {
            entry: Box::new(ConfigEntry::ProxyDefaults(ProxyDefaults {
                name: "other".into(),
                ..ProxyDefaults::default()
            })),
            cas: None,
        },
        command("datacenter dc.1"),
        command("kv set"),
    ];
    for case in cases {
        let mut catalog = catalog_after(BASE);
        let before = catalog.clone();
        let (response, changes) = catalog.apply(case.clone());
        assert!(matches!(response, Response::Refused(_)), "{case:?}: {response:?}");
        assert!(changes.is_empty(), "{case:?}");
        // A command that does nothing leaves the same.
        let mut untouched = before.clone();
        untouched.apply(command("deregister nope"));
        assert_eq!(catalog, untouched, "{case:?}");
        assert_eq!(catalog.index(), before.index() + 1);
        assert_eq!(catalog.violations(), [""; 0]);
    }
}

#[test]
fn one_bad_item_of_a_push_does_not_spoil_the_others() {
    let mut catalog = catalog_after(BASE);
    let push = SyncPush {
        node: node("n1"),
        services: vec![service("good", "good"), service("bad", "b\nd")],
        checks: vec![check("fine"), check("\0"), Check { service_id: "bad".into(), ..check("orphan") }],
        ..SyncPush::default()
    };
    let (response, _) = catalog.apply(Command::Sync(Box::new(push)));
    let Response::Synced { errors, .. } = response else { panic!("{response:?}") };
    let failed: Vec<(ItemKind, &str)> = errors.iter().map(|error| (error.kind, error.id.as_str())).collect();
    assert_eq!(failed, [(ItemKind::Service, "bad"), (ItemKind::Check, "\0"), (ItemKind::Check, "orphan")]);
    assert_eq!(catalog.violations(), [""; 0]);
}

#[test]
fn the_output_of_a_check_is_cut() {
    let mut catalog = catalog_after(BASE);
    let long = Check { output: "é".repeat(CHECK_OUTPUT_BYTES_MAX), ..check("c") };
    let registration = Registration { node: node("n1"), checks: vec![long], ..Registration::default() };
    catalog.apply(Command::Register(Box::new(registration)));
    let view = catalog::View::new(&catalog);
    let kept = catalog::query::check::check(&view, "n1", "c").expect("it is there");
    assert_eq!(kept.output.len(), CHECK_OUTPUT_BYTES_MAX);
}
