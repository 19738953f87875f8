//! Servers that die at a named point of their code (`faults::Point`): between a write and its sync, between a vote and its answer. A kill from without
//! falls between two turns of the runtime; this one cuts a turn in the middle.
//!
//! The code goes on to the end of its millisecond, for there is no way out of it; but from the point on nothing of what it does reaches its disk or the
//! network. Then the host is ended. (To unwind the task instead ends the process: tokio shuts down a runtime of which a task panicked in a way
//! that does not allow the others to wake one another as they go.)

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use faults::{Point, Simulation};

use crate::trace;

/// Points that a busy server passes many times in a second.
pub(crate) const FREQUENT: [Point; 9] = [
    Point::LogBeforeWrite,
    Point::LogBeforeSync,
    Point::LogAfterSync,
    Point::ApplyBefore,
    Point::ApplyAfter,
    Point::ProposeBefore,
    Point::ProposeAfter,
    Point::ForwardAfter,
    Point::ReadConfirmed,
];

/// Points that a server passes now and then.
pub(crate) const RARE: [Point; 15] = [
    Point::VoteBeforeWrite,
    Point::VoteAfterWrite,
    Point::SegmentBeforeRename,
    Point::SegmentAfterRename,
    Point::PurgeBeforeDrop,
    Point::PurgeAfterDrop,
    Point::SnapshotBegun,
    Point::SnapshotBeforeSync,
    Point::SnapshotBeforeRename,
    Point::SnapshotAfterRename,
    Point::SnapshotBeforeRecord,
    Point::SnapshotBeforeSweep,
    Point::SnapshotBeforeInstall,
    Point::SnapshotAfterInstall,
    Point::LeaderBegins,
];

static STATE: Mutex<State> = Mutex::new(State { armed: BTreeMap::new(), ends: Vec::new(), died: None });

/// Cuts what runs on a host from its disk and from the network.
type End = Box<dyn Fn() + Send>;

struct State {
    /// Where each server dies, after it has passed the point so many times.
    armed: BTreeMap<(usize, Point), u32>,
    /// How each server is cut off.
    ends: Vec<End>,
    /// Who has died, and nobody was told.
    died: Option<(usize, Point)>,
}

/// Lets points end servers; `ends` cut each of them off.
pub(crate) fn init(ends: Vec<End>) {
    state().ends = ends;
    faults::simulate(Simulation { pass, server: trace::host });
}

/// The server dies when it passes the point for the n-th time from now on.
pub(crate) fn arm(server: usize, point: Point, nth: u32) {
    state().armed.insert((server, point), nth);
}

/// It does not.
pub(crate) fn disarm(server: usize, point: Point) {
    state().armed.remove(&(server, point));
}

/// Nobody does.
pub(crate) fn disarm_all() {
    state().armed.clear();
}

/// Who has died at which point since this was asked last.
pub(crate) fn take() -> Option<(usize, Point)> {
    state().died.take()
}

fn pass(point: Point) {
    let Some(server) = trace::host().checked_sub(1).and_then(|server| usize::try_from(server).ok()) else {
        return;
    };
    let mut guard = state();
    let state = &mut *guard;
    if state.died.is_some() {
        return;
    }
    let Some(left) = state.armed.get_mut(&(server, point)) else {
        return;
    };
    *left -= 1;
    if *left == 0 {
        state.armed.remove(&(server, point));
        state.died = Some((server, point));
        state.ends[server]();
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
