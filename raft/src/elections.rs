//! Elections on slow disks: a vote is granted only when it is on two disks, and openraft 0.9 begins the next round without
//! waiting for the answers of the one before, so that on slow disks no round would ever be won. Here a candidate is held
//! back until its answers had their time, and longer after each round that was lost.

use std::time::Duration;

use openraft::ServerState;

use crate::consensus::Core;
use crate::types::Config;

/// The spread of the pause doubles with each round that was lost, so many times.
const DOUBLINGS_MAX: u32 = 5;

/// Spaces this member's candidacies out, until it stops.
pub(crate) async fn space_elections(core: Core, config: Config) {
    let mut metrics = core.server_metrics();
    let mut lost = 0;
    loop {
        let standing = metrics.wait_for(|now| now.state == ServerState::Candidate).await;
        let Ok(term) = standing.map(|now| now.vote.leader_id.term) else {
            return;
        };
        core.runtime_config().elect(false);
        let decided = metrics.wait_for(|now| now.state != ServerState::Candidate);
        let decided = tokio::time::timeout(pause(&config, lost), decided).await;
        let is_led = decided.is_ok_and(|now| now.is_ok_and(|now| now.current_leader.is_some()));
        core.runtime_config().elect(true);
        lost = if is_led { 0 } else { lost + 1 };
        let moved = metrics.wait_for(|now| now.state != ServerState::Candidate || now.vote.leader_id.term != term);
        if moved.await.is_err() {
            return;
        }
    }
}

/// As long as an answer may take, and a random time, so that of two candidates one is alone in the next round.
fn pause(config: &Config, lost: u32) -> Duration {
    let spread = (config.election_ms_max - config.election_ms_min).max(1) << lost.min(DOUBLINGS_MAX);
    Duration::from_millis(config.election_ms_min + rand::random_range(0..=spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_covers_the_answers_and_grows_to_a_bound() {
        let config = Config::new("/x", "n", "a");
        let spread = config.election_ms_max - config.election_ms_min;
        for (lost, most) in [(0, spread), (1, 2 * spread), (4, 16 * spread), (5, 32 * spread), (1_000_000, 32 * spread)]
        {
            for _ in 0..100 {
                let pause = pause(&config, lost).as_millis();
                assert!(pause >= u128::from(config.election_ms_min), "{lost}: {pause}");
                assert!(pause <= u128::from(config.election_ms_min + most), "{lost}: {pause}");
            }
        }
    }
}
