//! Carries operations out: one at a time, step by step, while other faults come and go. A step that does not come to its end though nothing else
//! is wrong is a finding.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jlt_core::plan::{Fault, Planned, Target};
use nix::sys::signal::Signal;

use super::members::Members;
use super::script::{Step, mend, script};
use super::{Happened, Nemesis};
use crate::cluster::{MACHINES, SERVERS, name};
use crate::http;

/// How long a step may take when nothing else is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the cluster is asked what a step waits for.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// A server that was told to leave, and is still there, is told again after this time.
const LEAVE_AGAIN: Duration = Duration::from_secs(5);

/// Faults do not wait for answers for long.
const ASK_TIMEOUT: Duration = Duration::from_millis(700);

/// An operation on its way.
pub(super) struct Operation {
    pub(super) planned: Planned,
    servers: Vec<usize>,
    start_ms: u64,
    steps: VecDeque<Step>,
    /// When the step began that is the first now; none before it has.
    since: Option<Instant>,
    effects: Vec<String>,
    /// When the cluster was last asked.
    asked: Option<Instant>,
    /// The file that was damaged.
    damaged: Option<PathBuf>,
}

/// What became of a step.
enum Progress {
    Done,
    Wait,
}

impl Progress {
    fn when(is_done: bool) -> Self {
        if is_done { Progress::Done } else { Progress::Wait }
    }
}

/// Whether a server's last words say what its operator has to know: that the disk is damaged, where, and what to do.
fn refusal(words: &str, path: &Path) -> Result<(), String> {
    if !words.contains("damaged") {
        return Err("does not say that something is damaged".to_owned());
    }
    // The log and the stores may tell the folder; a store is the folder above sled's.
    let folder = path.parent().unwrap_or(path);
    let store = folder.parent().filter(|_| folder.ends_with("sled"));
    let mut told = [Some(path), Some(folder), store].into_iter().flatten().map(|path| path.to_string_lossy());
    if !told.any(|part| !part.is_empty() && words.contains(&*part)) {
        return Err("does not say which file is damaged".to_owned());
    }
    if !["empty", "remove", "restore"].iter().any(|word| words.contains(word)) {
        return Err("does not say what to do".to_owned());
    }
    Ok(())
}

/// How many joined, left, or were given a vote.
fn changes(before: &Members, now: &Members) -> u64 {
    let is_in = |members: &Members, id: &str, votes: bool| {
        members.0.iter().any(|member| member.id == id && (member.is_voter || !votes))
    };
    let missing = |from: &Members, others: &Members| {
        from.0.iter().filter(|member| !is_in(others, &member.id, member.is_voter)).count() as u64
    };
    if before.0.is_empty() { 0 } else { missing(now, before) + missing(before, now) }
}

impl Operation {
    /// For people.
    pub(super) fn describe(&self) -> String {
        self.steps.front().map_or(String::new(), Step::describe)
    }
}

