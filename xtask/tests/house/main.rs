//! The tests that hold the house: who may depend on whom, what must be pure, what every file looks like.
//!
//! Each rule is a pure function from text to violations, and stands beside samples which must fire and samples which must not:
//! a check that cannot fail is a defect. `cargo xtask tidy` runs them alone.

mod dependencies;
mod edges;
mod faults;
mod papers;
mod purity;
mod source;
mod tidy;
mod unused;

use std::path::{Path, PathBuf};

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
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

/// Fails the test with every violation on a line of its own, as `path:line: message`.
fn expect_none(mut violations: Vec<Violation>) {
    violations.sort();
    violations.dedup();
    let lines: Vec<String> =
        violations.iter().map(|found| format!("{}:{}: {}", found.path, found.line, found.message)).collect();
    assert!(lines.is_empty(), "{} broken rule(s):\n{}\n", lines.len(), lines.join("\n"));
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies below the root").to_owned()
}

/// The files whose name ends with `.extension`, as (path from the root, text).
fn files(extension: &str) -> Vec<(String, String)> {
    let suffix = format!(".{extension}");
    texts(|path| path.ends_with(&suffix))
}

/// Every text file of the repository that `wanted` accepts by its path. What is built or fetched does not count.
fn texts(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    walk(&root(), "", &mut paths);
    paths.sort();
    paths.retain(|path| wanted(path));
    // A binary file is no text; a file that goes away while others work is none either.
    let read = |path: String| Some((path.clone(), std::fs::read_to_string(root().join(path)).ok()?));
    paths.into_iter().filter_map(read).collect()
}

/// Folders that are not of the repository, whatever is in them: what `.gitignore` leaves out, and git's own.
const NOT_OURS: &[&str] = &["target", ".git", ".venv", "__pycache__"];

/// Adds the paths of all files below `folder`, each with `prefix` before it. No git is needed, so the tests run in a bare archive too.
fn walk(folder: &Path, prefix: &str, paths: &mut Vec<String>) {
    let entries = std::fs::read_dir(folder).map(|entries| entries.filter_map(Result::ok));
    for entry in entries.into_iter().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !NOT_OURS.contains(&name.as_str()) => {
                walk(&entry.path(), &format!("{path}/"), paths);
            }
            Ok(kind) if kind.is_file() => paths.push(path),
            _ => {}
        }
    }
}
