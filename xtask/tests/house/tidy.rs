//! What every Rust file looks like: it says what it is for, stays short, and explains where it may panic.
//!
//! Limits on length are a ratchet: an exception is written down with its reason, and its number may only go down.

use crate::source::{Source, blank, parse_all};
use crate::{Violation, expect_none, files};

/// Lines outside tests, comments included.
const FILE_LINES_MAX: usize = 500;

/// From `fn` to the closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// How far above a panic its `// Invariant:` may begin.
const INVARIANT_LINES_ABOVE_MAX: usize = 3;

/// A file that is longer than the limit: path, lines now, reason. The number may only go down; at the limit the line goes away.
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// A function that is longer than the limit: path, name, lines now, reason. As above.
const LONG_FUNCTIONS: &[(&str, &str, usize, &str)] = &[];

/// Macros and attributes that have no place in the tree, tests included.
const FORBIDDEN: &[(&str, &str)] = &[
    ("todo!", "write it, or leave it out"),
    ("unimplemented!", "write it, or leave it out"),
    ("dbg!", "use tracing, or take it away"),
    ("#[ignore", "a test that does not run proves nothing: mend it or delete it"),
];

/// Calls that end the task when they are wrong about the world. Each needs the reason why it cannot be.
const PANICS: &[&str] = &[".unwrap()", ".unwrap_err()", "panic!", "unreachable!"];

/// Methods that panic when their argument is a message; parsers have methods of the same names that do not.
const PANICS_WITH_MESSAGE: &[&str] = &[".expect(", ".expect_err("];

/// Folders of programs that measure, probe or show: there a panic is the message to the one person who started them.
const MAY_PANIC: &[&str] = &["bench", "fuzz", "examples"];

#[test]
fn every_file_is_tidy() {
    let files = files("rs");
    assert!(files.len() > 20, "the sources are not where this test looks");
    let sources = parse_all(&files).expect("every file parses");
    expect_none(sources.iter().flat_map(violations).collect());
}

#[test]
fn every_exception_still_exists() {
    let sources = parse_all(&files("rs")).expect("every file parses");
    let is_there = |path: &str| sources.iter().any(|source| source.path == path);
    let gone = LONG_FILES.iter().map(|entry| entry.0).chain(LONG_FUNCTIONS.iter().map(|entry| entry.0));
    expect_none(
        gone.filter(|path| !is_there(path))
            .map(|path| Violation::new(path, 0, "no such file: take its exception away"))
            .collect(),
    );
}

/// Every rule of this file for one source.
fn violations(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(module_doc(source));
    found.extend(file_length(source, LONG_FILES));
    found.extend(function_lengths(source, LONG_FUNCTIONS));
    found.extend(forbidden_words(source));
    found.extend(allow_attributes(source));
    found.extend(unexplained_panics(source));
    found
}

fn module_doc(source: &Source) -> Option<Violation> {
    let says = source.lines.first().is_some_and(|line| line.starts_with("//! ") && line.len() > 8);
    (!says).then(|| Violation::new(&source.path, 1, "the first line is `//!` and says what the file is for"))
}

fn file_length(source: &Source, exceptions: &[(&str, usize, &str)]) -> Option<Violation> {
    let lines = source.product_lines();
    let exception = exceptions.iter().find(|entry| entry.0 == source.path).map(|entry| entry.1);
    let message = ratchet(lines, FILE_LINES_MAX, exception, "LONG_FILES")?;
    Some(Violation::new(&source.path, 0, format!("the file: {message}")))
}

fn function_lengths(source: &Source, exceptions: &[(&str, &str, usize, &str)]) -> Vec<Violation> {
    let judge = |function: crate::source::Function| {
        let exception = exceptions.iter().find(|entry| entry.0 == source.path && entry.1 == function.name);
        let message = ratchet(function.length, FUNCTION_LINES_MAX, exception.map(|entry| entry.2), "LONG_FUNCTIONS")?;
        Some(Violation::new(&source.path, function.line, format!("`{}`: {message}", function.name)))
    };
    source.functions().into_iter().filter_map(judge).collect()
}

