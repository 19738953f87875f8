//! Places where a build for the fault tests goes wrong on purpose. In every other build they are nothing.
//!
//! Tests that never fail prove little. So the code names, where they would be, mistakes that others have made ([`Bug`]), and the
//! moments at which a crash is most likely to hurt ([`Point`]). With the feature `on`, one of each can be turned on by
//! the environment, a crash also later by a file, and `jlt bugs` shows which checker finds it. Without it, [`has`] is `false` and [`pass`] is empty.

/// Defines an enum whose members have names for the command line and a line for people.
macro_rules! named {
    ($(#[$about:meta])* $kind:ident { $($(#[doc = $text:literal])+ $member:ident = $name:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $kind { $($(#[doc = $text])+ $member,)+ }

        impl $kind {
            /// All of them.
            pub const ALL: &[$kind] = &[$($kind::$member,)+];

            /// The name in the environment and in reports.
            pub const fn name(self) -> &'static str {
                match self { $($kind::$member => $name,)+ }
            }

            /// What it is.
            pub const fn about(self) -> &'static str {
                match self { $($kind::$member => concat!($($text,)+).trim_ascii(),)+ }
            }

            /// The one of this name.
            pub fn named(name: &str) -> Option<$kind> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }
    };
}

named! {
    /// A mistake that the fault tests must find.
    Bug {
        /// The log says that entries are on the disk before they are synced.
        AckBeforeSync = "ack-before-sync",
        /// A vote is kept in memory alone.
        VoteNotKept = "vote-not-kept",
        /// The store relies on sled's own flush, which syncs neither metadata nor the device.
        PlainFlush = "plain-flush",
        /// A snapshot gets its name before it is synced.
        SnapshotNotSynced = "snapshot-not-synced",
        /// A snapshot forgets the flags of keys.
        SnapshotForgetsFlags = "snapshot-forgets-flags",
        /// A snapshot forgets which keys were deleted, so that indexes run backwards.
        SnapshotForgetsGone = "snapshot-forgets-gone",
        /// A restored key has the index of the snapshot instead of its own.
        SnapshotForgetsIndex = "snapshot-forgets-index",
        /// A leader serves `consistent` reads without asking whether it still leads, and believes that it does until it hears of another.
        ReadNotConfirmed = "read-not-confirmed",
        /// A follower serves `consistent` reads before it has applied what the leader had.
        ReadNotAwaited = "read-not-awaited",
        /// Any server serves `default` reads from its own state.
        DefaultReadAnywhere = "default-read-anywhere",
        /// A server leads, and serves `default` reads, before it has applied what its predecessors acknowledged.
        LeadsTooEarly = "leads-too-early",
        /// A leader that nobody answers any more goes on serving `default` reads.
        LeadsTooLong = "leads-too-long",
        /// A stale read says that the leader was heard just now.
        LastContactLies = "last-contact-lies",
        /// A write is acknowledged when it is proposed.
        AckBeforeAgreement = "ack-before-agreement",
        /// A write of unknown outcome is proposed again.
        RetriesUnknown = "retries-unknown",
        /// A compare-and-set is decided by the state of the server that was asked, and then written in any case.
        CasBeforeLog = "cas-before-log",
        /// Every sixteenth compare-and-set is not compared.
        CasIgnored = "cas-ignored",
        /// Of a tree of keys, the last one stays when it is deleted.
        DeleteTreeForgetsLast = "delete-tree-forgets-last",
        /// A deleted key leaves no trace, so that the index of its prefix runs backwards.
        IndexRunsBackwards = "index-runs-backwards",
        /// Replicas apply the same command differently.
        ReplicasDiffer = "replicas-differ",
        /// Every sixteenth change wakes nobody.
        LostWakeUp = "lost-wake-up",
        /// A node that is deregistered leaves its services behind.
        NodeLeavesServices = "node-leaves-services",
        /// An agent forgets what was deregistered while it could not reach a server.
        GoneForgotten = "gone-forgotten",
        /// An agent does not tell a new status of a check until the next full comparison.
        StatusNotTold = "status-not-told",
        /// Instances with a critical check are among those that pass.
        CriticalPasses = "critical-passes",
        /// A lock delay is not in snapshots.
        LockDelayForgotten = "lock-delay-forgotten",
        /// A session that ends keeps its keys.
        SessionKeepsKeys = "session-keeps-keys",
        /// A session ends after half of its time to live.
        SessionEndsEarly = "session-ends-early",
        /// A new leader does not know of the time to live of sessions.
        SessionNeverEnds = "session-never-ends",
        /// Who asks for a lock gets it, whoever has it.
        LockStolen = "lock-stolen",
        /// Of a transaction that fails, what came before stays.
        TransactionHalfDone = "transaction-half-done",
        /// DNS does not see every sixteenth change of what it answers.
        DnsAnswerKept = "dns-answer-kept",
        /// An agent whose stream has ended does not open another: it answers with what it knew.
        ViewStandsStill = "view-stands-still",
        /// Serial numbers are of one random byte.
        SerialTwice = "serial-twice",
        /// A node gets a certificate for services that are not registered on it.
        SpiffeAnyName = "spiffe-any-name",
        /// A caller whom no intention names gets in, whatever the default is.
        UnknownAllows = "unknown-allows",
        /// Connections that stand are not asked again when intentions change.
        DenyForNewOnly = "deny-for-new-only",
    }
}

