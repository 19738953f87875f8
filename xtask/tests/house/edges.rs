//! Who may depend on whom: the law of floors as a table, held against `cargo metadata`.
//!
//! A new edge between our crates is rare and is discussed: it changes the table here and comes with an ADR.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::{Violation, expect_none, root};

/// How far up a crate stands. A dev edge may reach its own floor or below, never above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    Ground,
    Mechanism,
    Assembly,
    Program,
}

/// Each of our crates, its floor, and the siblings that it may use in its product code.
const HOUSE: &[(&str, Floor, &[&str])] = &[
    ("faults", Floor::Ground, &[]),
    ("model", Floor::Ground, &[]),
    ("catalog", Floor::Ground, &["model", "faults"]),
    ("store", Floor::Ground, &["faults"]),
    ("raft", Floor::Mechanism, &["store", "faults"]),
    ("identity", Floor::Mechanism, &["model", "faults"]),
    ("dns", Floor::Mechanism, &["model"]),
    ("api", Floor::Mechanism, &["model"]),
    ("agent", Floor::Assembly, &["model", "api", "identity", "dns", "store", "faults"]),
    ("server", Floor::Assembly, &["model", "catalog", "raft", "identity", "api", "dns", "faults"]),
    ("proxy", Floor::Assembly, &["model", "api", "identity", "faults"]),
    (
        "cli",
        Floor::Program,
        &["model", "catalog", "store", "raft", "identity", "dns", "api", "agent", "server", "proxy", "faults"],
    ),
    ("xtask", Floor::Ground, &[]),
];

/// The most crates of ours on one path from a program down to the ground.
const CHAIN_CRATES_MAX: usize = 4;

/// Packages that stay behind one wall: the product code of everybody else speaks to that crate instead.
const WALLS: &[(&str, &str)] = &[
    ("sled", "store"),
    ("openraft", "raft"),
    ("raft-log", "raft"),
    ("quinn", "proxy"),
    ("quinn-proto", "proxy"),
    ("rcgen", "identity"),
    ("hickory-proto", "dns"),
    ("hickory-server", "dns"),
    ("hickory-resolver", "dns"),
    ("imbl", "catalog"),
    ("hcl-rs", "cli"),
    ("clap", "cli"),
];

/// What the pure part of the ground floor may never pull in, not even for its tests.
const NEVER_IN_PURE: &[&str] = &[
    "tokio",
    "hyper",
    "http",
    "axum",
    "tonic",
    "prost",
    "rand",
    "getrandom",
    "uuid",
    "chrono",
    "time",
    "tracing",
    "nix",
    "libc",
    "socket2",
];

/// An edge of the workspace, by folder names for our crates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    /// The folder of the crate that has the edge.
    pub(crate) from: String,
    /// The folder of our crate, or the package name of another's.
    pub(crate) to: String,
    /// Whether `to` is one of ours.
    pub(crate) ours: bool,
    /// Whether only tests use it.
    pub(crate) dev: bool,
}

#[test]
fn the_edges_between_our_crates_are_those_of_the_table() {
    let edges = workspace_edges();
    assert!(edges.iter().any(|edge| edge.ours), "no edge was read from the workspace");
    expect_none(crate_violations(&workspace_crates(), &edges));
}

#[test]
fn heavy_packages_stay_behind_their_wall() {
    expect_none(wall_violations(&workspace_edges()));
}

#[test]
fn no_chain_of_crates_is_long() {
    // `faults` is nothing in a product build, and nobody has to read it to understand who stands on it.
    let edges: Vec<Edge> = workspace_edges().into_iter().filter(|edge| edge.to != "faults").collect();
    let (length, chain) = longest_chain(&edges);
    assert!(
        length <= CHAIN_CRATES_MAX,
        "{} is a chain of {length} crates; {CHAIN_CRATES_MAX} are the most",
        chain.join(" -> ")
    );
}

#[test]
fn the_table_itself_keeps_the_law_of_floors() {
    let floors: BTreeMap<&str, Floor> = HOUSE.iter().map(|(name, floor, _)| (*name, *floor)).collect();
    for (name, floor, uses) in HOUSE {
        for used in *uses {
            let lower = floors[used] < *floor || (floors[used] == Floor::Ground && *floor == Floor::Ground);
            assert!(lower, "{name} may not use {used}: both are {floor:?}");
        }
    }
}

/// Every direct dependency that a crate of the workspace declares.
pub(crate) fn workspace_edges() -> Vec<Edge> {
    let metadata = metadata();
    let folders = folders(&metadata);
    let mut edges = BTreeSet::new();
    for package in &metadata.packages {
        for dependency in &package.dependencies {
            let ours = folders.get(dependency.name.as_str());
            edges.insert(Edge {
                from: folders[package.name.as_str()].clone(),
                to: ours.cloned().unwrap_or_else(|| dependency.name.clone()),
                ours: ours.is_some(),
                dev: dependency.kind == DependencyKind::Development,
            });
        }
    }
    edges.into_iter().collect()
}

/// The folders of the crates of the workspace.
pub(crate) fn workspace_crates() -> Vec<String> {
    folders(&metadata()).into_values().collect()
}

fn metadata() -> cargo_metadata::Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata describes the workspace")
}

/// From package name to folder.
fn folders(metadata: &cargo_metadata::Metadata) -> BTreeMap<String, String> {
    let folder = |package: &cargo_metadata::Package| {
        package.manifest_path.parent().and_then(|parent| parent.file_name()).unwrap_or_default().to_owned()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), folder(package))).collect()
}

