//! What must hold when leaders start again, disks fill up, hang or are slow, and callers go away.

use std::path::Path;
use std::time::Duration;

use crate::common::{Cluster, eventually};
use raft::disk::fault::Faults;
use raft::{Bytes, MembershipError, ReadError};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.file_name() != "new.tmp" {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A process that is killed leaves its files as they are; with a fast start it may still be the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_killed_and_starts_again_confirms_no_stale_read() {
    for size in [1, 3] {
        let mut cluster = Cluster::start(size).await;
        for round in 0..6 {
            let value = format!("{round}");
            cluster.propose(&value).await;
            let leader = cluster.leader().await;
            let image = tempfile::tempdir().unwrap();
            copy(cluster.nodes[leader].dir.path(), image.path());
            cluster.stop(leader).await;
            cluster.nodes[leader].dir = image;
            cluster.start_node(leader).await;
            let node = &cluster.nodes[leader];
            let value = Bytes::from(value);
            let index = node.raft().leader_applied();
            assert!(index.is_err() || node.values().contains(&value), "round {round}: the default is stale");
            for _ in 0..50 {
                let read = node.raft().read_index().await;
                assert!(read.is_err() || node.values().contains(&value), "round {round}: a stale read");
                if read.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(cluster.agree().await.contains(&value));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_knows_in_time_that_it_leads_no_more_and_can_be_stopped() {
    let mut cluster = Cluster::start_on_fault_disks(3, |config| {
        config.segment_bytes = 64 * 1024;
        config.propose_timeout_ms = 1_000;
    })
    .await;
    let full = cluster.leader().await;
    let disk = cluster.nodes[full].disk.clone().unwrap();
    disk.set(Faults { bytes_max: Some(1), ..Faults::default() });
    for _ in 0..3 {
        let _ = cluster.nodes[full].raft().propose(Bytes::from(vec![1; 60_000])).await;
    }
    let raft = cluster.nodes[full].raft().clone();
    let others: Vec<_> = (0..3).filter(|at| *at != full).map(|at| cluster.nodes[at].raft().clone()).collect();
    eventually("another leads", || others.iter().any(raft::Raft::is_leader)).await;
    eventually("the old one knows", || !raft.is_leader() && raft.leader_applied().is_err()).await;
    let read = tokio::time::timeout(Duration::from_secs(20), raft.read_index()).await.expect("an answer");
    assert!(matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })), "{read:?}");
    assert!(raft.status().disk_full);
    // Ten seconds are given to a disk that hangs; this one does not.
    tokio::time::timeout(Duration::from_secs(8), cluster.stop(full)).await.expect("it stops");
    disk.set(Faults::default());
    cluster.start_node(full).await;
    cluster.propose("after").await;
    cluster.agree().await;
}

/// With the timing of production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_have_a_leader_and_confirm_reads() {
    for sync_ms in [150, 260] {
        let cluster = Cluster::start_on_fault_disks(3, |config| {
            let defaults = raft::Config::new("", "", "");
            (config.election_ms_min, config.election_ms_max) = (defaults.election_ms_min, defaults.election_ms_max);
        })
        .await;
        for node in &cluster.nodes {
            node.disk.as_ref().unwrap().set(Faults { sync_us: sync_ms * 1_000, ..Faults::default() });
        }
        let old = cluster.leader().await;
        cluster.cut(old);
        let others: Vec<_> = (0..3).filter(|at| *at != old).collect();
        eventually("another leads", || others.iter().any(|at| cluster.nodes[*at].raft().is_leader())).await;
        cluster.heal();
        let mut confirmed = 0;
        for number in 0..10 {
            let leader = cluster.leader().await;
            let raft = cluster.nodes[leader].raft().clone();
            let write = tokio::spawn(async move { raft.propose(Bytes::from(number.to_string())).await });
            confirmed += u32::from(cluster.nodes[leader].raft().read_index().await.is_ok());
            let _ = write.await.unwrap();
        }
        assert!(confirmed >= 5, "{confirmed} of 10 reads beside writes, at {sync_ms} ms a sync");
        for node in &cluster.nodes {
            node.disk.as_ref().unwrap().set(Faults::default());
        }
        cluster.agree().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_caller_goes_away_is_made_to_the_end() {
    for wait_ms in [1, 50, 90] {
        let cluster = Cluster::start_on_fault_disks(3, |_config| {}).await;
        let leader = cluster.leader().await;
        let gone = cluster.nodes[(leader + 1) % 3].raft().id();
        for node in &cluster.nodes {
            node.disk.as_ref().unwrap().set(Faults { sync_us: 40_000, ..Faults::default() });
        }
        let removed = cluster.nodes[leader].raft().remove(gone);
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), removed).await;
        for node in &cluster.nodes {
            node.disk.as_ref().unwrap().set(Faults::default());
        }
        let status = || cluster.nodes[leader].raft().status();
        eventually("it is gone", || !status().is_changing && status().voters.len() == 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_leader_is_lost_is_made_to_the_end_by_the_next() {
    for wait_ms in [45, 70, 95, 120] {
        let mut cluster = Cluster::start_on_fault_disks(3, |_config| {}).await;
        let leader = cluster.leader().await;
        let gone = cluster.nodes[(leader + 1) % 3].raft().id();
        for node in &cluster.nodes {
            node.disk.as_ref().unwrap().set(Faults { sync_us: 40_000, ..Faults::default() });
        }
        let removed = cluster.nodes[leader].raft().demote(gone);
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), removed).await;
        cluster.stop(leader).await;
        for node in &cluster.nodes {
            node.disk.as_ref().unwrap().set(Faults::default());
        }
        cluster.start_node(leader).await;
        cluster.propose("after").await;
        let is_done = |at: usize| {
            let raft = cluster.nodes[at].raft();
            raft.is_leader() && !raft.status().is_changing
        };
        eventually("both entries are written", || (0..3).any(is_done)).await;
        // The next change is not held up.
        for _ in 0..50 {
            let leader = cluster.leader().await;
            match cluster.nodes[leader].raft().demote(gone).await {
                Ok(()) => break,
                Err(MembershipError::LastVoter | MembershipError::UnknownMember { .. }) => panic!("it is one of three"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        let leader = cluster.leader().await;
        assert_eq!(cluster.nodes[leader].raft().status().voters.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_handover_at_a_time() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let raft = cluster.nodes[leader].raft().clone();
    let first = tokio::spawn({
        let raft = raft.clone();
        async move { raft.transfer_leader(None).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = raft.transfer_leader(None).await;
    assert!(matches!(second, Err(MembershipError::Busy | MembershipError::NotLeader { .. })), "{second:?}");
    let _ = first.await.unwrap();
    cluster.propose("after").await;
}
