//! Nodes that have failed for days are removed with all that was on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::Command;
use catalog::query::{check, node as nodes};
use model::CheckStatus;
use model::check::SERF_HEALTH;

use crate::core::Core;

/// How often it is looked at, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Counts from the moment at which this leader first saw a node failed: after an election a node has its time anew.
pub(super) async fn remove_failed(core: &Arc<Core>) {
    let mut since = BTreeMap::<String, Instant>::new();
    let pause = LOOK_AGAIN.min(core.config.reap_after / 2).max(Duration::from_millis(100));
    loop {
        let failed = core.watch.read(|view| {
            let critical = check::in_state(view, Some(CheckStatus::Critical), &[]);
            let names = critical.into_iter().filter(|row| row.check_id == SERF_HEALTH).map(|row| row.node.clone());
            names
                .map(|name| (nodes::node(view, &name).map(|row| row.id.clone()).unwrap_or_default(), name))
                .collect::<Vec<_>>()
        });
        let now = Instant::now();
        since.retain(|name, _| failed.0.iter().any(|(_, failed)| failed == name));
        for (id, name) in failed.0 {
            let since = *since.entry(name.clone()).or_insert(now);
            if now.duration_since(since) >= core.config.reap_after {
                tracing::info!(node = name, "a node that has failed for long is removed");
                // If it cannot be recorded now, it will be at the next look.
                let _ = core.proposer.propose_here(&Command::RemoveNode { node: name, id }).await;
            }
        }
        tokio::time::sleep(pause).await;
    }
}
