//! Intentions.

use super::note;
use crate::key::{At, folded, under};
use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use model::Intention;
use model::intention::ANY;

/// All intentions, the more exact first, then by destination and source.
pub fn list<'c>(view: &View<'c>) -> Vec<&'c Row<Intention>> {
    view.note(Topic::Intentions);
    most_exact_first(view.catalog().intentions.values().map(|row| &**row).collect())
}

/// The intention for exactly this source and destination.
pub fn exact<'c>(view: &View<'c>, source: &str, destination: &str) -> Option<&'c Row<Intention>> {
    let destination = &*folded(destination);
    note(view, Topic::IntentionsFor, destination);
    view.catalog().intentions.get(&At([destination, source])).map(|row| &**row)
}

/// The intention with this id.
pub fn by_id<'c>(view: &View<'c>, id: &str) -> Option<&'c Row<Intention>> {
    view.note(Topic::Intentions);
    view.catalog().intentions.values().map(|row| &**row).find(|row| row.id == id)
}

/// The intentions that can apply to calls of this destination, the more exact first.
pub fn matching_destination<'c>(view: &View<'c>, destination: &str) -> Vec<&'c Row<Intention>> {
    let destination = &*folded(destination);
    let mut rows = Vec::new();
    for name in [destination, ANY] {
        note(view, Topic::IntentionsFor, name);
        rows.extend(under(&view.catalog().intentions, [name]).map(|(_, row)| &**row));
        if destination == ANY {
            break;
        }
    }
    most_exact_first(rows)
}

/// The intentions that can apply to calls by this source, the more exact first.
pub fn matching_source<'c>(view: &View<'c>, source: &str) -> Vec<&'c Row<Intention>> {
    view.note(Topic::Intentions);
    let rows = view.catalog().intentions.values().map(|row| &**row);
    most_exact_first(rows.filter(|row| row.source_name == source || row.source_name == ANY).collect())
}

fn most_exact_first(mut rows: Vec<&Row<Intention>>) -> Vec<&Row<Intention>> {
    rows.sort_by_key(|row| std::cmp::Reverse(row.precedence));
    rows
}
