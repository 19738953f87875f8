//! Nodes.

use super::{MetaPair, has_meta, note};
use crate::key::folded;
use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use model::Node;

/// All nodes whose metadata has all these pairs, by name without case.
pub fn nodes<'c>(view: &View<'c>, node_meta: &[MetaPair]) -> Vec<&'c Row<Node>> {
    view.note(Topic::Nodes);
    view.catalog().nodes.values().map(|row| &**row).filter(|node| has_meta(node, node_meta)).collect()
}

/// A node by its name, without case.
pub fn node<'c>(view: &View<'c>, name: &str) -> Option<&'c Row<Node>> {
    let key = folded(name);
    note(view, Topic::Node, &key);
    view.catalog().nodes.get(&*key).map(|row| &**row)
}

/// A node by its id.
pub fn node_by_id<'c>(view: &View<'c>, id: &str) -> Option<&'c Row<Node>> {
    view.note(Topic::Nodes);
    let key = view.catalog().node_ids.get(id)?;
    view.catalog().nodes.get(&**key).map(|row| &**row)
}
