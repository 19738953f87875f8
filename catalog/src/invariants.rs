//! What is true of every catalog. Tests ask after each command; a debug command may ask a running server.

use crate::apply::Standing;
use crate::key::{At, Key, folded, folded_arc};
use crate::tables::{Catalog, Row, connect_name, gateway_kind};
use imbl::OrdMap;
use model::{CheckStatus, Index, KvEntry, ServiceInstance};
use std::sync::Arc;

type Secondary = OrdMap<Key<3>, Arc<Row<ServiceInstance>>>;

impl Catalog {
    /// What is not true of this catalog although it must be: nothing, or there is a bug. Takes time; not for hot paths.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.check_nodes(&mut found);
        self.check_instances(&mut found);
        self.check_checks(&mut found);
        self.check_sessions(&mut found);
        self.check_names(&mut found);
        self.check_indexes(&mut found);
        found
    }

    fn check_nodes(&self, found: &mut Vec<String>) {
        for (key, row) in &self.nodes {
            expect(found, folded(&row.name) == **key, || format!("node {} is under {key}", row.name));
            let id_leads_here = row.id.is_empty() || self.node_ids.get(row.id.as_str()) == Some(key);
            expect(found, id_leads_here, || format!("the id of node {key} leads elsewhere"));
        }
        for (id, key) in &self.node_ids {
            let there = self.nodes.get(&**key).is_some_and(|row| *row.id == **id);
            expect(found, there, || format!("id {id} leads to {key}, which has another"));
        }
        for (key, index) in &self.pushed {
            let fits = self.nodes.contains_key(key) && *index <= self.index;
            expect(found, fits, || format!("the agent of {key} pushed at {index}"));
        }
    }

    fn check_instances(&self, found: &mut Vec<String>) {
        let (mut by_service, mut by_connect, mut by_kind) = (Secondary::new(), Secondary::new(), Secondary::new());
        for (key, row) in &self.instances {
            let [node, id] = &key.0;
            expect(found, row.id == **id, || format!("instance {} is under {id}", row.id));
            expect(found, self.nodes.contains_key(&**node), || {
                format!("instance {id} is on {node}, which is not there")
            });
            let index = |table: &mut Secondary, name: &str| {
                table.insert(Key([Arc::from(name), node.clone(), id.clone()]), row.clone());
            };
            index(&mut by_service, &folded(&row.service));
            if let Some(name) = connect_name(row) {
                index(&mut by_connect, &folded(name));
            }
            if let Some(kind) = gateway_kind(row) {
                index(&mut by_kind, kind);
            }
        }
        expect(found, by_service == self.by_service, || "by_service differs from instances".into());
        expect(found, by_connect == self.by_connect, || "by_connect differs from instances".into());
        expect(found, by_kind == self.by_kind, || "by_kind differs from instances".into());
    }

    fn check_checks(&self, found: &mut Vec<String>) {
        expect(found, self.checks.len() == self.check_owners.len(), || "check_owners differs from checks".into());
        for (key, row) in &self.checks {
            let [node, owner, id] = &key.0;
            expect(found, row.check_id == **id && row.service_id == **owner, || {
                format!("check {} is under {owner}/{id}", row.check_id)
            });
            expect(found, self.check_owners.get(&At([node, id])) == Some(owner), || {
                format!("check {id} of {node} has another owner")
            });
            let node_there = self.nodes.get(&**node).is_some_and(|n| n.name == row.node);
            expect(found, node_there, || format!("check {id} names node {:?}, which is not {node}", row.node));
            let instance = self.instances.get(&At([node, owner]));
            let labels_fit = match instance {
                Some(instance) => row.service_name == instance.service && row.service_tags == instance.tags,
                None => owner.is_empty() && row.service_name.is_empty(),
            };
            expect(found, labels_fit, || format!("check {id} of {node} does not fit its instance {owner:?}"));
        }
    }

    fn check_sessions(&self, found: &mut Vec<String>) {
        let (mut node_sessions, mut check_sessions) = (OrdMap::new(), OrdMap::new());
        for (id, row) in &self.sessions {
            let node = folded_arc(&row.node);
            expect(found, row.id == **id, || format!("session {} is under {id}", row.id));
            expect(found, self.nodes.contains_key(&*node), || format!("session {id} is on {node}, which is not there"));
            for check in row.check_ids() {
                let holds = self.check(&node, check).is_some_and(|(_, check)| check.status != CheckStatus::Critical);
                expect(found, holds, || format!("session {id} outlived its check {check}"));
                check_sessions.insert(Key([node.clone(), Arc::from(check), id.clone()]), ());
            }
            node_sessions.insert(Key([node, id.clone()]), ());
        }
        let holder = |(key, row): (&Arc<str>, &Arc<Row<KvEntry>>)| {
            row.session.as_deref().map(|session| (Key([Arc::from(session), key.clone()]), ()))
        };
        let session_keys: OrdMap<Key<2>, ()> = self.kv.iter().filter_map(holder).collect();
        for key in session_keys.keys() {
            let [session, key] = &key.0;
            expect(found, self.sessions.contains_key(&**session), || {
                format!("{key} is held by {session}, which is gone")
            });
        }
        expect(found, node_sessions == self.node_sessions, || "node_sessions differs from sessions".into());
        expect(found, check_sessions == self.check_sessions, || "check_sessions differs from sessions".into());
        expect(found, session_keys == self.session_keys, || "session_keys differs from kv".into());
        expect(found, self.lock_delays.is_sound(self.clock_ms), || "lock_delays are not sound".into());
    }

    fn check_names(&self, found: &mut Vec<String>) {
        for (key, row) in &self.kv {
            expect(found, row.key == **key && !key.is_empty(), || format!("key {} is under {key}", row.key));
            expect(found, !self.kv_gone.map().contains_key(key), || format!("key {key} is there and gone"));
        }
        for (key, row) in &self.intentions {
            let fits = folded(&row.destination_name) == *key.0[0] && row.source_name == *key.0[1];
            expect(found, fits, || format!("intention {key:?} has other names"));
        }
        for (key, row) in &self.config_entries {
            expect(found, row.kind() == &*key.0[0] && folded(row.name()) == *key.0[1], || {
                format!("entry {key:?} has another name")
            });
        }
    }

    fn check_indexes(&self, found: &mut Vec<String>) {
        let rows = self.nodes.values().map(|row| span(row)).chain(self.instances.values().map(|row| span(row)));
        let rows = rows.chain(self.checks.values().map(|row| span(row))).chain(self.kv.values().map(|row| span(row)));
        let rows = rows
            .chain(self.intentions.values().map(|row| span(row)))
            .chain(self.config_entries.values().map(|row| span(row)))
            .chain(self.sessions.values().map(|row| span(row)));
        let rows =
            rows.chain(self.datacenters.values().map(|row| span(row))).chain(self.ca.iter().map(|row| span(row)));
        for (create, modify) in rows {
            let fits = Self::FIRST_INDEX < create && create <= modify && modify <= self.index;
            expect(found, fits, || {
                format!("a row was made at {create}, changed at {modify}, and now is {}", self.index)
            });
        }
        for (topic, index) in &self.indexes.live {
            expect(found, *index <= self.index, || format!("{topic:?} changed at {index}, which is to come"));
            expect(found, self.standing(topic) == Standing::There, || format!("{topic:?} is kept although it is gone"));
        }
        for (topic, index) in self.indexes.gone.map() {
            expect(found, *index <= self.index, || format!("{topic:?} went at {index}, which is to come"));
            expect(found, !self.indexes.live.contains_key(topic), || format!("{topic:?} is kept twice"));
        }
        let floor = self.indexes.gone.floor().max(self.kv_gone.floor());
        expect(found, floor <= self.index, || format!("the floor {floor} is to come"));
    }
}

fn span<T>(row: &Row<T>) -> (Index, Index) {
    (row.create_index, row.modify_index)
}

fn expect(found: &mut Vec<String>, holds: bool, problem: impl FnOnce() -> String) {
    if !holds {
        found.push(problem());
    }
}
