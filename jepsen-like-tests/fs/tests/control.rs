//! The control of the power cuts: sled 0.34's `flush` as documented must lose acknowledged data, and the product's store must not.
//! If the first half fails, the disk is kinder than it should be, and no other test on it proves anything.
//!
//! The writer is a process of its own (this program, called with `write STORE FOLDER`), killed before the power is cut.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use jlt_fs::{Disk, Survivors};

/// Writes that are acknowledged before the power is cut.
const WRITES: u64 = 200;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "write", "sled", folder] => write_sled(Path::new(folder)),
        [_, "write", "store", folder] => write_store(Path::new(folder)),
        _ => return judge(),
    }
    ExitCode::SUCCESS
}

fn judge() -> ExitCode {
    let sled = kept("sled", count_sled);
    let store = kept("store", count_store);
    println!(
        "after a power cut sled's flush has kept {sled} of {WRITES} acknowledged writes, the product's store {store}"
    );
    if sled < WRITES && store >= WRITES { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Lets a writer acknowledge its writes, kills it, cuts the power and counts what is left.
fn kept(store: &str, count: impl Fn(&Path) -> u64) -> u64 {
    jlt_fs::apart().unwrap();
    let at = std::env::temp_dir().join(format!("jlt-control-{}-{store}", std::process::id()));
    std::fs::create_dir_all(&at).unwrap();
    let mut disk = Disk::mount(&at, 1).unwrap();
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["write", store])
        .arg(at.join("data"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let acknowledged = BufReader::new(writer.stdout.take().unwrap()).lines().take(WRITES as usize);
    assert_eq!(acknowledged.count() as u64, WRITES, "the writer ended early");
    writer.kill().unwrap();
    writer.wait().unwrap();
    disk.cut_power(Survivors::Nothing);
    count(&at.join("data"))
}

/// sled with its default settings; each line on standard output is an acknowledgement.
fn write_sled(folder: &Path) {
    let db = sled::open(folder).unwrap();
    for number in 0u64.. {
        db.insert(number.to_be_bytes(), &[7u8; 100][..]).unwrap();
        db.flush().unwrap();
        println!("{number}");
    }
}

fn write_store(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    // The folder is ours to make, so its name is ours to sync.
    std::fs::File::open(folder.parent().unwrap()).unwrap().sync_all().unwrap();
    let store = store::Store::open(folder).unwrap();
    let tree = store.tree::<u64>("control").unwrap();
    for number in 0u64.. {
        tree.insert(format!("{number:08}"), &number).unwrap();
        store.commit();
        println!("{number}");
    }
}

/// A database that does not open has kept nothing.
fn count_sled(folder: &Path) -> u64 {
    std::panic::catch_unwind(|| sled::open(folder).map_or(0, |db| db.len() as u64)).unwrap_or(0)
}

fn count_store(folder: &Path) -> u64 {
    let store = store::Store::open(folder).unwrap();
    let tree = store.tree::<u64>("control").unwrap();
    (0..WRITES).filter(|number| tree.get(format!("{number:08}")).unwrap() == Some(*number)).count() as u64
}
