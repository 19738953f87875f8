//! Rust source as the rules see it: comments and strings blanked out, test code marked, functions measured.

use std::collections::BTreeSet;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A parsed file.
pub(crate) struct Source {
    /// Path from the root of the repository.
    pub(crate) path: String,
    /// The lines as written.
    pub(crate) lines: Vec<String>,
    /// The same lines with comments and the insides of strings and characters replaced by spaces.
    pub(crate) code: Vec<String>,
    /// For each line, whether it belongs to code that only tests compile.
    pub(crate) in_test: Vec<bool>,
    /// The syntax tree.
    pub(crate) file: syn::File,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The line of `fn`, counted from 1.
    pub(crate) line: usize,
    /// From the line of `fn` to that of the closing brace, both included.
    pub(crate) length: usize,
}

impl Source {
    /// Parses one file. `all_test` says that the whole file is test code.
    pub(crate) fn parse(path: &str, text: &str, all_test: bool) -> Result<Self, String> {
        let file = syn::parse_file(text).map_err(|error| format!("{path}: {error}"))?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let mut in_test = vec![all_test; lines.len()];
        let mut marker = TestMarker { in_test: &mut in_test };
        marker.visit_file(&file);
        Ok(Self { path: path.to_owned(), lines, code, in_test, file })
    }

    /// The lines of code outside tests as (number from 1, blanked text).
    pub(crate) fn product_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().enumerate().filter(|(at, _)| !self.in_test[*at]).map(|(at, line)| (at + 1, line.as_str()))
    }

    /// How many lines, comments and blank ones included, are not test code.
    pub(crate) fn product_lines(&self) -> usize {
        self.in_test.iter().filter(|in_test| !**in_test).count()
    }

    /// The functions outside tests, those inside functions too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut meter = Meter { found: Vec::new() };
        meter.visit_file(&self.file);
        meter.found.into_iter().filter(|function| !self.in_test[function.line - 1]).collect()
    }
}

/// Parses all the given files, knowing which are test code: those below `tests/` and `benches/`, those called `tests.rs`,
/// and those that a `#[cfg(test)] mod name;` brings in.
pub(crate) fn parse_all(files: &[(String, String)]) -> Result<Vec<Source>, String> {
    let mut test_paths = BTreeSet::new();
    for (path, text) in files {
        let file = syn::parse_file(text).map_err(|error| format!("{path}: {error}"))?;
        for item in &file.items {
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
                && is_test(&module.attrs)
            {
                test_paths.insert(module_path(path, &module.ident.to_string()));
            }
        }
    }
    files.iter().map(|(path, text)| Source::parse(path, text, is_test_path(path, &test_paths))).collect()
}

/// Where the file of `mod name;` in the file `path` lies, without `.rs`.
fn module_path(path: &str, name: &str) -> String {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    match file {
        "lib.rs" | "main.rs" | "mod.rs" => format!("{folder}/{name}"),
        _ => format!("{}/{name}", path.trim_end_matches(".rs")),
    }
}

fn is_test_path(path: &str, test_modules: &BTreeSet<String>) -> bool {
    let by_name = path.split('/').any(|part| matches!(part, "tests" | "benches" | "tests.rs" | "tests-clients"));
    let by_module =
        test_modules.iter().any(|module| path == format!("{module}.rs") || path.starts_with(&format!("{module}/")));
    by_name || by_module
}

/// Whether the attributes say that only tests compile this: `#[test]`, `#[tokio::test]`, `#[cfg(test)]`, `#[cfg(any(test, …))]`.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().segments.last().is_some_and(|last| last.ident == "test") {
            return true;
        }
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        let condition = list.tokens.to_string();
        attribute.path().is_ident("cfg")
            && condition.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|name| name == "test")
            && !condition.contains("not")
    })
}

struct TestMarker<'a> {
    in_test: &'a mut Vec<bool>,
}

impl TestMarker<'_> {
    fn mark(&mut self, span: Span) {
        let last = span.end().line.min(self.in_test.len());
        for line in span.start().line..=last {
            self.in_test[line - 1] = true;
        }
    }
}

impl<'a> Visit<'a> for TestMarker<'_> {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Trait(item) => &item.attrs,
            syn::Item::Type(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if is_test(attributes) {
            self.mark(item.span());
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if is_test(&function.attrs) {
            self.mark(function.span());
        } else {
            visit::visit_impl_item_fn(self, function);
        }
    }
}

struct Meter {
    found: Vec<Function>,
}

impl Meter {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.span().start().line;
        self.found.push(Function {
            name: signature.ident.to_string(),
            line,
            length: block.span().end().line - line + 1,
        });
    }
}

impl<'a> Visit<'a> for Meter {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'a syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

/// The text with comments and the insides of string and character literals replaced by spaces; every line keeps its length.
pub(crate) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let skipped = skip_length(rest, out.chars().next_back());
        if skipped == 0 {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let (literal, after) = rest.split_at(skipped);
        let is_comment = literal.starts_with("//") || literal.starts_with("/*");
        let last = literal.chars().count() - 1;
        for (at, letter) in literal.chars().enumerate() {
            let keeps = letter == '\n' || (!is_comment && (at == 0 || at == last));
            out.push(if keeps { letter } else { ' ' });
        }
        rest = after;
    }
    out
}

/// The length in bytes of the comment or literal that `rest` begins with; 0 if it begins with code. `before` is the letter before it.
fn skip_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if !in_word && let Some(length) = raw_string_length(rest) {
        return length;
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    if rest.starts_with('\'') && is_character(rest) {
        return quoted_length(rest, '\'');
    }
    0
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, also with `b` or `c` before it.
fn raw_string_length(rest: &str) -> Option<usize> {
    let after_prefix = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let after_r = after_prefix.strip_prefix('r')?;
    let hashes = after_r.len() - after_r.trim_start_matches('#').len();
    let body = after_r[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close)? + close.len();
    Some(rest.len() - body.len() + end)
}

/// A literal between two `quote`s with backslash escapes.
fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return at + 1;
        }
    }
    rest.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(rest: &str) -> bool {
    let mut letters = rest.chars().skip(1);
    matches!((letters.next(), letters.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}
