//! No edge without a use: what `Cargo.toml` declares, some source of that crate names.
//!
//! An edge that nobody uses costs build time and trust, and makes the table of edges say less than it could.

use crate::edges::{Edge, workspace_edges};
use crate::{Violation, expect_none, root, texts};

/// Packages whose library has another name than the package.
const LIBRARY_NAMES: &[(&str, &str)] = &[("hcl-rs", "hcl"), ("rustls-webpki", "webpki")];

/// Edges that no source names, and why they are needed all the same: crate, package, reason.
const UNNAMED: &[(&str, &str, &str)] = &[
    ("api", "prost", "the code that tonic-prost-build writes names it"),
    ("cli", "faults", "a feature of it turns the mistakes on, and no code names it"),
    ("raft", "prost", "the code that tonic-prost-build writes names it"),
    ("api", "tonic-prost", "the code that tonic-prost-build writes names it"),
    ("raft", "tonic-prost", "the code that tonic-prost-build writes names it"),
];

#[test]
fn every_edge_is_used() {
    let sources = texts(|path| path.ends_with(".rs"));
    let unused = workspace_edges().into_iter().filter(|edge| !is_excused(edge) && !is_named(edge, &sources));
    let complain = |edge: Edge| {
        let message = format!("no source of {} names `{}`: take the edge away", edge.from, edge.to);
        Violation::new(&format!("{}/Cargo.toml", edge.from), 0, message)
    };
    expect_none(unused.map(complain).collect());
}

#[test]
fn every_package_of_the_workspace_is_somebodys() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml is there");
    let edges = workspace_edges();
    let unused = workspace_packages(&manifest).into_iter().filter(|name| !edges.iter().any(|edge| edge.to == *name));
    let complain =
        |name: String| Violation::new("Cargo.toml", 0, format!("no crate uses `{name}`: take its line away"));
    expect_none(unused.map(complain).collect());
}

fn is_excused(edge: &Edge) -> bool {
    UNNAMED.iter().any(|(from, to, _)| *from == edge.from && *to == edge.to)
}

/// Whether a line of code of the edge's crate has the library's name as a word. Attributes name libraries in strings, so strings count.
fn is_named(edge: &Edge, sources: &[(String, String)]) -> bool {
    let other_name = LIBRARY_NAMES.iter().find(|(package, _)| *package == edge.to);
    let library = other_name.map_or_else(|| edge.to.replace('-', "_"), |(_, name)| (*name).to_owned());
    let folder = format!("{}/", edge.from);
    let mut own = sources.iter().filter(|(path, _)| path.starts_with(&folder));
    own.any(|(_, text)| text.lines().any(|line| !line.trim_start().starts_with("//") && has_word(line, &library)))
}

fn has_word(line: &str, word: &str) -> bool {
    let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    words.any(|other| other == word)
}

/// The names below `[workspace.dependencies]`.
fn workspace_packages(manifest: &str) -> Vec<String> {
    let below = manifest.lines().skip_while(|line| line.trim() != "[workspace.dependencies]").skip(1);
    below
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
        .collect()
}

#[test]
fn a_use_is_a_word_of_code_in_the_crate_itself() {
    let edge = |to: &str| Edge { from: "dns".to_owned(), to: to.to_owned(), ours: false, dev: false };
    let source = |path: &str, text: &str| vec![(path.to_owned(), text.to_owned())];
    let used = [
        (edge("socket2"), "use socket2::Socket;"),
        (edge("serde_bytes"), "#[serde(with = \"serde_bytes\")]"),
        (edge("expect-test"), "expect_test::expect![[]]"),
        (edge("hcl-rs"), "hcl::from_str(text)"),
    ];
    for (edge, text) in used {
        assert!(is_named(&edge, &source("dns/src/lib.rs", text)), "{text}");
        assert!(!is_named(&edge, &source("api/src/lib.rs", text)), "another crate: {text}");
    }
    let unused = [
        (edge("rand"), "fn operand() {}"),
        (edge("rand"), "    // rand is not needed"),
        (edge("http"), "let http_body = 1;"),
        (edge("expect-test"), "expect(test)"),
    ];
    for (edge, text) in unused {
        assert!(!is_named(&edge, &source("dns/src/lib.rs", text)), "{text}");
    }
}

#[test]
fn the_packages_of_the_workspace_are_read() {
    let manifest = "[workspace]\nx = 1\n[workspace.dependencies]\n# a comment = 1\nserde = \"1\"\nmodel = { path = \"model\" }\n\n[lints]\ny = 1\n";
    assert_eq!(workspace_packages(manifest), ["serde", "model"]);
}
