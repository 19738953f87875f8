//! A delta says exactly what changed.

use super::*;
use crate::proxy_config::Rule;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let one = (0..4u8, 1..3u16).prop_map(|(n, weight)| Endpoint {
        address: format!("10.0.0.{n}:21000"),
        instance: format!("db-{n}"),
        node: format!("n{n}"),
        weight,
    });
    vec(one, 0..3)
}

fn upstream() -> impl Strategy<Value = UpstreamConfig> {
    (0..3u8, 0..2u32, endpoints()).prop_map(|(port, connect_timeout_ms, endpoints)| UpstreamConfig {
        listen: format!("127.0.0.1:{port}"),
        connect_timeout_ms,
        endpoints,
        ..UpstreamConfig::default()
    })
}

fn gateway() -> impl Strategy<Value = GatewayConfig> {
    let datacenters = btree_map("dc[1-3]", vec("[a-c]:1", 0..2), 0..3);
    ("l[12]", "t[12]", datacenters, btree_map("s[1-3]", endpoints(), 0..3)).prop_map(
        |(listen, tunnel_listen, datacenters, services)| GatewayConfig { listen, tunnel_listen, datacenters, services },
    )
}

fn inbound() -> impl Strategy<Value = Inbound> {
    (0..2u16, vec("[ab*]", 0..3)).prop_map(|(port, sources)| Inbound {
        listen: format!("0.0.0.0:{port}"),
        intentions: sources.into_iter().map(|source| Rule { source, ..Rule::default() }).collect(),
        ..Inbound::default()
    })
}

fn config() -> impl Strategy<Value = ProxyConfig> {
    let texts = || vec("[ab]", 0..2);
    let upstreams = btree_map("u[1-3]", upstream(), 0..3);
    let parts = (texts(), texts(), texts(), prop::option::of(inbound()), upstreams, prop::option::of(gateway()));
    ("[ab]?", parts).prop_map(|(id, (roots, revoked_serials, revoked_ids, inbound, upstreams, gateway))| ProxyConfig {
        id,
        roots,
        revoked_serials,
        revoked_ids,
        inbound,
        upstreams,
        gateway,
        ..ProxyConfig::default()
    })
}

proptest! {
    #[test]
    fn applying_the_difference_makes_the_new_of_the_old(old in config(), new in config()) {
        let mut applied = old.clone();
        apply(&mut applied, diff(&old, &new));
        prop_assert_eq!(&applied, &new);
        prop_assert!(diff(&new, &applied).is_empty());
    }

    #[test]
    fn the_whole_makes_the_new_of_anything(old in config(), new in config()) {
        let mut applied = old;
        apply(&mut applied, ProxyDelta::whole(&new));
        prop_assert_eq!(applied, new);
    }

    #[test]
    fn a_delta_survives_the_wire(old in config(), new in config()) {
        let delta = diff(&old, &new);
        let packed = rmp_serde::to_vec_named(&delta).expect("packs");
        prop_assert_eq!(&rmp_serde::from_slice::<ProxyDelta>(&packed).expect("unpacks"), &delta);
        let json = serde_json::to_string(&delta).expect("prints");
        prop_assert_eq!(&serde_json::from_str::<ProxyDelta>(&json).expect("reads"), &delta);
    }

    #[test]
    fn a_delta_for_another_configuration_does_no_harm(old in config(), new in config(), mut other in config()) {
        apply(&mut other, diff(&old, &new));
    }
}

#[test]
fn one_endpoint_more_is_one_list_of_endpoints() {
    let upstream = |addresses: &[&str]| UpstreamConfig {
        listen: "127.0.0.1:9191".into(),
        endpoints: addresses
            .iter()
            .map(|address| Endpoint { address: address.to_string(), ..Endpoint::default() })
            .collect(),
        ..UpstreamConfig::default()
    };
    let config = |addresses: &[&str]| ProxyConfig {
        upstreams: [("db".to_string(), upstream(addresses)), ("cache".to_string(), upstream(&["c"]))].into(),
        ..ProxyConfig::default()
    };
    let delta = diff(&config(&["a"]), &config(&["a", "b"]));
    let expected =
        ProxyDelta { endpoints: [("db".to_string(), upstream(&["a", "b"]).endpoints)].into(), ..ProxyDelta::default() };
    assert_eq!(delta, expected);
    assert!(diff(&config(&["a"]), &config(&["a"])).is_empty());
}
