//! One keyed tree of values of one type.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::commit::{Callbacks, Group};
use crate::pending::Pending;
use crate::value::{Batch, decode, encode};

/// Keys (text or bytes, ordered) to values of one type. Writes are visible at once, durable after [`crate::Store::commit`].
#[derive(Clone)]
pub struct Tree<V> {
    tree: sled::Tree,
    queue: Queue,
    values: PhantomData<fn() -> V>,
}

/// Where changes wait for a commit, and who makes it.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) pending: Pending,
    pub(crate) group: Group,
    pub(crate) callbacks: Callbacks,
}

impl<V: Serialize + DeserializeOwned> Tree<V> {
    pub(crate) fn new(tree: sled::Tree, queue: Queue) -> Tree<V> {
        Tree { tree, queue, values: PhantomData }
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// [`StoreError::Decode`] if it was written by a later version; disk errors.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<V>, StoreError> {
        let key = key.as_ref();
        match self.tree.get(key).map_err(StoreError::from_sled)? {
            Some(bytes) => decode(key, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Puts `value` under `key`, in place of what was there.
    ///
    /// # Errors
    /// The caller's [`StoreError::ValueTooLarge`], [`StoreError::KeyTooLarge`], [`StoreError::Encode`]; disk errors.
    pub fn insert(&self, key: impl AsRef<[u8]>, value: &V) -> Result<(), StoreError> {
        let (key, bytes) = encode(key.as_ref(), value)?;
        self.tree.insert(key, bytes).map_err(StoreError::from_sled)?;
        Ok(())
    }

    /// Removes what is under `key`; says whether there was something.
    ///
    /// # Errors
    /// Disk errors.
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool, StoreError> {
        Ok(self.tree.remove(key).map_err(StoreError::from_sled)?.is_some())
    }

    /// Several changes that are kept all or none. They wait in memory for the next commit of the store (at most about a
    /// second), and are seen and durable after it; of several to one key, the last counts. Never waits for the disk. A tree that
    /// is changed so should not be changed otherwise.
    ///
    /// # Errors
    /// Those of [`Batch::insert`]; then nothing was changed.
    pub fn queue(&self, change: impl FnOnce(&mut Batch<V>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        change(&mut batch)?;
        self.queue.pending.add(&self.tree, batch.changes);
        self.queue.callbacks.soon(&self.queue.group);
        Ok(())
    }

    /// All keys and values in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Vec<u8>, V), StoreError>> + use<V> {
        self.tree.iter().map(read)
    }

    /// Those whose key begins with `prefix`, in order.
    pub fn iter_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, V), StoreError>> + use<V> {
        self.tree.scan_prefix(prefix).map(read)
    }

    /// How many keys there are (walks the tree).
    pub fn count(&self) -> usize {
        self.tree.len()
    }

    /// Removes everything.
    ///
    /// # Errors
    /// Disk errors.
    pub fn clear(&self) -> Result<(), StoreError> {
        self.tree.clear().map_err(StoreError::from_sled)
    }
}

fn read<V: DeserializeOwned>(pair: sled::Result<(sled::IVec, sled::IVec)>) -> Result<(Vec<u8>, V), StoreError> {
    let (key, bytes) = pair.map_err(StoreError::from_sled)?;
    let value = decode(&key, &bytes)?;
    Ok((key.to_vec(), value))
}
