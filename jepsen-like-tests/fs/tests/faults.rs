//! Each fault as a small program sees it through the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jlt_fs::{Disk, Faults, Lost, Survivors};

/// A disk at a folder of its own, in mounts of the test's own.
fn disk(name: &str) -> (Disk, PathBuf) {
    jlt_fs::apart().unwrap();
    let at = std::env::temp_dir().join(format!("jlt-fs-{}-{name}", std::process::id()));
    fs::create_dir_all(&at).unwrap();
    (Disk::mount(&at, 1).unwrap(), at)
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn cut(disk: &mut Disk, survivors: Survivors) -> Lost {
    let lost = disk.cut_power(survivors);
    disk.power_on();
    lost
}

/// A file that is kept with these bytes.
fn kept(path: &Path, bytes: &[u8]) -> File {
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_data().unwrap();
    sync_folder(path.parent().unwrap());
    file
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let (mut disk, at) = disk("cut");
    let path = at.join("log");
    let mut log = kept(&path, b"one");
    log.write_all(b" two").unwrap();
    fs::write(at.join("other"), "never synced").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one two");
    let lost = cut(&mut disk, Survivors::Nothing);
    assert_eq!((lost.bytes, lost.names), (4 + 12, 1));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert!(!at.join("other").exists());
    assert!(log.write_all(b"x").is_err() || log.sync_all().is_err(), "a handle of before the cut still works");
    fs::write(at.join("after"), "the disk works again").unwrap();
}

#[test]
fn names_are_kept_with_their_folder_only() {
    let (mut disk, at) = disk("names");
    fs::create_dir(at.join("a")).unwrap();
    sync_folder(&at);
    kept(&at.join("a/old"), b"x");
    fs::rename(at.join("a/old"), at.join("a/new")).unwrap();
    cut(&mut disk, Survivors::Nothing);
    assert!(at.join("a/old").exists() && !at.join("a/new").exists(), "a rename without a sync is undone");
    fs::rename(at.join("a/old"), at.join("a/new")).unwrap();
    sync_folder(&at.join("a"));
    cut(&mut disk, Survivors::Nothing);
    assert!(!at.join("a/old").exists() && at.join("a/new").exists());
    fs::remove_file(at.join("a/new")).unwrap();
    cut(&mut disk, Survivors::Nothing);
    assert_eq!(fs::read(at.join("a/new")).unwrap(), b"x", "a removal without a sync is undone");
}

#[test]
fn a_preallocated_file_keeps_what_was_synced_within_it() {
    let (mut disk, at) = disk("preallocated");
    let path = at.join("segment");
    let mut segment = kept(&path, b"");
    segment.set_len(1 << 20).unwrap();
    segment.sync_all().unwrap();
    segment.write_all(b"kept").unwrap();
    segment.sync_data().unwrap();
    segment.seek(SeekFrom::Start(8192)).unwrap();
    segment.write_all(b"gone").unwrap();
    cut(&mut disk, Survivors::Nothing);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert_eq!((&bytes[..4], &bytes[8192..8196]), (&b"kept"[..], &[0; 4][..]));
}

#[test]
fn the_last_write_is_torn_at_a_border() {
    let (mut disk, at) = disk("torn");
    let path = at.join("log");
    let mut torn = 0;
    for _ in 0..30 {
        let mut log = kept(&path, &[1; 100]);
        log.write_all(&[2; 4000]).unwrap();
        cut(&mut disk, Survivors::Torn(512));
        let length = fs::read(&path).unwrap().len();
        assert!(length == 100 || length.is_multiple_of(512), "{length}");
        torn += usize::from(length > 100 && length < 4100);
        fs::remove_file(&path).unwrap();
        sync_folder(&at);
    }
    assert!(torn > 10, "{torn} of 30");
}

#[test]
fn a_full_disk_refuses_to_grow() {
    let (disk, at) = disk("full");
    let mut file = kept(&at.join("file"), b"12345678");
    disk.set(Faults { full: true, ..Faults::default() });
    assert_eq!(file.write_all(b"9").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(File::create(at.join("new")).unwrap_err().kind(), ErrorKind::StorageFull);
    file.rewind().unwrap();
    file.write_all(b"overwrite").unwrap_err();
    file.rewind().unwrap();
    file.write_all(b"87654321").unwrap();
    assert!(disk.counts().refused >= 3);
    disk.set(Faults::default());
    file.write_all(b"9").unwrap();
}

#[test]
fn a_failed_sync_is_told_once_and_its_bytes_are_never_kept() {
    let (mut disk, at) = disk("eio");
    let path = at.join("file");
    let mut file = kept(&path, b"old");
    disk.set(Faults { failing_syncs: true, ..Faults::default() });
    file.rewind().unwrap();
    file.write_all(b"new").unwrap();
    assert!(file.sync_data().is_err());
    disk.set(Faults::default());
    file.sync_data().unwrap();
    assert_eq!(disk.counts().failed, 1);
    cut(&mut disk, Survivors::Nothing);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_slow_sync_takes_its_time_and_others_do_not_wait() {
    let (disk, at) = disk("slow");
    let file = kept(&at.join("file"), b"x");
    disk.set(Faults { slow_sync: Duration::from_millis(500), ..Faults::default() });
    let start = Instant::now();
    let slow = std::thread::spawn(move || file.sync_data().unwrap());
    fs::write(at.join("other"), "y").unwrap();
    let other = start.elapsed();
    slow.join().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert!(other < Duration::from_millis(500), "a write waited {other:?} for the sync of another file");
}

#[test]
fn a_cut_fails_a_sync_at_work_and_nothing_works_without_power() {
    let (mut disk, at) = disk("mid-sync");
    let path = at.join("file");
    let mut file = kept(&path, b"old");
    disk.set(Faults { slow_sync: Duration::from_secs(60), ..Faults::default() });
    file.write_all(b" new").unwrap();
    let syncing = std::thread::spawn(move || file.sync_data());
    while disk.counts().slow == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(disk.cut_power(Survivors::Nothing).bytes, 4);
    assert!(syncing.join().unwrap().is_err());
    assert!(File::create(at.join("dark")).is_err() && File::open(&path).is_err());
    disk.power_on();
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_disk_that_lies_keeps_nothing() {
    let (mut disk, at) = disk("lies");
    let path = at.join("file");
    let mut file = kept(&path, b"old");
    disk.lie();
    file.write_all(b" new").unwrap();
    file.sync_data().unwrap();
    assert_eq!(cut(&mut disk, Survivors::Nothing).bytes, 4);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn what_is_there_can_be_saved() {
    let (disk, at) = disk("save");
    fs::create_dir(at.join("a")).unwrap();
    fs::write(at.join("a/b"), "bytes").unwrap();
    let to = std::env::temp_dir().join(format!("jlt-fs-{}-saved", std::process::id()));
    disk.save(&to).unwrap();
    assert_eq!(fs::read(to.join("a/b")).unwrap(), b"bytes");
    fs::remove_dir_all(&to).unwrap();
}