impl Nemesis<'_> {
    /// Goes on with the operation, or begins the next. When the time is over only those begin whose kind has not been seen yet.
    pub(super) fn operate(&mut self, is_time: bool) -> Result<(), String> {
        if !self.active.is_empty() || self.hosts.iter().any(|host| host.revive.is_some()) {
            self.calm = Instant::now();
        }
        if self.operation.is_none() {
            if !is_time {
                let happened = &self.havoc.happened;
                self.waiting.retain(|planned| happened.iter().all(|one| one.fault != planned.fault));
            }
            let Some(planned) = self.waiting.pop_front() else { return Ok(()) };
            self.operation = Some(self.prepare(planned));
        }
        let Some(mut operation) = self.operation.take() else { return Ok(()) };
        while let Some(step) = operation.steps.front().cloned() {
            let since = *operation.since.get_or_insert_with(Instant::now);
            match self.step(&step, since, &mut operation)? {
                Progress::Done => {
                    operation.steps.pop_front();
                    operation.since = None;
                }
                Progress::Wait if since.max(self.calm).elapsed() < PATIENCE => {
                    self.operation = Some(operation);
                    return Ok(());
                }
                Progress::Wait => {
                    let (fault, what) = (operation.planned.fault.name(), step.describe());
                    self.havoc
                        .violations
                        .push(format!("{fault}: not within {PATIENCE:?} without other faults: {what}"));
                    operation.steps.clear();
                }
            }
        }
        self.finish(operation)
    }

    fn prepare(&mut self, planned: Planned) -> Operation {
        let victim = match planned.target {
            Target::All => planned.degree as usize % SERVERS,
            Target::Server(_) | Target::Leader => self.victims(&planned)[0],
        };
        let steps = script(&planned, victim);
        let servers = if planned.target == Target::All { (0..SERVERS).collect() } else { vec![victim] };
        Operation {
            planned,
            servers,
            start_ms: self.now_ms(),
            steps,
            since: None,
            effects: Vec::new(),
            asked: None,
            damaged: None,
        }
    }

    fn finish(&mut self, operation: Operation) -> Result<(), String> {
        let Operation { planned, servers, start_ms, effects, .. } = operation;
        let (end_ms, effect) = (self.now_ms(), effects.join(", "));
        self.havoc.happened.push(Happened { fault: planned.fault, servers, start_ms, end_ms, effect });
        for server in 0..MACHINES {
            self.hosts[server].out = server >= SERVERS;
            if server >= SERVERS {
                self.cluster.kill(server);
            }
        }
        self.apply()
    }

    fn step(&mut self, step: &Step, since: Instant, operation: &mut Operation) -> Result<Progress, String> {
        match step {
            Step::Stop(server) => self.stop(*server, operation),
            Step::Start(server) => {
                self.hosts[*server].out = false;
                self.apply()?;
                Ok(Progress::Done)
            }
            Step::Wait(ms) => Ok(Progress::when(since.elapsed() >= Duration::from_millis(*ms))),
            Step::Kill(server) => {
                self.hosts[*server].out = true;
                self.cluster.kill(*server);
                Ok(Progress::Done)
            }
            Step::Wipe(server) => self.wipe(*server),
            Step::Leave(server) => self.leave(*server, operation),
            Step::Flip(server, part) => self.flip(*server, part, operation),
            Step::Judge(server) => self.judge(*server, operation),
            _ if operation.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) => Ok(Progress::Wait),
            Step::Remove(_) | Step::SeeOff(_) | Step::AwaitVote(_) | Step::StaysOut(..) => {
                operation.asked = Some(Instant::now());
                let Some(members) = self.agreed_members() else { return Ok(Progress::Wait) };
                Ok(self.compare(step, since, &members, operation))
            }
        }
    }

    /// The steps that are over when the members are as they should be.
    fn compare(&mut self, step: &Step, since: Instant, members: &Members, operation: &mut Operation) -> Progress {
        match step {
            Step::AwaitVote(server) => {
                let is_new = |id: &str| self.hosts[*server].former.as_deref() != Some(id);
                let voter = members.named(&name(*server)).filter(|member| member.is_voter && is_new(&member.id));
                Progress::when(voter.is_some())
            }
            Step::Remove(server) | Step::SeeOff(server) => {
                let Some(member) = members.named(&name(*server)) else { return Progress::Done };
                if matches!(step, Step::SeeOff(_)) && !operation.steps.contains(&Step::Wipe(*server)) {
                    operation.steps.insert(1, Step::Wipe(*server));
                }
                let path = format!("/v1/operator/raft/peer?id={}", member.id);
                let removed = self.ask_leader(members, "DELETE", &path);
                operation.effects.extend(removed.map(|()| format!("{} removed by an operator", name(*server))));
                Progress::Wait
            }
            Step::StaysOut(server, ms) => {
                if members.named(&name(*server)).is_some() {
                    let what = format!("{} was removed, came back with its old disk, and is a member", name(*server));
                    self.havoc.violations.push(what);
                    return Progress::Done;
                }
                Progress::when(since.elapsed() >= Duration::from_millis(*ms))
            }
            _ => Progress::Done,
        }
    }

    fn wipe(&mut self, server: usize) -> Result<Progress, String> {
        let former = self.book.last.named(&name(server)).map(|member| member.id.clone());
        self.hosts[server].former = former.or(self.hosts[server].former.take());
        self.cluster.wipe(server)?;
        self.havoc.count("disks emptied", 1);
        Ok(Progress::Done)
    }

    /// Asked again until it has gone, for it may be cut off, or be killed and come back.
    fn leave(&mut self, server: usize, operation: &mut Operation) -> Result<Progress, String> {
        if !self.hosts[server].out {
            self.hosts[server].out = true;
            self.hosts[server].left = None;
        }
        if !self.cluster.is_running(server) {
            if let Some((status, words)) = self.hosts[server].left.take() {
                operation.effects.push(format!("{} left ({status})", name(server)));
                if !status.success() && !self.is_excused(server) {
                    self.havoc
                        .violations
                        .push(format!("{} was told to leave and ended so ({status}): {words}", name(server)));
                }
            }
            return Ok(Progress::Done);
        }
        if operation.asked.is_none_or(|asked| asked.elapsed() >= LEAVE_AGAIN) && self.hosts[server].paused.is_none() {
            operation.asked = Some(Instant::now());
            // What it answers does not matter: it goes or does not.
            http::request(self.cluster.http_address(server), "PUT", "/v1/agent/leave", b"", ASK_TIMEOUT).ok();
        }
        Ok(Progress::Wait)
    }

    /// Damages a file, if there is such a file yet, and starts the server on it.
    fn flip(&mut self, server: usize, part: &str, operation: &mut Operation) -> Result<Progress, String> {
        self.hosts[server].left = None;
        // Not everything is there from the beginning; the log is.
        let flipped = self.cluster.flip(server, part).or_else(|| self.cluster.flip(server, "raft/log"));
        if let Some((path, at)) = flipped {
            operation.effects.push(format!("byte {at} of {} of {}", path.display(), name(server)));
            self.havoc.count("bits flipped", 1);
            operation.damaged = Some(path);
        }
        Ok(Progress::Done)
    }

    /// It has refused to start with words that tell which file and what to do, and that is done; or it serves, for the bit means nothing or is known elsewhere.
    fn judge(&mut self, server: usize, operation: &mut Operation) -> Result<Progress, String> {
        let Some(path) = &operation.damaged else {
            self.hosts[server].out = false;
            self.apply()?;
            return Ok(Progress::Done);
        };
        if let Some((status, words)) = self.hosts[server].left.take() {
            if self.is_excused(server) && !words.contains("damaged") {
                self.havoc.notes.push(format!("{} ended because of its disk ({status}): {words}", name(server)));
                return Ok(Progress::Wait);
            }
            match refusal(&words, path) {
                Ok(()) => self.havoc.count(Fault::Flip.effect(), 1),
                Err(why) => {
                    let (effect, server) = (operation.effects.join(", "), name(server));
                    self.havoc
                        .violations
                        .push(format!("{server} after a flipped bit ({effect}) {why} ({status}): {words}"));
                }
            }
            operation.effects.push("refused".to_owned());
            let rest = operation.steps.split_off(1);
            operation.steps.extend(mend(server, operation.planned.degree).into_iter().chain(rest));
            return Ok(Progress::Done);
        }
        if !self.cluster.is_running(server) {
            // Down by an operation, so that its end is not taken for one by itself.
            self.cluster.restart(server)?;
            return Ok(Progress::Wait);
        }
        if operation.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN) || self.hosts[server].paused.is_some() {
            return Ok(Progress::Wait);
        }
        operation.asked = Some(Instant::now());
        let path = "/v1/kv/jlt/ready?consistent";
        let serves = http::request(self.cluster.http_address(server), "GET", path, b"", ASK_TIMEOUT);
        if serves.is_ok_and(|reply| reply.status == 200) {
            self.hosts[server].out = false;
            self.havoc.count("flipped bits that did no harm", 1);
            operation.effects.push("serves".to_owned());
            // What was not read yet may be found damaged at any later start: the disk is replaced.
            let rest = operation.steps.split_off(1);
            let replaced = [vec![Step::Kill(server)], mend(server, operation.planned.degree)].concat();
            operation.steps.extend(replaced.into_iter().chain(rest));
            return Ok(Progress::Done);
        }
        Ok(Progress::Wait)
    }

    /// The members as all have agreed on them: a leader tells them, acknowledges a write, and tells them again.
    fn agreed_members(&mut self) -> Option<Members> {
        let members = self.members()?;
        self.ask_leader(&members, "PUT", "/v1/kv/jlt/ready")?;
        if self.members()? != members {
            return None;
        }
        if members != self.book.last {
            self.havoc.count(Fault::Member.effect(), changes(&self.book.last, &members));
            self.havoc.violations.extend(self.book.see(members.clone()));
        }
        Some(members)
    }

    /// The members as a server tells them that takes itself for the leader.
    fn members(&self) -> Option<Members> {
        let ask = |server| {
            let address = self.cluster.http_address(server);
            let reply = http::request(address, "GET", "/v1/operator/raft/configuration", b"", ASK_TIMEOUT).ok()?;
            let members = Members::parse(&reply.body)?;
            members.named(&name(server)).is_some_and(|member| member.is_leader).then_some(members)
        };
        self.within_reach().find_map(ask)
    }

    fn ask_leader(&self, members: &Members, method: &str, path: &str) -> Option<()> {
        let leads = |server: &usize| members.named(&name(*server)).is_some_and(|member| member.is_leader);
        let leader = self.within_reach().find(leads)?;
        let reply = http::request(self.cluster.http_address(leader), method, path, b"1", ASK_TIMEOUT).ok()?;
        (reply.status == 200).then_some(())
    }

    /// A server that another fault has killed is down as well as one that was stopped, but does not count.
    fn stop(&mut self, server: usize, operation: &mut Operation) -> Result<Progress, String> {
        if self.cluster.is_running(server) {
            if !self.hosts[server].out {
                self.hosts[server].out = true;
                self.hosts[server].left = None;
                self.cluster.terminate(server)?;
            }
            return Ok(Progress::Wait);
        }
        self.hosts[server].out = true;
        match self.hosts[server].left.take() {
            Some((status, _)) if status.success() => {
                self.havoc.count(Fault::RestartAll.effect(), 1);
                operation.effects.push(format!("{} stopped", name(server)));
            }
            // A signal that comes before a program has begun ends it.
            Some((status, words)) if status.signal() == Some(Signal::SIGTERM as i32) && words.is_empty() => {
                self.havoc.notes.push(format!("{} was told to stop before it had begun", name(server)));
            }
            Some((status, words)) => {
                let what = format!("{} was told to stop and ended so ({status}): {words}", name(server));
                if self.is_excused(server) { self.havoc.notes.push(what) } else { self.havoc.violations.push(what) }
            }
            None => {}
        }
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::members::Member;
    use super::*;

    #[test]
    fn a_refusal_tells_what_where_and_what_to_do() {
        let log = Path::new("raft/log/01.log");
        let said =
            "error: the Raft data in /d/raft/log/01.log is damaged (x): empty its data folder, and join it again";
        assert_eq!(refusal(said, log), Ok(()));
        let store = "the store in /d/raft/store/sled is damaged (x): restore it from a backup";
        for file in ["raft/store/sled/db", "raft/store/commits"] {
            assert_eq!(refusal(store, Path::new(file)), Ok(()));
        }
        assert_eq!(refusal("the store in /d/raft/store is damaged: empty it", Path::new("raft/store/sled/db")), Ok(()));
        assert!(refusal(store, Path::new("node.json")).is_err());
        assert!(refusal(store, log).unwrap_err().contains("which file"));
        assert!(refusal("thread main panicked", log).is_err());
        assert!(refusal("/d/raft/log/01.log is damaged", log).unwrap_err().contains("what to do"));
    }

    #[test]
    fn changes_of_the_members_are_counted() {
        let member = |id: &str, is_voter| Member { id: id.to_owned(), name: String::new(), is_leader: false, is_voter };
        let members = |voters: &[&str], learners: &[&str]| {
            let all = voters.iter().map(|id| member(id, true)).chain(learners.iter().map(|id| member(id, false)));
            Members(all.collect())
        };
        let three = members(&["1", "2", "3"], &[]);
        assert_eq!(changes(&Members::default(), &three), 0, "nothing was seen before");
        assert_eq!(changes(&three, &three), 0);
        assert_eq!(changes(&three, &members(&["1", "2", "3"], &["4"])), 1);
        assert_eq!(changes(&members(&["1", "2", "3"], &["4"]), &members(&["1", "2", "3", "4"], &[])), 1);
        assert_eq!(changes(&three, &members(&["1", "2", "9"], &[])), 2);
    }
}
