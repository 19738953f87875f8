//! Instances: put and removed, and who hears of it.

use super::{Step, invalid};
use crate::command::Refusal;
use crate::key::{At, Key, folded, folded_arc, under};
use crate::tables::{Row, connect_name, gateway_kind};
use crate::topic::Topic;
use model::ServiceInstance;
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn may_put_service(&self, service: &ServiceInstance) -> Result<(), Refusal> {
        if service.service.is_empty() || service.id.is_empty() {
            return Err(Refusal::Invalid("Must provide service name with ID".into()));
        }
        model::registration::validate_labels(service).map_err(invalid)
    }

    /// Puts an instance on a node that is there. What is so already is left alone.
    pub(super) fn put_service(&mut self, node: &Arc<str>, service: ServiceInstance) {
        let known =
            self.catalog.instances.get_key_value(&At([node, &service.id])).map(|(k, row)| (k.clone(), row.clone()));
        let (key, old) = match known {
            Some((key, old)) => (key, Some(old)),
            None => (Key([node.clone(), Arc::from(&*service.id)]), None),
        };
        if old.as_ref().is_some_and(|old| old.value == service) {
            return;
        }
        let row = Row::after(old.as_deref(), self.index, service);
        if let Some(old) = &old {
            self.touch_service(node, old);
        }
        let labels_differ = old.as_ref().is_none_or(|old| old.service != row.service || old.tags != row.tags);
        if labels_differ {
            self.touch(Topic::Services);
        }
        if old.as_ref().and_then(|old| connect_name(old)) != connect_name(&row) {
            self.touch(Topic::ConnectNames);
        }
        self.touch_service(node, &row);
        self.catalog.put_instance(key.clone(), row.clone());
        if let Some(old) = &old {
            self.touch_service_if_gone(old);
        }
        if labels_differ && old.is_some() {
            self.relabel_checks(&key, &row);
        }
    }

    /// Removes an instance with its checks.
    pub(super) fn remove_service(&mut self, node: &str, id: &str) {
        let Some((key, _)) = self.catalog.instances.get_key_value(&At([node, id])) else {
            return;
        };
        let key = key.clone();
        let checks: Vec<Key<3>> = under(&self.catalog.checks, [node, id]).map(|(k, _)| k.clone()).collect();
        for check in checks {
            self.remove_check_at(&check);
        }
        if let Some(old) = self.catalog.remove_instance(&key) {
            self.touch(Topic::Services);
            if connect_name(&old).is_some() {
                self.touch(Topic::ConnectNames);
            }
            self.touch_service(&key.0[0], &old);
            self.touch_service_if_gone(&old);
        }
    }

    /// When the last instance of a service goes, so do all topics of the service.
    fn touch_service_if_gone(&mut self, instance: &ServiceInstance) {
        let name = folded(&instance.service);
        if under(&self.catalog.by_service, [&*name]).next().is_none() {
            self.touch(Topic::ServiceChecks(Arc::from(&*name)));
            self.touch(Topic::ServiceNodeChecks(Arc::from(&*name)));
        }
    }

    /// Says that an instance changed.
    fn touch_service(&mut self, node: &Arc<str>, instance: &ServiceInstance) {
        self.touch(Topic::NodeServices(node.clone()));
        self.touch(Topic::AllInstances);
        self.touch_as_endpoint(instance);
    }

    /// Says that an instance, or the row of its node, changed.
    fn touch_as_endpoint(&mut self, instance: &ServiceInstance) {
        self.touch(Topic::Instances(folded_arc(&instance.service)));
        if let Some(name) = connect_name(instance) {
            self.touch(Topic::Connect(folded_arc(name)));
        }
        if gateway_kind(instance).is_some() {
            self.touch(Topic::Kind(instance.kind));
        }
    }

    /// Says that the row of a node changed, to those who read its instances.
    /// Its metadata concerns also those who read names of services by it.
    pub(super) fn touch_instances_on(&mut self, node: &str, relabelled: bool) {
        let rows: Vec<_> = under(&self.catalog.instances, [node]).map(|(_, row)| row.clone()).collect();
        for row in &rows {
            self.touch_as_endpoint(row);
        }
        if !rows.is_empty() {
            self.touch(Topic::AllInstances);
        }
        if !rows.is_empty() && relabelled {
            self.touch(Topic::Services);
        }
    }
}
