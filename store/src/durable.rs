//! The store on the disk: opens and checks it, and knows when it is durable.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pending::Pending;
use crate::tail::Tail;
use crate::tree::Queue;
use crate::{StoreError, Tree, commit};

/// sled's page cache, in bytes. Its default is 1 GiB.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// sled writes whole pages, and puts a page over a quarter of a segment into a file of its own under `blobs/`, which it never
/// syncs and removes before its successor is on the disk. So no page may become as large: a leaf holds 16 values before it
/// is split, 20 after a merge; a quarter of a segment has room for 31 of the largest.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// What is written anew at a start is read in pieces of this size.
const PIECE_BYTES: usize = 1024 * 1024;

/// How often, and how long, to wait for a lock that this process itself gives up just now.
const LOCK_TRIES: u32 = 200;
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// A folder of keyed trees that belongs to this process alone. Cheap to clone; the last clone to go closes it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    db: sled::Db,
    group: commit::Group,
    callbacks: commit::Callbacks,
    pending: Pending,
    // Held for as long as the store is open: it is what keeps a second process out.
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, making the folder at the first start.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NoRights`], [`StoreError::Damaged`] or [`StoreError::Disk`]; nothing was changed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Store, StoreError> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io(dir, e))?;
        let lock = lock(dir)?;
        let path = dir.join("sled");
        write_anew(&path).map_err(|e| StoreError::io(&path, e))?;
        let db = open_sled(&path)?;
        sync_folders(dir, &path).map_err(|e| StoreError::io(dir, e))?;
        let data = File::open(path.join("db")).map_err(|e| StoreError::io(&path, e))?;
        let pending = Pending::default();
        let tail = Tail::open(&db, &dir.join("commits")).map_err(StoreError::from_sled)?;
        let tail = tail.map_err(|reason| StoreError::Damaged { path: path.clone(), reason })?;
        let group = commit::Group::new(db.clone(), data, pending.clone(), tail);
        let callbacks = commit::Callbacks::default();
        let store = Store { shared: Arc::new(Shared { db, group, callbacks, pending, _lock: lock }) };
        store.check_made(dir)?;
        store.check_whole(&path)?;
        Ok(store)
    }

    /// What can be read must be all that was committed: so every page is read once, and none may lie in a file of its own,
    /// which a power cut may have emptied.
    fn check_whole(&self, path: &Path) -> Result<(), StoreError> {
        let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
        let blobs = path.join("blobs");
        let mut outside = std::fs::read_dir(&blobs).map_err(|e| StoreError::io(&blobs, e))?;
        if outside.next().is_some() {
            return Err(damaged("a page lies outside its file, where nothing is synced".into()));
        }
        let read_all = || -> sled::Result<()> {
            for name in self.shared.db.tree_names() {
                for pair in &self.shared.db.open_tree(name)? {
                    pair?;
                }
            }
            Ok(())
        };
        match catch_unwind(AssertUnwindSafe(read_all)) {
            Ok(read) => read.map_err(|e| damaged(e.to_string())),
            Err(_panic) => Err(damaged("a page cannot be read".into())),
        }
    }

    /// sled opens a file that it cannot make sense of as an empty one. So a mark is left in the store and one beside it at the
    /// first start: if only the second is there later, what the store held is gone.
    fn check_made(&self, dir: &Path) -> Result<(), StoreError> {
        let tree = self.tree::<bool>("store")?;
        let mark = dir.join("made");
        let was_made = mark.try_exists().map_err(|e| StoreError::io(&mark, e))?;
        if was_made && tree.get("made")?.is_none() {
            let reason = "what it held is gone".into();
            return Err(StoreError::Damaged { path: dir.to_owned(), reason });
        }
        tree.insert("made", &true)?;
        self.commit();
        if !was_made {
            File::create(&mark).and_then(|file| file.sync_all()).map_err(|e| StoreError::io(&mark, e))?;
            File::open(dir).and_then(|folder| folder.sync_all()).map_err(|e| StoreError::io(dir, e))?;
        }
        Ok(())
    }

    /// The tree of that name, made if it is new. Its values are of one type, written as MessagePack with field names, so that
    /// a field can be added later (give it `#[serde(default)]`).
    ///
    /// # Errors
    /// [`StoreError::Disk`] or [`StoreError::Damaged`].
    pub fn tree<V: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Tree<V>, StoreError> {
        let tree = self.shared.db.open_tree(name).map_err(StoreError::from_sled)?;
        let Shared { pending, group, callbacks, .. } = &*self.shared;
        let queue = Queue { pending: pending.clone(), group: group.clone(), callbacks: callbacks.clone() };
        Ok(Tree::new(tree, queue))
    }

    /// Returns when everything written before the call is on the disk. Blocks. Stops the process if the disk refuses.
    pub fn commit(&self) {
        self.shared.group.commit();
    }

    /// Calls `done` from the store's own thread when everything written before the call is on the disk. Does not block, unless
    /// thousands wait already: then it is [`Store::commit`], and `done` is called here.
    pub fn commit_then(&self, done: impl FnOnce() + Send + 'static) {
        self.shared.callbacks.push(&self.shared.group, Box::new(done));
    }
}

impl Drop for Shared {
    /// What is queued is kept even if nobody asked for a commit. Blocks for it.
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            self.group.commit();
        }
        self.callbacks.is_done();
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| StoreError::io(dir, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(StoreError::io(&path, e)),
    }
}

/// After a failed sync the kernel may hold bytes as clean that are not on the disk, and a sync now would do nothing: whoever goes on from
/// what it reads would lose that to the next power cut, and with it what is written on top. So all is written once more.
fn write_anew(path: &Path) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    for file in files(path)? {
        let file = File::options().read(true).write(true).open(file)?;
        let mut at = 0;
        loop {
            let read = file.read_at(&mut piece, at)?;
            if read == 0 {
                break;
            }
            file.write_all_at(&piece[..read], at)?;
            at += read as u64;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// sled's own files; none before the first start.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.is_file()).collect())
}

/// sled locks its file, too, and one of its threads may hold that for a moment after it was closed in this process.
fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    for _try in 0..LOCK_TRIES {
        match open_sled_once(path) {
            Err(StoreError::Disk { source, .. }) if source.to_string().contains("could not acquire lock") => {
                thread::sleep(LOCK_WAIT);
            }
            other => return other,
        }
    }
    open_sled_once(path)
}

/// sled panics on some damage; to us that is an error like another.
fn open_sled_once(path: &Path) -> Result<sled::Db, StoreError> {
    let config =
        sled::Config::new().path(path).cache_capacity(CACHE_BYTES).segment_size(SEGMENT_BYTES).flush_every_ms(None);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(e))) => Err(StoreError::io(path, e)),
        Ok(Err(e)) => Err(StoreError::Damaged { path: path.to_owned(), reason: e.to_string() }),
        Err(_panic) => Err(StoreError::Damaged { path: path.to_owned(), reason: "it cannot be read".into() }),
    }
}

/// A file is only there after a power cut if the folders on the way to it were synced too.
fn sync_folders(dir: &Path, path: &Path) -> io::Result<()> {
    for file in files(path)? {
        File::open(&file)?.sync_all()?;
    }
    let parent = dir.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
    for folder in [path, dir, &parent] {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
