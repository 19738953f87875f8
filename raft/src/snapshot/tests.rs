//! Snapshots against power cuts, damage and each other.

use std::collections::BTreeMap;

use openraft::CommittedLeaderId;

use super::*;
use crate::disk::fault::{FaultDisk, Faults};

/// A state that is so many bytes.
struct Bytes(Vec<u8>);

impl Snapshot for Bytes {
    fn write_to(self: Box<Self>, to: &mut dyn Write) -> io::Result<()> {
        for piece in self.0.chunks(10_000) {
            to.write_all(piece)?;
        }
        Ok(())
    }
}

fn dir() -> PathBuf {
    PathBuf::from("/raft/snapshot")
}

fn head(index: u64) -> Head {
    let last_log_id = Some(LogId::new(CommittedLeaderId::new(1, 7), index));
    Head { snapshot_id: format!("s{index}"), last_log_id, former: BTreeSet::from([9]), ..Head::default() }
}

fn state(index: u64) -> Vec<u8> {
    (0..index * 1_000).map(|at| u8::try_from((at * index) % 251).unwrap()).collect()
}

fn open(disk: &FaultDisk, folder: &Path) -> Result<Snapshots, StartError> {
    let store = Store::open(folder).unwrap();
    Snapshots::open(Arc::new(disk.clone()), dir(), store)
}

fn write(snapshots: &Snapshots, index: u64) -> io::Result<(Head, SnapshotFile)> {
    snapshots.write(&head(index), Box::new(Bytes(state(index))))
}

/// Reads the current snapshot and checks that it is whole.
fn index_of_current(snapshots: &Snapshots) -> Option<u64> {
    let (found, file) = snapshots.current()?;
    let index = found.last_log_id.unwrap().index;
    assert_eq!(found, head(index));
    snapshots
        .read(&file, |inside, body| {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes)?;
            assert_eq!((inside, bytes), (&head(index), state(index)));
            Ok(())
        })
        .unwrap();
    Some(index)
}

#[test]
fn the_newest_is_current_and_the_others_go() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new();
    let snapshots = open(&disk, folder.path()).unwrap();
    assert_eq!(index_of_current(&snapshots), None);
    write(&snapshots, 3).unwrap();
    let (_head, old) = write(&snapshots, 500).unwrap();
    let reader = snapshots.open_file(&old).unwrap();
    let (written, _file) = write(&snapshots, 20).unwrap();
    assert_eq!(written, head(20), "who writes it hears of nothing that it does not hold");
    assert_eq!(index_of_current(&snapshots), Some(500), "an older one does not replace it");
    write(&snapshots, 700).unwrap();
    assert_eq!(index_of_current(&snapshots), Some(700));
    assert_eq!(disk.list(&dir()).unwrap().len(), 1);
    assert_eq!(verify(&*reader, old.bytes).unwrap(), head(500), "who reads an old one goes on reading");
    drop(snapshots);
    assert_eq!(index_of_current(&open(&disk, folder.path()).unwrap()), Some(700));
}

#[test]
fn after_a_power_cut_at_any_step_one_of_the_two_is_whole() {
    let mut found = BTreeMap::new();
    for seed in 0..60 {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new();
        {
            let snapshots = open(&disk, folder.path()).unwrap();
            write(&snapshots, 30).unwrap();
            let half_written = snapshots.begin().unwrap();
            half_written.file.write_at(&[1; 5_000], 0).unwrap();
            // As if the process had ended here.
            std::mem::forget(half_written);
            if seed % 3 == 0 {
                disk.set(Faults { sync_fails_after: Some(disk.counts().syncs), ..Faults::default() });
                assert!(write(&snapshots, 60).is_err());
                assert_eq!(disk.counts().fatals, 1);
            } else if seed % 3 == 1 {
                write(&snapshots, 60).unwrap();
            }
            disk.cut_power(seed);
        }
        disk.set(Faults::default());
        let index = index_of_current(&open(&disk, folder.path()).unwrap());
        let expected = if seed % 3 == 1 { 60 } else { 30 };
        assert_eq!(index, Some(expected), "seed {seed}");
        *found.entry(expected).or_insert(0) += 1;
        assert_eq!(disk.list(&dir()).unwrap().len(), 1, "nothing half written stays");
    }
    assert_eq!(found.len(), 2);
}

