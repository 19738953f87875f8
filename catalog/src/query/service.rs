//! Services and their instances, with or without health.

use super::{HealthEntry, MetaPair, Placed, Selection, has_meta, has_tags, note};
use crate::key::{At, Key, folded, under};
use crate::tables::{Catalog, Row};
use crate::topic::Topic;
use crate::view::View;
use imbl::OrdMap;
use model::{Check, CheckStatus, Node, ServiceInstance, ServiceKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Every service and the tags of its instances, of those on nodes whose metadata has all these pairs.
pub fn names<'c>(view: &View<'c>, node_meta: &[MetaPair]) -> BTreeMap<&'c str, BTreeSet<&'c str>> {
    view.note(Topic::Services);
    let mut names = BTreeMap::<&str, BTreeSet<&str>>::new();
    let catalog = view.catalog();
    for (key, row) in &catalog.by_service {
        let wanted = || node_at(catalog, key).is_some_and(|node| has_meta(node, node_meta));
        if node_meta.is_empty() || wanted() {
            let tags = names.entry(&row.service).or_default();
            tags.extend(row.tags.iter().map(String::as_str));
        }
    }
    names
}

/// Every instance of every service.
pub fn all<'c>(view: &View<'c>) -> Vec<Placed<'c>> {
    view.note(Topic::AllInstances);
    placed(view.catalog(), view.catalog().by_service.iter(), &Selection::default())
}

/// The instances of a service. Names of services compare without case, here and below.
pub fn instances<'c>(view: &View<'c>, service: &str, selection: &Selection) -> Vec<Placed<'c>> {
    let name = folded(service);
    note(view, Topic::Instances, &name);
    placed(view.catalog(), under(&view.catalog().by_service, [&*name]), selection)
}

/// What speaks the mesh's protocol for a service: sidecars and native instances.
pub fn connect<'c>(view: &View<'c>, service: &str, selection: &Selection) -> Vec<Placed<'c>> {
    let name = folded(service);
    note(view, Topic::Connect, &name);
    placed(view.catalog(), under(&view.catalog().by_connect, [&*name]), selection)
}

/// The services that something speaks the mesh's protocol for, in lower case, in order.
pub fn connect_names<'c>(view: &View<'c>) -> Vec<&'c str> {
    view.note(Topic::ConnectNames);
    let mut names: Vec<&str> = view.catalog().by_connect.keys().map(|key| &*key.0[0]).collect();
    names.dedup();
    names
}

/// The instances of a service with their checks.
pub fn health<'c>(view: &View<'c>, service: &str, selection: &Selection) -> Vec<HealthEntry<'c>> {
    with_checks(view, instances(view, service, selection), selection)
}

/// As [`connect`], with checks.
pub fn health_connect<'c>(view: &View<'c>, service: &str, selection: &Selection) -> Vec<HealthEntry<'c>> {
    with_checks(view, connect(view, service, selection), selection)
}

/// A node and its instances, by id.
pub fn on_node<'c>(view: &View<'c>, node: &str) -> Option<(&'c Row<Node>, Vec<&'c Row<ServiceInstance>>)> {
    let row = super::node::node(view, node)?;
    let key = folded(node);
    note(view, Topic::NodeServices, &key);
    Some((row, under(&view.catalog().instances, [&key]).map(|(_, row)| &**row).collect()))
}

/// The sidecars and gateways on a node, by id.
pub fn proxies_on<'c>(view: &View<'c>, node: &str) -> Vec<&'c Row<ServiceInstance>> {
    let services = on_node(view, node).map(|(_, services)| services);
    let is_proxy = |row: &&Row<ServiceInstance>| row.kind != ServiceKind::Typical;
    services.into_iter().flatten().filter(is_proxy).collect()
}

/// One instance.
pub fn instance<'c>(view: &View<'c>, node: &str, id: &str) -> Option<&'c Row<ServiceInstance>> {
    let key = folded(node);
    note(view, Topic::NodeServices, &key);
    view.catalog().instances.get(&At([&key, id])).map(|row| &**row)
}

/// Adds the checks to instances, and keeps those that pass if that is wanted.
pub(crate) fn with_checks<'c>(
    view: &View<'c>,
    instances: Vec<Placed<'c>>,
    selection: &Selection,
) -> Vec<HealthEntry<'c>> {
    // Instances of one service stand together: its topics need to be noted once.
    let mut noted = "";
    let entry = |placed: Placed<'c>| {
        if placed.service.value.service != noted {
            noted = &placed.service.value.service;
            let name = folded(noted);
            note(view, Topic::ServiceChecks, &name);
            note(view, Topic::ServiceNodeChecks, &name);
        }
        HealthEntry { node: placed.node, service: placed.service, checks: checks_of(view.catalog(), placed) }
    };
    let wanted = |entry: &HealthEntry<'_>| !selection.passing || entry.status() == CheckStatus::Passing;
    instances.into_iter().map(entry).filter(wanted).collect()
}

fn checks_of<'c>(catalog: &'c Catalog, placed: Placed<'c>) -> Vec<&'c Row<Check>> {
    let node = folded(&placed.node.name);
    let of_node = under(&catalog.checks, [&node, ""]);
    let of_instance = under(&catalog.checks, [&node, &*placed.service.id]);
    of_node.chain(of_instance).map(|(_, row)| &**row).collect()
}

fn placed<'c>(
    catalog: &'c Catalog,
    rows: impl Iterator<Item = (&'c Key<3>, &'c Arc<Row<ServiceInstance>>)>,
    selection: &Selection,
) -> Vec<Placed<'c>> {
    let at_node = |(key, service): (&'c Key<3>, &'c Arc<Row<ServiceInstance>>)| {
        Some(Placed { node: node_at(catalog, key)?, service })
    };
    let wanted =
        |placed: &Placed<'_>| has_tags(placed.service, &selection.tags) && has_meta(placed.node, &selection.node_meta);
    rows.filter_map(at_node).filter(wanted).collect()
}

/// The instances of one table under a name.
pub(crate) fn of_table<'c>(
    catalog: &'c Catalog,
    table: &'c OrdMap<Key<3>, Arc<Row<ServiceInstance>>>,
    name: &str,
) -> Vec<Placed<'c>> {
    placed(catalog, under(table, [name]), &Selection::default())
}

fn node_at<'c>(catalog: &'c Catalog, key: &Key<3>) -> Option<&'c Row<Node>> {
    catalog.nodes.get(&*key.0[1]).map(|row| &**row)
}
