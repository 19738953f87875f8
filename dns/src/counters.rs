//! How many questions were answered, and how. Read by telemetry through [`Handle`](crate::Handle).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::answer::Summary;

/// Codes up to BADCOOKIE (23).
const CODES: usize = 24;

/// Counts since the start. Each is exact; two read one after the other may be of different moments.
#[derive(Debug, Default)]
pub struct Counters {
    by_code: [AtomicU64; CODES],
    trimmed: AtomicU64,
    dropped: AtomicU64,
    deferred: AtomicU64,
    forwarded: AtomicU64,
    tcp_connections: AtomicU64,
}

impl Counters {
    /// Questions that were answered, over UDP and TCP, with whatever code.
    pub fn queries(&self) -> u64 {
        self.by_code.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Answers with this response code (0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED …).
    pub fn with_code(&self, code: u16) -> u64 {
        self.by_code.get(usize::from(code)).map_or(0, |count| count.load(Relaxed))
    }

    /// Answers from which records were left out for want of room.
    pub fn trimmed(&self) -> u64 {
        self.trimmed.load(Relaxed)
    }

    /// Packets that got no answer: not a question at all.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Questions that had to wait for the look-up.
    pub fn deferred(&self) -> u64 {
        self.deferred.load(Relaxed)
    }

    /// Questions that went to the recursors.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Relaxed)
    }

    /// TCP connections that were accepted.
    pub fn tcp_connections(&self) -> u64 {
        self.tcp_connections.load(Relaxed)
    }

    pub(crate) fn count_reply(&self, summary: Summary) {
        if let Some(count) = self.by_code.get(usize::from(summary.code)) {
            count.fetch_add(1, Relaxed);
        }
        if summary.is_trimmed {
            self.trimmed.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn count_drop(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_deferral(&self) {
        self.deferred.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_forward(&self) {
        self.forwarded.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_connection(&self) {
        self.tcp_connections.fetch_add(1, Relaxed);
    }
}
