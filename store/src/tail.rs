//! How many commits there were, kept twice: in sled, and beside it.
//!
//! sled drops what follows a message that it cannot read, as the power may have cut it short. So damage to what had been committed
//! looks like commits that never were. The number beside it is written after each commit and never synced: a power cut may lose it, and then
//! says nothing; as long as it is there, sled must know of as many.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const TREE: &str = "store/commits";
const KEY: &str = "count";

/// The number and, to tell that it is one, its complement.
const BYTES: usize = 16;

/// Counts commits.
pub(crate) struct Tail {
    tree: sled::Tree,
    beside: File,
}

impl Tail {
    /// Opens both. The outer error is the disk's; the inner says what is gone.
    pub(crate) fn open(db: &sled::Db, path: &Path) -> Result<Result<Tail, String>, sled::Error> {
        let beside = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        let tail = Tail { tree: db.open_tree(TREE)?, beside };
        let (kept, told) = (tail.count()?, tail.told()?);
        if told > kept {
            return Ok(Err(format!("its last commits are gone: there were {told}, and only {kept} can be read")));
        }
        Ok(Ok(tail))
    }

    /// Part of the next commit.
    pub(crate) fn add(&self) -> sled::Result<u64> {
        let next = self.count()? + 1;
        self.tree.insert(KEY, &next.to_be_bytes())?;
        Ok(next)
    }

    /// That commit is on the disk.
    pub(crate) fn tell(&self, count: u64) -> io::Result<()> {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&count.to_be_bytes());
        bytes[8..].copy_from_slice(&(!count).to_be_bytes());
        self.beside.write_all_at(&bytes, 0)
    }

    fn count(&self) -> sled::Result<u64> {
        let bytes = self.tree.get(KEY)?;
        Ok(bytes.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
    }

    /// 0 if nothing is told, or nothing that is a number.
    fn told(&self) -> io::Result<u64> {
        let mut bytes = [0; BYTES];
        match self.beside.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => read?,
        }
        let number = |half: &[u8]| half.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (count, complement) = (number(&bytes[..8]), number(&bytes[8..]));
        Ok(if complement == !count { count } else { 0 })
    }
}
