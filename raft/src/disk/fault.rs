//! A disk in memory that loses what was not synced when the power is cut, as a real one may: whole blocks of unsynced
//! writes survive or not, each by itself. It can also refuse to sync, fill up, and lie.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile};

/// What a power cut may split a write into.
const BLOCK_BYTES: usize = 512;

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Names as a reader sees them now, and as they are on the platter.
    names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    synced_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    faults: Faults,
    counts: Counts,
    /// Grows at each power cut: handles of before are dead.
    life: u64,
    bytes: u64,
    /// Whoever uses the disk is dead: nothing more reaches it.
    is_left: bool,
}

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// `sync` says that it succeeded and does nothing.
    pub sync_lies: bool,
    /// `sync` fails when this many have succeeded.
    pub sync_fails_after: Option<u64>,
    /// No more than this much can be allocated or written.
    pub bytes_max: Option<u64>,
    /// How long `sync` takes, in microseconds.
    pub sync_us: u64,
    /// The power is cut right after so many removals of files, by this seed.
    pub cut_at_removal: Option<(u64, u64)>,
}

/// What the disk was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Calls of `sync`.
    pub syncs: u64,
    /// Files that were removed.
    pub removals: u64,
    /// Calls of `fatal`: the process would have ended.
    pub fatals: u64,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Unsynced writes: where and how long.
    dirty: Vec<(usize, usize)>,
}

impl FaultDisk {
    /// A disk without faults.
    pub fn new() -> FaultDisk {
        FaultDisk::default()
    }

    /// Sets what goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        held(&self.state).faults = faults;
    }

    /// Nothing more reaches the disk, as of a process that has died, until it is used again.
    pub fn leave(&self) {
        held(&self.state).is_left = true;
    }

    /// A new process uses the disk. All open files of the one before are dead.
    pub fn take_over(&self) {
        let mut state = held(&self.state);
        state.is_left = false;
        state.life += 1;
    }

    /// What was asked of the disk so far.
    pub fn counts(&self) -> Counts {
        held(&self.state).counts
    }

    /// Cuts the power: of what was not synced, each block survives or not, by `seed`. All open files are dead afterwards.
    pub fn cut_power(&self, seed: u64) {
        let mut luck = StdRng::seed_from_u64(seed);
        let mut state = held(&self.state);
        state.life += 1;
        // A name that was not synced may survive, too.
        let mut names = state.synced_names.clone();
        for (path, content) in &state.names {
            if luck.random_bool(0.5) {
                names.insert(path.clone(), Arc::clone(content));
            }
        }
        // And a removal that was not synced may have happened, or not.
        for path in state.synced_names.keys().filter(|path| !state.names.contains_key(*path)) {
            if luck.random_bool(0.5) {
                names.remove(path);
            }
        }
        for content in names.values() {
            held(content).cut(&mut luck);
        }
        state.names.clone_from(&names);
        state.synced_names = names;
    }

    /// Flips a bit of a file, as a bad disk does.
    ///
    /// # Errors
    /// If there is no such file or it is shorter.
    pub fn flip(&self, path: &Path, offset: usize) -> io::Result<()> {
        let state = held(&self.state);
        let mut content = held(state.names.get(path).ok_or(ErrorKind::NotFound)?);
        *content.now.get_mut(offset).ok_or(ErrorKind::UnexpectedEof)? ^= 0x10;
        content.synced = content.now.clone();
        Ok(())
    }

    fn used(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = held(&self.state);
        if state.is_left { Err(io::Error::other("the process has died")) } else { Ok(state) }
    }

    fn file(&self, content: &Arc<Mutex<Content>>, life: u64) -> Box<dyn DiskFile> {
        Box::new(FaultFile { disk: self.clone(), content: Arc::clone(content), life })
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        self.dirty.push((offset, bytes.len()));
    }

    fn sync(&mut self) {
        self.synced.resize(self.now.len(), 0);
        for (offset, length) in self.dirty.drain(..) {
            self.synced[offset..offset + length].copy_from_slice(&self.now[offset..offset + length]);
        }
    }

    fn cut(&mut self, luck: &mut StdRng) {
        for (offset, length) in std::mem::take(&mut self.dirty) {
            let mut at = offset;
            while at < offset + length {
                let next = ((at / BLOCK_BYTES + 1) * BLOCK_BYTES).min(offset + length);
                if luck.random_bool(0.5) {
                    if self.synced.len() < next {
                        self.synced.resize(next, 0);
                    }
                    self.synced[at..next].copy_from_slice(&self.now[at..next]);
                }
                at = next;
            }
        }
        self.now = self.synced.clone();
    }
}

