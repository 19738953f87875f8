//! Until when sessions live, unless they are renewed: the leader's memory, and the end of those that nobody renews.
//!
//! A renewal is not in the log. It is acknowledged only when a majority has confirmed *after* it that this server still leads;
//! so whoever leads next begins later, and begins every time to live anew. A session whose end is decided is not renewed any
//! more. And one whose confirmation took longer than the time that it is given beyond its time to live is not acknowledged. So
//! none ends before its time to live has passed since its last acknowledged renewal, however slow the others or the disks are.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use catalog::Command;
use catalog::query::session::{self, AllSessions, SessionChange};
use faults::Bug;
use model::Session;

use super::nodes::sleep_until;
use crate::core::Core;

/// Ends that are recorded at a time.
const ENDS_MAX: usize = 1024;
/// An end that could not be recorded is decided again after this.
const END_AGAIN: Duration = Duration::from_secs(1);
/// How long a change of sessions is waited for at a time.
const FOLLOW: Duration = Duration::from_secs(3600);

/// What this server, while it leads, knows of renewals.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<Option<Deadlines>>);

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It counts, if this server still leads.
    Noted,
    /// Too late: the session's end is decided.
    Over,
    /// This server does not lead, or only begins to.
    NotLeading,
}

impl Leases {
    /// Notes that a session was renewed.
    pub(crate) fn renew(&self, session: &Session, now: Instant) -> Renewal {
        match (self.lock().as_mut(), session.ttl()) {
            (None, _) => Renewal::NotLeading,
            (Some(_), None) => Renewal::Noted,
            (Some(deadlines), Some(ttl)) => match deadlines.renew(&session.id, ttl, now) {
                true => Renewal::Noted,
                false => Renewal::Over,
            },
        }
    }

    /// Whether this server leads, and knows what its predecessors have acknowledged.
    pub(crate) fn are_taken(&self) -> bool {
        self.lock().is_some()
    }

    /// Forgets all: this server does not lead any more.
    pub(crate) fn stop(&self) {
        *self.lock() = None;
    }

