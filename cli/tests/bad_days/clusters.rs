//! Members of a cluster die, freeze, restart and lose their disks.

use crate::support::{
    Process, Three, agent_args, block, client, health_is, serf_health, server_args, until, value_of, writable,
};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A killed agent is critical within about a second; so much more for a loaded machine.
const CRITICAL_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn killed_agents_are_critical_and_frozen_ones_too() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let net = block();
    let server = format!("{net}.1");
    let _server = Process::start(folder.path(), "s1", &server_args(folder.path(), "s1", &server, 1, &[], &[]));
    writable(&server).await;
    let join = std::slice::from_ref(&server);
    let mut killed =
        Process::start(folder.path(), "a1", &agent_args(folder.path(), "a1", &format!("{net}.2"), join, &[]));
    let frozen = Process::start(folder.path(), "a2", &agent_args(folder.path(), "a2", &format!("{net}.3"), join, &[]));
    assert_eq!(health_is(&server, "a1", "passing").await["Output"], "Agent alive and reachable");
    health_is(&server, "a2", "passing").await;

    let begun = Instant::now();
    killed.kill();
    assert_eq!(health_is(&server, "a1", "critical").await["Output"], "Agent not live or unreachable");
    assert!(begun.elapsed() < CRITICAL_WITHIN, "it took {:?}", begun.elapsed());

    frozen.signal(Signal::SIGSTOP);
    health_is(&server, "a2", "critical").await;
    frozen.signal(Signal::SIGCONT);
    health_is(&server, "a2", "passing").await;
}

/// Where an agent has its session, as its log says last, and how many it has opened.
fn session_of(agent: &Process) -> (String, usize) {
    let words = agent.words();
    let opened: Vec<&str> = words.lines().filter(|line| line.contains("the session is open")).collect();
    let server = opened.last().and_then(|line| line.split("server=\"").nth(1)).and_then(|rest| rest.split(':').next());
    (server.unwrap_or_default().to_string(), opened.len())
}

#[tokio::test]
async fn a_server_that_restarts_makes_no_agent_critical() {
    let mut three = Three::start().await;
    let agent_ip = format!("{}.10", three.net);
    let agent =
        Process::start(three.folder.path(), "a1", &agent_args(three.folder.path(), "a1", &agent_ip, &three.ips(), &[]));
    let before = health_is(&three.ip(0), "a1", "passing").await;
    for stop in [Signal::SIGKILL, Signal::SIGTERM] {
        let (held_by, opened) = session_of(&agent);
        let at = three.ips().iter().position(|ip| *ip == held_by).expect("the session is with one of the three");
        three.servers[at].signal(stop);
        three.servers[at].ended();
        let other = three.ip((at + 1) % 3);
        writable(&other).await;
        until("the agent has moved over", || async { (session_of(&agent).1 > opened).then_some(()) }).await;
        three.restart(at);
        writable(&three.ip(at)).await;
        // A check that had been critical in between would have another index.
        let after = until("the node's health", || serf_health(&other, "a1")).await;
        assert_eq!(
            (&after["Status"], &after["ModifyIndex"]),
            (&before["Status"], &before["ModifyIndex"]),
            "{stop} of {held_by}: {after}"
        );
    }
}

#[tokio::test]
async fn a_server_that_lost_its_disk_comes_back_by_its_name() {
    let mut three = Three::start().await;
    client(&three.ip(0)).put("/v1/kv/kept", "yes").await.expect("a write");
    let configuration = || async { client(&three.ip(0)).raft_configuration().await.ok() };
    let before = until("the members", configuration).await;
    let id_of = |name: &str, all: &api::reply::RaftConfiguration| -> Vec<String> {
        all.servers.iter().filter(|server| server.node == name).map(|server| server.id.clone()).collect()
    };
    let old = id_of("s3", &before);

    three.servers[2].kill();
    std::fs::remove_dir_all(three.folder.path().join("s3")).expect("its data");
    three.restart(2);
    writable(&three.ip(2)).await;
    let (ip, asked) = (three.ip(0), &three.ip(2));
    let new = until("the new server is a voter in the place of the old", || async {
        let all = client(&ip).raft_configuration().await.ok()?;
        let ids = id_of("s3", &all);
        let voters = all.servers.iter().filter(|server| server.voter).count();
        (ids.len() == 1 && ids != old && all.servers.len() == 3 && voters == 3).then_some(ids)
    })
    .await;
    assert_ne!(new, old);
    assert!(value_of(asked, "kept").await.is_some_and(|value| value.contains("yes")));

    // It counts: with it, one of the others may go.
    three.servers[1].kill();
    writable(asked).await;
    assert!(value_of(asked, "kept").await.is_some());
}
