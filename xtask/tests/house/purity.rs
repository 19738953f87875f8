//! The ground floor is pure: `model` and `catalog` know no clock, no randomness, no thread, no file, no socket and no map without an order.
//!
//! A server that reads its own clock while it applies a command ends up with another catalog than its peers, and no test of one server sees it.
//! So the sources are parsed and the paths in them are judged. The crates' own `clippy.toml` say the same to the editor, with types resolved.

use syn::visit::{self, Visit};

use crate::source::{Source, parse_all};
use crate::{Violation, expect_none, files};

/// The crates of the ground floor.
const PURE: [&str; 2] = ["model/", "catalog/"];

/// Paths that pure code may not name, and what to do instead.
const FORBIDDEN_PATHS: &[(&str, &str)] = &[
    ("std::time::SystemTime", "take the time as an argument"),
    ("std::time::Instant", "take the time as an argument"),
    ("std::time::UNIX_EPOCH", "take the time as an argument"),
    ("std::thread", "threads belong to the assemblies"),
    ("std::net::TcpStream", "sockets belong to the rim; addresses are fine"),
    ("std::net::TcpListener", "sockets belong to the rim; addresses are fine"),
    ("std::net::UdpSocket", "sockets belong to the rim; addresses are fine"),
    ("std::net::ToSocketAddrs", "it asks the resolver; parse the address instead"),
    ("std::os", "the system belongs to the rim"),
    ("std::fs", "files belong to the rim"),
    ("std::io::stdin", "input belongs to the rim"),
    ("std::io::stdout", "output belongs to the rim"),
    ("std::io::stderr", "output belongs to the rim"),
    ("std::env", "the environment belongs to cli"),
    ("std::process", "processes belong to the rim"),
    ("std::sync::Mutex", "a pure value needs no lock"),
    ("std::sync::RwLock", "a pure value needs no lock"),
    ("std::collections::HashMap", "its order differs from server to server: use BTreeMap or imbl::OrdMap"),
    ("std::collections::HashSet", "its order differs from server to server: use BTreeSet or imbl::OrdSet"),
    ("std::collections::hash_map", "its order differs from server to server: use BTreeMap or imbl::OrdMap"),
    ("std::hash::RandomState", "it is seeded at random"),
    ("imbl::HashMap", "its order differs from server to server: use imbl::OrdMap"),
    ("imbl::HashSet", "its order differs from server to server: use imbl::OrdSet"),
    ("rand", "random numbers come in the command"),
    ("getrandom", "random numbers come in the command"),
    ("uuid", "ids come in the command"),
    ("tokio", "the ground floor does no IO"),
    ("chrono", "take the time as an argument"),
];

/// Macros that pure code may not call: they print, or keep state for each thread.
const FORBIDDEN_MACROS: &[&str] = &["println", "eprintln", "print", "eprint", "thread_local", "env", "option_env"];

#[test]
fn the_ground_floor_is_pure() {
    let sources: Vec<(String, String)> = files("rs")
        .into_iter()
        .filter(|(path, _)| PURE.iter().any(|folder| path.starts_with(&format!("{folder}src/"))))
        .collect();
    assert!(sources.len() >= 2, "the sources of the ground floor are not where this test looks");
    let parsed = parse_all(&sources).expect("the sources parse");
    expect_none(parsed.iter().flat_map(violations).collect());
}

#[test]
fn the_editor_is_told_the_same() {
    for folder in PURE {
        let path = crate::root().join(folder).join("clippy.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for name in ["std::time::SystemTime", "std::time::Instant", "std::collections::HashMap", "std::thread::spawn"] {
            assert!(text.contains(name), "{} does not forbid {name}", path.display());
        }
    }
}

/// Every forbidden path, macro and `static mut` in the code that is not a test.
fn violations(source: &Source) -> Vec<Violation> {
    let mut judge = Judge { source, found: Vec::new() };
    judge.visit_file(&source.file);
    judge.found
}

struct Judge<'a> {
    source: &'a Source,
    found: Vec<Violation>,
}

