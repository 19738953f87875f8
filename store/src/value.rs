//! Values as bytes, and changes that are made together.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{KEY_BYTES_MAX, StoreError, VALUE_BYTES_MAX};

/// The first byte of every value. A reader knows this version and the one before.
const VALUE_VERSION: u8 = 1;

/// What becomes of each key: a value, or nothing.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Changes to one tree that are made together.
pub struct Batch<V> {
    pub(crate) changes: Changes,
    values: PhantomData<fn() -> V>,
}

impl<V: Serialize> Batch<V> {
    pub(crate) fn new() -> Batch<V> {
        Batch { changes: Changes::new(), values: PhantomData }
    }

    /// As [`crate::Tree::insert`].
    ///
    /// # Errors
    /// The caller's [`StoreError::ValueTooLarge`], [`StoreError::KeyTooLarge`], [`StoreError::Encode`].
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: &V) -> Result<(), StoreError> {
        let (key, bytes) = encode(key.as_ref(), value)?;
        self.changes.insert(key.to_vec(), Some(bytes));
        Ok(())
    }

    /// As [`crate::Tree::remove`].
    pub fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.changes.insert(key.as_ref().to_vec(), None);
    }
}

pub(crate) fn encode<'k, V: Serialize>(key: &'k [u8], value: &V) -> Result<(&'k [u8], Vec<u8>), StoreError> {
    if key.len() > KEY_BYTES_MAX {
        return Err(StoreError::KeyTooLarge { bytes: key.len() });
    }
    let mut bytes = vec![VALUE_VERSION];
    rmp_serde::encode::write_named(&mut bytes, value)?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(StoreError::ValueTooLarge { bytes: bytes.len() });
    }
    Ok((key, bytes))
}

pub(crate) fn decode<V: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<V, StoreError> {
    let fail = |reason: String| StoreError::Decode { key: key.escape_ascii().to_string(), reason };
    match bytes.split_first() {
        Some((&VALUE_VERSION, value)) => rmp_serde::from_slice(value).map_err(|e| fail(e.to_string())),
        Some((version, _value)) => Err(fail(format!("version {version}"))),
        None => Err(fail("it is empty".into())),
    }
}
