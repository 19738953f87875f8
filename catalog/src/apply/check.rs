//! Checks: put and removed, and who hears of it.

use super::{Step, invalid};
use crate::command::Refusal;
use crate::key::{At, Key, folded, folded_arc, under};
use crate::tables::Row;
use crate::topic::Topic;
use model::check::bound_output;
use model::{Check, CheckStatus, ServiceInstance};
use std::sync::Arc;

impl Step<'_> {
    /// Whether a check's instance is there, or is `new_service`, which comes with it.
    pub(super) fn may_put_check(&self, node: &str, check: &Check, new_service: Option<&str>) -> Result<(), Refusal> {
        if check.check_id.is_empty() {
            return Err(Refusal::Invalid("Must provide a CheckID".into()));
        }
        model::name::check_check(&check.check_id).map_err(invalid)?;
        let service_id = &*check.service_id;
        let found = service_id.is_empty()
            || new_service == Some(service_id)
            || self.catalog.instances.contains_key(&At([&folded(node), service_id]));
        match found {
            true => Ok(()),
            false => {
                Err(Refusal::NoSuchService { check_id: check.check_id.clone(), service_id: service_id.to_string() })
            }
        }
    }

    /// Puts a check on a node that is there, about an instance that is there. What is so already is left alone.
    pub(super) fn put_check(&mut self, node: &Arc<str>, mut check: Check) {
        check.output = bound_output(check.output);
        if let Some(row) = self.catalog.nodes.get(&**node) {
            check.node.clone_from(&row.name);
        }
        let owner = self
            .catalog
            .instances
            .get_key_value(&At([node, &check.service_id]))
            .map(|(key, row)| (key.0[1].clone(), row));
        let owner = match owner {
            Some((id, row)) => {
                check.service_name.clone_from(&row.service);
                check.service_tags.clone_from(&row.tags);
                id
            }
            None => {
                check.service_name.clear();
                check.service_tags.clear();
                Arc::from("")
            }
        };
        let old = self.catalog.check(node, &check.check_id).map(|(key, row)| (key.clone(), row.clone()));
        let id = match &old {
            Some((_, row)) if row.value == check => return,
            Some((key, _)) => key.0[2].clone(),
            None => Arc::from(&*check.check_id),
        };
        if let Some((old_key, old_row)) = &old {
            self.touch_check(old_key, old_row);
            if old_key.0[1] != owner {
                self.catalog.remove_check(old_key);
            }
        }
        let key = Key([node.clone(), owner, id]);
        let row = Row::after(old.as_ref().map(|(_, row)| &**row), self.index, check);
        self.touch_check(&key, &row);
        let is_critical = row.status == CheckStatus::Critical;
        self.catalog.put_check(key.clone(), row);
        if is_critical {
            self.end_sessions_of_check(&key);
        }
    }

    /// Removes a check by its id.
    pub(super) fn remove_check(&mut self, node: &str, id: &str) {
        if let Some((key, _)) = self.catalog.check(node, id) {
            let key = key.clone();
            self.remove_check_at(&key);
        }
    }

    /// Removes a check by its key.
    pub(super) fn remove_check_at(&mut self, key: &Key<3>) {
        if let Some(old) = self.catalog.remove_check(key) {
            self.touch_check(key, &old);
            self.end_sessions_of_check(key);
        }
    }

    /// Gives the checks of an instance its new name and tags.
    pub(super) fn relabel_checks(&mut self, instance: &Key<2>, row: &ServiceInstance) {
        let [node, id] = &instance.0;
        let checks: Vec<_> = under(&self.catalog.checks, [node, id]).map(|(k, row)| (k.clone(), row.clone())).collect();
        for (key, old) in checks {
            self.touch_check(&key, &old);
            let value =
                Check { service_name: row.service.clone(), service_tags: row.tags.clone(), ..old.value.clone() };
            self.rewrite_check(key, &old, value);
        }
    }

    /// Gives the checks of a node the new spelling of its name.
    pub(super) fn respell_checks(&mut self, node: &Arc<str>) {
        let Some(name) = self.catalog.nodes.get(&**node).map(|row| row.name.clone()) else {
            return;
        };
        let checks: Vec<_> = under(&self.catalog.checks, [node]).map(|(k, row)| (k.clone(), row.clone())).collect();
        for (key, old) in checks {
            let value = Check { node: name.clone(), ..old.value.clone() };
            self.rewrite_check(key, &old, value);
        }
    }

    fn rewrite_check(&mut self, key: Key<3>, old: &Row<Check>, value: Check) {
        let row = Row::after(Some(old), self.index, value);
        self.touch_check(&key, &row);
        self.catalog.put_check(key, row);
    }

    /// Says that a check changed: to readers of checks, and to readers of those whose health it is.
    fn touch_check(&mut self, key: &Key<3>, check: &Check) {
        let [node, owner, _] = &key.0;
        self.touch(Topic::NodeChecks(node.clone()));
        self.touch(Topic::Checks);
        self.touch(Topic::ChecksIn(check.status));
        if !owner.is_empty() {
            self.touch(Topic::ServiceChecks(folded_arc(&check.service_name)));
            return;
        }
        let names: Vec<Arc<str>> =
            under(&self.catalog.instances, [node]).map(|(_, row)| folded_arc(&row.service)).collect();
        for name in names {
            self.touch(Topic::ServiceNodeChecks(name));
        }
    }
}
