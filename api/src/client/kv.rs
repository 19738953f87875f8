//! The key–value store.

use super::{Client, ClientError, Reply, TIMEOUT};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use model::Index;
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Deserializer, de};

/// Slashes stand as they are in a key's path.
const KEY: &percent_encoding::AsciiSet = &super::PLAIN.remove(b'/');

/// An entry as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KvValue {
    /// The key.
    pub key: String,
    /// The value.
    #[serde(deserialize_with = "from_base64")]
    pub value: Bytes,
    /// The client's own number.
    pub flags: u64,
    /// How often it was locked.
    pub lock_index: u64,
    /// Who holds its lock.
    pub session: Option<String>,
    /// When it was made.
    pub create_index: Index,
    /// When it was last changed.
    pub modify_index: Index,
}

/// How to write an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvPut {
    /// The client's own number.
    pub flags: u64,
    /// Only if its `ModifyIndex` is this (0: only if there is none).
    pub cas: Option<Index>,
}

impl Client {
    /// One entry, if there is one.
    pub async fn kv_get(&self, key: &str) -> Result<Option<KvValue>, ClientError> {
        let found: Option<Reply<Vec<KvValue>>> = self.find(&path(key, "")).await?;
        Ok(found.and_then(|reply| reply.value.into_iter().next()))
    }

    /// All entries whose keys begin so.
    pub async fn kv_list(&self, prefix: &str) -> Result<Vec<KvValue>, ClientError> {
        Ok(self.find(&path(prefix, "?recurse")).await?.map_or_else(Vec::new, |reply| reply.value))
    }

    /// The keys that begin so, up to the next separator if there is one.
    pub async fn kv_keys(&self, prefix: &str, separator: &str) -> Result<Vec<String>, ClientError> {
        let query = format!("?keys&separator={}", super::segment(separator));
        Ok(self.find(&path(prefix, &query)).await?.map_or_else(Vec::new, |reply| reply.value))
    }

    /// Writes an entry. False if `cas` did not match.
    pub async fn kv_put(&self, key: &str, value: Bytes, put: KvPut) -> Result<bool, ClientError> {
        let cas = put.cas.map_or_else(String::new, |index| format!("&cas={index}"));
        let path = path(key, &format!("?flags={}{cas}", put.flags));
        Ok(self.send(Method::PUT, &path, value, TIMEOUT).await?.successful()?.json(&path)?.value)
    }

    /// Removes an entry, or all that begin so. False if `cas` did not match.
    pub async fn kv_delete(&self, key: &str, recurse: bool, cas: Option<Index>) -> Result<bool, ClientError> {
        let query = match (recurse, cas) {
            (true, _) => "?recurse".to_string(),
            (false, Some(index)) => format!("?cas={index}"),
            (false, None) => String::new(),
        };
        let path = path(key, &query);
        Ok(self.delete(&path).await?.json(&path)?.value)
    }
}

fn path(key: &str, query: &str) -> String {
    format!("/v1/kv/{}{query}", utf8_percent_encode(key, KEY))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    STANDARD.decode(text.unwrap_or_default()).map(Bytes::from).map_err(de::Error::custom)
}
