//! The tables, and the few functions that change more than one of them so that they never disagree.

use crate::command::CaState;
use crate::indexes::Indexes;
use crate::key::{At, Key, folded, folded_arc, under};
use crate::lock_delays::LockDelays;
use crate::tombstones::Tombstones;
use imbl::OrdMap;
use model::config_entry::ConfigEntry;
use model::datacenter::Datacenter;
use model::{Check, Index, Intention, KvEntry, Node, ServiceInstance, ServiceKind, Session};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The replicated truth at one index. Cloning is free; a clone is a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    pub(crate) index: Index,
    /// The highest time that a command was stamped with, in milliseconds of the leaders' clock.
    pub(crate) clock_ms: u64,
    pub(crate) indexes: Indexes,
    /// By lower-case name.
    pub(crate) nodes: OrdMap<Arc<str>, Arc<Row<Node>>>,
    /// Node id → key of the node.
    pub(crate) node_ids: OrdMap<Arc<str>, Arc<str>>,
    /// Node → index of its agent's last push.
    pub(crate) pushed: OrdMap<Arc<str>, Index>,
    /// By (node, instance id).
    pub(crate) instances: OrdMap<Key<2>, Arc<Row<ServiceInstance>>>,
    /// By (folded service, node, instance id).
    pub(crate) by_service: OrdMap<Key<3>, Arc<Row<ServiceInstance>>>,
    /// Sidecars and native instances, by (folded service that they speak for, node, instance id).
    pub(crate) by_connect: OrdMap<Key<3>, Arc<Row<ServiceInstance>>>,
    /// Gateways, by (kind, node, instance id).
    pub(crate) by_kind: OrdMap<Key<3>, Arc<Row<ServiceInstance>>>,
    /// By (node, instance id or empty, check id).
    pub(crate) checks: OrdMap<Key<3>, Arc<Row<Check>>>,
    /// (node, check id) → instance id or empty.
    pub(crate) check_owners: OrdMap<Key<2>, Arc<str>>,
    pub(crate) kv: OrdMap<Arc<str>, Arc<Row<KvEntry>>>,
    pub(crate) kv_gone: Tombstones<Arc<str>>,
    /// By id.
    pub(crate) sessions: OrdMap<Arc<str>, Arc<Row<Session>>>,
    /// (node, session id).
    pub(crate) node_sessions: OrdMap<Key<2>, ()>,
    /// (node, check id, session id).
    pub(crate) check_sessions: OrdMap<Key<3>, ()>,
    /// (session id, key that it holds).
    pub(crate) session_keys: OrdMap<Key<2>, ()>,
    pub(crate) lock_delays: LockDelays,
    /// By (destination, source).
    pub(crate) intentions: OrdMap<Key<2>, Arc<Row<Intention>>>,
    /// By (kind, name).
    pub(crate) config_entries: OrdMap<Key<2>, Arc<Row<ConfigEntry>>>,
    pub(crate) datacenters: OrdMap<Arc<str>, Arc<Row<Datacenter>>>,
    pub(crate) ca: Option<Arc<Row<CaState>>>,
    /// Lower-case hex serial → when the certificate expires by itself, in seconds since 1970.
    pub(crate) revoked_serials: OrdMap<Arc<str>, u64>,
    /// SPIFFE id → until when it is refused, in seconds since 1970.
    pub(crate) revoked_ids: OrdMap<Arc<str>, u64>,
}

/// A row, with the indexes of the commands that made it and last changed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row<T> {
    /// The command that made it.
    pub create_index: Index,
    /// The command that last changed it.
    pub modify_index: Index,
    /// The noun.
    pub value: T,
}

impl<T> std::ops::Deref for Row<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Row<T> {
    /// The row after a change at this index; it keeps the creation of the row that it replaces.
    pub(crate) fn after(old: Option<&Row<T>>, index: Index, value: T) -> Arc<Row<T>> {
        Arc::new(Row { create_index: old.map_or(index, |row| row.create_index), modify_index: index, value })
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Catalog::new()
    }
}

impl Catalog {
    /// The index of an empty catalog: a client treats 0 as "no index" and would ask in a busy loop.
    pub const FIRST_INDEX: Index = 1;

