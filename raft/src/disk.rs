//! The few file operations that the log and the snapshots need, behind a trait, so that a test can lose, tear, delay and
//! refuse them.

pub mod fault;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

/// A disk. All calls block.
pub trait Disk: Send + Sync + 'static {
    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The files in a folder, without subfolders, in no order.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a new, empty file; one that is there is emptied.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there, to read and write.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in place of what had it.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when the names in a folder survive a power cut.
    ///
    /// # Errors
    /// The system's; then nothing is known about the folder any more.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// How long a sync of the log takes, in simulated time.
    #[cfg(feature = "sim")]
    fn sync_time(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
    /// The disk lied or failed: ends the process. A disk made for tests may return; then the caller must do nothing more.
    fn fatal(&self, what: &str, error: &io::Error) {
        store::fatal_disk(what, error);
    }
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "nobody asks a file whether it is empty")]
pub trait DiskFile: Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;
    /// Takes the space for `bytes` now; what was not written reads as zeros.
    ///
    /// # Errors
    /// The system's: `StorageFull` if there is none.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// The system's: `UnexpectedEof` if the file is shorter.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`. They survive a power cut only after [`DiskFile::sync`].
    ///
    /// # Errors
    /// The system's; then any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when all that was written survives a power cut.
    ///
    /// # Errors
    /// The system's; then nothing is known about the file any more.
    fn sync(&self) -> io::Result<()>;
}

/// Whether an error means that there is no space, which may pass, and not that the disk fails.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
        Ok(files)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Box::new(RealFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // A file system without it: the file grows as it is written, which is slower but as safe.
            Err(nix::errno::Errno::EOPNOTSUPP) => self.file.set_len(bytes.unsigned_abs()),
            other => Ok(other?),
        }
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
