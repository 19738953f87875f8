//! The log against openraft's own contract, power cuts, torn and damaged files, full and failing disks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use openraft::CommittedLeaderId;
use openraft::entry::FromAppData;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::consensus::Batch;
use crate::disk::RealDisk;
use crate::disk::fault::{FaultDisk, Faults};
use crate::machine::Machine;
use crate::snapshot::Snapshots;
use crate::types::{Snapshot, StateMachine};

const NODE: NodeId = 42;
const CONFIG: LogConfig = LogConfig { segment_bytes: 16 * 1024, cache_bytes_max: 4 * 1024 };

fn dir() -> PathBuf {
    PathBuf::from("/raft/log")
}

fn open(disk: &FaultDisk) -> Result<Log, StartError> {
    Log::open(Arc::new(disk.clone()), &dir(), NODE, &CONFIG)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, NODE), index)
}

fn entry(term: u64, index: u64, payload: &str) -> Entry {
    let commands = vec![Bytes::copy_from_slice(payload.as_bytes())].into();
    let mut entry = Entry::from_app_data(Batch { commands, ..Batch::default() });
    entry.log_id = log_id(term, index);
    entry
}

fn text(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Normal(batch) => String::from_utf8(batch.commands[0].to_vec()).unwrap(),
        Payload::Blank | Payload::Membership(_) => String::new(),
    }
}

/// Waits for what cannot take long, on whatever runtime there is.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time") })
}

struct Nothing;

impl StateMachine for Nothing {
    type Response = ();

    fn apply(&mut self, commands: &[Bytes]) -> Vec<()> {
        vec![(); commands.len()]
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(Nothing)
    }

    fn restore(&mut self, _from: &mut dyn io::Read) -> io::Result<()> {
        Ok(())
    }
}