    /// An empty catalog.
    pub fn new() -> Self {
        Catalog {
            index: Self::FIRST_INDEX,
            clock_ms: 0,
            indexes: Indexes::default(),
            nodes: OrdMap::new(),
            node_ids: OrdMap::new(),
            pushed: OrdMap::new(),
            instances: OrdMap::new(),
            by_service: OrdMap::new(),
            by_connect: OrdMap::new(),
            by_kind: OrdMap::new(),
            checks: OrdMap::new(),
            check_owners: OrdMap::new(),
            kv: OrdMap::new(),
            kv_gone: Tombstones::default(),
            sessions: OrdMap::new(),
            node_sessions: OrdMap::new(),
            check_sessions: OrdMap::new(),
            session_keys: OrdMap::new(),
            lock_delays: LockDelays::default(),
            intentions: OrdMap::new(),
            config_entries: OrdMap::new(),
            datacenters: OrdMap::new(),
            ca: None,
            revoked_serials: OrdMap::new(),
            revoked_ids: OrdMap::new(),
        }
    }

    /// The number of commands that were applied, plus [`Catalog::FIRST_INDEX`].
    pub fn index(&self) -> Index {
        self.index
    }

    /// The leaders' clock: how many milliseconds leaders have counted up to the last command.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// Puts a node, and its id into the index of ids.
    pub(crate) fn put_node(&mut self, key: &Arc<str>, row: Arc<Row<Node>>) {
        let new_id = row.id.clone();
        let old = self.nodes.insert(key.clone(), row);
        if let Some(old) = old.filter(|old| !old.id.is_empty() && old.id != new_id) {
            self.node_ids.remove(old.id.as_str());
        }
        if !new_id.is_empty() {
            self.node_ids.insert(Arc::from(new_id), key.clone());
        }
    }

    /// Removes a node that has no instances and no checks any more.
    pub(crate) fn remove_node(&mut self, key: &str) {
        if let Some(old) = self.nodes.remove(key) {
            self.node_ids.remove(old.id.as_str());
        }
        self.pushed.remove(key);
    }

    /// Puts an instance into its table and the indexes of it; the old row, if there was one, leaves them.
    pub(crate) fn put_instance(&mut self, key: Key<2>, row: Arc<Row<ServiceInstance>>) {
        let old = self.instances.get(&key).cloned();
        if let Some(old) = old.filter(|old| !same_places(old, &row)) {
            self.unindex_instance(&key, &old);
        }
        for (table, name) in self.places(&row) {
            table.insert(Key([name, key.0[0].clone(), key.0[1].clone()]), row.clone());
        }
        self.instances.insert(key, row);
    }

    /// Removes an instance from its table and the indexes of it.
    pub(crate) fn remove_instance(&mut self, key: &Key<2>) -> Option<Arc<Row<ServiceInstance>>> {
        let old = self.instances.remove(key)?;
        self.unindex_instance(key, &old);
        Some(old)
    }

    fn unindex_instance(&mut self, key: &Key<2>, old: &ServiceInstance) {
        for (table, name) in self.places(old) {
            table.remove(&At([&name, &key.0[0], &key.0[1]]));
        }
    }

    /// The secondary tables that an instance is in, and its first key there.
    fn places(
        &mut self,
        instance: &ServiceInstance,
    ) -> impl Iterator<Item = (&mut OrdMap<Key<3>, Arc<Row<ServiceInstance>>>, Arc<str>)> {
        let service = shared_name(&self.by_service, &instance.service);
        let connect_name = connect_name(instance).map(|name| shared_name(&self.by_connect, name));
        let connect = connect_name.map(|name| (&mut self.by_connect, name));
        let kind = gateway_kind(instance).map(|kind| (&mut self.by_kind, Arc::from(kind)));
        std::iter::once((&mut self.by_service, service)).chain(connect).chain(kind)
    }

    /// Puts a check into its table and the index of check ids.
    pub(crate) fn put_check(&mut self, key: Key<3>, row: Arc<Row<Check>>) {
        self.check_owners.insert(Key([key.0[0].clone(), key.0[2].clone()]), key.0[1].clone());
        self.checks.insert(key, row);
    }

