//! `/v1/kv/*`. (Consul: `kvs_endpoint.go`.)

use api::Error;
use api::query::Query;
use api::reply::KvPair;
use axum::http::StatusCode;
use bytes::Bytes;
use catalog::query::kv as query;
use catalog::{Command, KvCommand, Row};
use faults::Bug;
use model::limits::{KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX};
use model::{Index, KvEntry};

use super::read::{RAW, Read, json, not_found};
use super::write::Write;
use super::{Refusal, Reply};
use crate::watch::Answer;

const PREFIX: &str = "/v1/kv/";

pub(super) async fn get(read: Read) -> Reply {
    let key = read.path.after(PREFIX);
    if read.query.has("keys") {
        return keys(read, key).await;
    }
    if read.query.has("recurse") {
        return read.answer(move |view, pretty| some_rows(&query::list(view, &key), pretty)).await;
    }
    if key.is_empty() {
        return Err(Error::bad_request("Missing key name").into());
    }
    let raw = read.query.has("raw");
    read.answer(move |view, pretty| match query::get(view, &key) {
        None => not_found(""),
        Some(row) if raw => Answer { status: StatusCode::OK, content_type: RAW, body: row.value.value.clone() },
        Some(row) => json(&[pair(row)], pretty),
    })
    .await
}

async fn keys(read: Read, prefix: String) -> Reply {
    let separator = read.query.get("separator").or_else(|| read.query.get("seperator")).unwrap_or_default().to_string();
    read.answer(move |view, pretty| match query::keys(view, &prefix, &separator) {
        // Nothing under the root is an empty list, not a miss.
        keys if keys.is_empty() && !prefix.is_empty() => not_found(""),
        keys => json(&keys, pretty),
    })
    .await
}

fn some_rows(rows: &[&Row<KvEntry>], pretty: bool) -> Answer {
    match rows {
        [] => not_found(""),
        rows => json(&rows.iter().map(|row| pair(row)).collect::<Vec<_>>(), pretty),
    }
}

fn pair(row: &Row<KvEntry>) -> KvPair<'_> {
    KvPair::new(&row.value, row.create_index, row.modify_index)
}

pub(super) async fn put(mut write: Write) -> Reply {
    let key = key_of(&write)?;
    check_flags(&write.query, &["cas", "acquire", "release"])?;
    let flags = number(&write.query, "flags")?.unwrap_or(0);
    let cas = number(&write.query, "cas")?;
    let value: Bytes = write.take_body(KV_VALUE_BYTES_MAX).await?;
    let session = |flag: &str| write.query.get(flag).map(str::to_string);
    let command = match (cas, session("acquire"), session("release")) {
        (Some(cas), _, _) if faults::has(Bug::CasBeforeLog) && cas == modified_here(&write, &key) => {
            KvCommand::Set { key, value, flags }
        }
        (Some(cas), _, _) => KvCommand::Cas { key, value, flags, cas },
        (None, Some(session), _) => KvCommand::Lock { key, value, flags, session },
        (None, None, Some(session)) => KvCommand::Unlock { key, value, flags, session },
        (None, None, None) => KvCommand::Set { key, value, flags },
    };
    write.done(&Command::Kv(command)).await
}

pub(super) async fn delete(write: Write) -> Reply {
    check_flags(&write.query, &["recurse", "cas"])?;
    if write.query.has("recurse") {
        let prefix = write.path.after(PREFIX);
        return write.done(&Command::Kv(KvCommand::DeleteTree { prefix })).await;
    }
    let key = key_of(&write)?;
    let command = match number(&write.query, "cas")? {
        None => KvCommand::Delete { key },
        Some(cas) => KvCommand::DeleteCas { key, cas },
    };
    write.done(&Command::Kv(command)).await
}

fn modified_here(write: &Write, key: &str) -> Index {
    write.core.watch.read(|view| query::get(view, key).map_or(0, |row| row.modify_index)).0
}

fn key_of(write: &Write) -> Result<String, Refusal> {
    let key = write.path.after(PREFIX);
    match key.len() {
        0 => Err(Error::bad_request("Missing key name").into()),
        len if len > KV_KEY_BYTES_MAX => {
            Err(Error::bad_request(format!("Key is too long: {len} bytes, max {KV_KEY_BYTES_MAX}")).into())
        }
        _ => Ok(key),
    }
}

fn check_flags(query: &Query, exclusive: &[&str]) -> Result<(), Refusal> {
    let given: Vec<&str> = exclusive.iter().copied().filter(|flag| query.has(flag)).collect();
    match given.len() {
        0 | 1 => Ok(()),
        _ => Err(Error::bad_request(format!("Conflicting flags: {}", given.join(", "))).into()),
    }
}

/// A number, refused with the words of Go's parser, which Consul passes on.
fn number(query: &Query, key: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = query.get(key) else { return Ok(None) };
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| Error::bad_request(format!("strconv.ParseUint: parsing {text:?}: invalid syntax")).into())
}
