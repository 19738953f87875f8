//! What can go wrong with a store, whose fault it is and what to do.

use std::io;
use std::path::PathBuf;

/// An error of the store. None of them changed anything on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operator's: two processes want one folder.
    #[error("the data folder {} is in use by another process: stop that one, or give this one a folder of its own", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The operator's: the user that runs this process may not read or write there.
    #[error("no rights to the data folder {}: give it to the user that runs this process", path.display())]
    NoRights {
        /// The file or folder.
        path: PathBuf,
    },
    /// The disk's, or somebody edited the files.
    #[error("the store in {} is damaged ({reason}): restore it from a backup, or remove the folder and join again as a new node", path.display())]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The disk's: full, gone, or failing.
    #[error("the disk failed at {}: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller's: split the value.
    #[error("a value of {bytes} bytes is over the limit of {} bytes", crate::VALUE_BYTES_MAX)]
    ValueTooLarge {
        /// Its encoded length.
        bytes: usize,
    },
    /// The caller's.
    #[error("a key of {bytes} bytes is over the limit of {} bytes", crate::KEY_BYTES_MAX)]
    KeyTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The caller's: a type that MessagePack cannot hold.
    #[error("the value cannot be encoded: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// A value of another type, of a later version of this program, or damaged.
    #[error("the value under key {key:?} cannot be read ({reason}): it was written by a later version, or is damaged")]
    Decode {
        /// The key, made readable.
        key: String,
        /// What was found.
        reason: String,
    },
}

#[cfg(not(feature = "sim"))]
impl StoreError {
    pub(crate) fn io(path: &std::path::Path, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => StoreError::NoRights { path: path.to_owned() },
            _other => StoreError::Disk { path: path.to_owned(), source },
        }
    }

    pub(crate) fn from_sled(error: sled::Error) -> StoreError {
        let path = PathBuf::from("sled");
        match error {
            sled::Error::Io(source) => StoreError::io(&path, source),
            other => StoreError::Damaged { path, reason: other.to_string() },
        }
    }
}
