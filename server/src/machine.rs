//! The catalog as Raft's state machine: commands in, one publication per batch out.

use std::io::{self, Read, Write};
use std::sync::Arc;

use catalog::{Catalog, Command, DecodeError, Refusal, Response};
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
            .map(|bytes| match Command::decode(bytes) {
                Ok(command) => {
                    let (response, changes) = self.catalog.apply(command);
                    topics.extend(changes);
                    response
                }
                Err(DecodeError::Malformed(reason)) => {
                    Response::Refused(Refusal::Invalid(format!("malformed command: {reason}")))
                }
                // Invariant: a member that went on without a command that the others apply would serve another truth.
                Err(error @ DecodeError::Newer { .. }) => panic!("{error}"),
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

struct CatalogSnapshot(Catalog);

impl raft::Snapshot for CatalogSnapshot {
    fn write_to(self: Box<Self>, to: &mut dyn Write) -> io::Result<()> {
        self.0.write_snapshot(to).map_err(io::Error::other)
    }
}
