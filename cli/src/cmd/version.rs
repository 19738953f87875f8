//! `tribune version`.

use super::Outcome;
use clap::Args;
use std::process::ExitCode;

/// Print the version. Called by the name `consul`, the version of Consul that it stands in for comes first.
#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// `json` or `pretty`.
    #[arg(long, default_value = "pretty")]
    format: String,
}

pub(super) fn run(args: VersionArgs) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let as_consul = std::env::args_os()
        .next()
        .is_some_and(|name| std::path::Path::new(&name).file_stem().is_some_and(|stem| stem == "consul"));
    match args.format.as_str() {
        "json" => println!("{}", as_json(version)),
        _ if as_consul => println!("Consul v1.16.1\nTribune v{version}"),
        _ => println!("Tribune v{version}\nCompatible with Consul v1.16.1"),
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(version: &str) -> serde_json::Value {
    let mut said = serde_json::json!({"Version": version, "CompatibleWith": "1.16.1"});
    // Whoever makes a program crash asks first whether it was built for that.
    if faults::is_on() {
        said["CrashPoints"] = faults::Point::ALL.iter().map(|point| point.name()).collect();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_build_for_the_fault_tests_has_crash_points() {
        let said = as_json("1.2.3");
        assert_eq!(said["Version"], "1.2.3");
        assert_eq!(said.get("CrashPoints").is_some(), faults::is_on());
    }
}
