//! Requests and answers, word by word: `http/*.txt`.
//!
//! A case is `METHOD /target [body]`, then `=> status`, then lines that must hold: `Header: value` (`*` for any), or the body.
//! A body that begins with `[`, `{`, `true`, `false`, `null` or `"` is compared as JSON, of which objects may say less than
//! the answer does; `~ text` is a part of it; any other is compared word by word. Blank lines part cases; `#` is a comment.

use std::path::Path;

use http::Method;
use serde_json::Value;

use crate::support::{Answer, Node};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cases_are_answered_as_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut failures = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/all/http"))
        .expect("cases")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let sub = tempfile::tempdir_in(&folder).expect("a folder");
        let node = Node::single(&sub).await;
        // The catalog is quiet once the server is in it.
        crate::support::eventually("the service consul", || async {
            !node.get("/v1/catalog/service/consul").await.json()[0].is_null()
        })
        .await;
        for case in text.split("\n\n").filter_map(parse) {
            let answer = node.send(case.method.clone(), &case.target, case.body.clone()).await;
            if let Err(reason) = case.check(&answer) {
                failures.push(format!(
                    "{}: {} {}\n  {reason}",
                    file.file_name().expect("a name").to_string_lossy(),
                    case.method,
                    case.target
                ));
            }
        }
        node.stop().await;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

struct Case {
    method: Method,
    target: String,
    body: String,
    status: u16,
    lines: Vec<String>,
}

fn parse(text: &str) -> Option<Case> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let request = lines.next()?;
    let mut parts = request.splitn(3, ' ');
    let method = parts.next()?.parse().ok()?;
    let target = parts.next().expect("a target").to_string();
    let body = match parts.next().unwrap_or_default() {
        repeat if repeat.starts_with("x*") => "x".repeat(repeat[2..].parse().expect("a number")),
        body => body.to_string(),
    };
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("=> "))
        .unwrap_or_else(|| panic!("no status: {text}"))
        .parse()
        .expect("a status");
    Some(Case { method, target, body, status, lines: lines.map(str::to_string).collect() })
}

impl Case {
    fn check(&self, answer: &Answer) -> Result<(), String> {
        let seen = || format!("answered {} {:?}\n  {}", answer.status, answer.headers, answer.text());
        if answer.status.as_u16() != self.status {
            return Err(format!("wanted {}, {}", self.status, seen()));
        }
        for line in &self.lines {
            let holds = match line
                .split_once(": ")
                .filter(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
            {
                Some((name, value)) => answer.headers.get(name).is_some_and(|found| value == "*" || found == value),
                None => body_holds(line, answer.text()),
            };
            if !holds {
                return Err(format!("wanted {line}\n  {}", seen()));
            }
        }
        Ok(())
    }
}

fn body_holds(wanted: &str, body: &str) -> bool {
    if let Some(part) = wanted.strip_prefix("~ ") {
        return body.contains(part);
    }
    if wanted == "(empty)" {
        return body.is_empty();
    }
    let is_json = ["[", "{", "true", "false", "null", "\""].iter().any(|start| wanted.starts_with(start));
    match (is_json, serde_json::from_str(body)) {
        (true, Ok(found)) => {
            contains(&found, &serde_json::from_str(wanted).unwrap_or_else(|error| panic!("{error}: {wanted}")))
        }
        (true, Err(_)) => false,
        (false, _) => body == wanted,
    }
}

/// Whether all that is wanted is found. Lists must be of the same length.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| found.get(key).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| contains(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}
