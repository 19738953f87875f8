//! Clusters over real sockets: batches, reads, elections, restarts.

use std::time::Duration;

use crate::common::{Cluster, Ledger, Nobody, eventually};
use raft::{Bytes, Config, ProposeError, Raft, ReadError, Role, StartError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_server_answers_and_remembers() {
    let mut cluster = Cluster::start(1).await;
    for number in 0..20 {
        assert_eq!(cluster.propose(&format!("entry-{number}")).await, number);
    }
    cluster.nodes[0].raft().read_index().await.unwrap();
    let id = cluster.nodes[0].raft().id();
    cluster.stop(0).await;
    cluster.start_node(0).await;
    assert_eq!(cluster.nodes[0].raft().id(), id, "the id is kept");
    cluster.leader().await;
    assert_eq!(cluster.propose("after").await, 20);
    assert_eq!(cluster.nodes[0].values().len(), 21);
}

/// On one thread, where what `start` does not wait for has not happened when it returns.
#[tokio::test]
async fn a_server_that_starts_again_tells_of_its_log_at_once() {
    let mut cluster = Cluster::start(1).await;
    cluster.propose("before").await;
    cluster.stop(0).await;
    cluster.start_node(0).await;
    let last_log = cluster.nodes[0].raft().status().last_log;
    cluster.stop(0).await;
    assert_ne!(last_log, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_at_the_same_time_share_entries_and_get_their_own_answers() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let raft = cluster.nodes[leader].raft();
    let before = raft.status().last_log;
    let mut tasks = Vec::new();
    for client in 0..64 {
        let raft = raft.clone();
        tasks.push(tokio::spawn(async move {
            let mut placed = Vec::new();
            for number in 0..20 {
                let value = Bytes::from(format!("{client}-{number}"));
                placed.push((raft.propose(value.clone()).await.unwrap(), value));
            }
            placed
        }));
    }
    let mut placed = Vec::new();
    for task in tasks {
        placed.extend(task.await.unwrap());
    }
    let values = cluster.agree().await;
    assert_eq!(values.len(), 64 * 20);
    for (place, value) in placed {
        assert_eq!(values[usize::try_from(place).unwrap()], value);
    }
    let entries = raft.status().last_log - before;
    assert!(entries < 64 * 20 / 4, "{entries} entries for 1280 proposals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_refuse_and_name_the_leader() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let expected = Some(cluster.nodes[leader].raft().member());
    for (at, node) in cluster.nodes.iter().enumerate().filter(|(at, _)| *at != leader) {
        eventually("the follower knows the leader", || node.raft().leader() == expected).await;
        let refused = node.raft().propose(Bytes::from_static(b"x")).await;
        assert_eq!(refused, Err(ProposeError::NotLeader { leader: expected.clone() }), "node {at}");
        assert_eq!(node.raft().read_index().await, Err(ReadError::NotLeader { leader: expected.clone() }));
        assert_eq!(node.raft().leader_applied(), Err(ReadError::NotLeader { leader: expected.clone() }));
        assert_eq!(node.raft().status().role, Role::Follower);
        assert!(node.raft().status().last_contact.is_some());
    }
    let too_large = Bytes::from(vec![0; 2 * 1024 * 1024]);
    let refused = cluster.nodes[leader].raft().propose(too_large).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3).await;
    for round in 0..3 {
        for number in 0..10 {
            cluster.propose(&format!("{round}-{number}")).await;
        }
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
        cluster.propose(&format!("{round}-without")).await;
        cluster.start_node(leader).await;
    }
    let values = cluster.agree().await;
    for round in 0..3 {
        for number in 0..10 {
            let value = Bytes::from(format!("{round}-{number}"));
            assert!(values.contains(&value), "{value:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_five_stop_and_come_back() {
    let mut cluster = Cluster::start(5).await;
    for number in 0..30 {
        cluster.propose(&number.to_string()).await;
    }
    for at in 0..5 {
        cluster.stop(at).await;
    }
    for at in 0..5 {
        cluster.start_node(at).await;
    }
    cluster.propose("again").await;
    let values = cluster.agree().await;
    for number in 0..30 {
        assert!(values.contains(&Bytes::from(number.to_string())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_answers_unknown_or_not_leader_and_confirms_no_read() {
    let cluster = Cluster::start_with(3, |config| config.propose_timeout_ms = 1_500).await;
    let old = cluster.leader().await;
    cluster.propose("before").await;
    cluster.cut(old);
    let lost = cluster.nodes[old].raft().propose(Bytes::from_static(b"lost?")).await;
    assert!(matches!(lost, Err(ProposeError::Unknown | ProposeError::NotLeader { .. })), "{lost:?}");
    let read = cluster.nodes[old].raft().read_index().await;
    assert!(matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })), "{read:?}");

    let new = cluster.leader().await;
    assert_ne!(new, old);
    cluster.propose("after").await;
    cluster.heal();
    let values = cluster.agree().await;
    assert!(values.contains(&Bytes::from_static(b"before")) && values.contains(&Bytes::from_static(b"after")));
    let refused = cluster.nodes[old].raft().propose(Bytes::from_static(b"x")).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
}

/// Every value that was answered stands in the log once; every value that was refused does not; the others may or may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_changes_of_leadership_every_answer_is_true() {
    let mut cluster = Cluster::start_with(3, |config| config.propose_timeout_ms = 1_000).await;
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let handles: Vec<_> = cluster.nodes.iter().map(|node| node.raft().clone()).collect();
        let mut tasks = Vec::new();
        for (at, raft) in handles.into_iter().enumerate() {
            tasks.push(tokio::spawn(async move {
                let mut outcomes = Vec::new();
                for number in 0..40 {
                    let value = Bytes::from(format!("{round}-{at}-{number}"));
                    outcomes.push((value.clone(), raft.propose(value).await));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                outcomes
            }));
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        let leader = cluster.leader().await;
        if round % 2 == 0 {
            cluster.cut(leader);
        } else {
            cluster.stop(leader).await;
        }
        for task in tasks {
            for (value, outcome) in task.await.unwrap() {
                match outcome {
                    Ok(_) => kept.push(value),
                    Err(ProposeError::NotLeader { .. }) => refused.push(value),
                    Err(_) => {}
                }
            }
        }
        cluster.heal();
        if !cluster.nodes[leader].is_running() {
            cluster.start_node(leader).await;
        }
    }
    cluster.propose("end").await;
    let values = cluster.agree().await;
    for value in &kept {
        assert_eq!(values.iter().filter(|v| *v == value).count(), 1, "{value:?} was answered");
    }
    for value in &refused {
        assert!(!values.contains(value), "{value:?} was refused");
    }
    assert!(!kept.is_empty() && !refused.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_at_the_same_time_are_confirmed_together_and_see_what_was_answered() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let raft = cluster.nodes[leader].raft().clone();
    let ledger = cluster.nodes[leader].ledger.clone();
    let mut tasks = Vec::new();
    for client in 0..32 {
        let (raft, ledger) = (raft.clone(), ledger.clone());
        tasks.push(tokio::spawn(async move {
            for number in 0..10 {
                let value = Bytes::from(format!("{client}-{number}"));
                raft.propose(value.clone()).await.unwrap();
                raft.read_index().await.unwrap();
                assert!(ledger.values.lock().unwrap().contains(&value));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let index = raft.leader_applied().unwrap();
    for node in &cluster.nodes {
        node.raft().applied_at_least(index).await.unwrap();
        assert_eq!(node.values().len(), 320);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_shutdown_everything_says_so() {
    let mut cluster = Cluster::start(1).await;
    let raft = cluster.nodes[0].raft().clone();
    let mut watch = raft.watch();
    cluster.stop(0).await;
    watch.wait_for(|now| now.is_stopped && !now.is_leader).await.unwrap();
    assert_eq!(raft.propose(Bytes::from_static(b"x")).await, Err(ProposeError::Stopped));
    assert_eq!(raft.read_index().await, Err(ReadError::Stopped));
    assert_eq!(raft.applied_at_least(1_000_000).await, Err(ReadError::Stopped));
    assert_eq!(raft.status().role, Role::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_log_is_gone_does_not_start() {
    let mut cluster = Cluster::start(1).await;
    cluster.propose("kept").await;
    cluster.stop(0).await;
    let dir = cluster.nodes[0].dir.path();
    std::fs::remove_dir_all(dir.join("log")).unwrap();
    let config = Config::new(dir, "node-0", "127.0.0.1:1");
    let refused = Raft::start(config, Ledger::default(), Nobody).await.err().expect("it votes no more");
    assert!(matches!(refused, StartError::Damaged { .. }), "{refused}");

    // With its identity gone as well as its log it is simply a new server.
    std::fs::remove_dir_all(dir.join("store")).unwrap();
    let config = Config::new(dir, "node-0", "127.0.0.1:1");
    let (raft, _service) = Raft::start(config, Ledger::default(), Nobody).await.unwrap();
    assert!(!raft.is_initialized().await.unwrap());
    raft.shutdown().await;

    // And a log without the identity that it belongs to is refused.
    std::fs::remove_dir_all(dir.join("store")).unwrap();
    let config = Config::new(dir, "node-0", "127.0.0.1:1");
    let refused = Raft::start(config, Ledger::default(), Nobody).await.err().expect("another's log");
    assert!(matches!(refused, StartError::Damaged { .. }), "{refused}");
}