named! {
    /// A moment at which the process can be made to die.
    Point {
        /// The log has gathered a frame and written nothing.
        LogBeforeWrite = "log-before-write",
        /// A frame is written and not synced.
        LogBeforeSync = "log-before-sync",
        /// A frame is synced and nobody was told.
        LogAfterSync = "log-after-sync",
        /// A new segment is written under its temporary name.
        SegmentBeforeRename = "segment-before-rename",
        /// A new segment has its name, and its folder is not synced.
        SegmentAfterRename = "segment-after-rename",
        /// Entries are purged in a frame, and the segments are still there.
        PurgeBeforeDrop = "purge-before-drop",
        /// A segment was dropped and its folder is not synced.
        PurgeAfterDrop = "purge-after-drop",
        /// A vote is about to be written.
        VoteBeforeWrite = "vote-before-write",
        /// A vote is on the disk, and nobody was told.
        VoteAfterWrite = "vote-after-write",
        /// Entries are agreed on and not applied.
        ApplyBefore = "apply-before",
        /// Entries are applied, and nobody was told.
        ApplyAfter = "apply-after",
        /// A snapshot is begun.
        SnapshotBegun = "snapshot-begun",
        /// A snapshot is written and not synced.
        SnapshotBeforeSync = "snapshot-before-sync",
        /// A snapshot is synced under its temporary name.
        SnapshotBeforeRename = "snapshot-before-rename",
        /// A snapshot has its name, and its folder is not synced.
        SnapshotAfterRename = "snapshot-after-rename",
        /// A snapshot has its name, and is not recorded as the current one.
        SnapshotBeforeRecord = "snapshot-before-record",
        /// A snapshot is recorded, and old ones are still there.
        SnapshotBeforeSweep = "snapshot-before-sweep",
        /// A received snapshot is current and not installed.
        SnapshotBeforeInstall = "snapshot-before-install",
        /// A received snapshot is installed, and nobody was told.
        SnapshotAfterInstall = "snapshot-after-install",
        /// The store's changes are made and not flushed.
        StoreBeforeFlush = "store-before-flush",
        /// The store is flushed and its file not synced.
        StoreBeforeSync = "store-before-sync",
        /// The store is synced, and nobody was told.
        StoreAfterSync = "store-after-sync",
        /// A write of a client is about to be proposed.
        ProposeBefore = "propose-before",
        /// A write of a client is agreed on, and the client was not told.
        ProposeAfter = "propose-after",
        /// Another server's writes are agreed on, and it was not told.
        ForwardAfter = "forward-after",
        /// A `consistent` read is confirmed and not answered.
        ReadConfirmed = "read-confirmed",
        /// A new leader begins its duties.
        LeaderBegins = "leader-begins",
        /// An agent has kept a registration and told no server.
        AgentBeforePush = "agent-before-push",
        /// An agent has told a server, and does not know it yet.
        AgentAfterPush = "agent-after-push",
        /// A certificate is signed and not handed out.
        SignedNotGiven = "signed-not-given",
    }
}

/// Whether this build has the mistake.
#[inline(always)]
pub fn has(bug: Bug) -> bool {
    switch::has(bug)
}

/// As [`has`], but only each `every`th time that the place is passed.
#[inline(always)]
pub fn has_each(bug: Bug, every: u64) -> bool {
    switch::has(bug) && switch::count().is_multiple_of(every)
}

/// Whether this build can go wrong at all.
pub const fn is_on() -> bool {
    cfg!(feature = "on")
}

/// The process dies here, as by `kill -9`, if it was told so.
#[inline(always)]
pub fn pass(point: Point) {
    switch::pass(point);
}

/// A number by which the servers of a cluster differ, for mistakes that not all of them make: that of the process.
#[inline(always)]
pub fn server() -> u64 {
    switch::server()
}

/// What stands for the process where several servers share one.
#[cfg(feature = "on")]
#[derive(Debug, Clone, Copy)]
pub struct Simulation {
    /// Is told of each point that is passed. If the server whose turn it is dies there, nothing of what it does afterwards may have an effect.
    pub pass: fn(Point),
    /// The number of that server.
    pub server: fn() -> u64,
}

/// From now on the simulation is asked in place of the process. The first to say so is.
#[cfg(feature = "on")]
pub fn simulate(simulation: Simulation) {
    switch::simulate(simulation);
}

