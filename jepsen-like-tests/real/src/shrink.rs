//! `jlt shrink`: runs smaller and smaller plans of a run that failed, each in a process of its own, and keeps the smallest that still does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jlt_core::plan::Plan;
use jlt_core::shrink::{Tried, shrink};

use crate::bugs::said;
use crate::run::load_plan;

/// What is asked for.
pub(crate) struct Options {
    /// The folder of the run that failed.
    pub(crate) run: PathBuf,
    pub(crate) binary: PathBuf,
    /// How long it may take altogether.
    pub(crate) limit: Duration,
    /// How often a plan is run before it is taken for one that passes: processes do not repeat themselves exactly.
    pub(crate) tries: u32,
}

/// Writes the smallest plan that was found into a folder beside that of the run, and answers it.
pub(crate) fn run(options: &Options) -> Result<PathBuf, String> {
    let plan = load_plan(&options.run)?;
    let wanted: BTreeSet<String> = said(&options.run)?.iter().map(|finding| judge_of(finding)).collect();
    if wanted.is_empty() {
        return Err(format!(
            "{} has no broken guarantee in its verdict.json: there is nothing to shrink",
            options.run.display()
        ));
    }
    eprintln!("what still has to be said: {}", wanted.iter().cloned().collect::<Vec<_>>().join("; "));
    let mut folder = options.run.as_os_str().to_owned();
    folder.push("-small");
    let folder = crate::fresh(PathBuf::from(folder));
    let mut attempts = Attempts { options, folder: &folder, wanted, begun: Instant::now(), count: 0 };
    let small = shrink(&plan, |plan| attempts.attempt(plan));
    write_plan(&folder, &small)?;
    println!(
        "{} of {} faults, {} of {} workloads, {} of {} ms after {} runs in {} s; `jlt replay {}` runs it",
        small.faults.len(),
        plan.faults.len(),
        small.workloads.len(),
        plan.workloads.len(),
        small.duration_ms,
        plan.duration_ms,
        attempts.count,
        attempts.begun.elapsed().as_secs(),
        folder.display()
    );
    Ok(folder)
}

struct Attempts<'a> {
    options: &'a Options,
    folder: &'a Path,
    wanted: BTreeSet<String>,
    begun: Instant,
    count: u32,
}

impl Attempts<'_> {
    /// A plan that cannot be run proves nothing, and so passes.
    fn attempt(&mut self, plan: &Plan) -> Tried {
        for _ in 0..self.options.tries.max(1) {
            if self.begun.elapsed() >= self.options.limit {
                return Tried::Enough;
            }
            self.count += 1;
            let found = self.run_once(plan).unwrap_or_else(|error| {
                eprintln!("run {}: {error}", self.count);
                false
            });
            let (faults, workloads, seconds) = (plan.faults.len(), plan.workloads.join(","), plan.duration_ms / 1000);
            let word = if found { "fails" } else { "passes" };
            eprintln!("run {}: {faults} faults, {workloads}, {seconds} s: {word}", self.count);
            if found {
                return Tried::Fails;
            }
        }
        Tried::Passes
    }

    /// Whether the same judge says something. Only runs that fail keep their folder.
    fn run_once(&self, plan: &Plan) -> Result<bool, String> {
        let attempt = self.folder.join(format!("run-{}", self.count));
        write_plan(&attempt, plan)?;
        let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
        let done = Command::new(program)
            .arg("replay")
            .arg(&attempt)
            .arg("--bin")
            .arg(&self.options.binary)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        done.map_err(|error| format!("a run could not be started: {error}"))?;
        let mut replay = attempt.clone().into_os_string();
        replay.push("-replay");
        let found = said(Path::new(&replay))?.iter().any(|finding| self.wanted.contains(&judge_of(finding)));
        if !found {
            // What is left of a run that passed is in nobody's way if it cannot be removed.
            std::fs::remove_dir_all(&replay).ok();
        }
        std::fs::remove_dir_all(&attempt).ok();
        Ok(found)
    }
}

fn write_plan(folder: &Path, plan: &Plan) -> Result<(), String> {
    let text = serde_json::to_string_pretty(plan).map_err(|error| error.to_string())?;
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(folder.join("plan.json"), text));
    written.map_err(|error| format!("{}: {error}", folder.display()))
}

/// Who speaks: what stands before the colon, without numbers, for servers and times differ from run to run.
fn judge_of(finding: &str) -> String {
    let head = finding.split(':').next().unwrap_or_default();
    head.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_of_one_judge_are_one() {
        assert_eq!(judge_of("register: jlt/register/0-3 is not linearizable"), "register");
        let ended = |text: &str| judge_of(&format!("{text} ms (exit status: 101): words"));
        assert_eq!(ended("s2 ended by itself at 1234"), ended("s1 ended by itself at 99"));
        assert_ne!(judge_of("set: lost 7"), judge_of("register: lost 7"));
    }

    #[test]
    fn a_run_without_a_finding_is_refused() {
        let run = std::env::temp_dir().join(format!("jlt-shrink-{}", std::process::id()));
        let plan = Plan::new(1, Duration::from_secs(5), 3, vec!["set".to_owned()], &[]);
        write_plan(&run, &plan).unwrap();
        std::fs::write(run.join("verdict.json"), r#"{"violations":[]}"#).unwrap();
        let options = Options { run: run.clone(), binary: PathBuf::new(), limit: Duration::ZERO, tries: 1 };
        assert!(super::run(&options).unwrap_err().contains("nothing to shrink"));
        std::fs::remove_dir_all(&run).unwrap();
    }
}
