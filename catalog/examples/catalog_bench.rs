//! What commands, reads and rows cost: `cargo run --release -p tribune-catalog --example catalog_bench [instances]`.

#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a bench reads the clock")]

use catalog::query::{self, Selection};
use catalog::{Catalog, Command, KvCommand, Registration, View};
use model::{Check, CheckStatus, Node, ServiceInstance};
use std::hint::black_box;
use std::time::Instant;

const NODES: usize = 500;
const SERVICES: usize = 100;
const KEYS: usize = 10_000;

fn main() {
    let instances = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let mut catalog = Catalog::new();
    let empty = resident_bytes();
    for n in 0..NODES {
        catalog.apply(registration(n, None));
    }
    let commands: Vec<Vec<u8>> = (0..instances).map(|n| registration(n % NODES, Some(n)).encode()).collect();
    per("registration (decode and apply)", instances, || {
        for bytes in &commands {
            let command = Command::decode(bytes).expect("it was encoded here");
            black_box(catalog.apply(command));
        }
    });
    drop(commands);
    let grown = resident_bytes().saturating_sub(empty);
    println!("{:>44}: {} bytes", "memory of an instance with one check", grown / instances);
    per("registration that changes nothing", instances, || {
        for n in 0..instances {
            black_box(catalog.apply(registration(n % NODES, Some(n))));
        }
    });
    per("check that changes its status", instances, || {
        for n in 0..instances {
            black_box(catalog.apply(check_update(n)));
        }
    });
    keys(&mut catalog);
    reads(&catalog, instances);
}

fn keys(catalog: &mut Catalog) {
    let put =
        |n: usize| KvCommand::Set { key: format!("bench/dir{}/key{n}", n % 100), value: "value".into(), flags: 0 };
    per("KV put of a new key", KEYS, || {
        for n in 0..KEYS {
            black_box(catalog.apply(Command::Kv(put(n))));
        }
    });
    per("KV put of a known key", KEYS, || {
        for n in 0..KEYS {
            black_box(catalog.apply(Command::Kv(put(n))));
        }
    });
    // As a server does: readers hold the last batch's catalog while the next is made.
    per("KV put, 64 to a published batch", KEYS, || {
        let mut published = catalog.clone();
        for n in 0..KEYS {
            black_box(catalog.apply(Command::Kv(put(n))));
            if n % 64 == 0 {
                published = catalog.clone();
            }
        }
        black_box(published);
    });
}

fn reads(catalog: &Catalog, instances: usize) {
    let entries = instances / SERVICES;
    let all = Selection::default();
    per(&format!("health of a service, per entry of {entries}"), entries * 100, || {
        for _ in 0..100 {
            let view = View::new(catalog);
            black_box(query::service::health(&view, "service-7", &all));
            black_box(view.index());
        }
    });
    per("KV get", KEYS, || {
        for n in 0..KEYS {
            let view = View::new(catalog);
            black_box(query::kv::get(&view, &format!("bench/dir{}/key{n}", n % 100)));
            black_box(view.index());
        }
    });
    per("snapshot, per row", instances * 2 + KEYS, || {
        let mut bytes = Vec::new();
        catalog.write_snapshot(&mut bytes).expect("memory takes all");
        black_box(bytes);
    });
}

fn node(n: usize) -> Node {
    let last = n % 250;
    Node {
        name: format!("node-{n}"),
        address: format!("10.0.{}.{last}", n / 250),
        datacenter: "dc1".into(),
        ..Node::default()
    }
}

fn registration(on_node: usize, instance: Option<usize>) -> Command {
    let service = instance.map(|n| ServiceInstance {
        id: format!("service-{}-{n}", n % SERVICES),
        service: format!("service-{}", n % SERVICES),
        tags: vec!["v1".into(), "primary".into()],
        port: 8080,
        ..ServiceInstance::default()
    });
    let checks = instance.map(|n| check(n, CheckStatus::Passing)).into_iter().collect();
    Command::Register(Box::new(Registration { node: node(on_node), skip_node_update: false, service, checks }))
}

fn check(n: usize, status: CheckStatus) -> Check {
    let id = format!("service-{}-{n}", n % SERVICES);
    Check {
        check_id: format!("service:{id}"),
        name: "Service check".into(),
        status,
        service_id: id,
        kind: "http".into(),
        ..Check::default()
    }
}

fn check_update(n: usize) -> Command {
    let checks = vec![check(n, CheckStatus::Warning)];
    Command::Register(Box::new(Registration { node: node(n % NODES), skip_node_update: true, service: None, checks }))
}

fn per(what: &str, count: usize, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let micros = start.elapsed().as_secs_f64() * 1e6 / count.max(1) as f64;
    println!("{what:>44}: {micros:.2} µs");
}

/// The memory of this process that is in use, in bytes (Linux; 0 elsewhere).
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split_whitespace().nth(1).and_then(|text| text.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}
