//! Counters of what the agent did, read by `/v1/agent/metrics` and the program's telemetry.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start. All are cheap to raise from anywhere.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Services registered through this agent.
    pub services_registered: Counter,
    /// Pushes that the servers took.
    pub pushes: Counter,
    /// Items in them.
    pub pushed_items: Counter,
    /// Pushes that failed and were, or will be, repeated.
    pub push_failures: Counter,
    /// Items that the servers refused.
    pub refused_items: Counter,
    /// Comparisons of everything.
    pub full_syncs: Counter,
    /// Check runs.
    pub probes: Counter,
    /// Changes of a check's status.
    pub status_changes: Counter,
    /// Services removed for being critical too long.
    pub reaped: Counter,
    /// Sessions opened.
    pub sessions: Counter,
    /// HTTP requests handed to a server.
    pub forwarded: Counter,
    /// HTTP requests that no server answered.
    pub forward_failures: Counter,
    /// Views opened.
    pub views: Counter,
    /// Streams of views that broke.
    pub view_losses: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// Every counter by its name, as telemetry wants them.
    pub fn all(&self) -> [(&'static str, u64); 14] {
        [
            ("agent.services_registered", self.services_registered.get()),
            ("agent.pushes", self.pushes.get()),
            ("agent.pushed_items", self.pushed_items.get()),
            ("agent.push_failures", self.push_failures.get()),
            ("agent.refused_items", self.refused_items.get()),
            ("agent.full_syncs", self.full_syncs.get()),
            ("agent.probes", self.probes.get()),
            ("agent.status_changes", self.status_changes.get()),
            ("agent.reaped", self.reaped.get()),
            ("agent.sessions", self.sessions.get()),
            ("agent.forwarded", self.forwarded.get()),
            ("agent.forward_failures", self.forward_failures.get()),
            ("agent.views", self.views.get()),
            ("agent.view_losses", self.view_losses.get()),
        ]
    }
}
