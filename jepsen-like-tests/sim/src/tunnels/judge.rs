//! What both ends of each call saw, and whether it can be so: no byte lost, doubled, moved or from elsewhere, and no end that looks good and is none.

use jlt_core::judgement::Judgement;

/// All calls, by number, and what the applications saw of them.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) calls: Vec<Call>,
    pub(crate) served: Vec<Served>,
    /// What can never be, seen before a call's number was known.
    pub(crate) strange: Vec<String>,
}

/// A call as its caller saw it.
#[derive(Debug, Default)]
pub(crate) struct Call {
    /// The application that is meant, as `web@dc2`.
    pub(crate) to: String,
    /// Whether there is one.
    pub(crate) exists: bool,
    pub(crate) from_dc: usize,
    pub(crate) start_ms: u64,
    pub(crate) end_ms: Option<u64>,
    pub(crate) sent: Sent,
    /// Who says that it answers.
    pub(crate) answered_by: Option<String>,
    pub(crate) heard: Heard,
}

/// A call as an application saw it.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) call: usize,
    pub(crate) by: String,
    pub(crate) heard: Heard,
    pub(crate) sent: Sent,
}

/// What somebody has written.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sent {
    /// Counted before they are written.
    pub(crate) bytes: u64,
    /// All of it is written, and the end begins to be told.
    pub(crate) closed: bool,
}

/// What somebody has read.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) bytes: u64,
    pub(crate) end: End,
}

/// How a stream ended for its reader.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    #[default]
    Open,
    /// The writer said that this is all.
    Well,
    /// It broke off, which the reader knows.
    Failed(String),
    /// Bytes that nobody has written, or not here: never to be explained by what has failed.
    Wrong(String),
}

impl Call {
    /// Whether it was answered to its end.
    pub(crate) fn is_good(&self) -> bool {
        self.heard.end == End::Well
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.heard.end, End::Failed(_))
    }
}

impl History {
    /// What was broken. Those of the calls that began after `calm_ms` may not even fail.
    pub(crate) fn judge(&self, calm_ms: Option<u64>) -> Judgement {
        let mut judgement = Judgement { violations: self.strange.clone(), ..Judgement::default() };
        for (number, call) in self.calls.iter().enumerate() {
            let served: Vec<&Served> = self.served.iter().filter(|served| served.call == number).collect();
            let broken = broken(call, &served);
            judgement.violations.extend(broken.into_iter().map(|what| format!("call {number} to {}: {what}", call.to)));
            let is_calm = call.exists && calm_ms.is_some_and(|calm_ms| call.start_ms >= calm_ms);
            if is_calm && !call.is_good() {
                judgement.violations.push(format!("call {number} to {} failed when all was well: {call:?}", call.to));
            }
        }
        let unknown = self.served.iter().filter(|served| served.call >= self.calls.len());
        judgement.violations.extend(unknown.map(|served| format!("{} got a call that nobody made", served.by)));
        judgement
    }
}

fn broken(call: &Call, served: &[&Served]) -> Vec<String> {
    let mut broken = Vec::new();
    if let Some(by) = call.answered_by.as_ref().filter(|by| **by != call.to || !call.exists) {
        broken.push(format!("{by} answered"));
    }
    broken.extend(served.iter().filter(|one| one.by != call.to).map(|one| format!("{} got it", one.by)));
    if served.len() > 1 {
        broken.push(format!("it was got {} times", served.len()));
    }
    for one in served {
        broken.extend(compare("there", call.sent, &one.heard));
    }
    // An answer is that of somebody who got the call; with none, nothing was sent.
    let back = served.first().map(|one| one.sent).unwrap_or_default();
    broken.extend(compare("back", back, &call.heard));
    broken
}

