//! Expressions asked of rows, from tables.

use super::*;
use crate::service::{ServiceAddress, Upstream};
use crate::{Check, CheckStatus, Intention, Node, ServiceInstance};

fn node() -> Node {
    Node {
        id: "8f0d".into(),
        name: "web-1".into(),
        address: "10.0.0.1".into(),
        datacenter: "dc1".into(),
        tagged_addresses: [("lan".to_string(), "10.0.0.1".to_string())].into(),
        meta: [("rack-1", "yes"), ("env", "prod")].map(|(k, v)| (k.to_string(), v.to_string())).into(),
        peer_name: String::new(),
    }
}

fn service() -> ServiceInstance {
    let mut service =
        ServiceInstance { id: "web1".into(), service: "web".into(), port: 8080, ..ServiceInstance::default() };
    service.tags = vec!["primary".into(), "v2".into()];
    service.meta = [("version".to_string(), "1.2.3".to_string())].into();
    service.tagged_addresses = [("lan".to_string(), ServiceAddress { address: "10.0.0.9".into(), port: 81 })].into();
    service.proxy.upstreams =
        ["db", "cache"].map(|name| Upstream { destination_name: name.into(), ..Upstream::default() }).into();
    service
}

fn checks() -> [Check; 2] {
    let check =
        |id: &str, status| Check { check_id: id.into(), status, output: "HTTP GET: 200 OK".into(), ..Check::default() };
    [check("serfHealth", CheckStatus::Passing), check("web", CheckStatus::Warning)]
}

/// Asks rows of all sorts, as the endpoints do.
fn ask(text: &str) -> bool {
    let (node, service, checks) = (node(), service(), checks());
    let checks: Vec<&Check> = checks.iter().collect();
    let row = HealthRow { node: &node, service: &service, checks: &checks };
    Filter::<HealthRow<'_>>::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).matches(&row)
}

#[test]
fn each_operator_answers_as_in_consul() {
    let cases = [
        ("Service.Service == web", true),
        ("Service.Service==web", true),
        ("Service.Service == \"web\"", true),
        ("Service.Service == `web`", true),
        ("Service.Service != web", false),
        ("Service.Port == 8080", true),
        ("Service.Port != 8080", false),
        ("Service.EnableTagOverride == false", true),
        ("Service.Tags contains primary", true),
        ("Service.Tags contains \"Primary\"", false),
        ("Service.Tags not contains primary", false),
        ("primary in Service.Tags", true),
        ("\"v2\" in Service.Tags", true),
        ("`v3` not in Service.Tags", true),
        ("Service.Tags is empty", false),
        ("Service.Tags is not empty", true),
        ("Service.Meta is not empty", true),
        ("version in Service.Meta", true),
        ("Service.Meta contains nothing", false),
        ("Service.Meta.version == `1.2.3`", true),
        ("Service.Meta[\"version\"] matches `^1\\.2\\.`", true),
        ("Service.Meta.version not matches `^2`", true),
        ("Node.Meta[\"rack-1\"] == yes", true),
        ("Node.Meta[ `rack-1` ] == \"yes\"", true),
        ("Node.Node matches \"web-[0-9]+\"", true),
        ("eb in Service.Service", true),
        ("Node.Node contains \"b-1\"", true),
        ("Service.TaggedAddresses.lan.Port == 81", true),
        ("Service.TaggedAddresses.lan.Address == `10.0.0.9`", true),
        ("Node.TaggedAddresses.lan == `10.0.0.1`", true),
        ("Service.Kind == \"\"", true),
        ("Service.Kind is empty", true),
        ("Checks is not empty", true),
    ];
    for (text, expected) in cases {
        assert_eq!(ask(text), expected, "{text}");
    }
}

#[test]
fn a_missing_key_is_not_equal_to_anything_and_is_empty() {
    let cases = [
        ("Service.Meta.nope == \"\"", false),
        ("Service.Meta.nope != \"\"", true),
        ("Service.Meta.nope is empty", true),
        ("Service.Meta.nope is not empty", false),
        ("Service.Meta.nope matches `.*`", false),
        ("Service.Meta.nope not matches `.*`", true),
        ("Service.Meta.nope contains x", false),
        ("x not in Service.Meta.nope", true),
        ("Service.TaggedAddresses.wan.Port == 0", false),
    ];
    for (text, expected) in cases {
        assert_eq!(ask(text), expected, "{text}");
    }
}

