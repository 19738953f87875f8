//! What the store costs: memory when idle, and durable writes a second for threads that each wait for their own commit.
//!
//! `cargo run --release -p tribune-store --example cost [folder]`; takes about ten seconds.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use store::{Store, StoreError};

const SECONDS: u64 = 2;

fn main() -> Result<(), StoreError> {
    let folder = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("store-cost"), PathBuf::from);
    println!("resident before: {} KiB", resident_kib().unwrap_or(0));
    let store = Store::open(&folder)?;
    let tree = store.tree::<Vec<u8>>("registrations")?;
    println!("resident after open: {} KiB", resident_kib().unwrap_or(0));
    for threads in [1, 16, 64] {
        let writes = load(&store, &tree, threads);
        println!(
            "{threads} threads: {} durable writes/s, resident {} KiB",
            writes / SECONDS,
            resident_kib().unwrap_or(0)
        );
    }
    Ok(())
}

fn load(store: &Store, tree: &store::Tree<Vec<u8>>, threads: u64) -> u64 {
    let (writes, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let value = vec![7u8; 300];
    thread::scope(|scope| {
        for thread in 0..threads {
            let (writes, stop, value) = (&writes, &stop, &value);
            scope.spawn(move || {
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    if tree.insert(format!("{thread}-{}", number % 1000), value).is_err() {
                        return;
                    }
                    store.commit();
                    number += 1;
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(Duration::from_secs(SECONDS));
        stop.store(true, Ordering::Relaxed);
    });
    writes.load(Ordering::Relaxed)
}

fn resident_kib() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().nth(1)).and_then(|number| number.parse().ok()).unwrap_or(0))
}
