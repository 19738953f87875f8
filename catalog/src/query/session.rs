//! Sessions.

use super::note;
use crate::key::{folded, under};
use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use model::Session;
use std::sync::Arc;

/// A session by its id.
pub fn session<'c>(view: &View<'c>, id: &str) -> Option<&'c Row<Session>> {
    note(view, Topic::Session, id);
    view.catalog().sessions.get(id).map(|row| &**row)
}

/// All sessions, by id.
pub fn list<'c>(view: &View<'c>) -> Vec<&'c Row<Session>> {
    view.note(Topic::Sessions);
    view.catalog().sessions.values().map(|row| &**row).collect()
}

/// The sessions of a node, by id.
pub fn of_node<'c>(view: &View<'c>, node: &str) -> Vec<&'c Row<Session>> {
    let key = folded(node);
    note(view, Topic::NodeSessions, &key);
    let ids = under(&view.catalog().node_sessions, [&*key]).map(|(key, ())| &key.0[1]);
    ids.filter_map(|id| view.catalog().sessions.get(&**id)).map(|row| &**row).collect()
}

/// All sessions as they are now, kept to be compared with what they are later.
pub fn all(view: &View<'_>) -> AllSessions {
    view.note(Topic::Sessions);
    AllSessions(view.catalog().sessions.clone())
}

/// All sessions at one time. It holds nothing else of the catalog.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AllSessions(OrdMap<Arc<str>, Arc<Row<Session>>>);

/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SessionChange<'s> {
    /// It has begun.
    Begun(&'s Session),
    /// It has ended; this was its id.
    Ended(&'s str),
}

impl AllSessions {
    /// What has begun and ended since an earlier time. What both share is not looked at.
    pub fn changes_since<'s>(&'s self, earlier: &'s AllSessions) -> impl Iterator<Item = SessionChange<'s>> {
        earlier.0.diff(&self.0).map(|change| match change {
            // A session never changes, so that an update can only be a row of the same words.
            DiffItem::Add(_, row) | DiffItem::Update { new: (_, row), .. } => SessionChange::Begun(&row.value),
            DiffItem::Remove(id, _) => SessionChange::Ended(id),
        })
    }
}