    fn with<R>(&self, work: impl FnOnce(&mut Deadlines) -> R) -> R {
        work(self.lock().get_or_insert_default())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Deadlines>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the sessions that nobody renews, for as long as this server leads.
pub(super) async fn expire(core: &Core) {
    let (mut known, mut index) = (AllSessions::default(), 0);
    core.leases.with(|deadlines| *deadlines = Deadlines::default());
    if faults::has(Bug::SessionNeverEnds) {
        (known, index) = core.watch.read(session::all);
    }
    loop {
        let next = core.leases.with(|deadlines| deadlines.next());
        let until = tokio::time::Instant::now() + FOLLOW;
        tokio::select! {
            (sessions, changed) = core.watch.query(index, until, session::all) => {
                core.leases.with(|deadlines| deadlines.follow(&known, &sessions, Instant::now()));
                (known, index) = (sessions, changed);
            }
            () = sleep_until(next) => {
                let over = core.leases.with(|deadlines| deadlines.expire(Instant::now()));
                record(core, over).await;
            }
        }
    }
}

async fn record(core: &Core, over: Vec<Arc<str>>) {
    let proposals = over.into_iter().map(|id| async move {
        tracing::debug!(session = &*id, "a session was not renewed in time");
        let command = Command::DestroySession { id: id.to_string() };
        if let Err(error) = core.proposer.propose_here(&command).await {
            tracing::debug!(%error, "the end of a session could not be recorded yet");
        }
    });
    futures_util::future::join_all(proposals).await;
}

/// Deadlines of sessions in one ordered queue.
#[derive(Debug, Default)]
struct Deadlines {
    leases: HashMap<Arc<str>, Lease>,
    queue: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    deadline: Instant,
    /// Its end is decided, and perhaps on its way into the log.
    is_over: bool,
}

impl Deadlines {
    /// Takes in what began and ended in the catalog.
    fn follow(&mut self, known: &AllSessions, now_known: &AllSessions, now: Instant) {
        for change in now_known.changes_since(known) {
            match change {
                SessionChange::Begun(session) => {
                    if let Some(ttl) = session.ttl() {
                        self.begin(&session.id, ttl, now);
                    }
                }
                SessionChange::Ended(id) => self.end(id),
            }
        }
    }

    /// A renewal may have come before the news of the session.
    fn begin(&mut self, id: &str, ttl: Duration, now: Instant) {
        if !self.leases.contains_key(id) {
            self.put(Arc::from(id), Lease { deadline: now + life(ttl), is_over: false });
        }
    }

    /// False if it is too late.
    fn renew(&mut self, id: &str, ttl: Duration, now: Instant) -> bool {
        match self.leases.get(id) {
            Some(lease) if lease.is_over => return false,
            Some(_) | None => self.put(Arc::from(id), Lease { deadline: now + life(ttl), is_over: false }),
        }
        true
    }

    fn end(&mut self, id: &str) {
        if let Some((id, lease)) = self.leases.remove_entry(id) {
            self.queue.remove(&(lease.deadline, id));
        }
    }

    /// Whose time is over, at most [`ENDS_MAX`]. They stay until the catalog says that they have ended.
    fn expire(&mut self, now: Instant) -> Vec<Arc<str>> {
        let over: Vec<Arc<str>> = self
            .queue
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .take(ENDS_MAX)
            .map(|(_, id)| id.clone())
            .collect();
        for id in &over {
            self.put(id.clone(), Lease { deadline: now + END_AGAIN, is_over: true });
        }
        over
    }

    fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    fn put(&mut self, id: Arc<str>, lease: Lease) {
        if let Some(old) = self.leases.insert(id.clone(), lease) {
            self.queue.remove(&(old.deadline, id.clone()));
        }
        self.queue.insert((lease.deadline, id));
    }
}

/// How long a session lives after a renewal was noted: between once and twice its time to live, so that a client that renews at
/// the last moment, and the recording of its end, both have time. (Consul: up to twice.)
fn life(ttl: Duration) -> Duration {
    if faults::has(Bug::SessionEndsEarly) {
        return ttl / 2;
    }
    ttl + beyond(ttl)
}

fn beyond(ttl: Duration) -> Duration {
    ttl / 2
}

/// Whether a renewal may be acknowledged so long after it was noted: a whole time to live must be left. The next leader, too,
/// may have begun to count right after the renewal was noted, and gives it as long.
pub(crate) fn is_in_time(session: &Session, since_noted: Duration) -> bool {
    session.ttl().is_none_or(|ttl| since_noted <= beyond(ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn secs(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    fn ids(ids: &[Arc<str>]) -> Vec<&str> {
        ids.iter().map(|id| &**id).collect()
    }

    #[test]
    fn a_session_ends_between_once_and_twice_its_time_to_live() {
        let (mut deadlines, start) = (Deadlines::default(), Instant::now());
        deadlines.begin("a", TTL, start);
        deadlines.begin("b", TTL, start);
        assert!(deadlines.renew("b", TTL, secs(start, 9)));
        assert_eq!(ids(&deadlines.expire(secs(start, 10))), [""; 0]);
        assert_eq!(deadlines.next(), Some(secs(start, 15)));
        assert_eq!(ids(&deadlines.expire(secs(start, 20))), ["a"]);
        assert_eq!(ids(&deadlines.expire(secs(start, 23))), ["a"], "its end is not in the catalog yet");
        deadlines.end("a");
        assert_eq!(ids(&deadlines.expire(secs(start, 24))), ["b"]);
        deadlines.end("b");
        assert_eq!((deadlines.next(), deadlines.leases.len()), (None, 0));
    }

    #[test]
    fn what_is_acknowledged_has_a_whole_time_to_live_left() {
        let session = Session { ttl: "10s".into(), ..Session::default() };
        let start = Instant::now();
        for noted_ms in [0, 1, 4_999, 5_000, 5_001, 15_000] {
            let mut deadlines = Deadlines::default();
            assert!(deadlines.renew("a", TTL, start));
            let acknowledged = start + Duration::from_millis(noted_ms);
            let has_enough = deadlines.next().expect("a deadline") >= acknowledged + TTL;
            assert_eq!(is_in_time(&session, acknowledged - start), has_enough, "{noted_ms} ms");
        }
        assert!(is_in_time(&Session::default(), Duration::MAX), "it lives without being renewed");
    }

    #[test]
    fn what_is_over_is_not_renewed() {
        let (mut deadlines, start) = (Deadlines::default(), Instant::now());
        deadlines.begin("a", TTL, start);
        assert_eq!(deadlines.expire(secs(start, 15)).len(), 1);
        assert!(!deadlines.renew("a", TTL, secs(start, 15)));
        deadlines.begin("a", TTL, secs(start, 15));
        assert!(!deadlines.renew("a", TTL, secs(start, 15)));
    }

    #[test]
    fn a_renewal_that_comes_before_the_news_counts() {
        let (mut deadlines, start) = (Deadlines::default(), Instant::now());
        assert!(deadlines.renew("a", TTL, secs(start, 5)));
        deadlines.begin("a", TTL, start);
        assert_eq!(deadlines.next(), Some(secs(start, 20)));
    }

    #[test]
    fn many_ends_are_recorded_in_turns() {
        let (mut deadlines, start) = (Deadlines::default(), Instant::now());
        for n in 0..30_000 {
            deadlines.begin(&n.to_string(), TTL, start);
        }
        let mut ended = 0;
        while deadlines.next().is_some() {
            let over = deadlines.expire(secs(start, 15));
            assert!(over.len() <= ENDS_MAX);
            ended += over.len();
            over.iter().for_each(|id| deadlines.end(id));
        }
        assert_eq!(ended, 30_000);
    }

    #[test]
    fn only_a_leader_takes_renewals() {
        let (leases, now) = (Leases::default(), Instant::now());
        let session = Session { id: "a".into(), ttl: "10s".into(), ..Session::default() };
        assert_eq!(leases.renew(&session, now), Renewal::NotLeading);
        leases.with(|deadlines| assert_eq!(deadlines.next(), None));
        assert_eq!(leases.renew(&session, now), Renewal::Noted);
        assert_eq!(leases.renew(&Session { ttl: String::new(), ..session.clone() }, now), Renewal::Noted);
        leases.with(|deadlines| deadlines.expire(now + 2 * TTL));
        assert_eq!(leases.renew(&session, now), Renewal::Over);
        leases.stop();
        assert_eq!(leases.renew(&session, now), Renewal::NotLeading);
    }
}
