//! `jlt bugs`: the tests tested. Each mistake that the program has by name (`faults/src/lib.rs`) is turned on, and the run that
//! should find it is repeated with one seed after the other until the judge that should see it does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Where a mistake is looked for, and who should see it.
struct Hunt {
    bug: &'static str,
    world: World,
    faults: &'static str,
    workloads: &'static str,
    /// The judges that count: what they say begins with their name.
    judges: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    /// Three processes of the program.
    Real,
    /// `jlt-sim`, which has the mistakes built in.
    Sim,
}

const fn hunt(
    bug: &'static str,
    faults: &'static str,
    workloads: &'static str,
    judges: &'static [&'static str],
) -> Hunt {
    Hunt { bug, world: World::Real, faults, workloads, judges }
}

const fn simulated(
    bug: &'static str,
    faults: &'static str,
    workloads: &'static str,
    judges: &'static [&'static str],
) -> Hunt {
    Hunt { bug, world: World::Sim, faults, workloads, judges }
}

const HUNTS: &[Hunt] = &[
    hunt("ack-before-sync", "power", "register,set,bulk", &["register", "set", "bulk", "server"]),
    simulated("vote-not-kept", "power,kill,partition", "register", &["raft", "register"]),
    hunt("plain-flush", "power", "register,set,bulk", &["register", "set", "bulk", "server"]),
    hunt("snapshot-not-synced", "power,partition", "tree,set,bulk", &["tree", "set", "bulk", "server"]),
    hunt("snapshot-forgets-flags", "kill", "tree,set", &["tree", "servers"]),
    hunt("snapshot-forgets-gone", "kill", "tree,set", &["tree", "servers"]),
    hunt("snapshot-forgets-index", "kill", "tree,set", &["tree", "servers"]),
    hunt("read-not-confirmed", "partition", "register", &["register"]),
    hunt("read-not-awaited", "delay,loss", "register", &["register"]),
    hunt("default-read-anywhere", "partition", "register", &["register"]),
    simulated("leads-too-early", "kill,delay", "register", &["raft", "register"]),
    hunt("leads-too-long", "partition", "register", &["register"]),
    hunt("last-contact-lies", "partition", "register", &["register"]),
    hunt("ack-before-agreement", "kill,partition", "register,set", &["register", "set"]),
    hunt("retries-unknown", "kill,pause", "register,watch", &["register", "watch"]),
    hunt("cas-before-log", "delay,partition", "register", &["register"]),
    hunt("cas-ignored", "kill", "register", &["register"]),
    hunt("delete-tree-forgets-last", "kill", "tree", &["tree"]),
    hunt("index-runs-backwards", "kill", "tree", &["tree"]),
    hunt("replicas-differ", "kill", "set", &["servers", "set"]),
    hunt("lost-wake-up", "kill", "watch", &["watch"]),
    hunt("node-leaves-services", "kill", "catalog", &["catalog", "servers"]),
    hunt("lock-stolen", "kill", "lock", &["lock"]),
    hunt("transaction-half-done", "kill", "append", &["append"]),
    hunt("session-keeps-keys", "kill", "session", &["session"]),
    hunt("session-ends-early", "kill", "session", &["session"]),
    hunt("session-never-ends", "kill", "session", &["session"]),
    hunt("lock-delay-forgotten", "kill", "session,set", &["session"]),
    hunt("critical-passes", "kill", "catalog", &["catalog"]),
    hunt("gone-forgotten", "kill", "agent", &["agent"]),
    hunt("status-not-told", "kill", "agent", &["agent"]),
    hunt("dns-answer-kept", "pause", "dns", &["dns"]),
    hunt("view-stands-still", "kill", "stream", &["stream"]),
    hunt("serial-twice", "kill", "ca", &["ca"]),
    hunt("spiffe-any-name", "kill", "ca", &["ca"]),
    hunt("unknown-allows", "pause", "intention", &["intention"]),
    hunt("deny-for-new-only", "pause", "intention", &["intention"]),
];

/// How one hunt ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Found {
    bug: &'static str,
    /// None if it was not found in time.
    seed: Option<u64>,
    seconds: u64,
    /// What the judge said.
    finding: String,
}

/// What is asked for.
pub(crate) struct Options {
    /// Built with `cargo build -p tribune --features faults`.
    pub(crate) binary: PathBuf,
    /// Only this one.
    pub(crate) only: Option<String>,
    /// The first seed.
    pub(crate) seed: u64,
    /// How long a mistake is looked for.
    pub(crate) limit: Duration,
    pub(crate) folder: PathBuf,
}

/// Looks for each mistake; prints a table as it goes. True if all were found.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let wanted: Vec<&Hunt> =
        HUNTS.iter().filter(|hunt| options.only.as_deref().is_none_or(|only| only == hunt.bug)).collect();
    if wanted.is_empty() {
        let known: Vec<&str> = HUNTS.iter().map(|hunt| hunt.bug).collect();
        return Err(format!("no such mistake is looked for; there are {}", known.join(", ")));
    }
    println!("| mistake | found after | seed | what was said |\n|---|---|---|---|");
    let mut all = Vec::new();
    std::fs::create_dir_all(&options.folder).map_err(|error| format!("{}: {error}", options.folder.display()))?;
    for hunt in wanted {
        let found = look(hunt, options)?;
        let seed = found.seed.map_or_else(|| "**not found**".to_owned(), |seed| seed.to_string());
        println!("| `{}` | {} s | {seed} | {} |", found.bug, found.seconds, found.finding.replace('|', "\\|"));
        all.push(found);
    }
    let path = options.folder.join("bugs.json");
    let text = serde_json::to_string_pretty(&all).map_err(|error| error.to_string())?;
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}", summary(&all));
    Ok(all.iter().all(|found| found.seed.is_some()))
}