#[test]
fn a_disk_that_lies_is_noticed_at_the_next_start() {
    let noticed = (0..10).filter(|seed| {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultDisk::new();
        disk.set(Faults { sync_lies: true, ..Faults::default() });
        write(&open(&disk, folder.path()).unwrap(), 30).unwrap();
        disk.cut_power(*seed);
        matches!(open(&disk, folder.path()), Err(StartError::Damaged { .. }))
    });
    assert!(noticed.count() >= 9);
}

#[test]
fn damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultDisk::new();
    let file = write(&open(&disk, folder.path()).unwrap(), 30).unwrap().1;
    for at in [0, 3, 15, 18, 40, 2_000, usize::try_from(file.bytes).unwrap() - 1] {
        disk.flip(&file.path, at).unwrap();
        assert!(matches!(open(&disk, folder.path()), Err(StartError::Damaged { .. })), "byte {at}");
        disk.flip(&file.path, at).unwrap();
    }
    assert_eq!(index_of_current(&open(&disk, folder.path()).unwrap()), Some(30));
    disk.remove(&file.path).unwrap();
    assert!(matches!(open(&disk, folder.path()), Err(StartError::Damaged { .. })));
}

#[test]
fn what_is_received_is_checked_before_it_counts() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = FaultDisk::new();
    let other = Snapshots::open(Arc::new(disk.clone()), "/other/snapshot".into(), Store::open(there.path()).unwrap());
    let file = write(&other.unwrap(), 40).unwrap().1;
    let from = disk.open(&file.path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.bytes).unwrap()];
    from.read_at(&mut bytes, 0).unwrap();

    let snapshots = open(&disk, here.path()).unwrap();
    let mut flipped = bytes.clone();
    flipped[5_000] ^= 1;
    for bad in [&bytes[..bytes.len() - 1], &bytes[..10], &[], &flipped] {
        let incoming = snapshots.begin().unwrap();
        incoming.file.write_at(bad, 0).unwrap();
        assert!(snapshots.receive(&incoming).is_err());
        drop(incoming);
        assert_eq!(index_of_current(&snapshots), None);
        assert_eq!(disk.list(&dir()).unwrap().len(), 0);
    }
    let incoming = snapshots.begin().unwrap();
    incoming.file.write_at(&bytes, 0).unwrap();
    snapshots.receive(&incoming).unwrap();
    drop(incoming);
    assert_eq!(index_of_current(&snapshots), Some(40));
    snapshots.close();
    assert!(write(&snapshots, 90).is_err(), "a stopped member makes none current");
}

/// Does something else while a folder is listed.
struct Meanwhile {
    disk: FaultDisk,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Disk for Meanwhile {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let act = held(&self.act).take();
        let acting = act.map(std::thread::spawn);
        // It may have to wait for us: then it goes on when we are done.
        for _ in 0..50 {
            if acting.as_ref().is_none_or(|thread| thread.is_finished()) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

#[test]
fn of_two_snapshots_at_once_the_newer_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Meanwhile { disk: FaultDisk::new(), act: Mutex::default() });
    let store = Store::open(folder.path()).unwrap();
    let snapshots = Arc::new(Snapshots::open(Arc::clone(&disk) as Arc<dyn Disk>, dir(), store).unwrap());
    let (other, (written, is_written)) = (Arc::clone(&snapshots), std::sync::mpsc::channel());
    *held(&disk.act) = Some(Box::new(move || {
        write(&other, 60).unwrap();
        written.send(()).unwrap();
    }));
    write(&snapshots, 30).unwrap();
    is_written.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(index_of_current(&snapshots), Some(60));
    drop(disk);
}

#[test]
fn a_folder_that_cannot_be_swept_fails_no_snapshot() {
    struct NoRemoval(Meanwhile);
    impl Disk for NoRemoval {
        fn create_dir(&self, dir: &Path) -> io::Result<()> {
            self.0.create_dir(dir)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
            self.0.list(dir)
        }
        fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.0.create(path)
        }
        fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.0.open(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, _path: &Path) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.0.sync_dir(dir)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = NoRemoval(Meanwhile { disk: FaultDisk::new(), act: Mutex::default() });
    let snapshots = Snapshots::open(Arc::new(disk), dir(), Store::open(folder.path()).unwrap()).unwrap();
    write(&snapshots, 30).unwrap();
    write(&snapshots, 60).unwrap();
    assert_eq!(index_of_current(&snapshots), Some(60));
}
