//! Checks.

use super::{MetaPair, has_meta, note};
use crate::key::{folded, under};
use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use model::{Check, CheckStatus};

/// The checks of a node and of all instances on it: the node's first, then by instance and check id.
pub fn of_node<'c>(view: &View<'c>, node: &str) -> Vec<&'c Row<Check>> {
    let key = folded(node);
    note(view, Topic::NodeChecks, &key);
    under(&view.catalog().checks, [&key]).map(|(_, row)| &**row).collect()
}

/// One check of a node.
pub fn check<'c>(view: &View<'c>, node: &str, id: &str) -> Option<&'c Row<Check>> {
    let key = folded(node);
    note(view, Topic::NodeChecks, &key);
    view.catalog().check(&key, id).map(|(_, row)| &**row)
}

/// The checks of a service's instances (not of their nodes), on nodes whose metadata has all these pairs.
pub fn of_service<'c>(view: &View<'c>, service: &str, node_meta: &[MetaPair]) -> Vec<&'c Row<Check>> {
    let service = folded(service);
    note(view, Topic::ServiceChecks, &service);
    if !node_meta.is_empty() {
        note(view, Topic::Instances, &service);
    }
    let catalog = view.catalog();
    let instances = under(&catalog.by_service, [&*service]);
    let on_wanted = instances.filter(|(key, _)| node_has_meta(view, &key.0[1], node_meta));
    on_wanted.flat_map(|(key, _)| under(&catalog.checks, [&*key.0[1], &*key.0[2]])).map(|(_, row)| &**row).collect()
}

/// The checks that say this (`None`: all), on nodes whose metadata has all these pairs.
pub fn in_state<'c>(view: &View<'c>, status: Option<CheckStatus>, node_meta: &[MetaPair]) -> Vec<&'c Row<Check>> {
    view.note(status.map_or(Topic::Checks, Topic::ChecksIn));
    if !node_meta.is_empty() {
        view.note(Topic::Nodes);
    }
    let wanted = |row: &Row<Check>| status.is_none_or(|status| row.status == status);
    let rows = view.catalog().checks.iter().filter(|(_, row)| wanted(row));
    rows.filter(|(key, _)| node_has_meta(view, &key.0[0], node_meta)).map(|(_, row)| &**row).collect()
}

fn node_has_meta(view: &View<'_>, node: &str, node_meta: &[MetaPair]) -> bool {
    node_meta.is_empty() || view.catalog().nodes.get(node).is_some_and(|node| has_meta(node, node_meta))
}