#[test]
fn of_several_things_one_is_enough() {
    let cases = [
        ("Checks.Status == passing", true),
        ("Checks.Status == warning", true),
        ("Checks.Status == critical", false),
        ("Checks.Status != passing", true),
        ("not Checks.Status == passing", false),
        ("Checks.CheckID == serfHealth and Checks.Status == warning", true),
        ("Checks.Output contains `200`", true),
        ("Service.Proxy.Upstreams.DestinationName == cache", true),
        ("Service.Proxy.Upstreams.DestinationName == other", false),
        ("Service.Proxy.Upstreams is empty", false),
    ];
    for (text, expected) in cases {
        assert_eq!(ask(text), expected, "{text}");
    }
}

#[test]
fn precedence_is_not_then_and_then_or() {
    let (yes, no) = ("Service.Port == 8080", "Service.Port == 1");
    let cases = [
        (format!("{yes} or {no} and {no}"), true),
        (format!("({yes} or {no}) and {no}"), false),
        (format!("not {no} and {yes}"), true),
        (format!("not ({no} or {yes})"), false),
        (format!("not not {yes}"), true),
        (format!("not {yes} or {yes}"), true),
        (format!("  (  {yes} )  and(not {no})"), true),
        (format!("{yes}\n\tand {yes}"), true),
        (format!("{no} and {no} or {yes}"), true),
        ("Service.Service == `web`and Service.Port == 8080".to_string(), true),
    ];
    for (text, expected) in cases {
        assert_eq!(ask(&text), expected, "{text}");
    }
}

#[test]
fn words_are_values_where_a_value_stands() {
    assert!(ask("or in Service.Tags or in not in Service.Tags"));
    assert!(!ask("Service.Service == and and Service.Service == or"));
    assert!(ask("Service.Service != Node.Node"), "a selector on the right is a bare word");
    assert!(!ask("Service.Service contains \"\\\"\""));
}

