//! What the store promises to its users.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use store::{KEY_BYTES_MAX, Store, StoreError, VALUE_BYTES_MAX};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Check {
    name: String,
    passing: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct LaterCheck {
    name: String,
    passing: bool,
    #[serde(default)]
    note: Option<String>,
}

fn check(name: &str) -> Check {
    Check { name: name.into(), passing: true }
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("deep/er");
    {
        let store = Store::open(&dir).unwrap();
        let checks = store.tree::<Check>("checks").unwrap();
        let counts = store.tree::<u64>("counts").unwrap();
        checks.insert("b", &check("two")).unwrap();
        checks.insert(b"a", &check("one")).unwrap();
        counts.insert("a", &7).unwrap();
        checks.insert("gone", &check("gone")).unwrap();
        assert!(checks.remove("gone").unwrap());
        assert!(!checks.remove("gone").unwrap());
        store.commit();
    }
    let store = Store::open(&dir).unwrap();
    let checks = store.tree::<Check>("checks").unwrap();
    assert_eq!(checks.get("a").unwrap(), Some(check("one")));
    assert_eq!(checks.get("gone").unwrap(), None);
    let all: Vec<_> = checks.iter().map(Result::unwrap).collect();
    assert_eq!(all, [(b"a".to_vec(), check("one")), (b"b".to_vec(), check("two"))]);
    assert_eq!(store.tree::<u64>("counts").unwrap().get("a").unwrap(), Some(7));
}

#[test]
fn a_field_can_be_added_and_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.tree::<Check>("checks").unwrap().insert("a", &check("old")).unwrap();
    let later = store.tree::<LaterCheck>("checks").unwrap();
    assert_eq!(later.get("a").unwrap(), Some(LaterCheck { name: "old".into(), passing: true, note: None }));
    later.insert("b", &LaterCheck { name: "new".into(), passing: false, note: Some("x".into()) }).unwrap();
    let earlier = store.tree::<Check>("checks").unwrap();
    assert_eq!(earlier.get("b").unwrap(), Some(Check { name: "new".into(), passing: false }));
    let other = store.tree::<Vec<u64>>("checks").unwrap().get("a");
    assert!(matches!(other, Err(StoreError::Decode { .. })), "{other:?}");
}

#[test]
fn limits_are_errors_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree::<String>("texts").unwrap();
    tree.insert("fits", &"x".repeat(VALUE_BYTES_MAX - 10)).unwrap();
    let refused = tree.insert("large", &"x".repeat(VALUE_BYTES_MAX));
    assert!(matches!(refused, Err(StoreError::ValueTooLarge { .. })), "{refused:?}");
    let refused = tree.insert("k".repeat(2_000), &String::new());
    assert!(matches!(refused, Err(StoreError::KeyTooLarge { bytes: 2_000 })), "{refused:?}");
    let refused = tree.queue(|batch| {
        batch.insert("one", &"1".into())?;
        batch.insert("large", &"x".repeat(VALUE_BYTES_MAX))
    });
    assert!(refused.is_err());
    store.commit();
    assert_eq!(tree.count(), 1, "all or none");
    tree.queue(|batch| {
        batch.insert("one", &"1".into())?;
        batch.remove("fits");
        Ok(())
    })
    .unwrap();
    assert_eq!(tree.count(), 1, "it waits for the commit");
    store.commit();
    assert_eq!(tree.iter().map(|pair| pair.unwrap().1).collect::<Vec<_>>(), ["1"]);
    tree.clear().unwrap();
    assert_eq!(tree.count(), 0);
}

#[test]
fn one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let second = Store::open(folder.path()).err().expect("it is in use");
    assert!(matches!(second, StoreError::InUse { .. }));
    assert!(second.to_string().contains("in use by another process"));
    drop(store);
    Store::open(folder.path()).unwrap();
}

