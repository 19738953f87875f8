//! The papers: links lead somewhere, no text speaks of a machine that only its author has, ADRs and the changelog keep their form.

use std::collections::BTreeSet;

use crate::{Violation, expect_none, files, root, texts};

/// The names of text files that are searched for what does not belong in a public repository.
const TEXT_FILES: &[&str] = &[".rs", ".md", ".toml", ".py", ".sh", ".proto", ".json", ".hcl", ".txt", ".yml", "/run"];

/// The source files that papers name.
const SOURCE_FILES: &[&str] = &[".rs", ".proto", ".py"];

/// The sections of an ADR, in this order.
const ADR_SECTIONS: [&str; 3] = ["Context", "Decision", "Consequences"];

/// The kinds of change that a reader of the changelog looks for.
const CHANGE_KINDS: [&str; 6] = ["Breaking", "Added", "Changed", "Fixed", "Removed", "Security"];

#[test]
fn every_link_to_a_file_leads_there() {
    let exists = |path: &str| root().join(path).exists();
    expect_none(files("md").iter().flat_map(|(path, text)| dead_links(path, text, exists)).collect());
}

#[test]
fn every_paper_that_is_named_exists() {
    let known: BTreeSet<String> = files("md").into_iter().map(|(path, _)| path).collect();
    let sources = texts(|path| path.ends_with(".rs") || path.ends_with(".md") || path.ends_with(".toml"));
    let outside_samples = sources.iter().filter(|(path, _)| !path.starts_with("xtask/tests/"));
    expect_none(outside_samples.flat_map(|(path, text)| dead_papers(path, text, &known)).collect());
}

#[test]
fn every_source_that_a_paper_names_exists() {
    let known: Vec<String> = texts(|path| SOURCE_FILES.iter().any(|ending| path.ends_with(ending)))
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    // An ADR and the changelog tell what was; all others tell what is.
    let present = |path: &str| !path.starts_with("docs/adr/") && path != "CHANGELOG.md";
    let papers = files("md").into_iter().filter(|(path, _)| present(path));
    expect_none(papers.flat_map(|(path, text)| dead_sources(&path, &text, &known)).collect());
}

#[test]
fn no_text_names_a_private_machine() {
    let sources = texts(|path| TEXT_FILES.iter().any(|ending| path.ends_with(ending)));
    expect_none(sources.iter().flat_map(|(path, text)| private_names(path, text)).collect());
}

#[test]
fn every_decision_has_the_form_of_one() {
    let papers: Vec<(String, String)> =
        files("md").into_iter().filter(|(path, _)| path.starts_with("docs/adr/")).collect();
    assert!(!papers.is_empty(), "there is no ADR");
    let mut found: Vec<Violation> = papers.iter().flat_map(|(path, text)| adr_form(path, text)).collect();
    found.extend(shared_numbers(papers.iter().map(|(path, _)| path.as_str())));
    expect_none(found);
}

#[test]
fn the_changelog_keeps_its_form() {
    let text = std::fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md is there");
    expect_none(changelog_form(&text));
}

/// Links of a Markdown text to files that `exists` does not know.
fn dead_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Violation> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    for (line, prose) in prose(text) {
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:") || file.is_empty();
            if !elsewhere && !exists(&resolve(folder, file)) {
                found.push(Violation::new(path, line, format!("the link to {target} leads nowhere")));
            }
        }
    }
    found
}

/// The lines of a Markdown text outside fenced blocks and with inline code taken away, as (number from 1, text).
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((at + 1, line.split('`').step_by(2).collect::<Vec<_>>().join(" ")));
        }
    }
    lines
}

/// The path from the root that `link` means in a file of `folder`.
fn resolve(folder: &str, link: &str) -> String {
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("/")
}

/// Names of Markdown papers, in comments and prose, that are not in the repository: by whole path, beside the file, or below `docs/`.
fn dead_papers(path: &str, text: &str, known: &BTreeSet<String>) -> Vec<Violation> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = line.split(|letter: char| !(letter.is_alphanumeric() || "-_./".contains(letter)));
        for word in words.map(|word| word.trim_matches('.')) {
            let names_paper = word.ends_with(".md") && word.len() > 3 && !word.contains("NNNN");
            let candidates = [word.to_owned(), resolve(folder, word), format!("docs/{word}")];
            let elsewhere = line.contains("://") && line.contains(&format!("/{word}")) || word.starts_with("//");
            if names_paper && !elsewhere && !candidates.iter().any(|candidate| known.contains(candidate)) {
                found.push(Violation::new(
                    path,
                    at + 1,
                    format!("{word} is not in the repository: say it here instead"),
                ));
            }
        }
    }
    found
}

/// Source files that a paper names by a path with a folder in it, and that are not there. The path may begin anywhere: `apply/service.rs`.
fn dead_sources(path: &str, text: &str, known: &[String]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = line.split(|letter: char| !(letter.is_alphanumeric() || "-_./".contains(letter)));
        for word in words.map(|word| word.trim_start_matches("./").trim_end_matches('.')) {
            let names_source = word.contains('/') && SOURCE_FILES.iter().any(|ending| word.ends_with(ending));
            let below = format!("/{word}");
            if names_source && !line.contains("://") && !known.iter().any(|file| file == word || file.ends_with(&below))
            {
                let message = format!("{word} is not in the repository: name the file that has it now");
                found.push(Violation::new(path, at + 1, message));
            }
        }
    }
    found
}

