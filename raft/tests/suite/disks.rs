//! A whole server on a disk that fills up, fails, or loses power.

use std::sync::Arc;
use std::time::Duration;

use raft::disk::fault::{FaultDisk, Faults};
use raft::{Bytes, Config, ProposeError, Raft};
use tempfile::TempDir;

use crate::common::{Ledger, Nobody, UNWRITABLE, eventually};

async fn start(disk: &FaultDisk, folder: &TempDir) -> (Raft<Ledger>, Ledger) {
    let mut config = Config::new(folder.path(), "alone", "127.0.0.1:1");
    config.segment_bytes = 16 * 1024;
    config.snapshot_every_entries = 20;
    config.log_entries_kept = 3;
    config.propose_timeout_ms = 500;
    let ledger = Ledger::default();
    let (raft, _service) = Raft::start_on(Arc::new(disk.clone()), config, ledger.clone(), Nobody).await.unwrap();
    if !raft.is_initialized().await.unwrap() {
        raft.bootstrap(vec![raft.member()]).await.unwrap();
    }
    let leader = raft.clone();
    eventually("it leads", || leader.is_leader()).await;
    (raft, ledger)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let (disk, folder) = (FaultDisk::new(), tempfile::tempdir().unwrap());
    let (raft, ledger) = start(&disk, &folder).await;
    disk.set(Faults { bytes_max: Some(1), ..Faults::default() });
    let value = Bytes::from(vec![b'x'; 4_000]);
    let mut kept = 0;
    let mut last = Ok(0);
    for _ in 0..20 {
        last = raft.propose(value.clone()).await;
        if last == Err(ProposeError::DiskFull) {
            break;
        }
        kept += u64::from(last.is_ok());
    }
    assert_eq!(last, Err(ProposeError::DiskFull));
    assert!(raft.status().disk_full);
    disk.set(Faults::default());
    let status = raft.clone();
    eventually("there is space again", || !status.status().disk_full).await;
    let mut place = raft.propose(value.clone()).await;
    while place == Err(ProposeError::DiskFull) {
        place = raft.propose(value.clone()).await;
    }
    // The one that was answered with Unknown may count.
    assert!(place.unwrap() >= kept);
    assert!(ledger.values.lock().unwrap().len() as u64 > kept);
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_waits_for_a_full_disk() {
    let (disk, folder) = (FaultDisk::new(), tempfile::tempdir().unwrap());
    let (raft, _ledger) = start(&disk, &folder).await;
    raft.propose(Bytes::from(vec![b's'; 1_000])).await.unwrap();
    disk.set(Faults { bytes_max: Some(1), ..Faults::default() });
    raft.snapshot_now().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    raft.propose(Bytes::from_static(b"goes on")).await.unwrap();
    assert_eq!(raft.status().snapshot, 0);
    disk.set(Faults::default());
    let status = raft.clone();
    eventually("the snapshot is there", || status.status().snapshot > 0).await;
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_cannot_go_on_ends() {
    let (disk, folder) = (FaultDisk::new(), tempfile::tempdir().unwrap());
    let (raft, _ledger) = start(&disk, &folder).await;
    raft.propose(Bytes::from_static(UNWRITABLE)).await.unwrap();
    raft.snapshot_now().await.unwrap();
    // A real disk ends the process here.
    eventually("it ends", || disk.counts().fatals == 1).await;
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_server_and_acknowledges_nothing() {
    let (disk, folder) = (FaultDisk::new(), tempfile::tempdir().unwrap());
    let (raft, _ledger) = start(&disk, &folder).await;
    raft.propose(Bytes::from_static(b"kept")).await.unwrap();
    disk.set(Faults { sync_fails_after: Some(disk.counts().syncs), ..Faults::default() });
    let lost = raft.propose(Bytes::from_static(b"lost")).await;
    assert_eq!(lost, Err(ProposeError::Unknown));
    // A real disk ends the process here.
    assert!(disk.counts().fatals >= 1);
    let mut watch = raft.watch();
    let stopped = watch.wait_for(|now| now.is_stopped);
    tokio::time::timeout(Duration::from_secs(20), stopped).await.unwrap().unwrap();
    assert_eq!(raft.propose(Bytes::from_static(b"after")).await, Err(ProposeError::Stopped));
    raft.shutdown().await;
}

/// Proposers write while the power is cut, again and again, with snapshots and purges under way: whatever was answered is
/// there in the end, once and in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_answered_survives_power_cuts_under_load() {
    for seed in 0..6u64 {
        let (disk, folder) = (FaultDisk::new(), tempfile::tempdir().unwrap());
        let mut kept = Vec::new();
        for life in 0..5 {
            let (raft, _ledger) = start(&disk, &folder).await;
            let mut tasks = Vec::new();
            for client in 0..8 {
                let raft = raft.clone();
                tasks.push(tokio::spawn(async move {
                    let mut answered = Vec::new();
                    for number in 0.. {
                        let value = Bytes::from(format!("{life}-{client}-{number}-{}", "v".repeat(200)));
                        match raft.propose(value.clone()).await {
                            Ok(place) => answered.push((usize::try_from(place).unwrap(), value)),
                            Err(_) => return answered,
                        }
                    }
                    answered
                }));
            }
            tokio::time::sleep(Duration::from_millis(10 + seed * 7)).await;
            disk.cut_power(seed * 100 + life);
            for task in tasks {
                kept.extend(task.await.unwrap());
            }
            raft.shutdown().await;
        }
        let (raft, ledger) = start(&disk, &folder).await;
        raft.read_index().await.unwrap();
        let values = ledger.values.lock().unwrap().clone();
        for (place, value) in &kept {
            assert_eq!(values.get(*place), Some(value), "seed {seed}");
        }
        assert!(!kept.is_empty());
        raft.shutdown().await;
    }
}
