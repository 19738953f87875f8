//! The order of all transactions, found by `adya`: strict serializability of the whole history.
//!
//! It infers from the lists who wrote before whom and who has read what, adds who had ended before whom began, and
//! looks for cycles.

use std::time::Duration;

use adya::history::{History, Interner, Mop, Op as Event, OpType, ReadValue, Scalar};
use adya::{Opts, Valid, Workload, check};

use super::judge::Op;
use super::{Answer, Call};

/// How long cycles are looked for, in each part of the history that has one.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What contradicts every order, in words; `Err` when it could not be decided.
pub(super) fn violations(operations: &[Op]) -> Result<Vec<String>, String> {
    let options = Opts { models: vec!["strict-serializable".to_owned()], timeout: TIMEOUT, ..Opts::default() };
    let report = check(&history(operations), Workload::ListAppend, &options);
    let is_empty = report.anomaly_types == ["empty-transaction-graph"];
    match report.valid {
        Valid::True => Ok(Vec::new()),
        Valid::False => Ok(report.anomalies.into_iter().map(|(kind, all)| told(&kind, &all)).collect()),
        // Nothing was appended and seen: then too little was done, which is found elsewhere.
        Valid::Unknown if is_empty => Ok(Vec::new()),
        Valid::Unknown => Err(format!("the order of transactions: {:?}", report.anomaly_types)),
    }
}

/// The first of its kind, on one line.
fn told(kind: &str, anomalies: &[adya::Anomaly]) -> String {
    let first = anomalies.first().map_or(String::new(), |one| one.explanation.replace('\n', " "));
    format!("no order of transactions, {kind} ({} times): {first}", anomalies.len())
}

/// Calls and returns in the order of their times. At one time calls come first: then the two may have been at once.
fn history(operations: &[Op]) -> History {
    let mut interner = Interner::default();
    let mut events = Vec::new();
    for (process, operation) in operations.iter().enumerate() {
        let Some((kind, call, answer)) = told_to_adya(operation, &mut interner) else { continue };
        let event = |kind, value, ns: u64| {
            let (process, time) = (i64::try_from(process).ok(), i64::try_from(ns).ok());
            Event { index: 0, kind, process, value, time }
        };
        events.push(event(OpType::Invoke, call, operation.start_ns));
        events.push(event(kind, answer, operation.end_ns));
    }
    events.sort_by_key(|event| (event.time, event.kind != OpType::Invoke));
    for (index, event) in (0..).zip(&mut events) {
        event.index = index;
    }
    History::from_ops(events, interner)
}

/// How an operation ended, what it was called with, and what it did. Reads without an answer say nothing.
fn told_to_adya(operation: &Op, interner: &mut Interner) -> Option<(OpType, Vec<Mop>, Vec<Mop>)> {
    let mut words = Words(interner);
    let seen = match &operation.seen {
        Some(Some(Answer::Lists(seen))) => Some(seen),
        _ => None,
    };
    match &operation.call {
        Call::Read { lists } => {
            let call = lists.iter().map(|list| words.read(list, None)).collect();
            let answer = lists.iter().zip(seen?).map(|(list, values)| words.read(list, Some(values))).collect();
            Some((OpType::Ok, call, answer))
        }
        Call::Append { parts, doomed } => {
            let (mut call, mut answer) = (Vec::new(), Vec::new());
            for (at, part) in parts.iter().enumerate() {
                call.push(words.read(&part.list, None));
                answer.push(words.read(&part.list, seen.map(|_| &*part.before)));
                if let Some(add) = part.add {
                    let append = words.append(&part.list, add);
                    let after = words.read(&part.list, seen.and_then(|seen| seen.get(at)).map(Vec::as_slice));
                    call.push(append.clone());
                    answer.extend([append, after]);
                }
            }
            let kind = match (seen, &operation.seen) {
                (Some(_), _) => OpType::Ok,
                (None, Some(None)) if !doomed => OpType::Info,
                (None, _) => OpType::Fail,
            };
            Some((kind, call, answer))
        }
        Call::Markers => None,
    }
}

struct Words<'a>(&'a mut Interner);

impl Words<'_> {
    fn read(&mut self, list: &str, values: Option<&[u64]>) -> Mop {
        let value = match values {
            Some(values) => ReadValue::List(values.iter().map(|value| self.number(*value)).collect()),
            None => ReadValue::Nil,
        };
        Mop::Read { key: self.key(list), value }
    }

    fn append(&mut self, list: &str, add: u64) -> Mop {
        Mop::Append { key: self.key(list), value: self.number(add) }
    }

    fn key(&mut self, list: &str) -> u32 {
        self.0.intern(Scalar::Str(list.to_owned()))
    }

    fn number(&mut self, value: u64) -> u32 {
        self.0.intern(Scalar::Int(i64::try_from(value).unwrap_or(i64::MAX)))
    }
}
