//! From a catalog to what a proxy obeys, whole.

use crate::language::{catalog_after, command, read};
use catalog::{Catalog, View};
use expect_test::{Expect, expect};
use model::intention::Action;

const MESH: &str = "
    ca root1
    node n1 address=10.0.0.1
    node n2 address=10.0.0.2
    service n1 web-1 web port=8080
    service n1 web-1-sidecar-proxy web-sidecar-proxy kind=sidecar for=web for-id=web-1 port=21000 upstreams=db:9191,pay.dc2:9192
    service n2 db-1 db port=5432
    service n2 db-1-sidecar-proxy db-sidecar-proxy kind=sidecar for=db for-id=db-1 local-port=5433 port=21001 address=10.9.0.2
    service n2 gw gw kind=gateway port=8443 tagged=wan:203.0.113.1 settings=tunnel_port:9443
    intention web db allow id=i1
    intention * db deny id=i2
    intention * web deny id=i3
    config {\"Kind\":\"service-defaults\",\"Name\":\"db\",\"MaxInboundConnections\":7,\"LocalRequestTimeoutMs\":100}
    config {\"Kind\":\"proxy-defaults\",\"Name\":\"global\",\"Config\":{\"protocol\":\"http\"}}
    datacenter dc1 gateways=203.0.113.1:9443
    datacenter dc2 gateways=203.0.113.2:8443
    revoke serials=0a ids=spiffe://t.consul/ns/default/dc/dc1/svc/bad until=100
";

fn check(catalog: &Catalog, question: &str, expected: Expect) {
    expected.assert_eq(&read(&View::new(catalog), question));
}

#[test]
fn a_sidecar_hears_all_that_it_needs() {
    check(
        &catalog_after(MESH),
        "proxy n1 web-1-sidecar-proxy",
        expect![[r#"
            {
              "ID": "web-1-sidecar-proxy",
              "Datacenter": "dc1",
              "TrustDomain": "t.consul",
              "Service": "web",
              "Roots": [
                "PEM of root1"
              ],
              "RevokedSerials": [
                "0a"
              ],
              "RevokedIds": [
                "spiffe://t.consul/ns/default/dc/dc1/svc/bad"
              ],
              "Inbound": {
                "Listen": "0.0.0.0:21000",
                "Local": "127.0.0.1:8080",
                "Protocol": "http",
                "Intentions": [
                  {
                    "Source": "*",
                    "Action": "deny"
                  }
                ],
                "DefaultAction": "allow",
                "MaxConnections": 0,
                "ConnectTimeoutMs": 5000,
                "RequestTimeoutMs": 0
              },
              "Upstreams": {
                "db": {
                  "Listen": "127.0.0.1:9191",
                  "Service": "db",
                  "Datacenter": "dc1",
                  "Protocol": "http",
                  "Sni": "db.default.dc1.internal.t.consul",
                  "SpiffeIds": [
                    "spiffe://t.consul/ns/default/dc/dc1/svc/db"
                  ],
                  "Endpoints": [
                    {
                      "Address": "10.9.0.2:21001",
                      "Instance": "db-1-sidecar-proxy",
                      "Node": "n2",
                      "Weight": 1
                    }
                  ],
                  "ConnectTimeoutMs": 5000
                },
                "pay.dc2": {
                  "Listen": "127.0.0.1:9192",
                  "Service": "pay",
                  "Datacenter": "dc2",
                  "Protocol": "http",
                  "Sni": "pay.default.dc2.internal.t.consul",
                  "SpiffeIds": [
                    "spiffe://t.consul/ns/default/dc/dc2/svc/pay"
                  ],
                  "Endpoints": [
                    {
                      "Address": "10.0.0.2:8443",
                      "Instance": "gw",
                      "Node": "n2",
                      "Weight": 1
                    }
                  ],
                  "ConnectTimeoutMs": 5000
                }
              },
              "Gateway": null
            }"#]],
    );
}

#[test]
fn a_sidecars_own_settings_win() {
    check(
        &catalog_after(MESH),
        "proxy n2 db-1-sidecar-proxy",
        expect![[r#"
            {
              "ID": "db-1-sidecar-proxy",
              "Datacenter": "dc1",
              "TrustDomain": "t.consul",
              "Service": "db",
              "Roots": [
                "PEM of root1"
              ],
              "RevokedSerials": [
                "0a"
              ],
              "RevokedIds": [
                "spiffe://t.consul/ns/default/dc/dc1/svc/bad"
              ],
              "Inbound": {
                "Listen": "10.9.0.2:21001",
                "Local": "127.0.0.1:5433",
                "Protocol": "http",
                "Intentions": [
                  {
                    "Source": "web",
                    "Action": "allow"
                  },
                  {
                    "Source": "*",
                    "Action": "deny"
                  }
                ],
                "DefaultAction": "allow",
                "MaxConnections": 7,
                "ConnectTimeoutMs": 5000,
                "RequestTimeoutMs": 100
              },
              "Upstreams": {},
              "Gateway": null
            }"#]],
    );
}

#[test]
fn a_gateway_hears_of_services_here_and_gateways_there() {
    check(
        &catalog_after(MESH),
        "proxy n2 gw",
        expect![[r#"
        {
          "ID": "gw",
          "Datacenter": "dc1",
          "TrustDomain": "t.consul",
          "Service": "gw",
          "Roots": [
            "PEM of root1"
          ],
          "RevokedSerials": [
            "0a"
          ],
          "RevokedIds": [
            "spiffe://t.consul/ns/default/dc/dc1/svc/bad"
          ],
          "Inbound": null,
          "Upstreams": {},
          "Gateway": {
            "Listen": "0.0.0.0:8443",
            "TunnelListen": "0.0.0.0:9443",
            "Datacenters": {
              "dc2": [
                "203.0.113.2:8443"
              ]
            },
            "Services": {
              "db.default.dc1.internal.t.consul": [
                {
                  "Address": "10.9.0.2:21001",
                  "Instance": "db-1-sidecar-proxy",
                  "Node": "n2",
                  "Weight": 1
                }
              ],
              "web.default.dc1.internal.t.consul": [
                {
                  "Address": "10.0.0.1:21000",
                  "Instance": "web-1-sidecar-proxy",
                  "Node": "n1",
                  "Weight": 1
                }
              ]
            }
          }
        }"#]],
    );
}

fn endpoints(catalog: &Catalog, upstream: &str) -> Vec<String> {
    let view = View::new(catalog);
    let config =
        catalog::compile::sidecar(&view, "n1", "web-1-sidecar-proxy", "dc1", Action::Allow).expect("there is one");
    config.upstreams[upstream].endpoints.iter().map(|endpoint| endpoint.address.clone()).collect()
}

#[test]
fn endpoints_that_are_critical_are_left_out() {
    let mut catalog = catalog_after(MESH);
    assert_eq!(endpoints(&catalog, "db"), ["10.9.0.2:21001"]);
    assert_eq!(endpoints(&catalog, "pay.dc2"), ["10.0.0.2:8443"]);
    let cases = [
        ("check n2 c warning service=db-1-sidecar-proxy", vec!["10.9.0.2:21001"]),
        ("check n2 c critical service=db-1-sidecar-proxy", vec![]),
        ("check n2 c passing service=db-1-sidecar-proxy", vec!["10.9.0.2:21001"]),
        ("service n2 db-2 db port=443 native=yes", vec!["10.0.0.2:443", "10.9.0.2:21001"]),
        ("service n2 no-port db native=yes", vec!["10.0.0.2:443", "10.9.0.2:21001"]),
        ("health n2 dead", vec![]),
    ];
    for (line, expected) in cases {
        catalog.apply(command(line));
        assert_eq!(endpoints(&catalog, "db"), expected, "{line}");
    }
    assert_eq!(endpoints(&catalog, "pay.dc2"), [""; 0], "the gateway is on the dead node");
}

#[test]
fn calls_that_no_intention_names_are_the_servers_to_decide() {
    let catalog = catalog_after(MESH);
    let compile = |node: &str, id: &str, action| catalog::compile::proxy(&View::new(&catalog), node, id, "dc1", action);
    for action in [Action::Allow, Action::Deny] {
        let sidecar = compile("n1", "web-1-sidecar-proxy", action).expect("a sidecar");
        assert_eq!(sidecar.inbound.expect("inbound").default_action, action);
        assert!(compile("n2", "gw", action).expect("a gateway").inbound.is_none(), "a gateway decides nothing");
    }
}

#[test]
fn there_is_nothing_to_compile_without_an_authority_or_a_proxy() {
    let catalog = catalog_after(MESH);
    for question in ["proxy n1 web-1", "proxy n1 nope", "proxy nope web-1-sidecar-proxy"] {
        assert_eq!(read(&View::new(&catalog), question), "none", "{question}");
    }
    let no_authority = catalog_after(&MESH.replace("ca root1", ""));
    assert_eq!(read(&View::new(&no_authority), "proxy n1 web-1-sidecar-proxy"), "none");
    assert_eq!(catalog::compile::sidecar(&View::new(&catalog), "n2", "gw", "dc1", Action::Allow), None);
    assert_eq!(catalog::compile::gateway(&View::new(&catalog), "n1", "web-1-sidecar-proxy", "dc1"), None);
}

#[test]
fn a_proxy_hears_of_what_concerns_it_and_of_nothing_else() {
    let catalog = catalog_after(MESH);
    let view = View::new(&catalog);
    read(&view, "proxy n1 web-1-sidecar-proxy");
    let topics = view.topics();
    let cases = [
        ("intention api web allow", true),
        ("check n2 c warning service=db-1-sidecar-proxy", true),
        ("ca root2 expected=2", true),
        ("revoke serials=0b until=100", true),
        ("config {\"Kind\":\"service-defaults\",\"Name\":\"db\"}", true),
        ("service n2 gw2 gw kind=gateway port=8443", true),
        ("health n2 dead", true),
        ("intention web db deny", false),
        ("kv set a 1", false),
        ("service n2 other other port=1", false),
        ("check n2 c warning service=db-1", false),
        ("datacenter dc3", false),
        ("config {\"Kind\":\"service-defaults\",\"Name\":\"other\"}", false),
        ("node n3 address=10.0.0.3", false),
    ];
    for (line, concerns) in cases {
        let (_, changes) = catalog.clone().apply(command(line));
        assert_eq!(changes.topics.iter().any(|topic| topics.contains(topic)), concerns, "{line}: {changes:?}");
    }
}
