//! When a process is asked to stop: Ctrl-C, a polite kill, or the end of the demo that started it.

use tokio::signal::unix::{SignalKind, signal};

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: a supervisor.
    Terminate,
    /// The demo is gone.
    Orphan,
}

/// Completes when this process should stop.
pub(crate) async fn stop_asked() -> Stop {
    tokio::select! {
        stop = interrupted() => stop,
        () = crate::demo::parent_gone() => Stop::Orphan,
    }
}

/// Completes on SIGINT or SIGTERM.
pub(crate) async fn interrupted() -> Stop {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => Stop::Interrupt,
        _ = terminated => Stop::Terminate,
    }
}
