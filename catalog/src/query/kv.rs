//! The key–value store. A reply's index is that of the newest change under what was asked, deletions included; who waits
//! is woken for a change anywhere in the nearest directory, and then finds the index unchanged.

use crate::tables::Row;
use crate::topic::Topic;
use crate::view::View;
use imbl::OrdMap;
use model::{Index, KvEntry};
use std::ops::Bound;
use std::sync::Arc;

/// One key.
pub fn get<'c>(view: &View<'c>, key: &str) -> Option<&'c Row<KvEntry>> {
    let row = view.catalog().kv.get(key).map(|row| &**row);
    let gone = &view.catalog().kv_gone;
    let changed = row.map(|row| row.modify_index).or_else(|| gone.map().get(key).copied());
    view.note_at(Topic::Kv(Arc::from(key)), changed.unwrap_or_else(|| gone.floor()));
    row
}

/// All keys with a prefix, in order.
pub fn list<'c>(view: &View<'c>, prefix: &str) -> Vec<&'c Row<KvEntry>> {
    let rows: Vec<_> = starting_with(&view.catalog().kv, prefix).map(|(_, row)| &**row).collect();
    let newest = rows.iter().map(|row| row.modify_index).max();
    note_prefix(view, prefix, newest);
    rows
}

/// The names of all keys with a prefix, in order; each cut after the first separator that follows the prefix, and
/// each named once.
pub fn keys<'c>(view: &View<'c>, prefix: &str, separator: &str) -> Vec<&'c str> {
    let mut newest = None;
    let mut names: Vec<&str> = Vec::new();
    for (key, row) in starting_with(&view.catalog().kv, prefix) {
        newest = newest.max(Some(row.modify_index));
        let name = cut(key, prefix.len(), separator);
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    note_prefix(view, prefix, newest);
    names
}

fn note_prefix(view: &View<'_>, prefix: &str, newest_row: Option<Index>) {
    let gone = &view.catalog().kv_gone;
    let newest_gone = starting_with(gone.map(), prefix).map(|(_, index)| *index).max();
    let changed = newest_row.max(newest_gone).unwrap_or(0).max(gone.floor());
    view.note_at(Topic::kv_under(prefix), changed);
}

fn cut<'k>(key: &'k str, prefix_len: usize, separator: &str) -> &'k str {
    if separator.is_empty() {
        return key;
    }
    match key[prefix_len..].find(separator) {
        Some(at) => &key[..prefix_len + at + separator.len()],
        None => key,
    }
}

fn starting_with<'m, 'p, V: Clone>(
    map: &'m OrdMap<Arc<str>, V>,
    prefix: &'p str,
) -> impl Iterator<Item = (&'m str, &'m V)> + use<'m, 'p, V> {
    let range = map.range::<_, str>((Bound::Included(prefix), Bound::Unbounded));
    range.map(|(key, value)| (&**key, value)).take_while(move |(key, _)| key.starts_with(prefix))
}
