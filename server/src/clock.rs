//! The leaders' clock, which says how old a thing of the catalog is without asking anybody's wall clock.
//!
//! It counts on from what the catalog has reached, by the leader's monotonic clock. So it never jumps, whatever is done to the
//! clocks of servers and however they differ; and it stands still while nobody leads: what has to last for so long lasts
//! rather longer.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The clock of this server while it leads.
#[derive(Debug, Default)]
pub(crate) struct LeaderClock(Mutex<Option<Reign>>);

#[derive(Debug, Clone, Copy)]
struct Reign {
    term: u64,
    base_ms: u64,
    since: Instant,
}

impl LeaderClock {
    /// What the clock shows in a term, given what the catalog has reached.
    pub(crate) fn now_ms(&self, term: u64, reached_ms: u64, now: Instant) -> u64 {
        let mut reign = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = reign.filter(|reign| reign.term == term).map(|reign| reign.shows(now));
        match shown.filter(|shown_ms| *shown_ms >= reached_ms) {
            Some(shown_ms) => shown_ms,
            // A new reign; or one that learns only now what its predecessors have counted.
            None => {
                *reign = Some(Reign { term, base_ms: reached_ms, since: now });
                reached_ms
            }
        }
    }
}

impl Reign {
    fn shows(self, now: Instant) -> u64 {
        let counted: Duration = now.saturating_duration_since(self.since);
        self.base_ms.saturating_add(u64::try_from(counted.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reign_counts_on_from_what_was_reached() {
        let (clock, start) = (LeaderClock::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(clock.now_ms(1, 500, at(0)), 500);
        assert_eq!(clock.now_ms(1, 500, at(20)), 520);
        assert_eq!(clock.now_ms(1, 510, at(30)), 530);
        // What was agreed on before is applied only now.
        assert_eq!(clock.now_ms(1, 600, at(40)), 600);
        assert_eq!(clock.now_ms(1, 600, at(50)), 610);
    }

    #[test]
    fn the_time_of_others_is_not_counted_twice() {
        let (clock, start) = (LeaderClock::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(clock.now_ms(1, 0, at(0)), 0);
        // An hour later it leads again; the others have counted a second.
        assert_eq!(clock.now_ms(3, 1_000, at(3_600_000)), 1_000);
        assert_eq!(clock.now_ms(3, 1_000, at(3_600_001)), 1_001);
    }
}
