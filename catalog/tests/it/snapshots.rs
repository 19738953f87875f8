//! Snapshots: the way back, and what is refused.

use crate::language::{apply, catalog_after, read};
use catalog::{Catalog, SnapshotError, View};
use expect_test::expect;

const SOME: &str = "
    node n1 address=10.0.0.1 id=aaa meta=rack:a
    service n1 web1 web port=80 tags=a,b meta=k:v
    service n1 web1-sidecar-proxy web-sidecar-proxy kind=sidecar for=web port=21000 upstreams=db:9191 settings=n:1.5
    check n1 c1 passing service=web1
    health n1 alive id=aaa address=10.0.0.1 meta=rack:a
    kv set a/b value flags=3
    kv set gone 1
    kv delete gone
    intention web db allow id=i1
    config {\"Kind\": \"proxy-defaults\", \"Name\": \"global\", \"Config\": {\"protocol\": \"http\"}}
    datacenter dc2 servers=10.2.0.1:8300
    ca root1
    revoke serials=0a ids=x until=100
    service n1 gone gone
    deregister n1 service=gone
    session s1 n1 checks=serfHealth service-checks=c1 ttl=10s
    kv lock held mine session=s1
    session s2 n1 behavior=delete delay=5s
    kv lock was-held mine session=s2
    unsession s2 at=1000
";

fn bytes(catalog: &Catalog) -> Vec<u8> {
    let mut bytes = Vec::new();
    catalog.write_snapshot(&mut bytes).expect("memory takes all");
    bytes
}

#[test]
fn the_way_back_leads_to_the_same_catalog() {
    for catalog in [Catalog::new(), catalog_after(SOME)] {
        let back = Catalog::read_snapshot(bytes(&catalog).as_slice()).expect("reads");
        assert_eq!(back, catalog);
        assert_eq!(back.state_hash(), catalog.state_hash());
        assert_eq!(back.violations(), [""; 0]);
    }
}

#[test]
fn what_is_restored_goes_on_as_the_original() {
    let mut catalog = catalog_after(SOME);
    let mut back = Catalog::read_snapshot(bytes(&catalog).as_slice()).expect("reads");
    for line in [
        "session s3 n1",
        "kv lock was-held mine session=s3 at=5999",
        "kv lock was-held mine session=s3 at=6000",
        "kv lock held mine session=s3",
        "deregister n1 check=c1",
        "health n1 dead at=7000",
    ] {
        assert_eq!(apply(&mut back, line), apply(&mut catalog, line), "{line}");
        assert_eq!(back.state_hash(), catalog.state_hash(), "{line}");
    }
    assert_eq!(back.violations(), [""; 0]);
}

/// What the first release wrote, as hex in a file, must be read for ever, and mean the same.
#[test]
fn a_snapshot_of_the_first_release_is_understood() {
    let hex = include_str!("../golden/snapshot-1.hex").trim();
    let bytes: Vec<u8> =
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex")).collect();
    let catalog = Catalog::read_snapshot(bytes.as_slice()).expect("reads");
    assert_eq!(catalog.violations(), [""; 0]);
    let questions = [
        "node n1",
        "all",
        "node-checks n1",
        "connect web",
        "list",
        "kv gone",
        "instances gone",
        "intentions",
        "entries proxy-defaults",
        "datacenters",
        "ca",
        "revoked",
    ];
    let told = questions.map(|question| {
        let view = View::new(&catalog);
        format!("{question}: {} @{}\n", read(&view, question), view.index())
    });
    expect![[r#"
        node n1: n1 10.0.0.1 {"rack": "a"} id="aaa" @2/2 @2
        all: web1 web:80 ["a", "b"] @3/3 on n1 10.0.0.1 {"rack": "a"} id="aaa" @2/2
        web1-sidecar-proxy web-sidecar-proxy:21000 [] @4/4 on n1 10.0.0.1 {"rack": "a"} id="aaa" @2/2 @16
        node-checks n1: n1/serfHealth passing "Agent alive and reachable" @6/6
        n1/c1 passing of web1:web["a", "b"] "" @5/5 @6
        connect web: web1-sidecar-proxy web-sidecar-proxy:21000 [] @4/4 on n1 10.0.0.1 {"rack": "a"} id="aaa" @2/2 @4
        list: a/b=KvEntry { key: "a/b", flags: 3, value: b"value", lock_index: 0, session: None } flags=3 @7/7 @9
        kv gone: none @9
        instances gone: none @16
        intentions: web->db Allow 9 id="i1" @10/10 @10
        entries proxy-defaults: Row { create_index: 11, modify_index: 11, value: ProxyDefaults(ProxyDefaults { name: "global", config: {"protocol": String("http")}, mesh_gateway: MeshGateway { mode: Default }, meta: {} }) } @11
        datacenters: Datacenter { name: "dc2", servers: ["10.2.0.1:8300"], gateways: [], primary: false } @12 @12
        ca: t.consul "root1" @13 @13
        revoked: (["0a"], ["x"]) @14
    "#]].assert_eq(&told.concat());
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let good = bytes(&catalog_after(SOME));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(Catalog::read_snapshot(bad.as_slice()).is_err(), "byte {at} of {}", good.len());
    }
    for len in 0..good.len() {
        assert!(matches!(Catalog::read_snapshot(&good[..len]), Err(SnapshotError::Damaged(_))), "cut at {len}");
    }
}

#[test]
fn newer_formats_are_refused_by_name() {
    let mut newer = bytes(&Catalog::new());
    newer[0] = 99;
    let error = Catalog::read_snapshot(newer.as_slice()).expect_err("newer").to_string();
    assert_eq!(error, "snapshot format 99 is newer than this release reads (2): upgrade this server");
    let mut unknown = bytes(&Catalog::new());
    unknown[1] = 77;
    let error = Catalog::read_snapshot(unknown.as_slice()).expect_err("unknown").to_string();
    assert_eq!(error, "snapshot has records of the unknown kind 77: upgrade this server");
}

#[test]
fn a_huge_length_takes_no_memory() {
    let bad = [1, 1, 255, 255, 255, 255];
    let error = Catalog::read_snapshot(bad.as_slice()).expect_err("damaged").to_string();
    assert_eq!(error, "snapshot is damaged (a record of 4294967295 bytes): fetch it again");
}