/// Crates that the table does not know, and edges that it does not allow.
fn crate_violations(crates: &[String], edges: &[Edge]) -> Vec<Violation> {
    let table: BTreeMap<&str, (Floor, &[&str])> =
        HOUSE.iter().map(|(name, floor, uses)| (*name, (*floor, *uses))).collect();
    let mut found = Vec::new();
    for name in crates.iter().filter(|name| !table.contains_key(name.as_str())) {
        let message =
            format!("the crate {name} has no line in HOUSE (xtask/tests/house/edges.rs); a new crate needs an ADR");
        found.push(Violation::new(&format!("{name}/Cargo.toml"), 0, message));
    }
    for edge in edges.iter().filter(|edge| edge.ours) {
        let (Some((floor, uses)), Some((floor_used, _))) = (table.get(edge.from.as_str()), table.get(edge.to.as_str()))
        else {
            continue;
        };
        let allowed = if edge.dev { floor_used <= floor } else { uses.contains(&edge.to.as_str()) };
        if !allowed {
            let kind = if edge.dev { "dev edge" } else { "edge" };
            let message = format!(
                "the {kind} {} -> {} is against the law of floors ({floor:?} -> {floor_used:?}): move the code, or change HOUSE with an ADR",
                edge.from, edge.to
            );
            found.push(Violation::new(&format!("{}/Cargo.toml", edge.from), 0, message));
        }
    }
    found
}

/// Heavy packages in the wrong crate, and impure packages in the pure crates.
fn wall_violations(edges: &[Edge]) -> Vec<Violation> {
    let mut found = Vec::new();
    for edge in edges.iter().filter(|edge| !edge.ours) {
        let manifest = format!("{}/Cargo.toml", edge.from);
        for (package, home) in WALLS {
            // xtask is a program of its own beside the product.
            if edge.to == *package && edge.from != *home && edge.from != "xtask" && !edge.dev {
                let message = format!("`{package}` belongs to {home} alone: ask {home} for what you need");
                found.push(Violation::new(&manifest, 0, message));
            }
        }
        let pure = matches!(edge.from.as_str(), "model" | "catalog");
        if pure && NEVER_IN_PURE.contains(&edge.to.as_str()) {
            let message = format!("`{}` in a pure crate: pass the value in", edge.to);
            found.push(Violation::new(&manifest, 0, message));
        }
    }
    found
}

/// The longest path of our crates along product edges: how many crates, and which.
fn longest_chain(edges: &[Edge]) -> (usize, Vec<String>) {
    let names: BTreeSet<&str> = edges.iter().map(|edge| edge.from.as_str()).collect();
    let chains = names.into_iter().map(|name| chain_below(name, edges));
    let longest = chains.max_by_key(Vec::len).unwrap_or_default();
    (longest.len(), longest)
}

/// Cargo refuses cycles of product edges, so this ends.
fn chain_below(name: &str, edges: &[Edge]) -> Vec<String> {
    let below = edges.iter().filter(|edge| edge.ours && !edge.dev && edge.from == name);
    let mut chain = vec![name.to_owned()];
    chain.extend(below.map(|edge| chain_below(&edge.to, edges)).max_by_key(Vec::len).unwrap_or_default());
    chain
}

fn edge(from: &str, to: &str, ours: bool, dev: bool) -> Edge {
    Edge { from: from.to_owned(), to: to.to_owned(), ours, dev }
}

#[test]
fn edges_against_the_law_fire() {
    let bad = [
        edge("model", "catalog", true, false),
        edge("server", "agent", true, false),
        edge("proxy", "catalog", true, false),
        edge("raft", "catalog", true, false),
        edge("agent", "cli", true, false),
        // Above the floor, though only for tests.
        edge("dns", "server", true, true),
        edge("model", "raft", true, true),
    ];
    for edge in bad {
        assert_eq!(crate_violations(&[], std::slice::from_ref(&edge)).len(), 1, "{edge:?}");
    }
    assert_eq!(crate_violations(&["gossip".to_owned()], &[]).len(), 1);
}

#[test]
fn edges_within_the_law_pass() {
    let good = [
        edge("cli", "server", true, false),
        edge("server", "catalog", true, false),
        edge("agent", "dns", true, false),
        edge("agent", "raft", true, true),
        edge("server", "serde", false, false),
    ];
    assert_eq!(crate_violations(&["model".to_owned()], &good), []);
}

#[test]
fn a_package_outside_its_wall_fires() {
    let bad = [
        ("server", "sled", false),
        ("agent", "openraft", false),
        ("server", "quinn", false),
        ("cli", "rcgen", false),
        ("model", "rand", false),
        // Pure crates have pure tests.
        ("model", "tokio", true),
    ];
    for (from, to, dev) in bad {
        assert_eq!(wall_violations(&[edge(from, to, false, dev)]).len(), 1, "{from} -> {to}");
    }
    // A test may make its certificates by hand: what only tests see does not leak.
    let good = [("store", "sled", false), ("server", "rand", false), ("api", "rcgen", true)];
    for (from, to, dev) in good {
        assert_eq!(wall_violations(&[edge(from, to, false, dev)]), [], "{from} -> {to}");
    }
}

#[test]
fn the_longest_chain_is_found() {
    let edges = [
        edge("cli", "server", true, false),
        edge("cli", "model", true, false),
        edge("server", "catalog", true, false),
        edge("catalog", "model", true, false),
        // Dev edges and other people's packages make no chain longer.
        edge("model", "cli", true, true),
        edge("model", "serde", false, false),
    ];
    let (length, chain) = longest_chain(&edges);
    assert_eq!((length, chain.join(" ")), (4, "cli server catalog model".to_owned()));
}
