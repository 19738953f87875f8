//! Changes that wait in memory for the next commit, so that those who make them never wait for the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::commit::held;
use crate::value::Changes;

/// Changes by the name of their tree; of those to one key, the last.
#[derive(Clone, Default)]
pub(crate) struct Pending {
    trees: Arc<Mutex<HashMap<sled::IVec, (sled::Tree, Changes)>>>,
}

impl Pending {
    pub(crate) fn add(&self, tree: &sled::Tree, changes: Changes) {
        let mut trees = held(&self.trees);
        trees.entry(tree.name()).or_insert_with(|| (tree.clone(), Changes::new())).1.extend(changes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        held(&self.trees).is_empty()
    }

    /// Gives sled what waits, whole. One caller at a time, or an older change might come after a newer one.
    pub(crate) fn apply(&self) -> sled::Result<()> {
        let trees = std::mem::take(&mut *held(&self.trees));
        for (tree, changes) in trees.into_values() {
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            tree.apply_batch(batch)?;
        }
        Ok(())
    }
}
