//! Random commands and the reads that must notice them, over few names, so that they meet.

use proptest::prelude::*;

/// A line that [`crate::language::command`] reads.
pub(crate) fn command() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => registration(),
        3 => service(),
        3 => check(),
        2 => removal(),
        1 => sync(),
        4 => kv(),
        3 => session(),
        3 => txn(),
        1 => intention(),
        1 => config(),
        1 => authority(),
    ]
}

fn pick(from: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(from)
}

fn node() -> impl Strategy<Value = &'static str> {
    pick(&["n1", "n2", "n3", "N1"])
}

fn service_name() -> impl Strategy<Value = &'static str> {
    pick(&["web", "db", "WEB"])
}

fn instance_id() -> impl Strategy<Value = &'static str> {
    pick(&["a", "b", "a-proxy"])
}

fn check_id() -> impl Strategy<Value = &'static str> {
    pick(&["c1", "c2", "serfHealth"])
}

fn status() -> impl Strategy<Value = &'static str> {
    pick(&["passing", "warning", "critical"])
}

fn key() -> impl Strategy<Value = &'static str> {
    pick(&["a", "a/", "a/b", "a/b/c", "ab", "x/y", "/", "é/ü"])
}

fn registration() -> impl Strategy<Value = String> {
    let id = pick(&["", "aaa", "bbb", "ccc"]);
    let meta = pick(&["", "rack:a", "rack:b"]);
    let health = pick(&["", "", "alive", "dead"]);
    (node(), 1..3u8, id, meta, health).prop_map(|(node, last, id, meta, health)| {
        let verb = if health.is_empty() { "node" } else { "health" };
        format!("{verb} {node} {health} address=10.0.0.{last} id={id} meta={meta}")
    })
}

fn service() -> impl Strategy<Value = String> {
    let kind =
        pick(&["", "", "kind=sidecar for=web", "kind=sidecar for=Db", "native=yes", "kind=gateway", "override=yes"]);
    let tags = pick(&["", "tags=v1", "tags=v1,v2"]);
    let address = pick(&["", "address=10.9.9.9"]);
    (node(), instance_id(), service_name(), 0..3u16, tags, kind, address).prop_map(
        |(node, id, name, port, tags, kind, address)| {
            format!("service {node} {id} {name} port={port} {tags} {kind} {address}")
        },
    )
}

fn check() -> impl Strategy<Value = String> {
    let owner = pick(&["", "", "a", "b", "a-proxy", "nope"]);
    let output = pick(&["", "slow"]);
    (node(), check_id(), status(), owner, output).prop_map(|(node, id, status, owner, output)| {
        format!("check {node} {id} {status} service={owner} output={output}")
    })
}

fn removal() -> impl Strategy<Value = String> {
    prop_oneof![
        (node(), instance_id()).prop_map(|(node, id)| format!("deregister {node} service={id}")),
        (node(), check_id()).prop_map(|(node, id)| format!("deregister {node} check={id}")),
        node().prop_map(|node| format!("deregister {node}")),
        (node(), pick(&["", "aaa", "bbb"])).prop_map(|(node, id)| format!("remove {node} id={id}")),
    ]
}

fn sync() -> impl Strategy<Value = String> {
    let services = pick(&["", "a:web", "a:web:v1,b:db", "b:web"]);
    let checks = pick(&["", "c1:passing:a", "c1:critical,c2:warning:b"]);
    let rest = pick(&["full=yes", "no-services=a", "no-checks=c1,serfHealth", "override=yes", ""]);
    (node(), services, checks, rest).prop_map(|(node, services, checks, rest)| {
        format!("sync {node} address=10.0.0.1 services={services} checks={checks} {rest}")
    })
}

fn kv() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (key(), 0..3u8).prop_map(|(key, value)| format!("kv set {key} {value}")),
        1 => (key(), 0..40u8).prop_map(|(key, index)| format!("kv cas {key} new index={index}")),
        2 => key().prop_map(|key| format!("kv delete {key}")),
        1 => (key(), 0..40u8).prop_map(|(key, index)| format!("kv delete-cas {key} index={index}")),
        1 => pick(&["a", "a/", "x", "é"]).prop_map(|prefix| format!("kv delete-tree {prefix}")),
        1 => (key(), pick(&["", "s1"])).prop_map(|(key, id)| format!("kv put {key} locked flags=7 session={id}")),
        4 => (key(), session_id(), 0..60u16).prop_map(|(key, id, at)| format!("kv lock {key} mine session={id} at={at}000")),
        2 => (key(), session_id()).prop_map(|(key, id)| format!("kv unlock {key} free session={id}")),
    ]
}

fn txn() -> impl Strategy<Value = String> {
    let op = prop_oneof![
        3 => (pick(&["set", "delete", "delete-tree", "get-or-empty"]), key()).prop_map(|(verb, key)| format!("kv {verb} {key} t")),
        1 => (pick(&["cas", "delete-cas", "check-index"]), key(), 0..40u8)
            .prop_map(|(verb, key, index)| format!("kv {verb} {key} t index={index}")),
        1 => (pick(&["lock", "unlock", "check-session"]), key(), session_id())
            .prop_map(|(verb, key, id)| format!("kv {verb} {key} t session={id}")),
        1 => (pick(&["set", "delete", "get"]), node(), 1..3u8).prop_map(|(verb, node, last)| format!("node {verb} {node} address=10.0.0.{last}")),
        1 => (pick(&["set", "cas", "delete"]), node(), instance_id(), service_name(), 0..40u8)
            .prop_map(|(verb, node, id, name, index)| format!("service {verb} {node} {id} {name} index={index}")),
        1 => (pick(&["set", "delete", "delete-cas"]), node(), check_id(), status(), 0..40u8)
            .prop_map(|(verb, node, id, status, index)| format!("check {verb} {node} {id} {status} index={index}")),
    ];
    prop::collection::vec(op, 1..4).prop_map(|ops| format!("txn {}", ops.join(" ; ")))
}

