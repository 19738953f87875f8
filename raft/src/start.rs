//! What happens before openraft runs: settings are checked, the disk is read, and what was found must fit together.

use std::path::PathBuf;
use std::sync::Arc;

use openraft::SnapshotPolicy;
use store::Store;

use crate::StartError;
use crate::disk::Disk;
use crate::log::{Log, LogConfig};
use crate::machine::Machine;
use crate::snapshot::Snapshots;
use crate::types::{Config, NodeId, StateMachine};
use crate::wire::MESSAGE_BYTES_MAX;

/// What MessagePack adds to a command, at most.
const COMMAND_OVERHEAD_BYTES: usize = 8;
/// What stands around a batch in a message: ids, names of fields, the envelope.
const MESSAGE_OVERHEAD_BYTES: usize = 64 * 1024;

/// What a member has on its disk.
pub(crate) struct Opened {
    pub(crate) id: NodeId,
    pub(crate) log: Log,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) machine: Machine,
}

impl Opened {
    /// With a log that fits the snapshot.
    pub(crate) async fn fitted(self, config: &Config) -> Result<Opened, StartError> {
        let snapshot = self.snapshots.current().and_then(|(head, _file)| head.last_log_id);
        self.log.fit(snapshot, &log_dir(config)).await?;
        Ok(self)
    }
}

/// Reads what is on the disk. Blocks.
pub(crate) fn open<S: StateMachine>(disk: &Arc<dyn Disk>, config: &Config, machine: S) -> Result<Opened, StartError> {
    let store = Store::open(config.dir.join("store"))?;
    let id = node_id(&store)?;
    let log_config = LogConfig { segment_bytes: config.segment_bytes, cache_bytes_max: config.cache_bytes_max };
    let log_dir = log_dir(config);
    let begun = store.tree::<bool>("raft/log")?;
    if begun.get("begun")? == Some(true) && !Log::exists(&**disk, &log_dir)? {
        // Its votes and entries are forgotten, and others count on them.
        return Err(StartError::Damaged { path: log_dir, reason: "the log is gone".into() });
    }
    let log = Log::open(Arc::clone(disk), &log_dir, id, &log_config)?;
    begun.insert("begun", &true)?;
    store.commit();
    let snapshots = Snapshots::open(Arc::clone(disk), config.dir.join("snapshot"), store)?;
    let snapshots = Arc::new(snapshots);
    let failed = |e: std::io::Error| StartError::Damaged { path: config.dir.join("snapshot"), reason: e.to_string() };
    let machine = Machine::open(machine, Arc::clone(&snapshots)).map_err(failed)?;
    Ok(Opened { id, log, snapshots, machine })
}

fn log_dir(config: &Config) -> PathBuf {
    config.dir.join("log")
}

/// The number that was drawn at the first start.
fn node_id(store: &Store) -> Result<NodeId, StartError> {
    let tree = store.tree::<NodeId>("raft/id")?;
    if let Some(id) = tree.get("id")? {
        return Ok(id);
    }
    // 0 is left free, to mean "nobody" where a number must stand.
    let id = rand::random_range(1..=NodeId::MAX);
    tree.insert("id", &id)?;
    store.commit();
    Ok(id)
}

pub(crate) fn core_config(config: &Config) -> Result<openraft::Config, StartError> {
    // A batch below its limit takes one more command; each has a length, and the message says whom it is for.
    let lengths = config.batch_commands_max.saturating_mul(COMMAND_OVERHEAD_BYTES);
    let batch = config.batch_bytes_max.saturating_add(config.command_bytes_max).saturating_add(lengths);
    if batch > MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD_BYTES {
        return Err(StartError::Config(format!(
            "a batch and one more command may have {} bytes together, with {COMMAND_OVERHEAD_BYTES} more for each command, not {batch}",
            MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD_BYTES
        )));
    }
    let core = openraft::Config {
        cluster_name: "tribune".into(),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_ms_min,
        election_timeout_max: config.election_ms_max,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every_entries),
        max_in_snapshot_log_to_keep: config.log_entries_kept,
        ..openraft::Config::default()
    };
    core.validate().map_err(|e| StartError::Config(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_batch_fits_into_a_message_or_the_settings_are_refused() {
        let with = |command: usize, batch: usize, commands: usize| {
            let mut config = Config::new("/x", "n", "a");
            (config.command_bytes_max, config.batch_bytes_max, config.batch_commands_max) = (command, batch, commands);
            core_config(&config).is_ok()
        };
        const MIB: usize = 1024 * 1024;
        assert!(with(MIB, MIB, 4096));
        assert!(with(15 * MIB, 15 * MIB, 4096));
        assert!(!with(16 * MIB, 16 * MIB, 1), "no room for what stands around them");
        assert!(!with(1, 31 * MIB, MIB), "no room for the lengths of a million commands");
        assert!(!with(usize::MAX, 1, 1));
    }
}
