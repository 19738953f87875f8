//! Forms of names, in a table; and properties of whatever text.

use std::str::FromStr;

use proptest::prelude::*;

use super::*;

const DOMAINS: [&str; 2] = ["consul", "test.consul"];

fn service<'a>(tag: Option<&'a str>, service: &'a str, datacenter: Option<&'a str>) -> Question<'a> {
    Question::Service(ServiceQuery { datacenter, service, tag, kind: LookupKind::Service })
}

fn mesh(service: &str, kind: LookupKind) -> Question<'_> {
    Question::Service(ServiceQuery { datacenter: None, service, tag: None, kind })
}

#[test]
fn each_form_of_name_is_told() {
    let node = |name, datacenter| Question::Node { datacenter, name };
    let v4 = |text: &str| IpAddr::from_str(text).expect("address");
    let cases = [
        ("consul", Question::Apex),
        ("web.service.consul", service(None, "web", None)),
        ("v1.web.service.consul", service(Some("v1"), "web", None)),
        ("a.b.c.web.service.dc2.consul", service(Some("a.b.c"), "web", Some("dc2"))),
        ("web.service.dc2.dc.consul", service(None, "web", Some("dc2"))),
        ("web.service.dc2.peer.consul", Question::NoSuchName),
        ("web.service.dc2.extra.more.consul", Question::NoSuchName),
        ("_web._tcp.service.consul", service(None, "web", None)),
        ("_web._v1.service.dc2.consul", service(Some("v1"), "web", Some("dc2"))),
        ("_web._tcp.consul", service(None, "web", None)),
        ("_web._v1.dc2.consul", service(Some("v1"), "web", Some("dc2"))),
        ("_x.y._v1.service.consul", service(Some("_x.y"), "_v1", None)),
        ("service.service.consul", service(None, "service", None)),
        ("node.service.consul", service(None, "node", None)),
        ("web.connect.consul", mesh("web", LookupKind::Connect)),
        ("x.web.connect.consul", mesh("web", LookupKind::Connect)),
        ("web.ingress.consul", mesh("web", LookupKind::Ingress)),
        ("n1.node.consul", node("n1", None)),
        ("n1.rack.node.dc2.consul", node("n1.rack", Some("dc2"))),
        ("n1.node.dc2.dc.consul", node("n1", Some("dc2"))),
        ("0a000001.addr.consul", Question::Address(v4("10.0.0.1"))),
        ("0a000001.addr.dc2.consul", Question::Address(v4("10.0.0.1"))),
        ("20010db8000000000000000000000001.addr.consul", Question::Address(v4("2001:db8::1"))),
        ("+a000001.addr.consul", Question::NoSuchName),
        ("0a0000.addr.consul", Question::NoSuchName),
        ("x.0a000001.addr.consul", Question::NoSuchName),
        ("service.consul", Question::NoSuchName),
        ("node.consul", Question::NoSuchName),
        ("web.consul", Question::NoSuchName),
        ("q.query.consul", Question::NoSuchName),
        ("web.virtual.consul", Question::NoSuchName),
        ("web.service.test.consul", service(None, "web", None)),
        ("test.consul", Question::Apex),
        ("1.2.0.10.in-addr.arpa", Question::Reverse(v4("10.0.2.1"))),
        ("2.0.10.in-addr.arpa", Question::Foreign),
        ("9.1.2.0.10.in-addr.arpa", Question::Foreign),
        ("256.2.0.10.in-addr.arpa", Question::Foreign),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            Question::Reverse(v4("2001:db8::1")),
        ),
        ("1.0.ip6.arpa", Question::Foreign),
        ("example.com", Question::Foreign),
        ("xconsul", Question::Foreign),
        ("", Question::Foreign),
    ];
    for (name, expected) in cases {
        assert_eq!(parse(name, &DOMAINS).0, expected, "{name}");
    }
}

#[test]
fn the_longest_domain_wins() {
    assert_eq!(parse("web.service.test.consul", &DOMAINS).1, Some(1));
    assert_eq!(parse("web.service.consul", &DOMAINS).1, Some(0));
    assert_eq!(parse("example.com", &DOMAINS).1, None);
}

#[test]
fn spelling_lowers_case_and_defuses_odd_bytes() {
    let mut text = String::new();
    spell(&Name::from_str("WeB.Service.CONSUL.").expect("name"), &mut text);
    assert_eq!(text, "web.service.consul");
    let odd = Name::from_labels(vec![b"a.b\xff".as_slice(), b"consul"]).expect("name");
    spell(&odd, &mut text);
    assert_eq!(text, "a\x1ab\x1a.consul");
    spell(&Name::root(), &mut text);
    assert_eq!(text, "");
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9-]{0,20}".prop_filter("kind words split names", |label| {
        !["service", "connect", "ingress", "node", "addr", "query", "virtual", "dc", "peer"].contains(&label.as_str())
    })
}

proptest! {
    #[test]
    fn whatever_is_asked_does_not_panic(name in "[a-z0-9_.\\x1a-]{0,80}(service|node|addr|arpa)?[a-z.]{0,12}(\\.consul)?") {
        let _ = parse(&name, &DOMAINS);
    }

    #[test]
    fn a_service_name_comes_back(tags in prop::collection::vec(label(), 0..4), name in label(), dc in prop::option::of(label())) {
        let tag = tags.join(".");
        let mut labels = tags;
        labels.extend([name.clone(), "service".into()]);
        labels.extend(dc.clone());
        labels.push("consul".into());
        let text = labels.join(".");
        let expected = service((!tag.is_empty()).then_some(tag.as_str()), &name, dc.as_deref());
        prop_assert_eq!(parse(&text, &["consul"]).0, expected);
    }

    #[test]
    fn an_address_comes_back_from_its_reverse_name(bits in any::<u128>(), v4 in any::<u32>()) {
        for ip in [IpAddr::V6(bits.into()), IpAddr::V4(v4.into())] {
            let mut text = String::new();
            spell(&Name::from(ip), &mut text);
            prop_assert_eq!(parse(&text, &DOMAINS).0, Question::Reverse(ip), "{}", text);
        }
    }
}
