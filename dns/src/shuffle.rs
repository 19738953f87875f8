//! Another order for each answer, so that clients that take the first record spread over all instances.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Gives out places in random order, one at a time: an answer that has room for ten of a thousand draws ten.
#[derive(Debug)]
pub(crate) struct Shuffler {
    rng: SmallRng,
    places: Vec<usize>,
}

impl Shuffler {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), places: Vec::new() }
    }

    /// The items in random order (Fisher and Yates, as far as it is asked for).
    pub(crate) fn shuffle<'s, 'i, T>(&'s mut self, items: &'i [T]) -> impl Iterator<Item = &'i T> + use<'s, 'i, T> {
        self.places.clear();
        self.places.extend(0..items.len());
        let Self { rng, places } = self;
        (0..items.len()).map(move |next| {
            places.swap(next, rng.random_range(next..items.len()));
            &items[places[next]]
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_comes_once_and_each_place_gets_its_turn() {
        let items: Vec<usize> = (0..10).collect();
        let mut shuffler = Shuffler::new(7);
        let mut first = BTreeSet::new();
        for _ in 0..200 {
            let order: Vec<usize> = shuffler.shuffle(&items).copied().collect();
            first.insert(order[0]);
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>().len(), 10);
        }
        assert_eq!(first.len(), 10, "200 answers, and some instance was never the first");
        assert_eq!(shuffler.shuffle::<usize>(&[]).count(), 0);
    }
}
