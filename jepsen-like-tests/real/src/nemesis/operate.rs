//! Carries operations out: one at a time, step by step, while other faults come and go. A step that does not come to its end though nothing else
//! is wrong is a finding.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jlt_core::plan::{Fault, Planned, Target};

use super::script::{Step, script};
use super::{Happened, Nemesis};
use crate::cluster::{SERVERS, name};

/// How long a step may take when nothing else is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// An operation on its way.
pub(super) struct Operation {
    pub(super) planned: Planned,
    servers: Vec<usize>,
    start_ms: u64,
    steps: VecDeque<Step>,
    /// When the step began that is the first now; none before it has.
    since: Option<Instant>,
    effects: Vec<String>,
}

/// What became of a step.
enum Progress {
    Done,
    Wait,
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
        Operation { planned, servers, start_ms: self.now_ms(), steps, since: None, effects: Vec::new() }
    }

    fn finish(&mut self, operation: Operation) -> Result<(), String> {
        let Operation { planned, servers, start_ms, effects, .. } = operation;
        let (end_ms, effect) = (self.now_ms(), effects.join(", "));
        self.havoc.happened.push(Happened { fault: planned.fault, servers, start_ms, end_ms, effect });
        self.hosts.iter_mut().for_each(|host| host.out = false);
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
            Step::Wait(ms) if since.elapsed() < Duration::from_millis(*ms) => Ok(Progress::Wait),
            Step::Wait(_) => Ok(Progress::Done),
        }
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
            Some((status, words)) => {
                let what = format!("{} was told to stop and ended so ({status}): {words}", name(server));
                if self.is_excused(server) { self.havoc.notes.push(what) } else { self.havoc.violations.push(what) }
            }
            None => {}
        }
        Ok(Progress::Done)
    }
}