/// Paths and settings of the machine where somebody happened to work.
fn private_names(path: &str, text: &str) -> Vec<Violation> {
    // Put together so that this file does not contain them.
    let names: [String; 8] = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/tmp/", "brief"],
        ["CARGO_", "REGISTRIES_"],
        ["PIP_", "INDEX_URL"],
        ["--index", "-url"],
        ["GO", "PROXY="],
        ["replace-with", " ="],
    ]
    .map(|parts| parts.concat());
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for name in &names {
            let stands_alone = line.match_indices(name.as_str()).any(|(at, _)| {
                !line[..at].chars().next_back().is_some_and(|letter| letter.is_alphanumeric() || "_-.".contains(letter))
            });
            if stands_alone {
                found.push(Violation::new(path, at + 1, format!("`{name}` exists on one machine only")));
            }
        }
        for host in private_hosts(line) {
            found.push(Violation::new(path, at + 1, format!("the host `{host}` exists in one network only")));
        }
    }
    found
}

/// Hosts of URLs in the line whose names end as private networks end theirs.
fn private_hosts(line: &str) -> Vec<&str> {
    line.split("://")
        .skip(1)
        .filter_map(|rest| {
            rest.split(|letter: char| !(letter.is_alphanumeric() || letter == '-' || letter == '.')).next()
        })
        .filter(|host| [".internal", ".intranet", ".corp", ".lan", ".local"].iter().any(|end| host.ends_with(end)))
        .collect()
}

fn adr_form(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".md");
    let (number, title) = name.split_once('-').unwrap_or((name, ""));
    let numbered = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let titled = !title.is_empty()
        && title.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !numbered || !titled {
        found.push(Violation::new(path, 0, "an ADR is called NNNN-title-in-lower-case.md"));
    }
    if !text.starts_with("# ") {
        found.push(Violation::new(path, 1, "the first line is the decision's title: # …"));
    }
    let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).map(str::trim).collect();
    let wanted: Vec<&str> = sections.iter().copied().filter(|section| ADR_SECTIONS.contains(section)).collect();
    if wanted != ADR_SECTIONS {
        let message =
            format!("the sections are, in this order: {}", ADR_SECTIONS.map(|name| format!("## {name}")).join(", "));
        found.push(Violation::new(path, 0, message));
    }
    found
}

fn shared_numbers<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let number = |path: &'a str| path.rsplit('/').next().and_then(|name| name.get(..4)).unwrap_or_default();
    paths
        .filter(|path| !seen.insert(number(path)))
        .map(|path| Violation::new(path, 0, format!("another ADR has the number {}", number(path))))
        .collect()
}

/// `# Changelog`, then `## Unreleased`, then releases as `## 1.2.3 - 2026-01-31`; below them the kinds of change; below these, sentences.
fn changelog_form(text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |line: usize, message: &str| found.push(Violation::new("CHANGELOG.md", line, message));
    if text.lines().next() != Some("# Changelog") {
        report(1, "the first line is: # Changelog");
    }
    let (mut releases, mut in_kind) = (0, false);
    for (at, line) in text.lines().enumerate() {
        if let Some(release) = line.strip_prefix("## ") {
            releases += 1;
            in_kind = false;
            if releases == 1 && release != "Unreleased" {
                report(at + 1, "the first section is: ## Unreleased");
            } else if releases > 1 && !is_release(release) {
                report(at + 1, "a release is called: ## 1.2.3 - 2026-01-31");
            }
        } else if let Some(kind) = line.strip_prefix("### ") {
            in_kind = true;
            if !CHANGE_KINDS.contains(&kind) {
                report(at + 1, &format!("the kinds of change are: {}", CHANGE_KINDS.join(", ")));
            }
        } else if line.starts_with("- ") {
            if !in_kind {
                report(at + 1, "a change stands below its kind, for example ### Added");
            }
            if !line.ends_with('.') {
                report(at + 1, "a change is a sentence on one line and ends with a full stop");
            }
        }
    }
    if releases == 0 {
        report(0, "the first section is: ## Unreleased");
    }
    found
}

