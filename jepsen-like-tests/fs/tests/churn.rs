//! A store whose values are written anew again and again, and one whose keys come and go, on a disk that is full, fails or loses its
//! power: it opens again, and has what was committed.
//!
//! The writer is a process of its own (this program, called with `write FOLDER`), as the store ends its process when the disk lets it down.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use jlt_core::rng::Rng;
use jlt_fs::{Disk, Faults, Survivors};

/// Together they are several times what of them is alive.
const KEYS: usize = 300;
const VALUE_BYTES: usize = 3_000;
/// So many are there at a time.
const GUESTS: u64 = 25;
/// Writes of one commit.
const BATCH: u64 = 3;
const ROUNDS: u64 = 30;
/// How a writer ends. Whether a failed sync was taken seriously, the next power cut shows.
const FAULTS: [&str; 6] = ["kill", "full", "eio", "eio", "power-nothing", "power-some"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "write", folder, from] => write(Path::new(folder), from.parse().unwrap()),
        _ => rounds(),
    }
    ExitCode::SUCCESS
}

fn key(number: u64) -> String {
    format!("{:03}", Rng::new(number, 7).below(KEYS))
}

/// Its name was never there before.
fn guest(number: u64) -> String {
    format!("s/guest-{number}")
}

fn value(number: u64) -> Vec<u64> {
    vec![number; VALUE_BYTES / 9]
}

/// Each line on standard output tells that all up to that number is committed.
fn write(folder: &Path, from: u64) {
    let store = store::Store::open(folder).unwrap();
    let tree = store.tree::<Vec<u64>>("churn").unwrap();
    let guests = store.tree::<String>("guests").unwrap();
    for number in from.. {
        tree.insert(key(number), &value(number)).unwrap();
        guests
            .queue(|batch| {
                batch.insert(guest(number), &"x".repeat(400))?;
                batch.remove(guest(number.wrapping_sub(GUESTS)));
                Ok(())
            })
            .unwrap();
        if number.is_multiple_of(BATCH) {
            store.commit();
            println!("{number}");
        }
    }
}

fn rounds() {
    jlt_fs::apart().unwrap();
    let at = std::env::temp_dir().join(format!("jlt-churn-{}", std::process::id()));
    std::fs::create_dir_all(&at).unwrap();
    let mut disk = Disk::mount(&at, 1).unwrap();
    let mut rng = Rng::new(1, 0);
    let folder = at.join("data");
    let (mut next, mut kept) = (0, BTreeMap::new());
    for round in 0..ROUNDS {
        let fault = *rng.pick(&FAULTS);
        let (acknowledged, words) = run(&mut disk, &folder, next, fault, &mut rng);
        for number in next..acknowledged {
            kept.insert(key(number), number);
        }
        check(&folder, &kept).unwrap_or_else(|why| panic!("round {round}, after {fault} ({words}): {why}"));
        // What was written and not acknowledged may be there, too.
        next = acknowledged + 100_000;
    }
    println!("{ROUNDS} ends of a writer, {} values each as it was acknowledged or newer", kept.len());
}

/// Lets a writer write, and ends it with a fault. Returns the number below which all was acknowledged, and its last words.
fn run(disk: &mut Disk, folder: &Path, from: u64, fault: &str, rng: &mut Rng) -> (u64, String) {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .arg("write")
        .arg(folder)
        .arg(from.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).last());
    std::thread::sleep(rng.between_ms(400, 1_500));
    match fault {
        "full" => disk.set(Faults { full: true, ..Faults::default() }),
        "eio" => disk.set(Faults { failing_syncs: true, ..Faults::default() }),
        "power-nothing" => drop(disk.cut_power(Survivors::Nothing)),
        "power-some" => drop(disk.cut_power(Survivors::Some)),
        _ => {}
    }
    if fault != "kill" {
        std::thread::sleep(Duration::from_millis(300));
    }
    writer.kill().unwrap();
    let output = writer.wait_with_output().unwrap();
    disk.set(Faults::default());
    disk.power_on();
    let last = reader.join().unwrap().and_then(|line| line.parse::<u64>().ok());
    (
        last.map_or(from, |last| last + 1),
        String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned(),
    )
}

fn check(folder: &Path, kept: &BTreeMap<String, u64>) -> Result<(), String> {
    let store = store::Store::open(folder).map_err(|error| error.to_string())?;
    let tree = store.tree::<Vec<u64>>("churn").map_err(|error| error.to_string())?;
    for (key, number) in kept {
        let found = tree.get(key).map_err(|error| error.to_string())?.and_then(|value| value.first().copied());
        if found.is_none_or(|found| found < *number) {
            return Err(format!("{key} is {found:?}, and {number} was acknowledged"));
        }
    }
    Ok(())
}
