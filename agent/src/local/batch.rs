//! What goes into one push, and what becomes of it.

use super::{Item, Local, kept};
use crate::config::PUSH_ITEMS_MAX;
use api::proto::PushRequest;
use bytes::Bytes;
use model::{Check, ServiceInstance};
use std::sync::Arc;

/// Items that are under way to the servers.
#[derive(Default)]
pub(crate) struct Batch {
    items: Vec<Item>,
    services: Vec<Arc<ServiceInstance>>,
    checks: Vec<Arc<Check>>,
    gone_services: Vec<String>,
    gone_checks: Vec<String>,
    is_full: bool,
}

impl Batch {
    /// How many items there are.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it names everything that this node has.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// The message for it; the last push that is known of was at index `after`.
    pub(crate) fn request(&self, node_mp: Bytes, after: u64) -> PushRequest {
        PushRequest {
            node_mp,
            services_mp: self.services.iter().map(|s| api::mp::encode(&**s)).collect(),
            checks_mp: self.checks.iter().map(|c| api::mp::encode(&**c)).collect(),
            deregister_services: self.gone_services.clone(),
            deregister_checks: self.gone_checks.clone(),
            full: self.is_full,
            after: Some(after),
        }
    }
}

impl Local {
    /// What is dirty, services first, up to a limit. None if nothing is.
    pub(crate) fn take_batch(&self) -> Option<Batch> {
        let mut state = self.state();
        let mut batch = Batch::default();
        while batch.items.len() < PUSH_ITEMS_MAX
            && let Some(item) = state.dirty.pop_first()
        {
            match &item {
                Item::Service(id) => match state.services.get(id) {
                    Some(service) => batch.services.push(service.instance.clone()),
                    None => batch.gone_services.push(id.clone()),
                },
                Item::Check(id) => match state.checks.get(id) {
                    Some(entry) => batch.checks.push(entry.check.clone()),
                    None => batch.gone_checks.push(id.clone()),
                },
            }
            batch.items.push(item);
        }
        (!batch.items.is_empty()).then_some(batch)
    }

    /// Everything. What was dirty is in it.
    pub(crate) fn take_all(&self) -> Batch {
        let mut state = self.state();
        let services: Vec<_> = state.services.values().map(|s| s.instance.clone()).collect();
        let checks: Vec<_> = state.checks.values().map(|e| e.check.clone()).collect();
        let mut items: Vec<Item> = std::mem::take(&mut state.dirty).into_iter().collect();
        items.extend(state.gone.iter().filter(|gone| !items.contains(gone)).cloned().collect::<Vec<_>>());
        Batch { items, services, checks, is_full: true, ..Batch::default() }
    }

    /// The servers have it. What is removed there need not be remembered.
    pub(crate) fn settled(&self, batch: &Batch) {
        let mut state = self.state();
        let mut change = kept::Change::default();
        for item in &batch.items {
            let is_here = match item {
                Item::Service(id) => state.services.contains_key(id),
                Item::Check(id) => state.checks.contains_key(id),
            };
            // Removed again since: then the next push tells.
            if !is_here && !state.dirty.contains(item) {
                state.unmark_gone(item, &mut change);
            }
        }
        change.has_changed = false;
        if let Err(error) = self.finish(state, change) {
            tracing::warn!(%error, "cannot forget what has been deregistered; it will be deregistered once more");
        }
    }

    /// The push failed: all of it is dirty again.
    pub(crate) fn put_back(&self, batch: Batch) {
        self.state().dirty.extend(batch.items);
    }
}
