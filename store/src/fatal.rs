//! The end of a process whose disk lied.

use std::fmt::Display;

/// Says what happened and ends the process, at once and without running destructors (they might write).
///
/// After a failed sync nobody knows what is on the disk: the kernel may have dropped the pages and will report success the
/// next time. Going on would acknowledge what can be lost; a restart writes what it reads once more.
pub fn fatal_disk(what: &str, error: &dyn Display) -> ! {
    eprintln!(
        "fatal: {what}: {error}. This process stops, because it no longer knows what is on the disk. \
         Check the disk (is it full, or failing?) and start it again."
    );
    std::process::abort()
}