fn look(hunt: &Hunt, options: &Options) -> Result<Found, String> {
    let begun = Instant::now();
    let mut seed = options.seed;
    loop {
        let finding = attempt(hunt, options, seed)?;
        let seconds = begun.elapsed().as_secs();
        if let Some(finding) = finding {
            return Ok(Found { bug: hunt.bug, seed: Some(seed), seconds, finding });
        }
        if begun.elapsed() >= options.limit {
            return Ok(Found { bug: hunt.bug, seed: None, seconds, finding: String::new() });
        }
        seed += 1;
    }
}

/// One run in a process of its own. What was found by a judge that counts, if anything was.
fn attempt(hunt: &Hunt, options: &Options, seed: u64) -> Result<Option<String>, String> {
    let findings = match hunt.world {
        World::Real => real(hunt, options, seed)?,
        World::Sim => simulation(hunt, seed)?,
    };
    Ok(findings.into_iter().find(|finding| is_by(finding, hunt.judges)))
}

fn real(hunt: &Hunt, options: &Options, seed: u64) -> Result<Vec<String>, String> {
    let folder = options.folder.join(format!("{}-{seed}", hunt.bug));
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let status = Command::new(program)
        .args(["real", "--for", "20s", "--faults", hunt.faults, "--workloads", hunt.workloads])
        .args(["--seed", &seed.to_string(), "--bin"])
        .arg(&options.binary)
        .arg("--out")
        .arg(&folder)
        .env("TRIBUNE_BUG", hunt.bug)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("a run could not be started: {error}"))?;
    if status.success() {
        return Ok(Vec::new());
    }
    said(&folder)
}

/// The broken guarantees of a run; none if it did not come to a verdict.
pub(crate) fn said(folder: &Path) -> Result<Vec<String>, String> {
    violations(&std::fs::read_to_string(folder.join("verdict.json")).unwrap_or_default())
}

fn simulation(hunt: &Hunt, seed: u64) -> Result<Vec<String>, String> {
    let output = Command::new(simulator()?)
        .args(["one", "--seed", &seed.to_string(), "--bug", hunt.bug])
        .args(["--faults", hunt.faults, "--workloads", hunt.workloads])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("the simulation could not be started: {error}"))?;
    violations(String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default())
}

/// The program of the simulation, which lies beside this one.
pub(crate) fn simulator() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?.with_file_name("jlt-sim");
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("{} is missing: build it with `cargo build -p jlt-sim`", program.display()))
    }
}

/// The broken guarantees of a verdict; none if there is no verdict.
fn violations(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let verdict: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| format!("a verdict cannot be read: {error}: {text}"))?;
    let findings = verdict.get("violations").and_then(|list| list.as_array()).cloned().unwrap_or_default();
    Ok(findings.iter().filter_map(|finding| finding.as_str().map(str::to_owned)).collect())
}

fn is_by(finding: &str, judges: &[&str]) -> bool {
    judges.iter().any(|judge| finding.starts_with(judge))
}

fn summary(all: &[Found]) -> String {
    let mut seconds: Vec<u64> = all.iter().filter(|found| found.seed.is_some()).map(|found| found.seconds).collect();
    seconds.sort_unstable();
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or_default();
    format!("{} of {} found, median {median} s", seconds.len(), all.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_judge_that_should_see_it_counts() {
        assert!(is_by("set: lost 7", &["register", "set"]));
        assert!(!is_by("the cluster does not heal: no leader", &["register", "set"]));
    }

    #[test]
    fn a_verdict_is_read() {
        assert_eq!(
            violations("{\"verdict\":\"fail\",\"violations\":[\"set: lost\"]}"),
            Ok(vec!["set: lost".to_owned()])
        );
        assert_eq!(violations(""), Ok(Vec::new()));
        assert!(violations("panicked").is_err());
    }

    #[test]
    fn each_mistake_is_looked_for_once_where_something_happens() {
        let names: std::collections::BTreeSet<_> = HUNTS.iter().map(|hunt| hunt.bug).collect();
        assert_eq!(names.len(), HUNTS.len());
        for hunt in HUNTS {
            assert!(hunt.faults.split(',').all(|fault| jlt_core::plan::Fault::named(fault).is_ok()), "{}", hunt.bug);
        }
    }

    #[test]
    fn no_mistake_is_left_out() {
        let source = include_str!("../../../faults/src/lib.rs");
        let bugs = source.split("    Bug {").nth(1).and_then(|rest| rest.split("named! {").next()).unwrap();
        let names: Vec<&str> = bugs.lines().filter_map(|line| line.split(" = \"").nth(1)?.split('"').next()).collect();
        assert!(names.len() > 30, "{names:?}");
        for name in names {
            assert!(HUNTS.iter().any(|hunt| hunt.bug == name), "{name} has no line among the hunts");
        }
    }

    #[test]
    fn the_summary_counts_what_was_found() {
        let found = |seed, seconds| Found { bug: "a", seed, seconds, finding: String::new() };
        assert_eq!(summary(&[found(Some(1), 10), found(None, 600), found(Some(2), 30)]), "2 of 3 found, median 30 s");
    }
}
