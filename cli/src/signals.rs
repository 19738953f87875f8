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

/// Completes when this process should stop. A signal counts from this call on, not from the first look at what it returns.
pub(crate) fn stop_asked() -> impl Future<Output = Stop> {
    let interrupted = interrupted();
    async {
        tokio::select! {
            stop = interrupted => stop,
            () = crate::demo::parent_gone() => Stop::Orphan,
        }
    }
}

/// Completes on SIGINT or SIGTERM, from this call on.
pub(crate) fn interrupted() -> impl Future<Output = Stop> {
    let (interrupt, terminate) = (arrival(SignalKind::interrupt()), arrival(SignalKind::terminate()));
    async {
        tokio::select! {
            () = interrupt => Stop::Interrupt,
            () = terminate => Stop::Terminate,
        }
    }
}

fn arrival(kind: SignalKind) -> impl Future<Output = ()> {
    let arrivals = signal(kind);
    async {
        match arrivals {
            Ok(mut arrivals) => drop(arrivals.recv().await),
            Err(_) => std::future::pending().await,
        }
    }
}
