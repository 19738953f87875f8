//! What `rand` 0.8 (openraft's) asks of `getrandom` 0.2, answered by 0.3. The older one makes a system call past libc, where the simulation cannot answer.

use std::fmt;
use std::num::NonZeroU32;

/// Why there are no random numbers.
#[derive(Debug, Clone, Copy)]
pub struct Error(newer::Error);

/// Fills `dest` with random numbers.
///
/// # Errors
/// If the system has none.
pub fn getrandom(dest: &mut [u8]) -> Result<(), Error> {
    newer::fill(dest).map_err(Error)
}

impl Error {
    /// A number that is none of the system's.
    pub const fn code(self) -> NonZeroU32 {
        NonZeroU32::MAX
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(to)
    }
}

impl std::error::Error for Error {}
