//! Where work runs that blocks: on a thread for it. In a simulation (feature `sim`) at once and where it is asked for, for
//! threads take their turns differently each time.

use std::io;

#[cfg(all(feature = "sim", not(tokio_unstable)))]
compile_error!("the feature `sim` is for the simulation alone, which is built with `--cfg tokio_unstable`");

/// Does the work and answers its result.
///
/// # Errors
/// If the runtime ends before.
#[cfg(not(feature = "sim"))]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// As the other one.
#[cfg(feature = "sim")]
pub(crate) async fn blocking<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    Ok(work())
}
