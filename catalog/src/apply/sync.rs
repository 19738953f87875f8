//! An agent's push: what it has replaces what the catalog has of its node, item by item.

use super::Step;
use crate::command::{ItemError, ItemKind, Refusal, Response, SyncPush};
use crate::key::{At, folded, under};
use crate::tables::Row;
use model::ServiceInstance;
use model::check::SERF_HEALTH;
use model::service::SERVER_SERVICE;
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn sync(&mut self, push: SyncPush) -> Result<Response, Refusal> {
        let last = self.catalog.pushed.get(&*folded(&push.node.name)).copied().unwrap_or_default();
        if push.after.is_some_and(|after| after != last) {
            return Ok(Response::Outdated { last });
        }
        self.may_put_node(&push.node)?;
        let SyncPush { node, mut services, checks, deregister_services, deregister_checks, full, after: _ } = push;
        let node = self.put_node(node);
        self.catalog.pushed.insert(node.clone(), self.index);
        let named_services = sorted(services.iter().map(|s| &*s.id));
        let named_checks = sorted(checks.iter().map(|c| &*c.check_id));
        // What is named both ways stays: the agent has it.
        for id in unnamed(&deregister_services, &named_services) {
            self.remove_service(&node, id);
        }
        for id in unnamed(&deregister_checks, &named_checks).filter(|id| *id != SERF_HEALTH) {
            self.remove_check(&node, id);
        }
        if full {
            self.remove_all_but(&node, &named_services, &named_checks);
        }
        let mut errors = Vec::new();
        for service in &mut services {
            self.keep_overridden_tags(&node, service);
        }
        for service in services {
            if let Err(refusal) = self.may_put_service(&service) {
                errors.push(ItemError { kind: ItemKind::Service, id: service.id, message: refusal.to_string() });
                continue;
            }
            self.put_service(&node, service);
        }
        // The session's check is the leader's alone.
        for check in checks.into_iter().filter(|check| check.check_id != SERF_HEALTH) {
            if let Err(refusal) = self.may_put_check(&node, &check, None) {
                errors.push(ItemError { kind: ItemKind::Check, id: check.check_id, message: refusal.to_string() });
                continue;
            }
            self.put_check(&node, check);
        }
        Ok(Response::Synced { at: self.index, errors })
    }

    /// `EnableTagOverride`: tags that others set in the catalog win over the agent's.
    fn keep_overridden_tags(&self, node: &str, service: &mut ServiceInstance) {
        if !service.enable_tag_override {
            return;
        }
        if let Some(known) = self.catalog.instances.get(&At([node, &service.id])) {
            service.tags.clone_from(&known.tags);
        }
    }

    /// Removes from a node what is not among these (sorted) ids, but for what the leader keeps there.
    fn remove_all_but(&mut self, node: &str, services: &[&str], checks: &[&str]) {
        let stale = |ids: &[&str], id: &Arc<str>| ids.binary_search(&&**id).is_err();
        let is_the_leaders =
            |row: &Row<ServiceInstance>| row.value.id == SERVER_SERVICE && row.value.service == SERVER_SERVICE;
        let instances = under(&self.catalog.instances, [node]).filter(|(_, row)| !is_the_leaders(row));
        let stale_services: Vec<Arc<str>> =
            instances.map(|(key, _)| key.0[1].clone()).filter(|id| stale(services, id)).collect();
        for id in stale_services {
            self.remove_service(node, &id);
        }
        let owners = under(&self.catalog.check_owners, [node]).map(|(key, _)| key.0[1].clone());
        let stale_checks: Vec<Arc<str>> = owners.filter(|id| stale(checks, id) && **id != *SERF_HEALTH).collect();
        for id in stale_checks {
            self.remove_check(node, &id);
        }
    }
}

fn sorted<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    ids
}

/// The ids that are not among the (sorted) named ones.
fn unnamed<'a>(ids: &'a [String], named: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let ids = ids.iter().map(String::as_str);
    ids.filter(|id| named.binary_search(id).is_err())
}