/// What is wrong with a length, given its limit and the exception that was made for it.
fn ratchet(lines: usize, limit: usize, exception: Option<usize>, table: &str) -> Option<String> {
    match exception {
        None if lines > limit => Some(format!("{lines} lines, the limit is {limit}: split it at a phase")),
        None => None,
        Some(_) if lines <= limit => Some(format!("{lines} lines are within the limit: take it out of {table}")),
        Some(allowed) if lines > allowed => Some(format!("{lines} lines, it had {allowed}: {table} only goes down")),
        Some(allowed) if lines < allowed => Some(format!("{lines} lines, {table} says {allowed}: lower the number")),
        Some(_) => None,
    }
}

fn forbidden_words(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        for (word, instead) in FORBIDDEN {
            if contains_word(line, word) {
                found.push(Violation::new(&source.path, at + 1, format!("`{word}`: {instead}")));
            }
        }
    }
    found
}

/// `#[allow(…)]` goes on when its reason is gone; `#[expect(…, reason = "…")]` says so itself.
fn allow_attributes(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for (at, line) in source.code.iter().enumerate() {
        let line = line.trim_start();
        let attribute = line.starts_with("#[") || line.starts_with("#![");
        if attribute && (line.contains("[allow(") || line.contains(", allow(")) {
            let message = "`allow`: write `expect(lint, reason = \"…\")`, which tells when the reason is gone";
            found.push(Violation::new(&source.path, at + 1, message));
        }
        if attribute && line.contains("[expect(") && !attribute_text(source, at).contains("reason") {
            found.push(Violation::new(&source.path, at + 1, "`expect` without `reason = \"…\"`"));
        }
    }
    found
}

/// The attribute that begins on the line `at` up to its closing bracket.
fn attribute_text(source: &Source, at: usize) -> String {
    let mut text = String::new();
    for line in &source.code[at..] {
        text.push_str(line);
        if line.contains(")]") {
            break;
        }
    }
    text
}

fn unexplained_panics(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    if source.path.split('/').any(|folder| MAY_PANIC.contains(&folder)) {
        return found;
    }
    for (line, code) in source.product_code() {
        let next = source.lines.get(line).map_or("", |next| next.trim_start());
        let panics = PANICS
            .iter()
            .filter(|word| contains_word(code, word))
            .chain(PANICS_WITH_MESSAGE.iter().filter(|word| takes_message(&source.lines[line - 1], code, word, next)));
        for word in panics {
            if !is_explained(source, line) {
                let message = format!(
                    "`{word}` without `// Invariant: …` on one of the {INVARIANT_LINES_ABOVE_MAX} lines above: \
                     say why it cannot happen, or return the error"
                );
                found.push(Violation::new(&source.path, line, message));
            }
        }
    }
    found
}

/// Whether a call of `method` on this line takes a message; its argument may begin on the `next` line.
fn takes_message(written: &str, code: &str, method: &str, next: &str) -> bool {
    // The blanked line has the same letters in the same places, so what is found there is looked up in the written one.
    let letters: Vec<char> = written.chars().collect();
    code.match_indices(method).any(|(at, _)| {
        let place = code[..at + method.len()].chars().count();
        let rest: String = letters.iter().skip(place).collect();
        let argument = if rest.trim().is_empty() { next } else { rest.trim_start() };
        argument.starts_with('"') || argument.starts_with("&format!") || argument.starts_with("concat!")
    })
}

/// Whether `// Invariant:` stands on the line itself, or in a comment that ends at most three lines above.
fn is_explained(source: &Source, line: usize) -> bool {
    let comment = |at: usize| source.lines[at - 1].trim_start().starts_with("//");
    let says = |at: usize| source.lines[at - 1].contains("// Invariant: ");
    if says(line) {
        return true;
    }
    let lowest = line.saturating_sub(INVARIANT_LINES_ABOVE_MAX).max(1);
    (lowest..line).rev().any(|at| {
        let mut top = at;
        while top > 1 && comment(top) && comment(top - 1) {
            top -= 1;
        }
        (top..=at).any(says)
    })
}

