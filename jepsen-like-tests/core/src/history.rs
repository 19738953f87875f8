//! What the clients did and saw: operations on one register each, with the time of their call and of their return.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The value of a key. Every write of a run writes another number, so a value names its write.
pub type Value = u64;

/// What was asked of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// Read the value.
    Read,
    /// Set the value whatever it is.
    Write(Value),
    /// Set the value if it is still the one expected; `None` expects that there is no key.
    Cas {
        /// The value at the `ModifyIndex` that the request named.
        expected: Option<Value>,
        /// The value to set.
        new: Value,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A read returned this value; `None` when there is no key.
    Saw(Option<Value>),
    /// A write or compare-and-set was acknowledged.
    Done,
    /// A compare-and-set was refused: the value was another one.
    Refused,
    /// It is proven that nothing was changed.
    Failed,
    /// It may have been carried out, now or at any later time, or never.
    Unknown,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Which client; a client has one operation at a time.
    pub client: usize,
    /// Which key.
    pub key: String,
    /// What was asked.
    pub call: Call,
    /// What came of it.
    pub outcome: Outcome,
    /// When it was called, in nanoseconds of the run.
    pub start_ns: u64,
    /// When it returned, in nanoseconds of the run.
    pub end_ns: u64,
}

impl Operation {
    /// The value that this operation may have written.
    pub fn written(&self) -> Option<Value> {
        match (self.call, self.outcome) {
            (_, Outcome::Failed | Outcome::Refused) | (Call::Read, _) => None,
            (Call::Write(new) | Call::Cas { new, .. }, _) => Some(new),
        }
    }

    /// Whether the cluster said that the write is kept.
    pub fn acknowledged(&self) -> bool {
        self.outcome == Outcome::Done
    }
}

/// Writes the history, one JSON operation a line.
pub fn save(operations: &[Operation], path: &Path) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for operation in operations {
        serde_json::to_writer(&mut file, operation)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_history_reads_back() {
        let operations: Vec<Operation> = [
            (Call::Read, Outcome::Saw(None)),
            (Call::Write(1), Outcome::Done),
            (Call::Cas { expected: Some(1), new: 2 }, Outcome::Refused),
            (Call::Cas { expected: None, new: 3 }, Outcome::Unknown),
        ]
        .into_iter()
        .map(|(call, outcome)| Operation { client: 1, key: "k".to_owned(), call, outcome, start_ns: 1, end_ns: 2 })
        .collect();
        let path = std::env::temp_dir().join(format!("jlt-history-{}.jsonl", std::process::id()));
        save(&operations, &path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Vec<Operation> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, operations);
        std::fs::remove_file(&path).unwrap();
    }
}
