//! A disk whose power can be cut: a FUSE file system that keeps what was not synced apart from what was.
//!
//! # What counts as durable
//! - **fsync, fdatasync** of a file: its bytes and its length, whoever wrote them. `O_SYNC` and `O_DSYNC` are the same after each write, and `msync(MS_SYNC)` too.
//! - **fsync of a folder**: the names in it: what was made, renamed and removed.
//! - **Nothing else**: not `close`, not time, not `sync_file_range` (it never reaches a file system), not `O_DIRECT` (the bytes are in the device's cache), not `syncfs`.
//! - A new file that was synced in a folder that was not is gone. Many file systems are kinder; none promises to be.
//! - A shared memory map can be written; what the kernel has not yet handed over at the cut is lost.
//!
//! From a cut until [`Disk::power_on`] every request fails (`EIO`), and handles of before are dead for good: that is the time to kill their owners.
//! (A process that waits for a sync cannot be killed before the sync is answered, so killing first would let it finish.) The disk itself is in memory and needs root and `/dev/fuse`;
//! neither libfuse nor `fusermount`. Inside [`apart`] its mounts are seen by this process and its children only, and vanish with them.

mod fuse;
mod image;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use jlt_core::rng::Rng;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::image::{Content, Id, Image, ROOT};
pub use crate::image::{Lost, Survivors};

/// A mounted disk; unmounted when dropped.
pub struct Disk {
    shared: Arc<Shared>,
    rng: Rng,
    _session: BackgroundSession,
}

/// What is wrong with a disk; the default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing can be made and no file can grow (`ENOSPC`); bytes that are there can be overwritten.
    pub full: bool,
    /// Every sync fails with `EIO`, and what it should have kept will not be kept by a later one either.
    pub failing_syncs: bool,
    /// Every sync takes so long; other requests do not wait for it.
    pub slow_sync: Duration,
}

/// What the disk did; a fault that was never met proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Syncs that kept something.
    pub syncs: u64,
    /// Syncs that failed.
    pub failed: u64,
    /// Syncs that were slow.
    pub slow: u64,
    /// Requests that found the disk full.
    pub refused: u64,
}

/// What the disk and the kernel's requests share.
struct Shared {
    image: Mutex<Image>,
    faults: Mutex<Faults>,
    /// How many power cuts there were; part of every handle.
    epoch: AtomicU64,
    /// Between a power cut and the return of the power.
    off: AtomicBool,
    /// Syncs are answered and not done.
    lies: AtomicBool,
    counts: Counters,
}

#[derive(Default)]
struct Counters {
    syncs: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
    refused: AtomicU64,
}

/// From here on the calling thread, and what it starts, has mounts of its own: others do not see them, and the kernel removes them in the end.
pub fn apart() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?)
}

impl Disk {
    /// Mounts an empty disk. The seed decides what survives power cuts.
    pub fn mount(at: &Path, seed: u64) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            image: Mutex::new(Image::new()),
            faults: Mutex::default(),
            epoch: AtomicU64::new(0),
            off: AtomicBool::new(false),
            lies: AtomicBool::new(false),
            counts: Counters::default(),
        });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("jlt".to_owned())];
        let session = fuser::spawn_mount(fuse::Fuse(Arc::clone(&shared)), at, &config).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: a FUSE mount (needs root and /dev/fuse): {error}", at.display()))
        })?;
        Ok(Self { shared, rng: Rng::new(seed, 0x6673), _session: session })
    }

    /// The power is gone: what was not synced is lost, and syncs at work fail at once. Kill who uses the disk, then call [`Disk::power_on`].
    pub fn cut_power(&mut self, survivors: Survivors) -> Lost {
        let mut image = self.shared.image.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.off.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        image.cut(survivors, &mut self.rng)
    }

    /// The power is back.
    pub fn power_on(&self) {
        self.shared.off.store(false, Ordering::SeqCst);
    }

    /// Flips a bit, for good, in a file whose path contains `part`. Nobody may be using the disk.
    /// Answers which file, and where in it; none if no such file holds anything.
    pub fn flip(&mut self, part: &str) -> Option<(PathBuf, usize)> {
        let mut image = self.shared.image.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = image.files();
        files.retain(|(path, _)| path.to_string_lossy().contains(part));
        if files.is_empty() {
            return None;
        }
        let (path, id) = self.rng.pick(&files).clone();
        let at = image.flip(id, &mut self.rng)?;
        Some((path, at))
    }

    /// All files are gone, as if the disk had been replaced. Nobody may be using it.
    pub fn clear(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.shared.image.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// From now on syncs of files are answered and not done. A control: whoever judges what survives has to notice.
    pub fn lie(&self) {
        self.shared.lies.store(true, Ordering::SeqCst);
    }

    /// From now on this is wrong with the disk.
    pub fn set(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// What the disk did so far.
    pub fn counts(&self) -> Counts {
        let counts = &self.shared.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            syncs: read(&counts.syncs),
            failed: read(&counts.failed),
            slow: read(&counts.slow),
            refused: read(&counts.refused),
        }
    }

    /// Copies what is on the disk now into an ordinary folder, as evidence.
    pub fn save(&self, to: &Path) -> io::Result<()> {
        let mut image = self.shared.image.lock().unwrap_or_else(PoisonError::into_inner);
        save(&mut image, ROOT, to)
    }
}

impl Shared {
    fn faults(&self) -> Faults {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_alive(&self, epoch: u64) -> bool {
        epoch == self.epoch.load(Ordering::SeqCst)
    }
}

fn save(image: &mut Image, folder: Id, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    let names = image.folder(folder).map(|folder| folder.now.clone()).unwrap_or_default();
    for (name, id) in names {
        let path = to.join(name);
        match image.node(id).map(|node| &node.content) {
            Some(Content::Folder(_)) => save(image, id, &path)?,
            Some(Content::File(file)) => std::fs::write(path, &file.now)?,
            None => {}
        }
    }
    Ok(())
}