impl Disk for FaultDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = held(&self.state);
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = Arc::new(Mutex::new(Content::default()));
        let mut state = self.used()?;
        state.names.insert(path.to_owned(), Arc::clone(&content));
        Ok(self.file(&content, state.life))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.used()?;
        let content = state.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(self.file(content, state.life))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.used()?;
        let content = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.used()?;
        let content = state.names.remove(path).ok_or(ErrorKind::NotFound)?;
        state.bytes = state.bytes.saturating_sub(held(&content).now.len() as u64);
        state.counts.removals += 1;
        let removals = state.counts.removals;
        match state.faults.cut_at_removal {
            Some((at, seed)) if at == removals => {
                drop(state);
                self.cut_power(seed);
                Err(power_cut())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.used()?;
        if state.faults.sync_lies {
            return Ok(());
        }
        state.synced_names.retain(|path, _| path.parent() != Some(dir));
        let now: Vec<_> = state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(p, c)| (p.clone(), Arc::clone(c)))
            .collect();
        state.synced_names.extend(now);
        Ok(())
    }

    #[cfg(feature = "sim")]
    fn sync_time(&self) -> std::time::Duration {
        std::time::Duration::from_micros(held(&self.state).faults.sync_us)
    }

    fn fatal(&self, _what: &str, error: &io::Error) {
        // A process whose power was cut is gone already, and does not end because of what it meets then.
        if error.kind() != POWER_CUT {
            held(&self.state).counts.fatals += 1;
        }
    }
}

/// What a file says that was open when the power was cut.
const POWER_CUT: ErrorKind = ErrorKind::NotConnected;

fn power_cut() -> io::Error {
    io::Error::new(POWER_CUT, "the power was cut")
}

struct FaultFile {
    disk: FaultDisk,
    content: Arc<Mutex<Content>>,
    life: u64,
}

impl FaultFile {
    /// The content, if the power has not been cut since the file was opened, and the room for it to grow to `bytes`.
    fn alive(&self, bytes: u64) -> io::Result<MutexGuard<'_, Content>> {
        let mut state = self.disk.used()?;
        if state.life != self.life {
            return Err(power_cut());
        }
        let content = held(&self.content);
        let more = bytes.saturating_sub(content.now.len() as u64);
        if state.faults.bytes_max.is_some_and(|most| more > 0 && state.bytes + more > most) {
            return Err(ErrorKind::StorageFull.into());
        }
        state.bytes += more;
        Ok(content)
    }
}

impl DiskFile for FaultFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive(0)?.now.len() as u64)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.alive(bytes)?;
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        if content.now.len() < bytes {
            content.now.resize(bytes, 0);
        }
        Ok(())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.alive(0)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = content.now.get(offset..offset + into.len()).ok_or(ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.alive(offset + bytes.len() as u64)?;
        content.write(bytes, usize::try_from(offset).map_err(io::Error::other)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let faults = {
            let mut state = self.disk.used()?;
            state.counts.syncs += 1;
            if state.faults.sync_fails_after.is_some_and(|most| state.counts.syncs > most) {
                return Err(io::Error::other("the device did not answer"));
            }
            state.faults
        };
        // In a simulation, who asks for the sync lets the time pass.
        #[cfg(not(feature = "sim"))]
        if faults.sync_us > 0 {
            std::thread::sleep(std::time::Duration::from_micros(faults.sync_us));
        }
        let mut content = self.alive(0)?;
        if !faults.sync_lies {
            content.sync();
        }
        Ok(())
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
