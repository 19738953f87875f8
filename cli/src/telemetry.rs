//! Logs: to standard error, as text or JSON, at the level that the operator asked for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// A library that says the same again has to wait so long.
const SELDOM: Duration = Duration::from_secs(10);

/// Starts logging. `level` is Consul's: trace, debug, info, warn, error. `RUST_LOG` wins where it is set.
pub(crate) fn start(level: &str, json: bool) {
    let level = match level.to_ascii_lowercase().as_str() {
        "warning" => "warn".to_string(),
        "err" => "error".to_string(),
        known @ ("trace" | "debug" | "info" | "warn" | "error" | "off") => known.to_string(),
        _ => "info".to_string(),
    };
    // The libraries' own words are of use to their developers; from `debug` on the operator asked for them.
    let quiet = if matches!(level.as_str(), "trace" | "debug") { level.clone() } else { "error".to_string() };
    let ours = ["tribune", "agent", "server", "proxy", "raft", "dns", "identity", "api", "store"];
    let directives = ours.iter().fold(quiet, |all, name| format!("{all},{name}={level}"));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(directives));
    let filter = filter.and(Seldom::default());
    let lines = fmt::layer().with_writer(std::io::stderr);
    // A second start (tests) leaves the first in place.
    let _ = if json {
        tracing_subscriber::registry().with(lines.json().with_filter(filter)).try_init()
    } else {
        tracing_subscriber::registry().with(lines.with_ansi(false).with_filter(filter)).try_init()
    };
}

/// openraft says for each heartbeat and each read that a server cannot be reached: hundreds of lines a second while it is so. One of
/// each kind in a while tells the reason as well.
#[derive(Default)]
struct Seldom {
    /// When each kind was said last.
    said: Mutex<HashMap<Identifier, Instant>>,
}

impl Seldom {
    fn is_due(&self, metadata: &Metadata<'_>, now: Instant) -> bool {
        if !metadata.target().starts_with("openraft") {
            return true;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let last = said.get(&metadata.callsite());
        let is_due = last.is_none_or(|last| now.duration_since(*last) >= SELDOM);
        if is_due {
            said.insert(metadata.callsite(), now);
        }
        is_due
    }
}

impl<S: Subscriber> Filter<S> for Seldom {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        self.is_due(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts the events that come through.
    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_openraft_repeats_is_said_seldom_and_our_own_words_always() {
        let count = Arc::new(AtomicUsize::new(0));
        let counting = tracing_subscriber::registry().with(Count(count.clone()).with_filter(Seldom::default()));
        let counted = || count.swap(0, Ordering::Relaxed);
        tracing::subscriber::with_default(counting, || {
            (0..5).for_each(|_| tracing::error!(target: "openraft::replication", "unreachable"));
            assert_eq!(counted(), 1);
            (0..5).for_each(|_| tracing::error!(target: "openraft::core", "no vote"));
            assert_eq!(counted(), 1, "another kind");
            (0..5).for_each(|_| tracing::error!("ours"));
            assert_eq!(counted(), 5);
        });
    }

    /// Asks about each event now, soon and later.
    struct Ask(Arc<Mutex<Vec<bool>>>);

    impl<S: Subscriber> Layer<S> for Ask {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            let (seldom, now) = (Seldom::default(), Instant::now());
            let times = [now, now + SELDOM / 2, now + SELDOM];
            self.0.lock().expect("no panic").extend(times.map(|at| seldom.is_due(event.metadata(), at)));
        }
    }

    #[test]
    fn a_while_later_it_is_said_again() {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let asking = tracing_subscriber::registry().with(Ask(answers.clone()));
        tracing::subscriber::with_default(asking, || tracing::error!(target: "openraft::replication", "unreachable"));
        assert_eq!(*answers.lock().expect("no panic"), [true, false, true]);
    }
}
