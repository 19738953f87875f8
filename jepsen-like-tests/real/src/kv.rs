//! The KV store for the harness itself and for `smoke`, `kill` and `power`, whose clients are threads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::http::{self, HttpError, Reply};
use jlt_core::history::Value;

/// How long a client waits for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer, and what that proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KvError {
    /// Nothing was changed.
    Failed(String),
    /// It may have been carried out.
    Unknown(String),
}

/// A value and the index at which it was written, for a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) modify_index: u64,
}

/// A row of the API.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    key: String,
    value: Option<String>,
    modify_index: u64,
}

/// Reads a key with `?consistent`; `None` when there is no such key.
pub(crate) fn read(server: SocketAddr, key: &str) -> Result<Option<Entry>, KvError> {
    Ok(rows(&send(server, "GET", &format!("/v1/kv/{key}?consistent"), b"")?)?.into_values().next())
}

/// Reads all keys below a prefix with `?consistent`.
pub(crate) fn read_below(server: SocketAddr, prefix: &str) -> Result<BTreeMap<String, Entry>, KvError> {
    rows(&send(server, "GET", &format!("/v1/kv/{prefix}?recurse&consistent"), b"")?)
}

/// Sets a key. `Ok(false)` never comes from Consul here.
pub(crate) fn put(server: SocketAddr, key: &str, value: Value) -> Result<bool, KvError> {
    change(server, &format!("/v1/kv/{key}"), &value.to_string())
}

/// Sets a key if it was last written at `modify_index`, or if there is none when that is 0. `Ok(false)` when it was refused.
pub(crate) fn compare_and_set(server: SocketAddr, key: &str, modify_index: u64, value: Value) -> Result<bool, KvError> {
    change(server, &format!("/v1/kv/{key}?cas={modify_index}"), &value.to_string())
}

fn change(server: SocketAddr, path: &str, value: &str) -> Result<bool, KvError> {
    let reply = send(server, "PUT", path, value.as_bytes())?;
    match reply.body.trim_ascii() {
        b"true" => Ok(true),
        b"false" => Ok(false),
        other => Err(KvError::Unknown(format!("the answer is {:?}", String::from_utf8_lossy(other)))),
    }
}

fn rows(reply: &Reply) -> Result<BTreeMap<String, Entry>, KvError> {
    if reply.status == 404 {
        return Ok(BTreeMap::new());
    }
    let unreadable = |what: String| KvError::Unknown(format!("the answer is no list of keys: {what}"));
    let rows: Vec<Row> = serde_json::from_slice(&reply.body).map_err(|error| unreadable(error.to_string()))?;
    rows.into_iter()
        .map(|row| {
            let value =
                row.value.as_deref().and_then(parse_value).ok_or_else(|| unreadable(format!("{:?}", row.value)))?;
            Ok((row.key, Entry { value, modify_index: row.modify_index }))
        })
        .collect()
}

/// Sends a request; replies are 200, or 404 with an empty body, which is how Consul says that there is no such key.
pub(crate) fn send(server: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Reply, KvError> {
    let reply = http::request(server, method, path, body, REQUEST_TIMEOUT).map_err(|error| match error {
        HttpError::NotSent(why) => KvError::Failed(why),
        HttpError::Unknown(why) => KvError::Unknown(why),
    })?;
    let text = || format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body));
    match reply.status {
        200 => Ok(reply),
        404 if reply.body.is_empty() && method == "GET" => Ok(reply),
        400..=499 => Err(KvError::Failed(text())),
        _ => Err(KvError::Unknown(text())),
    }
}

/// The number in a value as the API encodes it.
fn parse_value(base64: &str) -> Option<Value> {
    String::from_utf8(STANDARD.decode(base64).ok()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server that answers one request with the given text.
    fn serve(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn an_answer_proves_what_it_proves() {
        let answer = |text| put(serve(text), "k", 1);
        assert_eq!(answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"), Ok(true));
        assert_eq!(answer("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfalse\n"), Ok(false));
        assert!(matches!(answer("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"), Err(KvError::Failed(_))));
        assert!(matches!(answer("HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n"), Err(KvError::Failed(_))));
        assert!(matches!(answer("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), Err(KvError::Unknown(_))));
        assert!(matches!(answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntr"), Err(KvError::Unknown(_))));
        assert!(matches!(answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Err(KvError::Unknown(_))));
    }

    #[test]
    fn keys_read() {
        let found = "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 63\r\n\r\n[{\"Key\":\"k\",\"Value\":\"MTI=\",\"ModifyIndex\":7,\"Flags\":0,\"More\":1}]";
        assert_eq!(read(serve(found), "k"), Ok(Some(Entry { value: 12, modify_index: 7 })));
        assert_eq!(
            read(serve("HTTP/1.1 404 Not Found\r\nX-Consul-Index: 1\r\nContent-Length: 0\r\n\r\n"), "k"),
            Ok(None)
        );
        let other = "HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nInvalid";
        assert!(matches!(read(serve(other), "k"), Err(KvError::Failed(_))));
        assert!(matches!(read(serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), "k"), Err(KvError::Unknown(_))));
    }
}