fn is_release(title: &str) -> bool {
    let numbers = |text: &str, separator: char, count: usize| {
        let parts: Vec<&str> = text.split(separator).collect();
        parts.len() == count
            && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    title
        .split_once(" - ")
        .is_some_and(|(version, date)| numbers(version, '.', 3) && numbers(date, '-', 3) && date.len() == 10)
}

#[test]
fn dead_links_fire_and_live_ones_pass() {
    let exists = |path: &str| ["docs/STYLE.md", "README.md", "docs/adr/0001-a.md"].contains(&path);
    let dead = ["[a](gone.md)", "[a](../gone.md#part)", "see [a](STYLE.md) and [b](adr/0002-b.md)", "![x](x.png)"];
    for text in dead {
        assert_eq!(dead_links("docs/ARCHITECTURE.md", text, exists).len(), 1, "{text}");
    }
    let alive = [
        "[a](STYLE.md)",
        "[a](./STYLE.md#rules)",
        "[a](../README.md)",
        "[a](/README.md)",
        "[a](adr/0001-a.md)",
        "[a](https://www.rust-lang.org)",
        "[a](#here)",
        "`[a](gone.md)`",
        "```\n[a](gone.md)\n```",
    ];
    for text in alive {
        assert_eq!(dead_links("docs/ARCHITECTURE.md", text, exists), [], "{text}");
    }
}

#[test]
fn papers_that_do_not_exist_fire() {
    let known = BTreeSet::from(["docs/STYLE.md".to_owned(), "README.md".to_owned()]);
    for text in ["// see GONE.md", "//! (docs/adr/0009-x.md)", "`notes/gone.md`, line 3."] {
        assert_eq!(dead_papers("model/src/lib.rs", text, &known).len(), 1, "{text}");
    }
    for text in ["// see STYLE.md.", "docs/STYLE.md", "adr/NNNN-title.md", "https://x.org/a/b.md", "the suffix .md"] {
        assert_eq!(dead_papers("model/src/lib.rs", text, &known), [], "{text}");
    }
}

#[test]
fn sources_that_do_not_exist_fire() {
    let known = ["catalog/src/apply/service.rs".to_owned(), "api/proto/tribune.proto".to_owned()];
    for text in ["`catalog/src/gone.rs`", "see apply/gone.rs.", "(proto/gone.proto)", "`ply/service.rs`"] {
        assert_eq!(dead_sources("docs/ARCHITECTURE.md", text, &known).len(), 1, "{text}");
    }
    for text in [
        "`catalog/src/apply/service.rs`",
        "`apply/service.rs`, and so on",
        "./api/proto/tribune.proto",
        "lib.rs",
        "`apply/<noun>.rs`",
        "https://docs.rs/x/lib.rs",
    ] {
        assert_eq!(dead_sources("docs/ARCHITECTURE.md", text, &known), [], "{text}");
    }
}

#[test]
fn private_names_fire() {
    let bad = [
        ["see /wo", "rk/main"],
        ["path = \"/ro", "ot/x\""],
        ["export PIP_", "INDEX_URL=x"],
        ["http://mirror", ".corp/simple"],
        ["https://packages.example", ".internal:8080/"],
    ];
    for parts in bad {
        let text = parts.concat();
        assert_eq!(private_names("README.md", &text).len(), 1, "{text}");
    }
    let good = [
        "/v1/connect/ca/roots",
        "spiffe://x.consul/ns/default",
        "target/homework/",
        "http://127.0.0.1:8500/",
        "ca/root/a",
    ];
    for text in good {
        assert_eq!(private_names("README.md", text), [], "{text}");
    }
}

#[test]
fn decisions_of_another_form_fire() {
    let good = "# 1. We decide\n\n## Context\n\n## Decision\n\n## Consequences\n";
    assert_eq!(adr_form("docs/adr/0001-we-decide.md", good), []);
    assert_eq!(adr_form("docs/adr/0001-x.md", &good.replace("## Decision", "## Measurements\n\n## Decision")), []);
    for name in ["1-x.md", "0001.md", "0001-X.md", "000a-x.md", "0001_x.md", "README.md"] {
        assert_eq!(adr_form(&format!("docs/adr/{name}"), good).len(), 1, "{name}");
    }
    let without = "# 1. We decide\n\n## Context\n\n## Consequences\n";
    let disordered = "# 1. We decide\n\n## Decision\n\n## Context\n\n## Consequences\n";
    let untitled = "## Context\n\n## Decision\n\n## Consequences\n";
    for text in [without, disordered, untitled] {
        assert_eq!(adr_form("docs/adr/0001-x.md", text).len(), 1, "{text}");
    }
    assert_eq!(shared_numbers(["docs/adr/0001-a.md", "docs/adr/0002-b.md"].into_iter()), []);
    assert_eq!(shared_numbers(["docs/adr/0001-a.md", "docs/adr/0001-b.md"].into_iter()).len(), 1);
}

#[test]
fn changelogs_of_another_form_fire() {
    let good = "# Changelog\n\nProse.\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0 - 2026-11-30\n\n### Fixed\n\n- It.\n";
    assert_eq!(changelog_form(good), []);
    let bad = [
        good.replace("# Changelog\n", "# Changes\n"),
        good.replace("Unreleased", "0.2.0 - 2026-12-01"),
        good.replace("0.1.0 - 2026-11-30", "0.1.0"),
        good.replace("0.1.0 - 2026-11-30", "v0.1.0 - 2026-11-30"),
        good.replace("### Added", "### News"),
        good.replace("- A thing.", "- A thing"),
        good.replace("### Fixed\n", ""),
        "# Changelog\n".to_owned(),
    ];
    for text in bad {
        assert_eq!(changelog_form(&text).len(), 1, "{text}");
    }
}
