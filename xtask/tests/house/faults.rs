//! Each mistake and each crash point that `faults/` names is somewhere in the code: a name without a place would never be found, nor fire.

use crate::{Violation, expect_none, files};

const NAMES: &str = "faults/src/lib.rs";

#[test]
fn every_fault_has_its_place() {
    let all = files("rs");
    let (_, names) = all.iter().find(|(path, _)| path == NAMES).expect("faults/src/lib.rs");
    let code: Vec<_> = all.iter().filter(|(path, _)| path != NAMES && !is_elsewhere(path)).collect();
    let found = members(names)
        .into_iter()
        .filter(|member| !code.iter().any(|(_, text)| text.contains(member.as_str())))
        .map(|member| Violation::new(NAMES, 0, format!("no code asks for {member}: give it a place, or remove it")))
        .collect();
    expect_none(found);
}

/// Tests and tools are no places for mistakes.
fn is_elsewhere(path: &str) -> bool {
    ["xtask/", "jepsen-like-tests/", "bench/"].iter().any(|folder| path.starts_with(folder))
}

/// `Bug::AckBeforeSync` and so on.
fn members(text: &str) -> Vec<String> {
    let mut kind = "";
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        match line {
            "Bug {" => kind = "Bug",
            "Point {" => kind = "Point",
            _ => {}
        }
        if let Some((member, _)) = line.split_once(" = \"").filter(|_| line.ends_with("\",")) {
            found.push(format!("{kind}::{member}"));
        }
    }
    found
}

#[test]
fn the_members_are_read() {
    let text = "named! {\n    Bug {\n        /// It.\n        One = \"one\",\n    }\n}\nnamed! {\n    Point {\n        Two = \"two\",\n    }\n}";
    assert_eq!(members(text), ["Bug::One", "Point::Two"]);
}
