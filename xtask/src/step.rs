//! A step: a name, a command, and the table of what came of it.

use std::process::Command;
use std::time::{Duration, Instant};

/// One named command of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// What the command line calls it.
    pub(crate) name: &'static str,
    program: String,
    arguments: Vec<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// The steps of `verify`: cheap before dear, and none of them writes to the sources.
pub(crate) fn verify() -> Vec<Step> {
    let test = if has_nextest() { vec!["nextest", "run", "--workspace"] } else { vec!["test", "--workspace"] };
    vec![
        cargo("fmt", vec!["fmt", "--all", "--check"]),
        cargo("clippy", vec!["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        Step {
            environment: vec![("RUSTDOCFLAGS", "-D warnings")],
            ..cargo("doc", vec!["doc", "--workspace", "--no-deps"])
        },
        house(),
        cargo("test", test),
    ]
}

/// The steps of `fix`. Run it on your own diff only, never on one that somebody has reviewed.
pub(crate) fn fix() -> Vec<Step> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    // Clippy first: what it writes is then formatted.
    vec![cargo("clippy", clippy.to_vec()), cargo("fmt", vec!["fmt", "--all"])]
}

/// The step of `tidy`: the tests that hold the house.
pub(crate) fn tidy() -> Vec<Step> {
    vec![house()]
}

/// The steps named, in the order of `all`; all of them when none is named. A name that nobody has is an error which lists the names.
pub(crate) fn pick(all: &[Step], names: &[String]) -> Result<Vec<Step>, String> {
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|step| step.name == name.as_str())) {
        let known: Vec<&str> = all.iter().map(|step| step.name).collect();
        return Err(format!("no step is called {unknown:?}; the steps are: {}", known.join(", ")));
    }
    Ok(all.iter().filter(|step| names.is_empty() || names.iter().any(|name| name == step.name)).cloned().collect())
}

/// Runs the steps in order and prints the table; stops at the first failure unless told to go on. True when all passed.
pub(crate) fn run(steps: &[Step], keep_going: bool) -> bool {
    let mut results: Vec<(&str, Duration, Outcome)> = Vec::new();
    let mut failed = false;
    for step in steps {
        if failed && !keep_going {
            results.push((step.name, Duration::ZERO, Outcome::Skipped));
            continue;
        }
        println!("==> {}: {}", step.name, step.command_line());
        let started = Instant::now();
        let passed = step.run();
        failed |= !passed;
        results.push((step.name, started.elapsed(), if passed { Outcome::Passed } else { Outcome::Failed }));
    }
    println!("\n{}", table(&results));
    !failed
}

impl Step {
    /// The command as one would type it.
    pub(crate) fn command_line(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value:?} ")).collect::<String>();
        format!("{environment}cargo {}", self.arguments.join(" "))
    }

    /// Runs the command with our own input and output; true when it succeeded.
    fn run(&self) -> bool {
        let status = Command::new(&self.program).args(&self.arguments).envs(self.environment.iter().copied()).status();
        match status {
            Ok(status) => status.success(),
            Err(error) => {
                eprintln!("error: {} does not start: {error}; is cargo on the PATH?", self.program);
                false
            }
        }
    }
}

fn house() -> Step {
    cargo("house", vec!["test", "--quiet", "--package", "xtask"])
}

fn cargo(name: &'static str, arguments: Vec<&'static str>) -> Step {
    // Cargo names itself to the programs which it runs, so that a pinned toolchain stays the same one.
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    Step { name, program, arguments, environment: Vec::new() }
}

fn has_nextest() -> bool {
    let probe = cargo("probe", Vec::new());
    Command::new(probe.program).args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// The table: step, time, result; one line for each step.
fn table(results: &[(&str, Duration, Outcome)]) -> String {
    let mut text = format!("{:<8} {:>9}  result\n", "step", "time");
    for (name, elapsed, outcome) in results {
        let (time, word) = match outcome {
            Outcome::Passed => (format!("{:.1} s", elapsed.as_secs_f64()), "ok"),
            Outcome::Failed => (format!("{:.1} s", elapsed.as_secs_f64()), "FAILED"),
            Outcome::Skipped => ("-".to_owned(), "not run"),
        };
        text.push_str(&format!("{name:<8} {time:>9}  {word}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.name).collect()
    }

    /// A step whose command is one of the system's own.
    fn program(name: &'static str, program: &str) -> Step {
        Step { program: program.to_owned(), ..cargo(name, Vec::new()) }
    }

    #[test]
    fn all_steps_run_when_none_is_named() {
        assert_eq!(names(&pick(&verify(), &[]).unwrap()), ["fmt", "clippy", "doc", "house", "test"]);
    }

    #[test]
    fn named_steps_keep_the_order_of_the_task() {
        let picked = pick(&verify(), &["test".to_owned(), "fmt".to_owned()]).unwrap();
        assert_eq!(names(&picked), ["fmt", "test"]);
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_list_of_steps() {
        let message = pick(&verify(), &["lint".to_owned()]).unwrap_err();
        assert!(message.contains("\"lint\"") && message.contains("fmt, clippy, doc, house, test"), "{message}");
    }

    #[test]
    fn verify_never_writes() {
        for step in verify() {
            let line = step.command_line();
            assert!(!line.contains("--fix"), "{line}");
            assert!(step.name != "fmt" || line.contains("--check"), "{line}");
        }
    }

    #[test]
    fn a_failure_fails_the_run_and_a_missing_program_is_a_failure() {
        assert!(run(&[program("good", "true")], false));
        assert!(!run(&[program("bad", "false"), program("good", "true")], true));
        assert!(!run(&[program("gone", "no-such-program-here")], false));
    }

    #[test]
    fn the_table_tells_time_and_result() {
        let text = table(&[
            ("fmt", Duration::from_millis(1234), Outcome::Passed),
            ("clippy", Duration::from_secs(61), Outcome::Failed),
            ("test", Duration::ZERO, Outcome::Skipped),
        ]);
        assert_eq!(
            text,
            "step          time  result\n\
             fmt          1.2 s  ok\n\
             clippy      61.0 s  FAILED\n\
             test             -  not run\n"
        );
    }
}
