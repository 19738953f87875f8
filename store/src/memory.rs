//! The store of a simulation: trees in memory, by folder, that outlive whoever opened them. The promises are the same: what
//! was committed survives a power cut, of the rest only the first changes may.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;
use crate::value::{Batch, decode, encode};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

static FOLDERS: Mutex<BTreeMap<PathBuf, Arc<Mutex<Folder>>>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Folder {
    now: BTreeMap<String, Pairs>,
    durable: BTreeMap<String, Pairs>,
    /// What was changed since the last commit, in order.
    uncommitted: Vec<Change>,
    /// Whoever uses it is dead: nothing more reaches it.
    is_left: bool,
}

#[derive(Clone)]
struct Change {
    tree: String,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// Cuts the power: of what was not committed in this folder, only the first `kept` changes survive.
pub fn cut_power(dir: &Path, kept: usize) {
    let folder = folder(dir);
    let mut folder = held(&folder);
    let survivors: Vec<Change> = folder.uncommitted.drain(..).take(kept).collect();
    for change in survivors {
        change.apply(&mut folder.durable);
    }
    folder.now = folder.durable.clone();
}

/// Whether the process that uses this folder has died. Then nothing more reaches it, until a new one uses it.
pub fn set_left(dir: &Path, is_left: bool) {
    held(&folder(dir)).is_left = is_left;
}

/// A folder of keyed trees.
#[derive(Clone)]
pub struct Store {
    folder: Arc<Mutex<Folder>>,
}

impl Store {
    /// Opens the store of that folder.
    ///
    /// # Errors
    /// None; the store on the disk has some.
    pub fn open(dir: impl AsRef<Path>) -> Result<Store, StoreError> {
        Ok(Store { folder: folder(dir.as_ref()) })
    }

    /// The tree of that name, made if it is new.
    ///
    /// # Errors
    /// None; the store on the disk has some.
    pub fn tree<V: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Tree<V>, StoreError> {
        Ok(Tree { folder: Arc::clone(&self.folder), name: name.into(), values: PhantomData })
    }

    /// Everything written before survives a power cut.
    pub fn commit(&self) {
        held(&self.folder).commit();
    }

    /// Calls `done` when everything written before survives a power cut, which is at once.
    pub fn commit_then(&self, done: impl FnOnce() + Send + 'static) {
        self.commit();
        done();
    }
}

/// Keys to values of one type.
#[derive(Clone)]
pub struct Tree<V> {
    folder: Arc<Mutex<Folder>>,
    name: String,
    values: PhantomData<fn() -> V>,
}

impl<V: Serialize + DeserializeOwned> Tree<V> {
    /// The value under `key`.
    ///
    /// # Errors
    /// [`StoreError::Decode`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<V>, StoreError> {
        let key = key.as_ref();
        let folder = held(&self.folder);
        let bytes = folder.now.get(&self.name).and_then(|pairs| pairs.get(key));
        bytes.map(|bytes| decode(key, bytes)).transpose()
    }

    /// Puts `value` under `key`, in place of what was there.
    ///
    /// # Errors
    /// The caller's [`StoreError::ValueTooLarge`], [`StoreError::KeyTooLarge`], [`StoreError::Encode`].
    pub fn insert(&self, key: impl AsRef<[u8]>, value: &V) -> Result<(), StoreError> {
        let (key, bytes) = encode(key.as_ref(), value)?;
        self.change(key.to_vec(), Some(bytes));
        Ok(())
    }

    /// Removes what is under `key`; says whether there was something.
    ///
    /// # Errors
    /// None; the store on the disk has some.
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool, StoreError> {
        Ok(self.change(key.as_ref().to_vec(), None))
    }

    /// Several changes that are kept all or none, and committed at once.
    ///
    /// # Errors
    /// Those of [`Batch::insert`]; then nothing was changed.
    pub fn queue(&self, change: impl FnOnce(&mut Batch<V>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        change(&mut batch)?;
        for (key, value) in batch.changes {
            self.change(key, value);
        }
        held(&self.folder).commit();
        Ok(())
    }

    /// All keys and values in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Vec<u8>, V), StoreError>> + use<V> {
        self.iter_prefix(b"")
    }

    /// Those whose key begins with `prefix`, in order.
    pub fn iter_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, V), StoreError>> + use<V> {
        let pairs = self.pairs().into_iter();
        let prefix = prefix.to_vec();
        let found = pairs.filter(move |(key, _)| key.starts_with(&prefix));
        found.map(|(key, bytes)| decode(&key, &bytes).map(|value| (key, value)))
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.pairs().len()
    }

    /// Removes everything.
    ///
    /// # Errors
    /// None; the store on the disk has some.
    pub fn clear(&self) -> Result<(), StoreError> {
        for key in self.pairs().into_keys() {
            self.change(key, None);
        }
        Ok(())
    }

    fn pairs(&self) -> Pairs {
        held(&self.folder).now.get(&self.name).cloned().unwrap_or_default()
    }

    fn change(&self, key: Vec<u8>, value: Option<Vec<u8>>) -> bool {
        let change = Change { tree: self.name.clone(), key, value };
        let mut folder = held(&self.folder);
        if folder.is_left {
            return false;
        }
        folder.uncommitted.push(change.clone());
        change.apply(&mut folder.now)
    }
}

impl Folder {
    fn commit(&mut self) {
        if self.is_left {
            return;
        }
        for change in self.uncommitted.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

impl Change {
    /// Whether there was something under the key.
    fn apply(&self, trees: &mut BTreeMap<String, Pairs>) -> bool {
        let pairs = trees.entry(self.tree.clone()).or_default();
        let before = match &self.value {
            Some(value) => pairs.insert(self.key.clone(), value.clone()),
            None => pairs.remove(&self.key),
        };
        before.is_some()
    }
}

fn folder(dir: &Path) -> Arc<Mutex<Folder>> {
    Arc::clone(held(&FOLDERS).entry(dir.to_owned()).or_default())
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_survives_and_of_the_rest_the_first() {
        let dir = Path::new("/sim/store");
        let store = Store::open(dir).unwrap();
        let tree = store.tree::<u32>("t").unwrap();
        tree.insert("a", &1).unwrap();
        store.commit();
        tree.insert("a", &2).unwrap();
        tree.remove("a").unwrap();
        cut_power(dir, 1);
        assert_eq!(Store::open(dir).unwrap().tree::<u32>("t").unwrap().get("a").unwrap(), Some(2));
        tree.clear().unwrap();
        assert_eq!(tree.count(), 0);
        cut_power(dir, 0);
        assert_eq!(tree.get("a").unwrap(), Some(2));
        set_left(dir, true);
        tree.insert("a", &3).unwrap();
        store.commit();
        set_left(dir, false);
        assert_eq!(tree.get("a").unwrap(), Some(2));
    }
}
