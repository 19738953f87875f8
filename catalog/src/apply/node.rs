//! Nodes: registration, renaming, health of the session, removal.

use super::{Step, invalid};
use crate::command::{Deregistration, Refusal, Registration, Response};
use crate::key::{Key, folded, under};
use crate::tables::Row;
use crate::topic::Topic;
use model::check::{SERF_ALIVE_OUTPUT, SERF_FAILED_OUTPUT, SERF_HEALTH, SERF_HEALTH_NAME};
use model::{Check, CheckStatus, Node};
use std::sync::Arc;

impl Step<'_> {
    pub(super) fn register(&mut self, registration: Registration) -> Result<Response, Refusal> {
        let Registration { node, skip_node_update, service, checks } = registration;
        let known = self.catalog.nodes.contains_key(&*folded(&node.name));
        let keep_node = skip_node_update && known;
        if !keep_node {
            self.may_put_node(&node)?;
        }
        if let Some(service) = &service {
            self.may_put_service(service)?;
        }
        let new_service = service.as_ref().map(|s| s.id.as_str());
        for check in &checks {
            self.may_put_check(&node.name, check, new_service)?;
        }
        let key = if keep_node { self.known_node(&node.name) } else { self.put_node(node) };
        if let Some(service) = service {
            self.put_service(&key, service);
        }
        for check in checks {
            self.put_check(&key, check);
        }
        Ok(Response::Done)
    }

    pub(super) fn deregister(&mut self, what: &Deregistration) -> Response {
        let key = folded(&what.node);
        match (&what.service_id, &what.check_id) {
            (Some(service), _) => self.remove_service(&key, service),
            (None, Some(check)) => self.remove_check(&key, check),
            (None, None) => self.remove_node(&key),
        }
        Response::Done
    }

    pub(super) fn remove_node_if(&mut self, name: &str, id: &str) -> Response {
        let key = folded(name);
        let same = |node: &Arc<Row<Node>>| id.is_empty() || node.id == id;
        if self.catalog.nodes.get(&*key).is_some_and(same) {
            self.remove_node(&key);
        }
        Response::Done
    }

    pub(super) fn set_node_health(&mut self, node: Node, alive: bool) -> Result<Response, Refusal> {
        let (status, output) = match alive {
            true => (CheckStatus::Passing, SERF_ALIVE_OUTPUT),
            false => (CheckStatus::Critical, SERF_FAILED_OUTPUT),
        };
        let key = if alive {
            self.may_put_node(&node)?;
            self.put_node(node)
        } else {
            let key = folded(&node.name);
            let same = |known: &Arc<Row<Node>>| node.id.is_empty() || known.id.is_empty() || known.id == node.id;
            if !self.catalog.nodes.get(&*key).is_some_and(same) {
                return Ok(Response::Done);
            }
            Arc::from(&*key)
        };
        let check = Check {
            check_id: SERF_HEALTH.into(),
            name: SERF_HEALTH_NAME.into(),
            status,
            output: output.into(),
            ..Check::default()
        };
        self.put_check(&key, check);
        Ok(Response::Done)
    }

    /// Whether the node's name and id are free, or its own. (Consul: `ensureNoNodeWithSimilarNameTxn`.)
    pub(super) fn may_put_node(&self, node: &Node) -> Result<(), Refusal> {
        if node.name.is_empty() {
            return Err(Refusal::Invalid("Must provide node".into()));
        }
        model::name::check_node(&node.name).map_err(invalid)?;
        model::meta::validate(&node.meta).map_err(invalid)?;
        self.may_use_id(node)?;
        let Some(holder) = self.catalog.nodes.get(&*folded(&node.name)) else {
            return Ok(());
        };
        if node.id.is_empty() || holder.id == node.id {
            return Ok(());
        }
        // A node that renames itself must not take the name of one without an id; a new node may.
        let renames = self.catalog.node_ids.contains_key(node.id.as_str());
        let may_claim = holder.id.is_empty() && !renames;
        if may_claim || !self.has_live_session(&holder.name) {
            return Ok(());
        }
        Err(Refusal::NodeNameTaken {
            name: node.name.clone(),
            holder_id: holder.id.clone(),
            holder: holder.name.clone(),
            address: holder.address.clone(),
        })
    }

    /// A machine that was copied, id and all, must not throw the original's services out again and again. An agent that
    /// was only renamed is let in as soon as the session under its old name is over.
    fn may_use_id(&self, node: &Node) -> Result<(), Refusal> {
        let Some(holder) = self.catalog.node_ids.get(node.id.as_str()) else { return Ok(()) };
        if **holder == *folded(&node.name) || !self.has_live_session(holder) {
            return Ok(());
        }
        Err(Refusal::Invalid(format!(
            "node id {} belongs to node {holder}, which is alive: give node {} an id of its own, or stop {holder} to rename it",
            node.id, node.name
        )))
    }

    fn has_live_session(&self, name: &str) -> bool {
        let session = self.catalog.check(&folded(name), SERF_HEALTH);
        session.is_some_and(|(_, check)| check.status != CheckStatus::Critical)
    }

    /// Puts a node that [`Step::may_put_node`] allows, and returns its key. A node with a known id and a new name is
    /// renamed: what was on the old name goes, and its agent pushes it again, as in Consul.
    pub(super) fn put_node(&mut self, mut node: Node) -> Arc<str> {
        let key = self.known_node(&node.name);
        let old_key = self.catalog.node_ids.get(node.id.as_str()).cloned().filter(|old| *old != key);
        let renamed = old_key.and_then(|old_key| {
            let old = self.catalog.nodes.get(&*old_key).cloned();
            self.remove_node(&old_key);
            old
        });
        let old = self.catalog.nodes.get(&*key).cloned();
        if let Some(old) = &old {
            // Who registers by name only does not mean to take the id away.
            if node.id.is_empty() {
                node.id.clone_from(&old.id);
            }
            if old.value == node {
                return key;
            }
        }
        let relabelled = old.as_ref().is_some_and(|old| old.meta != node.meta);
        let respelled = old.as_ref().is_some_and(|old| old.name != node.name);
        let row = Row::after(old.or(renamed).as_deref(), self.index, node);
        self.catalog.put_node(&key, row);
        self.touch(Topic::Nodes);
        self.touch(Topic::Node(key.clone()));
        self.touch_instances_on(&key, relabelled);
        if respelled {
            self.respell_checks(&key);
        }
        key
    }

    /// The shared key of a node, or a new one.
    pub(super) fn known_node(&self, name: &str) -> Arc<str> {
        let key = folded(name);
        let known = self.catalog.nodes.get_key_value(&*key);
        known.map_or_else(|| Arc::from(&*key), |(known, _)| known.clone())
    }

    /// Removes a node with all that is on it.
    pub(super) fn remove_node(&mut self, key: &str) {
        let Some((key, _)) = self.catalog.nodes.get_key_value(key) else {
            return;
        };
        let key = key.clone();
        let services: Vec<Key<2>> = under(&self.catalog.instances, [&key]).map(|(k, _)| k.clone()).collect();
        for service in services.into_iter().skip(usize::from(faults::has(faults::Bug::NodeLeavesServices))) {
            self.remove_service(&key, &service.0[1]);
        }
        let checks: Vec<Key<3>> = under(&self.catalog.checks, [&key]).map(|(k, _)| k.clone()).collect();
        for check in checks {
            self.remove_check_at(&check);
        }
        self.end_sessions_of_node(&key);
        self.catalog.remove_node(&key);
        self.touch(Topic::Nodes);
        self.touch(Topic::Node(key.clone()));
        self.touch(Topic::NodeSessions(key.clone()));
        self.touch(Topic::NodeServices(key.clone()));
        self.touch(Topic::NodeChecks(key));
    }
}
