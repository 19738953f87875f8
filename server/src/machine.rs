//! The catalog as Raft's state machine: commands in, one publication per batch out.

use std::io::{self, Read, Write};
use std::sync::Arc;

use catalog::{Catalog, Command, DecodeError, Response};
use faults::Bug;
use raft::Bytes;

use crate::watch::Watch;

/// The catalog that Raft's log changes. [`Watch`] shows it to readers.
pub(crate) struct Machine {
    catalog: Catalog,
    watch: Arc<Watch>,
}

impl Machine {
    pub(crate) fn new(watch: Arc<Watch>) -> Self {
        Machine { catalog: (*watch.current()).clone(), watch }
    }
}

impl raft::StateMachine for Machine {
    type Response = Response;

    fn apply(&mut self, commands: &[Bytes]) -> Vec<Response> {
        let mut topics = Vec::new();
        let responses = commands
            .iter()
            .map(|bytes| {
                let command = Command::decode(bytes).unwrap_or_else(|error| stop(&error));
                let time_ms = Command::time_ms(bytes);
                if faults::has_each(Bug::ReplicasDiffer, 64) && faults::server().is_multiple_of(2) {
                    self.catalog.apply_at(time_ms, command.clone());
                }
                let (response, changes) = self.catalog.apply_at(time_ms, command);
                topics.extend(changes);
                response
            })
            .collect();
        topics.sort_unstable();
        topics.dedup();
        self.watch.publish(self.catalog.clone(), &topics);
        responses
    }

    fn snapshot(&self) -> Box<dyn raft::Snapshot> {
        Box::new(CatalogSnapshot(self.catalog.clone()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        self.catalog = Catalog::read_snapshot(from).map_err(io::Error::other)?;
        self.watch.replace(self.catalog.clone());
        Ok(())
    }
}

/// Ends the process, at once: a server that went on without a command that the others apply would serve another truth.
/// The command stays in the log, and a release that can read it goes on from there.
fn stop(error: &DecodeError) -> ! {
    eprintln!("fatal: {}", last_words(error));
    std::process::abort()
}

fn last_words(error: &DecodeError) -> String {
    let own = env!("CARGO_PKG_VERSION");
    let advice = match error {
        DecodeError::Newer { .. } => "upgrade this server to the release of the newest server of the cluster",
        DecodeError::Malformed(_) => {
            "if other servers run a newer release, upgrade this server; if not, empty its data folder and join as a new server"
        }
    };
    format!(
        "a replicated command cannot be read by release {own}: {error}. This process stops, lest its catalog differ from the others': {advice}."
    )
}

struct CatalogSnapshot(Catalog);

impl raft::Snapshot for CatalogSnapshot {
    fn write_to(self: Box<Self>, to: &mut dyn Write) -> io::Result<()> {
        self.0.write_snapshot(to).map_err(as_io)
    }
}

/// A full disk stays one: it is waited for.
fn as_io(error: catalog::SnapshotError) -> io::Error {
    match error {
        catalog::SnapshotError::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command as Process, Stdio};

    struct Full;

    impl Write for Full {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_from_one_that_fails() {
        let snapshot: Box<dyn raft::Snapshot> = Box::new(CatalogSnapshot(Catalog::default()));
        let error = snapshot.write_to(&mut Full).expect_err("it is full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    const CRAFTED: &str = "TRIBUNE_TEST_CRAFTED_COMMAND";

    /// Runs itself as a child that applies the command, and looks at how the child ended.
    #[test]
    fn a_command_that_cannot_be_read_stops_the_process() {
        if let Ok(crafted) = std::env::var(CRAFTED) {
            let bytes: Vec<u8> = crafted.split(',').map(|byte| byte.parse().expect("a byte")).collect();
            raft::StateMachine::apply(&mut Machine::new(Arc::new(Watch::new(Catalog::new()))), &[bytes.into()]);
            return;
        }
        let good = Command::Deregister(catalog::Deregistration::default()).encode();
        let newer: Vec<u8> = [&[200], &good[1..]].concat();
        let malformed = &good[..good.len() - 1];
        assert_eq!(applied_by_a_child(&good), (true, String::new()));
        for (bytes, words) in
            [(&*newer, "format 200 is newer than this release reads"), (malformed, "not in the catalog's format")]
        {
            let (goes_on, said) = applied_by_a_child(bytes);
            assert!(!goes_on, "{words}");
            for part in [words, "upgrade this server", env!("CARGO_PKG_VERSION")] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }

    /// Whether the child lived through it, and what it said of a fatal end.
    fn applied_by_a_child(command: &[u8]) -> (bool, String) {
        let crafted = command.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let child = Process::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "machine::tests::a_command_that_cannot_be_read_stops_the_process", "--nocapture"])
            .env(CRAFTED, crafted)
            .stdin(Stdio::null())
            .output()
            .expect("a child");
        let said = String::from_utf8_lossy(&child.stderr);
        let fatal = said.lines().filter(|line| line.starts_with("fatal: ")).collect();
        (child.status.success(), fatal)
    }
}