#[cfg(not(feature = "on"))]
mod switch {
    use super::{Bug, Point};

    #[inline(always)]
    pub(super) const fn has(_: Bug) -> bool {
        false
    }

    #[inline(always)]
    pub(super) const fn count() -> u64 {
        0
    }

    #[inline(always)]
    pub(super) const fn pass(_: Point) {}

    #[inline(always)]
    pub(super) const fn server() -> u64 {
        0
    }
}

/// `TRIBUNE_BUG=name`; `TRIBUNE_CRASH=name[:n]`: the process dies when it passes the point for the n-th time, by default the first.
/// `TRIBUNE_CRASH_FILE=path`: the same, told to a process that runs, by what is written into that file. Passes are counted from then on.
#[cfg(feature = "on")]
mod switch {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, Once, OnceLock, PoisonError};
    use std::time::Duration;

    use super::{Bug, Point, Simulation};

    static SIMULATION: OnceLock<Simulation> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);

    /// The point at which this process dies, and after how many more passes.
    static ARMED: Mutex<Option<(Point, u64)>> = Mutex::new(None);

    /// How often the file is looked at.
    const LOOK_AGAIN: Duration = Duration::from_millis(20);

    pub(super) fn has(bug: Bug) -> bool {
        static ON: OnceLock<Option<Bug>> = OnceLock::new();
        *ON.get_or_init(|| read("TRIBUNE_BUG", Bug::named)) == Some(bug)
    }

    pub(super) fn count() -> u64 {
        COUNT.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn simulate(simulation: Simulation) {
        // The first one stays.
        let _ = SIMULATION.set(simulation);
    }

    pub(super) fn server() -> u64 {
        SIMULATION.get().map_or_else(|| u64::from(std::process::id()), |simulation| (simulation.server)())
    }

    pub(super) fn pass(point: Point) {
        match SIMULATION.get() {
            Some(simulation) => (simulation.pass)(point),
            None => pass_for_real(point),
        }
    }

    fn pass_for_real(point: Point) {
        static BEGUN: Once = Once::new();
        BEGUN.call_once(begin);
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((chosen, left)) = armed.as_mut()
            && *chosen == point
        {
            *left -= 1;
            if *left == 0 {
                eprintln!("the process dies at {}", point.name());
                std::process::abort();
            }
        }
    }

    fn begin() {
        arm(read("TRIBUNE_CRASH", parse));
        if let Some(path) = std::env::var_os("TRIBUNE_CRASH_FILE") {
            std::thread::spawn(move || watch(Path::new(&path)));
        }
    }

    /// Whoever writes the file renames it into its place, so that it is whole.
    fn watch(path: &Path) {
        let mut before = String::new();
        loop {
            let now = std::fs::read_to_string(path).unwrap_or_default();
            if now != before {
                arm(parse(&now));
                before = now;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn arm(at: Option<(Point, u64)>) {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn parse(text: &str) -> Option<(Point, u64)> {
        let (name, nth) = text.trim().split_once(':').unwrap_or((text.trim(), "1"));
        Some((Point::named(name)?, nth.parse().ok().filter(|nth| *nth > 0)?))
    }

    fn read<T>(variable: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = std::env::var(variable).ok()?;
        let found = parse(&text);
        assert!(found.is_some(), "{variable}={text} names nothing: see faults/src/lib.rs");
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_found_again_and_once() {
        let bugs: BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        let points: BTreeSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!((bugs.len(), points.len()), (Bug::ALL.len(), Point::ALL.len()));
        assert!(Bug::ALL.iter().all(|bug| Bug::named(bug.name()) == Some(*bug) && bug.about().ends_with('.')));
        assert!(Point::ALL.iter().all(|at| Point::named(at.name()) == Some(*at) && at.about().ends_with('.')));
    }

    #[test]
    fn nothing_goes_wrong_unasked() {
        assert!(Bug::ALL.iter().all(|bug| !has(*bug) && !has_each(*bug, 1)));
        Point::ALL.iter().for_each(|point| pass(*point));
    }

    /// A process of its own: it is told by the file, passes the point twice, and is gone.
    #[cfg(feature = "on")]
    #[test]
    fn a_running_process_is_told_to_die() {
        if let Some(path) = std::env::var_os("TRIBUNE_CRASH_FILE") {
            pass(Point::LogAfterSync);
            pass(Point::LogAfterSync);
            std::fs::write(path, "log-after-sync:2").unwrap();
            for _ in 0..500 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                pass(Point::LogBeforeSync);
                pass(Point::LogAfterSync);
            }
            return;
        }
        let file = std::env::temp_dir().join(format!("tribune-faults-{}", std::process::id()));
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "tests::a_running_process_is_told_to_die", "--nocapture"]);
        let output = program.env("TRIBUNE_CRASH_FILE", &file).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("the process dies at log-after-sync"), "{said}");
    }
}