impl Judge<'_> {
    fn report(&mut self, span: proc_macro2::Span, message: String) {
        let line = span.start().line;
        if !self.source.in_test[line - 1] {
            self.found.push(Violation::new(&self.source.path, line, message));
        }
    }

    fn path(&mut self, span: proc_macro2::Span, path: &str) {
        for (forbidden, instead) in FORBIDDEN_PATHS {
            if names(path, forbidden) {
                self.report(span, format!("`{path}` in a pure crate: {instead}"));
            }
        }
    }

    fn use_tree(&mut self, prefix: &str, tree: &syn::UseTree) {
        let join = |name: String| {
            if prefix.is_empty() { name } else { format!("{prefix}::{name}") }
        };
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&join(path.ident.to_string()), &path.tree),
            syn::UseTree::Name(name) => self.path(name.ident.span(), &join(name.ident.to_string())),
            syn::UseTree::Rename(rename) => {
                self.path(rename.ident.span(), &join(rename.ident.to_string()));
            }
            syn::UseTree::Glob(glob) => {
                // A glob hides what it brings in: refuse it above anything that is forbidden.
                let inside = format!("{prefix}::");
                if FORBIDDEN_PATHS.iter().any(|(forbidden, _)| forbidden.starts_with(&inside)) {
                    let message = format!("`use {prefix}::*` in a pure crate hides what it brings in: name the items");
                    self.report(glob.star_token.spans[0], message);
                }
                self.path(glob.star_token.spans[0], prefix);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.use_tree(prefix, item)),
        }
    }
}

/// Whether `path` is `forbidden` or lies below it. `core` and `alloc` are other names for `std`.
/// A path that begins in the middle (`time::Instant` after `use std::time`) counts when at least its last two names agree.
fn names(path: &str, forbidden: &str) -> bool {
    let path = path.trim_start_matches("::");
    let path = match path.split_once("::") {
        Some(("core" | "alloc", rest)) => format!("std::{rest}"),
        _ => path.to_owned(),
    };
    let below = |long: &str, short: &str| long == short || long.starts_with(&format!("{short}::"));
    if below(&path, forbidden) {
        return true;
    }
    forbidden.split_once("::").is_some_and(|(root, tail)| root == "std" && tail.contains("::") && below(&path, tail))
}

impl<'a> Visit<'a> for Judge<'_> {
    fn visit_path(&mut self, path: &'a syn::Path) {
        let text: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A single name is a local one, or was judged where it was imported.
        if let (Some(first), true) = (path.segments.first(), text.len() > 1) {
            self.path(first.ident.span(), &text.join("::"));
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.use_tree("", &item.tree);
    }

    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        if matches!(item.mutability, syn::StaticMutability::Mut(_)) {
            self.report(item.ident.span(), "`static mut` in a pure crate: pass the value".to_owned());
        }
        visit::visit_item_static(self, item);
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        if let Some(last) = item.path.segments.last()
            && FORBIDDEN_MACROS.iter().any(|name| last.ident == name)
        {
            let message = format!("`{}!` in a pure crate: return the value instead", last.ident);
            self.report(last.ident.span(), message);
        }
        visit::visit_macro(self, item);
    }
}

fn judge(text: &str) -> Vec<Violation> {
    violations(&Source::parse("model/src/sample.rs", text, false).expect("the sample parses"))
}

#[test]
fn every_impurity_fires() {
    let bad = [
        "use std::time::SystemTime;",
        "use std::time::{Duration, Instant};",
        "use std::{thread, fmt};",
        "use core::time::{Instant as Now};",
        "use std::collections::*;",
        "use std::fs;",
        "use std::net::{IpAddr, TcpStream};",
        "use std::collections::{BTreeMap, HashMap};",
        "use imbl::HashSet;",
        "use rand::Rng;",
        "fn f() { let now = std::time::Instant::now(); }",
        "fn f() { let now = time::SystemTime::now(); }",
        "fn f() { std::thread::sleep(d); }",
        "fn f() { let home = ::std::env::var(name); }",
        "fn f(m: std::collections::HashMap<u8, u8>) {}",
        "fn f() { tokio::spawn(g()); }",
        "static mut COUNT: u64 = 0;",
        "thread_local! { static X: u8 = 1; }",
        "fn f() { println!(); }",
    ];
    for text in bad {
        assert_eq!(judge(text).len(), 1, "{text}: {:?}", judge(text));
    }
}

#[test]
fn pure_code_passes() {
    let good = [
        "use std::time::Duration;",
        "use std::net::{IpAddr, SocketAddr};",
        "use std::collections::{BTreeMap, BTreeSet};",
        "use imbl::{OrdMap, OrdSet};",
        "use std::sync::Arc;",
        "fn f(now: Timestamp) -> Timestamp { now }",
        "// std::time::Instant::now() is what we do not call\nfn f() {}",
        "fn f() -> &'static str { \"std::thread::spawn\" }",
        "enum E { Rand } fn f() { E::Rand; operand::parse(); }",
        "#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n    fn f() { std::thread::yield_now(); println!(); }\n}",
    ];
    for text in good {
        assert_eq!(judge(text), [], "{text}");
    }
}