    /// Removes a check from its table and the index of check ids.
    pub(crate) fn remove_check(&mut self, key: &Key<3>) -> Option<Arc<Row<Check>>> {
        self.check_owners.remove(&At([&key.0[0], &key.0[2]]));
        self.checks.remove(key)
    }

    /// Puts a key into its table, and under the session that holds it.
    pub(crate) fn put_kv(&mut self, key: Arc<str>, row: Arc<Row<KvEntry>>) {
        let holder = row.session.as_deref().map(Arc::from);
        let old = self.kv.insert(key.clone(), row);
        if let Some(old_holder) = old.as_ref().and_then(|old| old.session.as_deref()) {
            self.session_keys.remove(&At([old_holder, &key]));
        }
        if let Some(holder) = holder {
            self.session_keys.insert(Key([holder, key]), ());
        }
    }

    /// Removes a key from its table, and from the session that holds it. Returns it, shared.
    pub(crate) fn remove_kv(&mut self, key: &str) -> Option<Arc<str>> {
        let (key, old) = self.kv.remove_with_key(key)?;
        if let Some(holder) = &old.session {
            self.session_keys.remove(&At([holder, &key]));
        }
        Some(key)
    }

    /// Puts a session into its table, and under its node and checks.
    pub(crate) fn put_session(&mut self, row: Arc<Row<Session>>) {
        let (node, id) = (folded_arc(&row.node), Arc::from(&*row.id));
        for check in row.check_ids() {
            self.check_sessions.insert(Key([node.clone(), Arc::from(check), Arc::clone(&id)]), ());
        }
        self.node_sessions.insert(Key([node, Arc::clone(&id)]), ());
        self.sessions.insert(id, row);
    }

    /// Removes a session from its table, and from its node and checks. What it holds is not looked at.
    pub(crate) fn remove_session(&mut self, id: &str) -> Option<Arc<Row<Session>>> {
        let row = self.sessions.remove(id)?;
        let node = folded(&row.node);
        for check in row.check_ids() {
            self.check_sessions.remove(&At([&*node, check, id]));
        }
        self.node_sessions.remove(&At([&*node, id]));
        Some(row)
    }

    /// A check by its node and id.
    pub(crate) fn check(&self, node: &str, id: &str) -> Option<(&Key<3>, &Arc<Row<Check>>)> {
        let owner = self.check_owners.get(&At([node, id]))?;
        self.checks.get_key_value(&At([node, owner, id]))
    }
}

/// The service for which an instance speaks the mesh's protocol, if it does.
pub(crate) fn connect_name(instance: &ServiceInstance) -> Option<&str> {
    match instance.kind {
        ServiceKind::ConnectProxy => Some(&instance.proxy.destination_service_name),
        ServiceKind::Typical if instance.connect.native => Some(&instance.service),
        ServiceKind::Typical
        | ServiceKind::MeshGateway
        | ServiceKind::TerminatingGateway
        | ServiceKind::IngressGateway
        | ServiceKind::ApiGateway => None,
    }
}

/// The kind of a gateway; nothing for applications and sidecars.
pub(crate) fn gateway_kind(instance: &ServiceInstance) -> Option<&'static str> {
    match instance.kind {
        ServiceKind::Typical | ServiceKind::ConnectProxy => None,
        ServiceKind::MeshGateway
        | ServiceKind::TerminatingGateway
        | ServiceKind::IngressGateway
        | ServiceKind::ApiGateway => Some(instance.kind.as_str()),
    }
}

/// A folded name, shared with the rows that have it already.
fn shared_name(table: &OrdMap<Key<3>, Arc<Row<ServiceInstance>>>, name: &str) -> Arc<str> {
    let name = folded(name);
    let known = under(table, [&*name]).next().map(|(key, _)| key.0[0].clone());
    known.unwrap_or_else(|| Arc::from(&*name))
}

fn same_places(a: &ServiceInstance, b: &ServiceInstance) -> bool {
    folded(&a.service) == folded(&b.service)
        && connect_name(a).map(folded) == connect_name(b).map(folded)
        && gateway_kind(a) == gateway_kind(b)
}