fn session_id() -> impl Strategy<Value = &'static str> {
    pick(&["s1", "s2", "s3"])
}

fn session() -> impl Strategy<Value = String> {
    let checks = pick(&["", "", "checks=c1", "checks=c1,c1 service-checks=c2", "checks=serfHealth"]);
    let behavior = pick(&["", "behavior=delete"]);
    let delay = pick(&["delay=0s", "delay=5s", "delay=2m"]);
    prop_oneof![
        3 => (session_id(), node(), checks, behavior, delay).prop_map(|(id, node, checks, behavior, delay)| {
            format!("session {id} {node} {checks} {behavior} {delay} ttl=10s")
        }),
        1 => (session_id(), 0..60u16).prop_map(|(id, at)| format!("unsession {id} at={at}000")),
    ]
}

fn intention() -> impl Strategy<Value = String> {
    let side = || pick(&["web", "db", "*"]);
    prop_oneof![
        2 => (side(), side(), pick(&["allow", "deny"]), 1..4u8).prop_map(|(s, d, action, id)| format!("intention {s} {d} {action} id=i{id}")),
        1 => (side(), side()).prop_map(|(s, d)| format!("unintention {s} {d}")),
    ]
}

fn config() -> impl Strategy<Value = String> {
    let entry = || {
        pick(&[
            r#"{"Kind":"service-defaults","Name":"web","Protocol":"http"}"#,
            r#"{"Kind":"service-defaults","Name":"web","Protocol":"grpc"}"#,
            r#"{"Kind":"service-defaults","Name":"db"}"#,
            r#"{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}"#,
            r#"{"Kind":"proxy-defaults","Name":"global"}"#,
        ])
    };
    let name = pick(&["service-defaults web", "service-defaults db", "proxy-defaults global"]);
    prop_oneof![
        2 => entry().prop_map(|entry| format!("config {entry}")),
        1 => (0..40u8, entry()).prop_map(|(index, entry)| format!("config-cas {index} {entry}")),
        1 => name.prop_map(|name| format!("unconfig {name}")),
    ]
}

fn authority() -> impl Strategy<Value = String> {
    prop_oneof![
        (pick(&["r1", "r2"]), 0..10u8).prop_map(|(root, expected)| format!("ca {root} expected={expected}")),
        (pick(&["0a", "0b", "0a,0b"]), 1..5u8)
            .prop_map(|(serials, until)| format!("revoke serials={serials} ids=x until={until}")),
        (1..6u8).prop_map(|before| format!("forget {before}")),
        (pick(&["dc1", "dc2"]), 1..3u8)
            .prop_map(|(name, last)| format!("datacenter {name} gateways=203.0.113.{last}:8443")),
        pick(&["dc1", "dc2"]).prop_map(|name| format!("undatacenter {name}")),
    ]
}

/// Every read that there is, of all names that commands know and of some that they do not.
pub(crate) const READS: &[&str] = &[
    "nodes",
    "nodes meta=rack:a",
    "node n1",
    "node N2",
    "node nope",
    "node-id aaa",
    "names",
    "names meta=rack:b",
    "all",
    "instances web",
    "instances web tags=V1",
    "instances db meta=rack:a",
    "connect web",
    "connect db",
    "connect-names",
    "health web",
    "health db passing=yes",
    "health nope",
    "health-connect web passing=yes",
    "on-node n1",
    "on-node n3",
    "proxies n1",
    "instance n1 a",
    "exact web DB",
    "to DB",
    "entry service-defaults WEB",
    "instance n2 a-proxy",
    "node-checks n1",
    "node-checks n2",
    "check n1 c1",
    "check n1 serfHealth",
    "service-checks web",
    "service-checks web meta=rack:a",
    "state any",
    "state passing",
    "state critical meta=rack:a",
    "kv a",
    "kv a/b",
    "kv nope",
    "list",
    "list a",
    "list a/",
    "list a/b",
    "list x/",
    "list é",
    "list nope/",
    "keys",
    "keys a/ /",
    "keys /",
    "sessions",
    "session s1",
    "session nope",
    "node-sessions n1",
    "node-sessions nope",
    "intentions",
    "exact web db",
    "exact * *",
    "intention-id i1",
    "to db",
    "to *",
    "from web",
    "entries service-defaults",
    "entries proxy-defaults",
    "entry service-defaults web",
    "entry service-defaults nope",
    "ca",
    "revoked",
    "datacenters",
    "datacenter dc2",
    "gateways",
    "gateway-addresses",
    "dns web",
    "dns-connect db",
    "nodes-at 10.0.0.1",
    "services-at 10.9.9.9",
    "proxy n1 a",
    "proxy n1 a-proxy",
    "proxy n2 b",
];