impl Snapshot for Nothing {
    fn write_to(self: Box<Self>, _to: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

/// openraft's suite appends with holes, which no Raft does and our log refuses: they are filled with blank entries.
struct Filled(Log);

impl RaftLogReader<TypeConfig> for Filled {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.0.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.0.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for Filled {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Log {
        self.0.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.0.save_vote(vote).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.0.read_vote().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        self.0.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        if let (Some(last), Some(first)) = (self.0.get_log_state().await?.last_log_id, entries.first()) {
            let missing = last.index + 1..first.log_id.index;
            let blanks =
                missing.map(|index| Entry { log_id: LogId::new(last.leader_id, index), payload: Payload::Blank });
            entries.splice(0..0, blanks.collect::<Vec<_>>());
        }
        self.0.append(entries, callback).await
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.0.truncate(log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.0.purge(log_id).await
    }
}

struct Builder {
    disk: Arc<dyn Disk>,
}

impl StoreBuilder<TypeConfig, Filled, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Filled, Machine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::clone(&self.disk);
        let log = Log::open(Arc::clone(&disk), &folder.path().join("log"), NODE, &CONFIG).unwrap();
        let store = store::Store::open(folder.path().join("store")).unwrap();
        let snapshots = Snapshots::open(disk, folder.path().join("snapshot"), store).unwrap();
        let machine = Machine::open(Nothing, Arc::new(snapshots)).unwrap();
        Ok((folder, Filled(log), machine))
    }
}

#[test]
fn the_contract_of_openraft_is_kept() {
    Suite::test_all(Builder { disk: Arc::new(RealDisk) }).unwrap();
}

#[test]
fn the_contract_is_kept_on_a_disk_that_completes_late() {
    let disk = FaultDisk::new();
    disk.set(Faults { sync_us: 2_000, ..Faults::default() });
    Suite::test_all(Builder { disk: Arc::new(disk) }).unwrap();
}

/// A writer's life, as a model: what was acknowledged must be there after any power cut.
#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, (u64, String)>,
    vote: Option<Vote>,
    purged: Option<u64>,
}

/// Writes, truncates, purges and votes at random; cuts the power at a random moment; opens again and compares. Answers what
/// was wrong.
fn live_through_power_cuts(disk: &FaultDisk, seed: u64, lives: u32) -> Result<(), String> {
    let mut luck = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    for life in 0..lives {
        let mut log = open(disk).map_err(|e| format!("life {life}: {e}"))?;
        compare(&mut log, &mut model).map_err(|e| format!("life {life}: {e}"))?;
        run(live(&mut log, &mut model, &mut luck, u64::from(life) + 1));
        // What was asked for and not waited for: each may or may not be there.
        let next = model.entries.keys().last().copied().or(model.purged).map_or(0, |last| last + 1);
        run(async {
            let tail: Vec<Entry> = (next..next + 3).map(|index| entry(1_000, index, "unacknowledged")).collect();
            let _ =
                tokio::time::timeout(Duration::from_micros(luck.random_range(0..200)), log.blocking_append(tail)).await;
        });
        disk.cut_power(luck.random());
        drop(log);
    }
    Ok(())
}

async fn live(log: &mut Log, model: &mut Model, luck: &mut StdRng, term: u64) {
    for _ in 0..luck.random_range(1..25) {
        let first = model.purged.map_or(0, |purged| purged + 1);
        let next = model.entries.keys().last().map_or(first, |last| last + 1);
        match luck.random_range(0..10) {
            0 => {
                let vote = Vote::new(term, luck.random());
                log.save_vote(&vote).await.unwrap();
                model.vote = Some(vote);
            }
            1 if next > first => {
                let since = luck.random_range(first..next);
                log.truncate(log_id(term, since)).await.unwrap();
                model.entries.split_off(&since);
            }
            2 if next > first + 2 => {
                let upto = luck.random_range(first..next - 1);
                let (at, _) = model.entries[&upto];
                log.purge(log_id(at, upto)).await.unwrap();
                model.entries = model.entries.split_off(&(upto + 1));
                model.purged = Some(upto);
            }
            _ => {
                let count = luck.random_range(1..5);
                let length = luck.random_range(0..2_000);
                let texts = (next..next + count).map(|index| (index, format!("{term}-{index}-{}", "x".repeat(length))));
                let texts: Vec<_> = texts.collect();
                let entries: Vec<_> = texts.iter().map(|(index, text)| entry(term, *index, text)).collect();
                log.blocking_append(entries).await.unwrap();
                model.entries.extend(texts.into_iter().map(|(index, text)| (index, (term, text))));
            }
        }
    }
}

/// Everything acknowledged is there; of the rest, what is there is learned.
fn compare(log: &mut Log, model: &mut Model) -> Result<(), String> {
    let state = run(log.get_log_state()).map_err(|e| e.to_string())?;
    let vote = run(log.read_vote()).map_err(|e| e.to_string())?;
    if vote != model.vote {
        return Err(format!("vote {vote:?}, expected {:?}", model.vote));
    }
    if state.last_purged_log_id.map(|purged| purged.index) != model.purged {
        return Err(format!("purged {:?}, expected {:?}", state.last_purged_log_id, model.purged));
    }
    let found = run(log.try_get_log_entries(..)).map_err(|e| e.to_string())?;
    let mut found: BTreeMap<u64, (u64, String)> =
        found.iter().map(|entry| (entry.log_id.index, (entry.log_id.leader_id.term, text(entry)))).collect();
    let unacknowledged = found.iter().find(|(_, (_, text))| text == "unacknowledged").map(|(index, _)| *index);
    if let Some(index) = unacknowledged {
        found.split_off(&index);
        run(log.truncate(log_id(1_000, index))).map_err(|e| e.to_string())?;
    }
    if found != model.entries {
        let missing = model.entries.keys().filter(|index| !found.contains_key(index)).count();
        return Err(format!("{missing} entries are missing or others are there"));
    }
    Ok(())
}

#[test]
fn whatever_was_acknowledged_survives_power_cuts() {
    for seed in 0..250 {
        let disk = FaultDisk::new();
        live_through_power_cuts(&disk, seed, 5).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
        assert_eq!(disk.counts().fatals, 0);
    }
}

#[test]
fn a_disk_whose_sync_does_nothing_is_caught() {
    let caught = (0..20).filter(|seed| {
        let disk = FaultDisk::new();
        disk.set(Faults { sync_lies: true, ..Faults::default() });
        live_through_power_cuts(&disk, *seed, 5).is_err()
    });
    assert!(caught.count() >= 15, "the check must see a disk that lies");
}

#[test]
fn damage_before_the_end_is_refused_and_a_torn_end_is_not() {
    let mut refused = 0;
    for seed in 0..120 {
        let mut luck = StdRng::seed_from_u64(seed);
        let disk = FaultDisk::new();
        let mut log = open(&disk).unwrap();
        for index in 0..30 {
            run(log.blocking_append([entry(1, index, &"y".repeat(900))])).unwrap();
        }
        log.stop();
        let mut files = disk.list(&dir()).unwrap();
        files.sort();
        assert!(files.len() > 1);
        // Any bit of the first file that holds something.
        let used = 30 * 1_000 / files.len() / 2;
        disk.flip(&files[0], luck.random_range(0..used)).unwrap();
        match open(&disk) {
            Err(StartError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("seed {seed}: {other}"),
            Ok(mut log) => {
                // A bit that means nothing, such as padding.
                let found = run(log.try_get_log_entries(..)).unwrap();
                assert_eq!(found.len(), 30, "seed {seed}");
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_damaged_write_with_a_later_one_in_the_same_file_is_refused() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    for index in 0..5 {
        run(log.blocking_append([entry(1, index, "small")])).unwrap();
    }
    log.stop();
    let files = disk.list(&dir()).unwrap();
    assert_eq!(files.len(), 1);
    disk.flip(&files[0], 400).unwrap();
    let Err(StartError::Damaged { reason, .. }) = open(&disk) else { panic!("it must be refused") };
    assert!(reason.contains("later write"), "{reason}");
}

/// A torn write is forgotten, since nobody was told of it. Damage must not look like one: what was acknowledged would be gone, or a vote.
#[test]
fn a_flipped_bit_in_the_last_write_is_refused_too() {
    let mut silent = Vec::new();
    let end = last_write(&FaultDisk::new());
    for offset in 0..end {
        let disk = FaultDisk::new();
        last_write(&disk);
        let file = disk.list(&dir()).unwrap().remove(0);
        disk.flip(&file, offset).unwrap();
        match open(&disk) {
            Err(StartError::Damaged { .. }) => {}
            Err(other) => panic!("byte {offset}: {other}"),
            Ok(mut log) => {
                let entries = run(log.try_get_log_entries(..)).unwrap();
                let vote = run(log.read_vote()).unwrap();
                if entries.len() != 3 || vote != Some(Vote::new(7, NODE)) {
                    silent.push(offset);
                }
            }
        }
    }
    assert!(silent.is_empty(), "{} of {end} bytes: {silent:?}", silent.len());
}

/// Three entries and a vote, killed right after the last. Answers how many bytes of the file hold something.
fn last_write(disk: &FaultDisk) -> usize {
    let mut log = open(disk).unwrap();
    for index in 0..3 {
        run(log.blocking_append([entry(1, index, "kept")])).unwrap();
    }
    run(log.save_vote(&Vote::new(7, NODE))).unwrap();
    drop(log);
    let file = disk.list(&dir()).unwrap().remove(0);
    let open = disk.open(&file).unwrap();
    let mut bytes = vec![0; usize::try_from(open.len().unwrap()).unwrap()];
    open.read_at(&mut bytes, 0).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

#[test]
fn a_missing_file_and_another_members_file_are_refused() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    for index in 0..40 {
        run(log.blocking_append([entry(1, index, &"z".repeat(900))])).unwrap();
    }
    log.stop();
    let stranger = Log::open(Arc::new(disk.clone()), &dir(), NODE + 1, &CONFIG);
    assert!(matches!(stranger, Err(StartError::Damaged { .. })));
    let mut files = disk.list(&dir()).unwrap();
    files.sort();
    assert!(files.len() >= 3);
    for file in &files[..2] {
        disk.remove(file).unwrap();
        assert!(matches!(open(&disk), Err(StartError::Damaged { .. })), "{}", file.display());
    }
}

#[test]
fn votes_and_entries_that_wait_together_share_a_sync() {
    let disk = FaultDisk::new();
    disk.set(Faults { sync_us: 20_000, ..Faults::default() });
    let log = open(&disk).unwrap();
    run(async {
        let votes = (0..16).map(|term| {
            let mut log = log.clone();
            async move { log.save_vote(&Vote::new(term, NODE)).await.unwrap() }
        });
        let tasks: Vec<_> = {
            let runtime = tokio::runtime::Handle::current();
            votes.map(|vote| runtime.spawn(vote)).collect()
        };
        for task in tasks {
            task.await.unwrap();
        }
    });
    let syncs = disk.counts().syncs;
    assert!(syncs < 10, "{syncs} syncs for 16 votes");
}

#[test]
fn a_failed_sync_ends_everything_and_acknowledges_nothing() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    run(log.blocking_append([entry(1, 0, "kept")])).unwrap();
    disk.set(Faults { sync_fails_after: Some(disk.counts().syncs), ..Faults::default() });
    assert!(run(log.blocking_append([entry(1, 1, "lost")])).is_err());
    assert_eq!(disk.counts().fatals, 1);
    assert!(run(log.save_vote(&Vote::new(2, NODE))).is_err());
    assert!(run(log.blocking_append([entry(1, 2, "lost")])).is_err());
}

#[test]
fn a_full_disk_makes_the_log_wait_and_go_on() {
    let disk = FaultDisk::new();
    disk.set(Faults { bytes_max: Some(CONFIG.segment_bytes + 100), ..Faults::default() });
    let mut log = open(&disk).unwrap();
    let writer = thread::spawn({
        let mut log = log.clone();
        move || {
            for index in 0..40 {
                run(log.blocking_append([entry(1, index, &"f".repeat(900))])).unwrap();
            }
        }
    });
    while !log.is_disk_full() {
        thread::sleep(Duration::from_millis(5));
    }
    disk.set(Faults::default());
    writer.join().unwrap();
    assert!(!log.is_disk_full());
    assert_eq!(run(log.try_get_log_entries(..)).unwrap().len(), 40);
}

#[test]
fn a_full_disk_does_not_hold_up_the_end() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    disk.set(Faults { bytes_max: Some(1), ..Faults::default() });
    let stopper = log.clone();
    let stop = thread::spawn(move || {
        while !stopper.is_disk_full() {
            thread::sleep(Duration::from_millis(5));
        }
        stopper.stop();
    });
    assert!(run(log.blocking_append([entry(1, 0, &"f".repeat(20_000))])).is_err());
    stop.join().unwrap();
}

#[test]
fn a_disk_that_is_full_at_the_first_start_is_an_error() {
    let disk = FaultDisk::new();
    disk.set(Faults { bytes_max: Some(1), ..Faults::default() });
    assert!(matches!(open(&disk), Err(StartError::Disk { .. })));
    disk.set(Faults::default());
    assert!(open(&disk).is_ok());
}

#[test]
fn old_entries_are_read_from_the_disk_and_the_files_are_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut log = Log::open(Arc::new(RealDisk), &path, NODE, &CONFIG).unwrap();
    for index in 0..400 {
        run(log.blocking_append([entry(1, index, &format!("{index}-{}", "v".repeat(500)))])).unwrap();
        if index % 50 == 49 {
            run(log.purge(log_id(1, index - 20))).unwrap();
        }
    }
    let entries = run(log.try_get_log_entries(380..400)).unwrap();
    assert_eq!(entries.len(), 20);
    for (entry, index) in entries.iter().zip(380..) {
        assert!(text(entry).starts_with(&format!("{index}-")));
    }
    let files = RealDisk.list(&path).unwrap();
    assert!(files.len() <= 5, "{files:?}");
    drop(log);
    let mut log = Log::open(Arc::new(RealDisk), &path, NODE, &CONFIG).unwrap();
    assert_eq!(run(log.try_get_log_entries(..)).unwrap().len(), 20);
    assert_eq!(run(log.read_committed()).unwrap(), None);
}

#[test]
fn an_entry_larger_than_a_segment_is_kept() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    let large = "l".repeat(100_000);
    run(log.blocking_append([entry(1, 0, "small"), entry(1, 1, &large), entry(1, 2, "small")])).unwrap();
    log.stop();
    let mut log = open(&disk).unwrap();
    let found = run(log.try_get_log_entries(..)).unwrap();
    assert_eq!(found.iter().map(text).collect::<Vec<_>>(), ["small", &large, "small"]);
}

#[test]
fn a_reader_takes_no_more_than_fits_into_a_message() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    let large = "m".repeat(READ_BYTES_MAX / 2 - 100);
    for index in 0..4 {
        run(log.blocking_append([entry(1, index, &large)])).unwrap();
    }
    assert_eq!(run(log.limited_get_log_entries(0, 4)).unwrap().len(), 2);
    let huge = "m".repeat(READ_BYTES_MAX * 2);
    run(log.blocking_append([entry(1, 4, &huge)])).unwrap();
    assert_eq!(run(log.limited_get_log_entries(4, 5)).unwrap().len(), 1, "at least one");
}

