//! The history of a run with several workloads: what each client asked and what came of it, in JSON, one record a line.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The workload that it belongs to.
    pub workload: String,
    /// Which client; a client has one operation at a time.
    pub client: usize,
    /// The server that was asked.
    pub server: usize,
    /// How often that server had been started.
    pub life: u32,
    /// What was asked, in the words of the workload.
    pub call: Value,
    /// What came of it.
    pub outcome: Outcome,
    /// When it was called, in nanoseconds of the run.
    pub start_ns: u64,
    /// When it returned.
    pub end_ns: u64,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// An answer, in the words of the workload.
    Ok(Value),
    /// It is proven that nothing was changed.
    Failed(String),
    /// It may have been carried out, now or at any later time, or never.
    Unknown(String),
}

/// A record with the types of its workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Typed<C, S> {
    /// Which client.
    pub client: usize,
    /// Which server.
    pub server: usize,
    /// How often it had been started.
    pub life: u32,
    /// What was asked.
    pub call: C,
    /// The answer; `None` when nothing changed, `Some(None)` when that is not known.
    pub seen: Option<Option<S>>,
    /// When it was called, in nanoseconds of the run.
    pub start_ns: u64,
    /// When it returned.
    pub end_ns: u64,
}

/// Operations by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Answered.
    pub ok: usize,
    /// Proven not to have happened.
    pub failed: usize,
    /// May have happened.
    pub unknown: usize,
}

/// The records of one workload with its own types, in the order in which they were called. `Err` when one cannot be read.
pub fn typed<C: DeserializeOwned, S: DeserializeOwned>(
    history: &[Record],
    workload: &str,
) -> Result<Vec<Typed<C, S>>, String> {
    let mut records: Vec<&Record> = history.iter().filter(|record| record.workload == workload).collect();
    records.sort_by_key(|record| record.start_ns);
    let unreadable = |error: serde_json::Error| format!("a record of {workload} cannot be read: {error}");
    let read = |record: &&Record| {
        let seen = match &record.outcome {
            Outcome::Ok(value) => Some(Some(S::deserialize(value).map_err(unreadable)?)),
            Outcome::Failed(_) => None,
            Outcome::Unknown(_) => Some(None),
        };
        Ok(Typed {
            client: record.client,
            server: record.server,
            life: record.life,
            call: C::deserialize(&record.call).map_err(unreadable)?,
            seen,
            start_ns: record.start_ns,
            end_ns: record.end_ns,
        })
    };
    records.iter().map(read).collect()
}

/// Counts each workload's operations.
pub fn tally(history: &[Record]) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for record in history {
        let tally = tallies.entry(record.workload.clone()).or_default();
        match record.outcome {
            Outcome::Ok(_) => tally.ok += 1,
            Outcome::Failed(_) => tally.failed += 1,
            Outcome::Unknown(_) => tally.unknown += 1,
        }
    }
    tallies
}

/// Writes the history, one record a line.
pub fn save(history: &[Record], path: &Path) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for record in history {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads a history back.
pub fn load(path: &Path) -> Result<Vec<Record>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let read = |line: &str| serde_json::from_str(line).map_err(|error| format!("{}: {error}", path.display()));
    text.lines().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: Outcome) -> Record {
        let call = serde_json::json!(7);
        Record { workload: "w".to_owned(), client: 1, server: 2, life: 3, call, outcome, start_ns: 4, end_ns: 5 }
    }

    #[test]
    fn a_history_reads_back_with_its_types() {
        let outcomes = [Outcome::Ok(8.into()), Outcome::Failed("f".to_owned()), Outcome::Unknown("u".to_owned())];
        let history: Vec<Record> = outcomes.into_iter().map(record).collect();
        let path = std::env::temp_dir().join(format!("jlt-record-{}.jsonl", std::process::id()));
        save(&history, &path).unwrap();
        assert_eq!(load(&path).unwrap(), history);
        std::fs::remove_file(&path).unwrap();
        let seen: Vec<_> = typed::<u8, u8>(&history, "w").unwrap().into_iter().map(|typed| typed.seen).collect();
        assert_eq!(seen, [Some(Some(8)), None, Some(None)]);
        assert!(typed::<String, u8>(&history, "w").is_err());
        assert_eq!(tally(&history)["w"], Tally { ok: 1, failed: 1, unknown: 1 });
    }
}
