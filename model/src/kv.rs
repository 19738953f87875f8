//! An entry of the key–value store.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A key and its value. The wire's base64 form is made in `api`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KvEntry {
    /// Up to 2 KiB; any characters.
    pub key: String,
    /// The client's own number.
    pub flags: u64,
    /// Up to 512 KiB.
    pub value: Bytes,
    /// How often it was locked.
    pub lock_index: u64,
    /// The session that holds its lock, if any.
    pub session: Option<String>,
}
