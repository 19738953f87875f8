//! Commands and reads from files: what each command answers and touches, and what is then read.
//!
//! A file is a list of cases, each a line, `----`, and what came of it. `UPDATE_EXPECT=1` writes what comes of it now.

use crate::language::{apply, read, show_outcome, show_topic};
use catalog::{Catalog, Response, View};
use expect_test::expect_file;

/// Runs the cases of a file and returns the file as it should be.
fn run(text: &str) -> String {
    let mut catalog = Catalog::new();
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let answer = answer(&mut catalog, line);
        assert_eq!(catalog.violations(), [""; 0], "{line}");
        out.push_str(&format!("{line}\n----\n{answer}\n"));
        // What the file says came of it is left out, up to the empty line.
        while lines.peek().is_some_and(|line| !line.is_empty()) {
            lines.next();
        }
    }
    out
}

fn answer(catalog: &mut Catalog, line: &str) -> String {
    if let Some(question) = line.strip_prefix("? ") {
        let view = View::new(catalog);
        let value = read(&view, question);
        let topics: Vec<String> = view.topics().iter().map(show_topic).collect();
        return format!("{value}\n@{} of {}", view.index(), topics.join(" "));
    }
    let (response, changes) = apply(catalog, line);
    let response = match response {
        Response::Refused(refusal) => format!("Refused: {refusal}"),
        Response::Txn(outcome) => show_outcome(&outcome),
        other => format!("{other:?}"),
    };
    let topics: Vec<String> = changes.topics.iter().map(show_topic).collect();
    if topics.is_empty() { response } else { format!("{response} @{}\n{}", catalog.index(), topics.join(" ")) }
}

#[expect(clippy::disallowed_methods, reason = "the cases are files")]
fn check(name: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apply").join(name);
    let text = std::fs::read_to_string(&path).expect("the file is there");
    expect_file![&path].assert_eq(&run(&text));
}

#[test]
fn nodes() {
    check("nodes.txt");
}

#[test]
fn services() {
    check("services.txt");
}

#[test]
fn checks() {
    check("checks.txt");
}

#[test]
fn syncs() {
    check("sync.txt");
}

#[test]
fn kv() {
    check("kv.txt");
}

#[test]
fn sessions_and_locks() {
    check("sessions.txt");
}

#[test]
fn transactions() {
    check("txn.txt");
}

#[test]
fn intentions_and_config_entries() {
    check("config.txt");
}

#[test]
fn authority_and_datacenters() {
    check("ca.txt");
}
