//! Keys that are retired before their history is too long to judge, and what must hold of each.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jlt_core::checker::{OPERATIONS_PER_KEY_MAX, UNKNOWN_PER_KEY_MAX, linearizable, lost_write};
use jlt_core::history::{Operation, Outcome};
use jlt_core::judgement::Judgement;

/// Places for keys; when a key has seen enough, the next generation takes its place.
pub(crate) struct Keys<const PLACES: usize> {
    places: Mutex<[Place; PLACES]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    generation: u32,
    calls: usize,
    unknown: usize,
}

impl<const PLACES: usize> Default for Keys<PLACES> {
    fn default() -> Self {
        Self { places: Mutex::new([Place::default(); PLACES]) }
    }
}

impl<const PLACES: usize> Keys<PLACES> {
    /// For the next operation: a key that has seen neither too many nor too many of unknown outcome.
    pub(crate) fn name_of(&self, place: usize) -> String {
        let state = &mut self.places()[place];
        if state.calls >= OPERATIONS_PER_KEY_MAX || state.unknown >= UNKNOWN_PER_KEY_MAX {
            *state = Place { generation: state.generation + 1, ..Place::default() };
        }
        state.calls += 1;
        name(place, state.generation)
    }

    /// The outcome of a change is unknown.
    pub(crate) fn doubt(&self, place: usize) {
        self.places()[place].unknown += 1;
    }

    /// All keys that there were.
    pub(crate) fn all(&self) -> Vec<String> {
        let places = *self.places();
        let of = |(place, state): (usize, &Place)| (0..=state.generation).map(move |at| name(place, at));
        places.iter().enumerate().flat_map(of).collect()
    }

    fn places(&self) -> MutexGuard<'_, [Place; PLACES]> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(place: usize, generation: u32) -> String {
    format!("{place}-{generation}")
}

/// A key is linearizable, and no acknowledged write is lost: that is what `last`, who reads when all is healed, must see.
pub(crate) fn judge_key(key: &str, operations: &[Operation], last: usize, judgement: &mut Judgement) {
    match linearizable(operations) {
        Ok(true) => {}
        Ok(false) => judgement.violations.push(format!("{key} is not linearizable")),
        Err(why) => judgement.undecided.push(format!("{key}: {why}")),
    }
    let read = operations.iter().rev().find_map(|operation| match operation.outcome {
        Outcome::Saw(value) if operation.client == last => Some(value),
        _ => None,
    });
    match read {
        Some(read) => {
            let lost = lost_write(operations, read).map(|lost| format!("acknowledged write lost: {lost}"));
            judgement.violations.extend(lost);
        }
        None => judgement.undecided.push(format!("{key} was not read in the end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_has_seen_enough_has_a_successor() {
        let keys = Keys::<2>::default();
        let names: Vec<String> = (0..=OPERATIONS_PER_KEY_MAX).map(|_| keys.name_of(0)).collect();
        assert_eq!((names[0].as_str(), names[OPERATIONS_PER_KEY_MAX].as_str()), ("0-0", "0-1"));
        (0..UNKNOWN_PER_KEY_MAX).for_each(|_| keys.doubt(1));
        assert_eq!(keys.name_of(1), "1-1");
        assert_eq!(keys.all(), ["0-0", "0-1", "1-0", "1-1"]);
    }
}
