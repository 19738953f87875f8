//! Keys of the catalog's tables: a few shared strings, found by borrowed ones, ordered so that a prefix is a range.

use equivalent::{Comparable, Equivalent};
use imbl::OrdMap;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// A key of `N` parts, for example (node, instance id).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key<const N: usize>(pub(crate) [Arc<str>; N]);

/// A [`Key`] to look for, made of borrowed parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a, const N: usize>(pub(crate) [&'a str; N]);

impl<const N: usize> Equivalent<Key<N>> for At<'_, N> {
    fn equivalent(&self, key: &Key<N>) -> bool {
        self.compare(key) == Ordering::Equal
    }
}

impl<const N: usize> Comparable<Key<N>> for At<'_, N> {
    fn compare(&self, key: &Key<N>) -> Ordering {
        self.0.iter().copied().cmp(key.0.iter().map(|part| &**part))
    }
}

/// The rows whose key begins with these `P` parts, in order.
pub(crate) fn under<'m, 'p, const N: usize, const P: usize, V: Clone>(
    map: &'m OrdMap<Key<N>, V>,
    prefix: [&'p str; P],
) -> impl Iterator<Item = (&'m Key<N>, &'m V)> + use<'m, 'p, N, P, V> {
    let mut from = [""; N];
    from[..P].copy_from_slice(&prefix);
    map.range((Bound::Included(At(from)), Bound::Unbounded))
        .take_while(move |(key, _)| key.0.iter().zip(prefix).all(|(part, wanted)| &**part == wanted))
}

/// The form in which names of nodes and services are compared: without case, as in Consul.
pub(crate) fn folded(name: &str) -> Cow<'_, str> {
    let is_folded = name.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase());
    if is_folded { Cow::Borrowed(name) } else { Cow::Owned(name.to_lowercase()) }
}

/// A folded name, to keep.
pub(crate) fn folded_arc(name: &str) -> Arc<str> {
    Arc::from(&*folded(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range() {
        let key = |a: &str, b: &str| Key([Arc::from(a), Arc::from(b)]);
        let map: OrdMap<Key<2>, u8> =
            [(key("a", "x"), 1), (key("ab", ""), 2), (key("a", ""), 3), (key("b", "a"), 4)].into_iter().collect();
        let found = |prefix| under(&map, [prefix]).map(|(_, v)| *v).collect::<Vec<_>>();
        assert_eq!(found("a"), [3, 1]);
        assert_eq!(found("ab"), [2]);
        assert_eq!(found("c"), [0u8; 0]);
        assert_eq!(map.get(&At(["a", "x"])), Some(&1));
        assert_eq!(map.get(&At(["a", "y"])), None);
    }
}
