//! The program as it is used: the same seed twice is the same run, another seed another one, and a mistake is found.

use std::process::{Command, Output};

use serde_json::Value;

fn jlt_sim(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jlt-sim")).args(arguments.split(' ')).output().unwrap()
}

fn one(arguments: &str) -> Value {
    let output = jlt_sim(&format!("one {arguments}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_seed_repeats_itself_bit_for_bit_and_another_does_not() {
    for servers in [3, 5] {
        let run = |seed| one(&format!("--seed {seed} --servers {servers} --seconds 10"));
        let first = run(7);
        assert_eq!(first["verdict"], "pass", "{first}");
        assert_eq!(first, run(7));
        assert_ne!(first["trace"], run(9)["trace"]);
    }
}

#[test]
fn many_seeds_twice() {
    let output = jlt_sim("seeds --seeds 4 --seconds 5 --twice");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("4 of 4 seeds passed"), "{output:?}");
}

#[test]
fn tunnels_pass_and_repeat_themselves_and_another_seed_is_another_run() {
    let run = |seed| one(&format!("--seed {seed} --tunnels"));
    let first = run(1);
    assert_eq!(first["verdict"], "pass", "{first}");
    assert_eq!(first, run(1));
    assert_ne!(first["trace"], run(2)["trace"]);
    let output = jlt_sim("seeds --tunnels --seeds 3 --from 3 --twice");
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 of 3 seeds passed"), "{output:?}");
    assert_eq!(jlt_sim("one --seed 1 --tunnels --workloads register").status.code(), Some(2));
}

#[test]
fn without_faults_one_leader_is_enough_and_nothing_is_unknown() {
    let calm = one("--seed 1 --seconds 10 --faults none");
    assert_eq!(calm["verdict"], "pass", "{calm}");
    for (workload, tally) in calm["operations"].as_object().unwrap() {
        assert_eq!(tally["unknown"], 0, "{workload}: {calm}");
    }
    assert_eq!((&calm["elections"], &calm["deaths"]), (&Value::from(1), &serde_json::json!({})), "{calm}");
}

#[test]
fn a_mistake_is_found_and_a_name_that_is_none_refused() {
    let output = jlt_sim("seeds --seeds 20 --seconds 10 --faults none --workloads register --bug cas-ignored");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("register: "), "{output:?}");
    assert_eq!(jlt_sim("seeds --bug no-such-mistake").status.code(), Some(2));
    assert_eq!(jlt_sim("one --seed 1 --workloads no-such-workload").status.code(), Some(2));
}
