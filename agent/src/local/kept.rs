//! What is kept on disk of services, checks and removals, and how it comes back.

use super::{CheckSpec, Entry, Item, Service, State};
use crate::check::Plan;
use model::{AgentCheck, Check, ServiceInstance};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::{StoreError, Tree};
use tokio::time::Instant;

/// A value in the store. Its key begins with `s/`, `c/`, `gs/` or `gc/`; the id follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Kept {
    /// An instance.
    Service(Arc<ServiceInstance>),
    /// A check with what it said last, and when (milliseconds since 1970).
    Check {
        /// What it says.
        check: Arc<Check>,
        /// How it is made.
        made: Arc<AgentCheck>,
        /// When it said so.
        at_ms: u64,
    },
    /// Something that was removed, and that the servers may not know to be.
    Gone,
}

/// Changes that are written together.
#[derive(Default)]
pub(super) struct Change {
    puts: Vec<(String, Kept)>,
    removals: Vec<String>,
    /// Whether others want to know.
    pub(super) has_changed: bool,
}

impl Change {
    pub(super) fn put_service(&mut self, id: &str, instance: &Arc<ServiceInstance>) {
        self.has_changed = true;
        self.puts.push((format!("s/{id}"), Kept::Service(instance.clone())));
    }

    pub(super) fn put_check(&mut self, id: &str, entry: &Entry) {
        self.has_changed = true;
        let kept = Kept::Check { check: entry.check.clone(), made: entry.plan.check.clone(), at_ms: now_ms() };
        self.puts.push((format!("c/{id}"), kept));
    }

    pub(super) fn put_gone(&mut self, item: &Item) {
        self.has_changed = true;
        self.removals.push(match item {
            Item::Service(id) => format!("s/{id}"),
            Item::Check(id) => format!("c/{id}"),
        });
        self.puts.push((gone_key(item), Kept::Gone));
    }

    pub(super) fn forget_gone(&mut self, item: &Item) {
        self.removals.push(gone_key(item));
    }

    pub(super) fn queue(self, tree: &Tree<Kept>) -> Result<(), StoreError> {
        if self.puts.is_empty() && self.removals.is_empty() {
            return Ok(());
        }
        tree.queue(|batch| {
            for key in &self.removals {
                batch.remove(key);
            }
            for (key, kept) in &self.puts {
                batch.insert(key, kept)?;
            }
            Ok(())
        })
    }
}

fn gone_key(item: &Item) -> String {
    match item {
        Item::Service(id) => format!("gs/{id}"),
        Item::Check(id) => format!("gc/{id}"),
    }
}

/// What was kept. Everything is dirty: the servers may have forgotten, or the agent may have been away for long.
pub(super) fn restore(tree: &Tree<Kept>) -> Result<State, StoreError> {
    let mut state = State::default();
    let mut checks = Vec::new();
    for row in tree.iter() {
        let (key, kept) = row?;
        let key = String::from_utf8_lossy(&key).into_owned();
        let Some((kind, id)) = key.split_once('/') else { continue };
        match kept {
            Kept::Service(instance) => {
                state.services.insert(id.to_string(), Service { instance, checks: BTreeSet::new() });
                state.dirty.insert(Item::Service(id.to_string()));
            }
            Kept::Check { check, made, at_ms } => checks.push((check, made, at_ms)),
            Kept::Gone => {
                let item = if kind == "gs" { Item::Service(id.to_string()) } else { Item::Check(id.to_string()) };
                state.dirty.insert(item.clone());
                state.gone.insert(item);
            }
        }
    }
    for (check, made, at_ms) in checks {
        restore_check(&mut state, check, &made, at_ms);
    }
    Ok(state)
}

/// A check says what it said last until it has run: a restart of the agent makes no service critical.
fn restore_check(state: &mut State, check: Arc<Check>, made: &Arc<AgentCheck>, at_ms: u64) {
    let plan = match Plan::understand(made) {
        Ok(plan) => Arc::new(plan),
        Err(error) => {
            tracing::warn!(check = check.check_id, %error, "a check that was kept cannot be run by this version; register it again");
            return;
        }
    };
    let now = Instant::now();
    let age = Duration::from_millis(now_ms().saturating_sub(at_ms));
    let reported = now.checked_sub(age).unwrap_or(now);
    let critical_since = (check.status == model::CheckStatus::Critical).then_some(now);
    state.dirty.insert(Item::Check(check.check_id.clone()));
    let check = Arc::unwrap_or_clone(check);
    state.insert_check(CheckSpec { check, plan }, critical_since, reported);
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
