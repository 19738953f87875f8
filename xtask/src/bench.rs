//! `cargo xtask bench`: what is in `bench/`, and how to start it.
//!
//! A benchmark is a folder of `bench/` with a `Cargo.toml` (a program, built with `--release`) or with an executable called `run`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Prints the names of the benchmarks, one a line. Always `Ok(true)` unless the folder cannot be read.
pub(crate) fn list() -> Result<bool, String> {
    let names = names(&folder())?;
    if names.is_empty() {
        println!("no benchmark in {}", folder().display());
    }
    for name in names {
        println!("{name}");
    }
    Ok(true)
}

/// Runs one benchmark with the arguments given; `Ok(false)` when it failed.
pub(crate) fn run(name: &str, arguments: &[String]) -> Result<bool, String> {
    let known = names(&folder())?;
    if !known.iter().any(|other| other == name) {
        return Err(format!("no benchmark is called {name:?}; there are: {}", known.join(", ")));
    }
    let path = folder().join(name);
    let mut command = if path.join("run").is_file() {
        Command::new(path.join("run"))
    } else {
        let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
        cargo.args(["run", "--release", "--manifest-path"]).arg(path.join("Cargo.toml")).arg("--");
        cargo
    };
    let status = command.args(arguments).status().map_err(|error| format!("{name} does not start: {error}"))?;
    Ok(status.success())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench")
}

/// The folders below `folder` that are benchmarks, sorted. No such folder means no benchmarks.
fn names(folder: &Path) -> Result<Vec<String>, String> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| ["Cargo.toml", "run"].iter().any(|file| entry.path().join(file).is_file()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_counts_only_with_something_to_run() {
        let root = std::env::temp_dir().join(format!("xtask-bench-{}", std::process::id()));
        for folder in ["b-kv", "a-dns", "notes"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("b-kv/Cargo.toml"), "").unwrap();
        std::fs::write(root.join("a-dns/run"), "").unwrap();
        std::fs::write(root.join("notes/notes.txt"), "").unwrap();

        assert_eq!(names(&root).unwrap(), ["a-dns", "b-kv"]);
        assert_eq!(names(&root.join("nowhere")).unwrap(), Vec::<String>::new());

        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn an_unknown_benchmark_is_refused() {
        assert!(run("no-such-benchmark", &[]).unwrap_err().contains("no-such-benchmark"));
    }
}
