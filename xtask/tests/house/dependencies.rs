//! Every edge to somebody else's package has one line in `docs/DEPENDENCIES.md` which says why; no line outlives its edge.

use std::collections::{BTreeMap, BTreeSet};

use crate::edges::{workspace_crates, workspace_edges};
use crate::{Violation, expect_none, root};

const PAPER: &str = "docs/DEPENDENCIES.md";

/// The shortest reason that can say anything.
const REASON_LETTERS_MIN: usize = 12;

#[test]
fn every_edge_has_one_line_and_every_line_an_edge() {
    let text = std::fs::read_to_string(root().join(PAPER)).expect("docs/DEPENDENCIES.md is there");
    let edges: BTreeSet<(String, String)> =
        workspace_edges().into_iter().filter(|edge| !edge.ours).map(|edge| (edge.from, edge.to)).collect();
    let crates: BTreeSet<String> = workspace_crates().into_iter().collect();
    expect_none(violations(&text, &crates, &edges));
}

/// Compares the paper with the edges, as (crate, package).
fn violations(text: &str, crates: &BTreeSet<String>, edges: &BTreeSet<(String, String)>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut lines: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut section = String::new();
    for (at, line) in text.lines().enumerate() {
        let mut report = |message: String| found.push(Violation::new(PAPER, at + 1, message));
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim().to_owned();
            if !crates.contains(&section) {
                report(format!("no crate is called `{section}`"));
            }
        } else if line.starts_with("- ") && !section.is_empty() {
            match parse(line) {
                Ok(package) => {
                    let edge = (section.clone(), package.to_owned());
                    if !edges.contains(&edge) {
                        report(format!("`{section}` has no dependency `{package}`: take the line away"));
                    }
                    if let Some(first) = lines.insert(edge, at + 1) {
                        report(format!("`{package}` already has a line under `{section}`, line {first}"));
                    }
                }
                Err(complaint) => report(complaint.to_owned()),
            }
        }
    }
    for (from, to) in edges.iter().filter(|edge| !lines.contains_key(*edge)) {
        let message =
            format!("add under `## {from}`:  - `{to}`: what it is for here; looked at: what else, and why not");
        found.push(Violation::new(PAPER, 0, message));
    }
    found
}

/// The package of a line "- `package`: reason; looked at: others", or what is wrong with the line.
fn parse(line: &str) -> Result<&str, &'static str> {
    let form = "the form is: - `package`: what it is for here; looked at: what else, and why not";
    let rest = line.strip_prefix("- `").ok_or(form)?;
    let (package, rest) = rest.split_once("`: ").ok_or(form)?;
    let (reason, others) = rest.split_once("; looked at: ").ok_or(form)?;
    if reason.trim().len() < REASON_LETTERS_MIN || reason.contains("what it is for here") {
        return Err("say what the package is for here");
    }
    if others.trim().is_empty() || others.contains("what else, and why not") {
        return Err("say what else was looked at, or `see <crate>` where another section tells");
    }
    Ok(package)
}

/// The violations of a paper for a workspace with the one edge store -> sled.
fn judge(text: &str) -> Vec<String> {
    let crates = BTreeSet::from(["store".to_owned(), "raft".to_owned()]);
    let edges = BTreeSet::from([("store".to_owned(), "sled".to_owned())]);
    violations(text, &crates, &edges).into_iter().map(|found| found.message).collect()
}

const GOOD: &str = "- `sled`: keyed trees that survive a power cut; looked at: redb, slower to open";

#[test]
fn a_paper_that_matches_passes() {
    assert_eq!(
        judge(&format!("# Dependencies\n\n- prose before the sections\n\n## store\n\n{GOOD}\n\n## raft\n")),
        Vec::<String>::new()
    );
}

#[test]
fn a_missing_line_is_named_with_its_section() {
    let found = judge("## store\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("## store") && found[0].contains("- `sled`: "), "{found:?}");
}

#[test]
fn a_line_in_the_wrong_place_counts_as_missing_and_as_stale() {
    let found = judge(&format!("## raft\n{GOOD}\n"));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn bad_lines_fire() {
    let cases = [
        (format!("## store\n{GOOD}\n{GOOD}\n"), "already has a line"),
        (format!("## store\n{GOOD}\n## gossip\n"), "no crate is called"),
        (
            format!("## store\n{GOOD}\n- `redb`: keyed trees, the second kind; looked at: sled\n"),
            "no dependency `redb`",
        ),
        ("## store\n- sled: keyed trees\n".to_owned(), "the form is"),
        ("## store\n- `sled`: keyed trees that survive a power cut\n".to_owned(), "the form is"),
        ("## store\n- `sled`: trees; looked at: redb\n".to_owned(), "what the package is for"),
        ("## store\n- `sled`: keyed trees that survive a cut; looked at:  \n".to_owned(), "what else was looked at"),
        (
            "## store\n- `sled`: what it is for here; looked at: what else, and why not\n".to_owned(),
            "what the package is for",
        ),
    ];
    for (text, expected) in cases {
        let found = judge(&text);
        assert!(found.iter().any(|message| message.contains(expected)), "{text}: {found:?}");
    }
}