#[test]
fn a_snapshot_that_contradicts_the_log_wins() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    for index in 0..10 {
        run(log.blocking_append([entry(1, index, "old")])).unwrap();
    }
    run(log.fit(Some(log_id(1, 5)), &dir())).unwrap();
    assert_eq!(run(log.try_get_log_entries(..)).unwrap().len(), 10, "it agrees: nothing is touched");
    run(log.fit(Some(log_id(3, 5)), &dir())).unwrap();
    for _ in 0..2 {
        let state = run(log.get_log_state()).unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(3, 5)), Some(log_id(3, 5))));
        log.stop();
        log = open(&disk).unwrap();
    }
    assert!(matches!(run(log.fit(Some(log_id(1, 2)), &dir())), Err(StartError::Damaged { .. })));
    assert!(matches!(run(log.fit(None, &dir())), Err(StartError::Damaged { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_entry_is_read_as_it_was_written(commands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..6)) {
        let commands: Vec<Bytes> = commands.into_iter().map(Bytes::from).collect();
        let batch = Batch { commands: commands.clone().into(), ..Batch::default() };
        let encoded = encode(&EntryPayload::Normal(batch)).unwrap();
        let Payload::Normal(found) = decode(&encoded).unwrap() else { panic!("a batch") };
        prop_assert_eq!(&found.commands[..], &commands[..]);
    }
}

/// What the first version wrote must be read for ever, or until a version says otherwise.
#[test]
fn the_first_version_is_read() {
    let written = b"\x01\x81\xa6Normal\x81\xa8commands\x91\xc4\x03abc";
    let Payload::Normal(batch) = decode(written).unwrap() else { panic!("a batch") };
    assert_eq!(&batch.commands[..], [Bytes::from_static(b"abc")]);
    assert_eq!(
        &encode(&EntryPayload::Normal(Batch { commands: batch.commands, ..Batch::default() })).unwrap()[..],
        written
    );
    let later = b"\x02\x81\xa6Normal\x81\xa8commands\x91\xc4\x03abc";
    assert!(decode(later).is_err());
    let with_a_new_field = b"\x01\x81\xa6Normal\x82\xa8commands\x91\xc4\x03abc\xa3new\x01";
    assert!(decode(with_a_new_field).is_ok());
}

#[test]
fn a_leader_that_starts_again_is_a_mere_candidate_and_follows_whom_it_followed() {
    for (voted_for, committed) in [(NODE, false), (NODE + 1, true)] {
        let disk = FaultDisk::new();
        let mut log = open(&disk).unwrap();
        let vote = Vote::new_committed(5, voted_for);
        run(log.save_vote(&vote)).unwrap();
        assert_eq!(run(log.read_vote()).unwrap(), Some(vote));
        drop(log);
        let vote = run(open(&disk).unwrap().read_vote()).unwrap();
        assert_eq!(vote, Some(Vote { committed, ..Vote::new(5, voted_for) }));
    }
}

#[test]
fn the_bytes_that_are_kept_are_counted_from_the_end() {
    let disk = FaultDisk::new();
    let mut log = open(&disk).unwrap();
    run(log.blocking_append((1..=10).map(|index| entry(1, index, &"x".repeat(1_000))))).unwrap();
    assert_eq!(log.beyond(1_000_000), None);
    assert_eq!(log.beyond(0), Some(10));
    assert_eq!(log.beyond(3_500), Some(7));
}

#[test]
fn segments_are_dropped_so_that_a_power_cut_leaves_no_hole() {
    for seed in 0..30 {
        let disk = FaultDisk::new();
        let mut log = open(&disk).unwrap();
        for index in 1..=60 {
            run(log.blocking_append([entry(1, index, &"x".repeat(2_000))])).unwrap();
        }
        let cut_at = disk.counts().removals + 1 + seed % 5;
        disk.set(Faults { cut_at_removal: Some((cut_at, seed)), ..Faults::default() });
        run(log.purge(log_id(1, 55))).unwrap();
        drop(log);
        assert_eq!(disk.counts().removals, cut_at, "the power was cut");
        disk.set(Faults::default());
        let mut log = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let left = run(log.try_get_log_entries(56..=60)).unwrap();
        assert_eq!(left.len(), 5, "seed {seed}");
    }
}
