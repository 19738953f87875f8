//! What a node must not forget: keyed trees on sled whose commit survives a power cut.
//!
//! Writes are visible at once and durable after [`Store::commit`]; those of [`Tree::queue`] are both after it (it comes
//! by itself within about a second), and never wait for the disk. sled's own `flush` is not enough on Linux: it asks the
//! kernel to write the pages out, but neither flushes the file's metadata nor the device's cache. `commit` therefore syncs
//! sled's data file itself, and stops the process if that fails ([`fatal_disk`]): nobody goes on with a disk that lied.
//!
//! `commit` **blocks** for the time of a disk sync, 0.1 ms to some tens of ms. Asynchronous callers use
//! [`Store::commit_then`], which calls back from a thread of its own, or a blocking thread of their runtime. Callers that
//! commit at the same time share one sync.

#[cfg(not(feature = "sim"))]
mod commit;
#[cfg(not(feature = "sim"))]
mod durable;
mod error;
mod fatal;
#[cfg(feature = "sim")]
mod memory;
#[cfg(not(feature = "sim"))]
mod pending;
#[cfg(not(feature = "sim"))]
mod tail;
#[cfg(not(feature = "sim"))]
mod tree;
mod value;

#[cfg(not(feature = "sim"))]
pub use crate::durable::Store;
pub use crate::error::StoreError;
pub use crate::fatal::fatal_disk;
#[cfg(feature = "sim")]
pub use crate::memory::{Store, Tree, cut_power, set_left};
#[cfg(not(feature = "sim"))]
pub use crate::tree::Tree;
pub use crate::value::Batch;

/// Largest value, encoded, in bytes. Together with `SEGMENT_BYTES` it keeps every page of sled out of files that are never synced.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 - 1;
/// Largest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
