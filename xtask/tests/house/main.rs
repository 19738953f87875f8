//! The tests that hold the house: who may depend on whom, what must be pure, what every file looks like.
//!
//! Each rule is a pure function from text to violations, and stands beside samples which must fire and samples which must not:
//! a check that cannot fail is a defect. `cargo xtask tidy` runs them alone.

mod dependencies;
mod edges;
mod papers;
mod purity;
mod source;
mod tidy;
mod unused;

use std::path::{Path, PathBuf};
use std::process::Command;

/// One broken rule: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    /// Path from the root of the repository.
    path: String,
    /// Counted from 1; 0 when the whole file is meant.
    line: usize,
    /// Which rule, and the way out.
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            message: message.into(),
        }
    }
}

/// Fails the test with every violation on a line of its own, as `path:line: message`.
fn expect_none(mut violations: Vec<Violation>) {
    violations.sort();
    violations.dedup();
    let lines: Vec<String> = violations
        .iter()
        .map(|found| format!("{}:{}: {}", found.path, found.line, found.message))
        .collect();
    assert!(
        lines.is_empty(),
        "{} broken rule(s):\n{}\n",
        lines.len(),
        lines.join("\n")
    );
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies below the root")
        .to_owned()
}

/// The files whose name ends with `.extension`, as (path from the root, text).
fn files(extension: &str) -> Vec<(String, String)> {
    let suffix = format!(".{extension}");
    texts(|path| path.ends_with(&suffix))
}

/// Every text file that git tracks, or would track, and that `wanted` accepts by its path.
fn texts(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files of the repository");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("paths are UTF-8")
        .lines()
        .filter(|path| wanted(path))
        // A file deleted from the work tree but not yet from the index has no text; nor has a binary one.
        .filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(root().join(path)).ok()?)))
        .collect()
}