/// What one end wrote and the other one read.
fn compare(way: &str, sent: Sent, heard: &Heard) -> Option<String> {
    let (wrote, read) = (sent.bytes, heard.bytes);
    match &heard.end {
        End::Wrong(why) => Some(format!("{way}: {why}")),
        _ if read > wrote => Some(format!("{way}: {read} bytes of {wrote} arrived")),
        End::Well if !sent.closed => {
            Some(format!("{way}: an end that looks good after {read} bytes, but its writer has not come to one"))
        }
        End::Well if read < wrote => Some(format!("{way}: an end that looks good after {read} of {wrote} bytes")),
        End::Well | End::Open | End::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> End {
        End::Failed("reset".to_owned())
    }

    fn good() -> (Call, Served) {
        let sent = Sent { bytes: 10, closed: true };
        let heard = || Heard { bytes: 10, end: End::Well };
        let name = || "web@dc2".to_owned();
        let call =
            Call { to: name(), exists: true, sent, answered_by: Some(name()), heard: heard(), ..Call::default() };
        (call, Served { call: 0, by: name(), heard: heard(), sent })
    }

    fn violations(change: impl Fn(&mut Call, &mut Served)) -> usize {
        let (mut call, mut served) = good();
        change(&mut call, &mut served);
        let history = History { calls: vec![call], served: vec![served], ..History::default() };
        history.judge(None).violations.len()
    }

    #[test]
    fn what_is_whole_or_known_to_have_failed_is_good() {
        let cases: [fn(&mut Call, &mut Served); 4] = [
            |_call, _served| {},
            |call, _served| call.heard = Heard { bytes: 3, end: failed() },
            |call, served| {
                (call.sent, served.heard) = (Sent { bytes: 12, closed: false }, Heard { bytes: 10, end: failed() });
                (call.heard, served.sent.closed) = (Heard { bytes: 0, end: failed() }, false);
            },
            |call, _served| call.heard = Heard { bytes: 10, end: End::Open },
        ];
        for (number, case) in cases.into_iter().enumerate() {
            assert_eq!(violations(case), 0, "case {number}");
        }
    }

    #[test]
    fn each_broken_promise_is_seen() {
        let cases: [fn(&mut Call, &mut Served); 9] = [
            |call, _served| call.answered_by = Some("web@dc1".to_owned()),
            |_call, served| served.by = "api@dc2".to_owned(),
            |call, _served| call.exists = false,
            |call, _served| call.heard.bytes = 9,
            |_call, served| served.heard.bytes = 9,
            |_call, served| served.heard = Heard { bytes: 11, end: failed() },
            |call, _served| call.sent.closed = false,
            |_call, served| served.sent.closed = false,
            |call, _served| call.heard.end = End::Wrong("another byte".to_owned()),
        ];
        for (number, case) in cases.into_iter().enumerate() {
            assert_eq!(violations(case), 1, "case {number}");
        }
    }

    #[test]
    fn nothing_comes_twice_or_from_nowhere_and_no_answer_from_nobody() {
        let judge = |history: History| history.judge(None).violations.len();
        let ((call, served), (_, again)) = (good(), good());
        assert_eq!(judge(History { calls: vec![call], served: vec![served, again], ..History::default() }), 1);
        let (call, served) = good();
        assert_eq!(judge(History { served: vec![served], ..History::default() }), 1);
        assert_eq!(judge(History { calls: vec![call], ..History::default() }), 1);
        assert_eq!(judge(History { strange: vec!["an end".to_owned()], ..History::default() }), 1);
    }

    #[test]
    fn when_all_is_well_nothing_fails_but_what_leads_nowhere() {
        let (mut call, served) = good();
        (call.start_ms, call.heard.end) = (100, failed());
        let mut history = History { calls: vec![call], served: vec![served], ..History::default() };
        assert_eq!(history.judge(Some(101)).violations.len(), 0);
        assert_eq!(history.judge(Some(100)).violations.len(), 1);
        history.served.clear();
        history.calls[0] = Call { to: "db@dc2".to_owned(), start_ms: 100, ..Call::default() };
        assert_eq!(history.judge(Some(100)).violations.len(), 0);
    }
}
