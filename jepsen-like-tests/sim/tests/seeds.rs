//! The program as it is used: the same seed twice is the same run, another seed another one.

use std::process::Command;

use serde_json::Value;

fn run(seed: u64, seconds: u64, faults: &str) -> Value {
    let seed = seed.to_string();
    let seconds = seconds.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jlt-sim"));
    let output = command.args(["one", "--seed", &seed, "--seconds", &seconds, "--faults", faults]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_seed_repeats_itself_bit_for_bit_and_another_does_not() {
    let first = run(7, 10, "partition,power,slow-sync");
    assert_eq!(first["verdict"], "pass", "{first}");
    assert_eq!(first, run(7, 10, "partition,power,slow-sync"));
    assert_ne!(first["trace"], run(8, 10, "partition,power,slow-sync")["trace"]);
}

#[test]
fn without_faults_one_leader_is_enough_and_nothing_is_unknown() {
    let calm = run(1, 10, "none");
    assert_eq!(calm["verdict"], "pass", "{calm}");
    assert_eq!(calm["operations"]["unknown"], 0, "{calm}");
    assert_eq!(calm["elections"], 1, "{calm}");
}
