//! When a process is asked to stop: Ctrl-C, a polite kill, or the end of the demo that started it.

use tokio::signal::unix::{SignalKind, signal};

/// Completes when this process should stop.
pub(crate) async fn stop_asked() {
    tokio::select! {
        () = interrupted() => {}
        () = crate::demo::parent_gone() => {}
    }
}

/// Completes on Ctrl-C (SIGINT) or SIGTERM.
pub(crate) async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