#[test]
fn flat_rows_have_flat_selectors() {
    let (node, service) = (node(), service());
    let row = CatalogRow { node: &node, service: &service };
    let cases = [
        ("Node == \"web-1\"", true),
        ("Address == `10.0.0.1`", true),
        ("NodeMeta.env == prod", true),
        ("NodeMeta[\"rack-1\"] != yes", false),
        ("NodeMeta is empty", false),
        ("ServiceName == web", true),
        ("ServiceID == web1", true),
        ("ServicePort == 8080", true),
        ("ServiceTags contains v2", true),
        ("ServiceMeta.version == `1.2.3`", true),
        ("ServiceWeights.Passing == 1", true),
        ("ServiceConnect.Native == true", false),
        ("TaggedAddresses.lan == `10.0.0.1`", true),
        ("ServiceTaggedAddresses.lan.Port == 81", true),
    ];
    for (text, expected) in cases {
        let filter = Filter::<CatalogRow<'_>>::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(filter.matches(&row), expected, "{text}");
    }
    for text in ["Meta.env == prod", "Service == web", "ServicePeerName == x", "Checks is empty"] {
        assert!(Filter::<CatalogRow<'_>>::parse(text).is_err(), "{text}");
    }
}

#[test]
fn errors_say_where_and_what() {
    let cases = [
        ("", "1:1 (0): no match found, expected: a selector, a string, a number or \"(\""),
        (
            "Port",
            "1:5 (4): no match found, expected: an operator (==, !=, in, not in, contains, not contains, matches, not matches, is empty, is not empty)",
        ),
        ("Port == 1 2", "1:11 (10): no match found, expected: \"and\", \"or\" or the end"),
        ("Port == 1 and", "1:11 (10): no match found, expected: \"and\", \"or\" or the end"),
        ("(Port == 1", "1:11 (10): no match found, expected: \")\", \"and\" or \"or\""),
        ("Service == \"web", "1:12 (11): no match found, expected: a closing quote"),
        ("Service == \"w\\x\"", "1:14 (13): no match found, expected: an escape: \\\" \\\\ \\n \\r \\t"),
        ("ID == a\nor ü", "2:4 (11): no match found, expected: a selector, a string, a number or \"(\""),
        ("\"a\" == ID", "1:4 (3): no match found, expected: \"in\" or \"not in\""),
        ("\"a\" in \"b\"", "1:11 (10): no match found, expected: a selector"),
        ("Meta[x] == 1", "1:6 (5): no match found, expected: a string"),
        ("Port matches 8", "Invalid match operator \"matches\" for selector \"Port\""),
        ("Tags == x", "Invalid match operator \"==\" for selector \"Tags\""),
        ("Port is empty", "Invalid match operator \"is empty\" for selector \"Port\""),
        ("Port == eighty", "Failed to coerce value \"eighty\" for selector \"Port\": it must be a whole number"),
        (
            "EnableTagOverride == maybe",
            "Failed to coerce value \"maybe\" for selector \"EnableTagOverride\": it must be true or false",
        ),
    ];
    for (text, expected) in cases {
        let error = Filter::<ServiceInstance>::parse(text).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
    let unknown = Filter::<Intention>::parse("Nope.X == 1").expect_err("unknown").to_string();
    assert!(unknown.starts_with("Selector \"Nope.X\" is not valid; known are: ID, Description,"), "{unknown}");
    for text in ["Meta.a.b == 1", "Meta == 1", "ID.x == 1", "Service.Service == web"] {
        assert!(Filter::<ServiceInstance>::parse(text).is_err(), "{text}");
    }
}

#[test]
fn hostile_expressions_are_refused_before_they_cost_anything() {
    let deep = "(".repeat(100_000);
    assert!(matches!(Filter::<Node>::parse(&deep), Err(FilterError::TooLong { .. })));
    let nested = format!("{}ID == a{}", "(".repeat(65), ")".repeat(65));
    assert!(matches!(Filter::<Node>::parse(&nested), Err(FilterError::TooDeep { .. })));
    let nots = format!("{}ID == a", "not ".repeat(1000));
    assert!(matches!(Filter::<Node>::parse(&nots), Err(FilterError::TooDeep { .. })));
    let long_but_flat = vec!["ID == a"; 1000].join(" or ");
    assert!(Filter::<Node>::parse(&long_but_flat).is_ok());
    for regex in ["(", "a{1000}{1000}{1000}"] {
        assert!(matches!(Filter::<Node>::parse(&format!("ID matches `{regex}`")), Err(FilterError::Regex { .. })));
    }
}

#[test]
fn every_field_that_is_offered_can_be_read() {
    fn check<R: Row>(row: &R, keys: &[&str]) {
        for field in R::fields() {
            let found = keys.iter().map(|key| row.value(&field.path, key)).find(|value| *value != Value::Missing);
            let fits = |value: &Value<'_>| match value {
                Value::Text(_) => field.holds == Holds::Text,
                Value::Number(_) => field.holds == Holds::Number,
                Value::Flag(_) => field.holds == Holds::Flag,
                Value::Texts(_) => field.holds == Holds::Texts,
                Value::Map(_) => field.holds == Holds::Map,
                Value::Things(_) => field.holds == Holds::Things,
                Value::Each(_) => true,
                Value::Missing => false,
            };
            assert!(found.as_ref().is_some_and(fits), "{}: {found:?}", field.path);
        }
    }
    let (node, service, checks) = (node(), service(), checks());
    let intention = Intention { meta: node.meta.clone(), ..Intention::default() };
    let entry = crate::config_entry::ConfigEntry::ServiceDefaults(crate::config_entry::ServiceDefaults {
        meta: node.meta.clone(),
        ..Default::default()
    });
    let refs: Vec<&Check> = checks.iter().collect();
    let keys = ["lan", "env", "version"];
    check(&node, &keys);
    check(&service, &keys);
    check(&checks[0], &keys);
    check(&HealthRow { node: &node, service: &service, checks: &refs }, &keys);
    check(&CatalogRow { node: &node, service: &service }, &keys);
    check(&intention, &keys);
    check(&entry, &keys);
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[ -~\\nü]{0,60}") {
            let _ = Filter::<ServiceInstance>::parse(&text);
        }

        #[test]
        fn no_arrangement_of_tokens_makes_the_parser_panic(tokens in proptest::collection::vec(
            prop::sample::select(vec!["(", ")", "not", "and", "or", "in", "is", "empty", "==", "!=", "contains", "matches", "ID", "Tags",
                "Meta", "[", "]", "\"a\"", "`b`", "1", "-", ".", " ", " "]), 0..30)) {
            let text = tokens.concat();
            if let Ok(filter) = Filter::<ServiceInstance>::parse(&text) {
                let negated = Filter::<ServiceInstance>::parse(&format!("not ({text})")).expect("its negation parses too");
                prop_assert_ne!(filter.matches(&service()), negated.matches(&service()));
            }
        }

        #[test]
        fn any_text_can_be_quoted(value in "[^`]{0,20}") {
            let filter = Filter::<Node>::parse(&format!("ID == `{value}`")).expect("parses");
            let row = Node { id: value, ..node() };
            prop_assert!(filter.matches(&row));
        }
    }
}