#[test]
fn a_damaged_store_is_an_error_and_not_a_panic() {
    for name in ["conf", "db"] {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let path = folder.path().join("sled").join(name);
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::write(&path, vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
        let refused = Store::open(folder.path()).err().unwrap_or_else(|| panic!("{name} is damaged"));
        assert!(matches!(refused, StoreError::Damaged { .. }), "{name}: {refused}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"in the way").unwrap();
    assert!(matches!(Store::open(&file).err(), Some(StoreError::Disk { .. })));
}

/// Whatever byte of its files is damaged: it is refused, or all is there. Nothing may be missing as if it had never been.
#[test]
fn a_flipped_bit_is_refused_or_means_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    {
        let store = Store::open(&original).unwrap();
        let tree = store.tree::<Check>("checks").unwrap();
        for number in 0..20 {
            tree.insert(format!("{number}"), &check(&format!("check {number}"))).unwrap();
            store.commit();
        }
    }
    let files = ["sled/conf", "sled/db", "commits"].map(|name| (name, std::fs::read(original.join(name)).unwrap()));
    let mut silent = Vec::new();
    for (name, bytes) in &files {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for at in (0..used).step_by(5) {
            let copy = folder.path().join("copy");
            copy_folder(&original, &copy);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(copy.join(name), damaged).unwrap();
            let found = Store::open(&copy).and_then(|store| {
                let tree = store.tree::<Check>("checks")?;
                (0..20).map(|number| tree.get(format!("{number}"))).collect::<Result<Vec<_>, _>>()
            });
            match found {
                Err(StoreError::Damaged { .. } | StoreError::Decode { .. }) => {}
                Err(other) => panic!("{name} {at}: {other}"),
                Ok(all) if (0..20).all(|number| all[number] == Some(check(&format!("check {number}")))) => {}
                Ok(_) => silent.push((*name, at)),
            }
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(silent.is_empty(), "{}: {silent:?}", silent.len());
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// The largest values under the longest keys, put, replaced, merged and removed by threads at once: sled puts none of it into
/// a file of its own, which it would never sync, and removes too early.
#[test]
fn no_page_is_ever_large_enough_to_lie_outside_the_synced_file() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("sled/blobs");
    let outside = || std::fs::read_dir(&blobs).unwrap().count();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree::<String>("large").unwrap();
    let key = |number: usize| format!("{number:04}{}", "k".repeat(KEY_BYTES_MAX - 4));
    let value = "v".repeat(VALUE_BYTES_MAX - 8);
    for number in 0..200 {
        tree.insert(key(number), &value).unwrap();
        store.commit();
        assert_eq!(outside(), 0, "after value {number}");
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (tree, store, value) = (&tree, &store, &value);
            scope.spawn(move || {
                for number in 0..100 {
                    // Removals make sled merge leaves again.
                    tree.remove(key((thread * 7 + number * 13) % 200)).unwrap();
                    tree.insert(key((thread * 31 + number) % 200), value).unwrap();
                    if number % 10 == 0 {
                        store.commit();
                    }
                }
            });
        }
    });
    store.commit();
    assert_eq!(outside(), 0);
    // Small values under long keys make the pages that point to pages the largest.
    let tree = store.tree::<u64>("long").unwrap();
    for number in 0..9_000 {
        tree.insert(key(number), &1).unwrap();
    }
    store.commit();
    assert_eq!(outside(), 0);
}

#[test]
fn a_store_with_a_page_outside_its_file_is_not_taken_for_whole() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    std::fs::write(folder.path().join("sled/blobs/7"), b"").unwrap();
    let refused = Store::open(folder.path()).err().expect("it may be incomplete");
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
}

#[test]
fn those_who_come_when_too_many_wait_commit_for_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let called = Arc::new(AtomicU64::new(0));
    for _ in 0..40_000 {
        let called = Arc::clone(&called);
        store.commit_then(move || {
            called.fetch_add(1, Ordering::SeqCst);
        });
    }
    for _ in 0..3_000 {
        if called.load(Ordering::SeqCst) == 40_000 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} of 40000 calls", called.load(Ordering::SeqCst));
}

fn fill(dir: &Path) {
    let store = Store::open(dir).unwrap();
    let tree = store.tree::<String>("t").unwrap();
    for number in 0..500 {
        tree.insert(format!("{number}"), &"v".repeat(500)).unwrap();
    }
    store.commit();
}

#[test]
fn callbacks_come_after_the_commit_and_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree::<u64>("numbers").unwrap();
    let (sender, done) = mpsc::channel();
    for number in 0..200 {
        tree.insert(format!("{number}"), &number).unwrap();
        let sender = sender.clone();
        store.commit_then(move || sender.send(number).unwrap());
    }
    let mut numbers: Vec<u64> = (0..200).map(|_| done.recv_timeout(Duration::from_secs(30)).unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
}