/// Whether `word` is in `line` and is not the end of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before
            .is_some_and(|letter| word.starts_with(char::is_alphabetic) && (letter.is_alphanumeric() || letter == '_'))
    })
}

fn sample(text: &str) -> Source {
    Source::parse("model/src/sample.rs", text, false).expect("the sample parses")
}

fn messages(text: &str) -> Vec<String> {
    violations(&sample(text)).into_iter().map(|found| format!("{}: {}", found.line, found.message)).collect()
}

#[test]
fn untidy_samples_fire() {
    let cases = [
        ("fn f() {}\n", "1: the first line is `//!`"),
        ("//!\nfn f() {}\n", "1: the first line is `//!`"),
        ("//! A sample.\nfn f() { todo!() }\n", "2: `todo!`"),
        ("//! A sample.\nfn f() { unimplemented!() }\n", "2: `unimplemented!`"),
        ("//! A sample.\nfn f() { dbg!(1); }\n", "2: `dbg!`"),
        ("//! A sample.\n#[test]\n#[ignore]\nfn f() {}\n", "3: `#[ignore`"),
        ("//! A sample.\n#[cfg(test)]\nmod tests { #[test]\n #[ignore = \"slow\"]\n fn f() {} }\n", "4: `#[ignore`"),
        ("//! A sample.\n#[allow(dead_code)]\nfn f() {}\n", "2: `allow`"),
        ("//! A sample.\n#![allow(dead_code)]\nfn f() {}\n", "2: `allow`"),
        ("//! A sample.\n#[cfg_attr(x, allow(dead_code))]\nfn f() {}\n", "2: `allow`"),
        ("//! A sample.\n#[expect(dead_code)]\nfn f() {}\n", "2: `expect` without"),
        ("//! A sample.\nfn f() { g().unwrap(); }\n", "2: `.unwrap()`"),
        ("//! A sample.\nfn f() { g().expect(\"it is there\"); }\n", "2: `.expect(`"),
        ("//! A sample.\nfn f() { g().expect(\n    \"it is there\",\n); }\n", "2: `.expect(`"),
        ("//! A sample.\nfn f() { g().expect(&format!(\"{x}\")); }\n", "2: `.expect(`"),
        ("//! A sample.\nfn f() { panic!(\"no\"); }\n", "2: `panic!`"),
        ("//! A sample.\nfn f() { unreachable!(); }\n", "2: `unreachable!`"),
        ("//! A sample.\n// Invariant: too far away.\n\n\n\nfn f() { g().unwrap(); }\n", "6: `.unwrap()`"),
        ("//! A sample.\nfn f() { '\"'; g().unwrap(); '\"'; }\n", "2: `.unwrap()`"),
    ];
    for (text, expected) in cases {
        let found = messages(text);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{text}\nexpected {expected}, found {found:?}");
    }
}

