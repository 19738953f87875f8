//! `near=`: what is on the named node first. Distances between nodes are not measured yet.

use super::read::Read;

/// Whose rows come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Near(Option<String>);

impl Near {
    /// What a read asks for; `_agent` is this server, for a plain agent puts its own name there before it asks us.
    pub(super) fn of(read: &Read) -> Self {
        let own = &read.core.config.node_name;
        Near(read.options.near.clone().map(|near| if near == api::near::AGENT { own.clone() } else { near }))
    }

    /// The node's own rows, then all others; among themselves they stay as they were. Unknown nodes change nothing.
    pub(super) fn first<T>(&self, rows: impl Iterator<Item = T>, node: impl Fn(&T) -> &str) -> Vec<T> {
        let Some(near) = self.0.as_deref().map(str::to_lowercase) else { return rows.collect() };
        let (mut own, others): (Vec<T>, Vec<T>) = rows.partition(|row| node(row).to_lowercase() == near);
        own.extend(others);
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_rows_come_first_and_the_rest_stays() {
        let rows = ["a1", "b1", "c1", "b2", "a2"];
        let sorted = |near: Option<&str>| Near(near.map(Into::into)).first(rows.into_iter(), |row| &row[..1]);
        assert_eq!(sorted(Some("b")), ["b1", "b2", "a1", "c1", "a2"]);
        assert_eq!(sorted(Some("C")), ["c1", "a1", "b1", "b2", "a2"]);
        assert_eq!(sorted(Some("nope")), rows);
        assert_eq!(sorted(None), rows);
    }
}