#[test]
fn many_threads_commit_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tree = store.tree::<u64>("numbers").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            let (store, tree) = (&store, &tree);
            scope.spawn(move || {
                for number in 0..20 {
                    tree.insert(format!("{thread}-{number}"), &number).unwrap();
                    store.commit();
                }
            });
        }
    });
    assert_eq!(tree.count(), 16 * 20);
}

/// The end of the process is the promise: so it is a process of its own that ends.
#[test]
fn a_disk_that_fails_ends_the_process_with_a_message() {
    if std::env::var_os("STORE_TEST_FATAL").is_some() {
        store::fatal_disk("the store could not be synced", &"the device did not answer");
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "a_disk_that_fails_ends_the_process_with_a_message", "--nocapture"])
        .env("STORE_TEST_FATAL", "1")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("the store could not be synced: the device did not answer"), "{message}");
}

#[test]
fn what_is_queued_is_committed_though_nobody_asks() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tree) = reopen(folder.path());
    for number in 0..3 {
        tree.queue(|batch| batch.insert("n", &number)).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while tree.get("n").unwrap() != Some(number) {
            assert!(Instant::now() < until, "{number} is not there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // The thread that commits must not keep the store open.
    tree.queue(|batch| batch.insert("n", &7)).unwrap();
    drop((store, tree));
    assert_eq!(reopen(folder.path()).1.get("n").unwrap(), Some(7));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u64),
    Remove(u8),
    Commit,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<u8>(), any::<u64>()).prop_map(|(key, value)| Step::Insert(key, value)),
        2 => any::<u8>().prop_map(Step::Remove),
        1 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn reopen(dir: &Path) -> (Store, store::Tree<u64>) {
    let store = Store::open(dir).unwrap();
    let tree = store.tree("numbers").unwrap();
    (store, tree)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn it_is_a_map(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let mut model = BTreeMap::new();
        let mut open = Some(reopen(folder.path()));
        for step in steps {
            let (store, tree) = open.as_ref().unwrap();
            match step {
                Step::Insert(key, value) => {
                    tree.insert([key], &value).unwrap();
                    model.insert(vec![key], value);
                }
                Step::Remove(key) => prop_assert_eq!(tree.remove([key]).unwrap(), model.remove(&vec![key]).is_some()),
                Step::Commit => store.commit(),
                Step::Reopen => {
                    store.commit();
                    open.take();
                    open = Some(reopen(folder.path()));
                }
            }
            let (_store, tree) = open.as_ref().unwrap();
            let found: BTreeMap<_, _> = tree.iter().map(Result::unwrap).collect();
            prop_assert_eq!(&found, &model);
        }
        let (_store, tree) = open.as_ref().unwrap();
        let some: Vec<_> = tree.iter_prefix(&[7]).map(|pair| pair.unwrap().1).collect();
        prop_assert_eq!(some, model.get(&vec![7]).copied().into_iter().collect::<Vec<_>>());
    }

    /// None: a commit, or a restart without one.
    #[test]
    fn what_is_queued_is_there_after_a_commit_or_a_restart(
        rounds in prop::collection::vec(prop::option::of(prop::collection::vec(any::<(u8, Option<u64>)>(), 0..6)), 1..30),
        restarts in any::<u32>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (mut seen, mut queued) = (BTreeMap::new(), BTreeMap::new());
        let mut open = Some(reopen(folder.path()));
        for (number, round) in rounds.into_iter().enumerate() {
            let (store, tree) = open.as_ref().unwrap();
            match round {
                Some(changes) => {
                    tree.queue(|batch| {
                        for (key, value) in &changes {
                            match value {
                                Some(value) => batch.insert([*key], value)?,
                                None => batch.remove([*key]),
                            }
                            queued.insert(vec![*key], *value);
                        }
                        Ok(())
                    }).unwrap();
                }
                None => {
                    for (key, value) in std::mem::take(&mut queued) {
                        match value {
                            Some(value) => seen.insert(key, value),
                            None => seen.remove(&key),
                        };
                    }
                    if restarts >> (number % 32) & 1 == 1 {
                        open.take();
                        open = Some(reopen(folder.path()));
                    } else {
                        store.commit();
                    }
                }
            }
            let (_store, tree) = open.as_ref().unwrap();
            let found: BTreeMap<_, _> = tree.iter().map(Result::unwrap).collect();
            prop_assert_eq!(&found, &seen);
        }
    }
}