#[test]
fn tidy_samples_pass() {
    let cases = [
        "//! A sample.\n// todo!() and .unwrap() in a comment\nfn f() {}\n",
        "//! A sample.\nfn f() -> &'static str { \"panic! dbg! .unwrap()\" }\n",
        "//! A sample.\nfn f() -> &'static str { r#\"a \" .unwrap()\"# }\n",
        "//! A sample.\n/* .unwrap() /* nested */ todo!() */\nfn f() {}\n",
        "//! A sample.\n#[expect(dead_code, reason = \"a sample\")]\nfn f() {}\n",
        "//! A sample.\n#[expect(\n    dead_code,\n    reason = \"a sample\"\n)]\nfn f() {}\n",
        "//! A sample.\nfn f() { g().unwrap(); } // Invariant: g cannot fail.\n",
        "//! A sample.\nfn f() {\n    // Invariant: g cannot fail.\n    g()\n        .h()\n        .unwrap();\n}\n",
        "//! A sample.\nfn f() {\n    // Invariant: g cannot fail,\n    // because of this,\n    // and of that,\n    // and so on.\n    g().unwrap();\n}\n",
        "//! A sample.\nfn f() { g().unwrap_or_default(); g().unwrap_or(1); }\n",
        "//! A sample.\nfn f() { parser.expect(Token::Comma)?; }\n",
        "//! A sample.\nfn f() { permission.allow(user); }\n",
        "//! A sample.\n#[cfg(test)]\nmod tests {\n    fn f() { g().unwrap(); panic!(); }\n}\n",
        "//! A sample.\n#[cfg(test)]\nfn f() { g().unwrap(); }\n",
        "//! A sample.\nfn f() { assert!(x, \"say which\"); }\n",
    ];
    for text in cases {
        assert_eq!(messages(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn lengths_are_counted_without_tests() {
    let function = |name: &str, lines: usize| format!("fn {name}() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    let at_limit = format!("//! A sample.\n{}", function("f", FUNCTION_LINES_MAX));
    assert_eq!(messages(&at_limit), Vec::<String>::new());
    let above = format!("//! A sample.\n{}", function("f", FUNCTION_LINES_MAX + 1));
    assert_eq!(messages(&above), ["2: `f`: 71 lines, the limit is 70: split it at a phase"]);
    let method = format!("//! A sample.\nimpl S {{\n{}}}\n", function("m", FUNCTION_LINES_MAX + 1));
    assert_eq!(messages(&method).len(), 1);
    let in_test = format!("//! A sample.\n#[cfg(test)]\nmod tests {{\n{}}}\n", function("f", 600));
    assert_eq!(messages(&in_test), Vec::<String>::new());

    let long_file = format!("//! A sample.\n{}", "\n".repeat(FILE_LINES_MAX));
    assert_eq!(messages(&long_file), ["0: the file: 501 lines, the limit is 500: split it at a phase"]);
    assert_eq!(messages(&"//! A sample.\n".repeat(FILE_LINES_MAX)), Vec::<String>::new());
}

#[test]
fn the_ratchet_only_goes_down() {
    let cases = [
        (70, None, ""),
        (71, None, "the limit is 70"),
        (90, Some(90), ""),
        (91, Some(90), "only goes down"),
        (89, Some(90), "lower the number"),
        (70, Some(90), "take it out"),
    ];
    for (lines, exception, expected) in cases {
        let message = ratchet(lines, 70, exception, "LONG_FUNCTIONS").unwrap_or_default();
        assert!(
            message.contains(expected) && message.is_empty() == expected.is_empty(),
            "{lines} {exception:?}: {message}"
        );
    }
}

#[test]
fn test_files_are_known_by_place_name_and_declaration() {
    let file = |path: &str, text: &str| (path.to_owned(), format!("//! A sample.\n{text}"));
    let sources = parse_all(&[
        file("dns/src/lib.rs", "#[cfg(test)]\nmod sim;\nmod name;\n"),
        file("dns/src/sim.rs", "fn f() {}\n"),
        file("dns/src/sim/net.rs", "fn f() {}\n"),
        file("dns/src/name.rs", "fn f() {}\n#[cfg(test)]\nmod cases;\n"),
        file("dns/src/name/cases.rs", "fn f() {}\n"),
        file("dns/src/name/tests.rs", "fn f() {}\n"),
        file("dns/tests/udp.rs", "fn f() {}\n"),
        file("dns/src/cases.rs", "fn f() {}\n"),
    ])
    .expect("the samples parse");
    let product: Vec<&str> =
        sources.iter().filter(|source| source.product_lines() > 1).map(|source| source.path.as_str()).collect();
    assert_eq!(product, ["dns/src/lib.rs", "dns/src/name.rs", "dns/src/cases.rs"]);
}

#[test]
fn blanking_keeps_every_line_and_column() {
    let cases = [
        ("let a = \"x\\\"y\"; // z", "let a = \"    \";     "),
        ("let b = 'x'; let c: &'a str;", "let b = ' '; let c: &'a str;"),
        ("let q = '\\''; x", "let q = '  '; x"),
        ("br#\"a\"b\"# x", "b       # x"),
        ("/* a\nb */ c", "    \n     c"),
        ("for_r\"x\"", "for_r\" \""),
        ("ä \"ö\" ü", "ä \" \" ü"),
    ];
    for (text, expected) in cases {
        assert_eq!(blank(text), expected, "{text}");
    }
}
