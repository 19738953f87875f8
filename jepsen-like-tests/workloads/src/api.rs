//! The HTTP API as Consul's clients see it, and what an answer proves. Other endpoints than KV's are asked through [`Api::send`].

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jlt_core::history::Value;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::http::{Http, HttpError, Reply, Wire};

/// A large value; Consul takes up to 512 KiB.
const LARGE_BYTES: usize = 200_000;

/// Why there is no answer, and what that proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was changed.
    Failed(String),
    /// It may have been carried out.
    Unknown(String),
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A quorum confirms the leader: linearizable.
    Consistent,
    /// As the leader knows it; may be stale while two believe to lead.
    Default,
    /// As the server that was asked knows it.
    Stale,
}

/// A value and the index at which it was written, for a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was written.
    pub value: Value,
    /// When.
    pub modify_index: u64,
}

/// What a read of one key or of all keys below a prefix returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The keys that are there.
    pub rows: BTreeMap<String, Entry>,
    /// `X-Consul-Index`.
    pub index: u64,
    /// `X-Consul-LastContact`.
    pub last_contact_ms: u64,
    /// `X-Consul-KnownLeader`.
    pub known_leader: bool,
}

/// One server, as one client asks it.
pub struct Api<'a> {
    http: &'a mut Http,
    server: usize,
    /// How long the client waits for one answer.
    patience: Duration,
}

/// A row of the KV store.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    key: String,
    value: Option<String>,
    modify_index: u64,
}

impl<'a> Api<'a> {
    pub(crate) fn new(http: &'a mut Http, server: usize, patience: Duration) -> Self {
        Self { http, server, patience }
    }

    /// The server that is asked.
    pub fn server(&self) -> usize {
        self.server
    }

    /// The next request has a new connection.
    pub fn hang_up(&mut self) {
        self.http.hang_up(self.server);
    }

    /// How other ports than HTTP's are reached.
    pub fn wire(&self) -> Rc<dyn Wire> {
        self.http.wire()
    }

    /// A read of a key, or of all below a prefix with `?recurse`; for a blocking one the index that has to be exceeded.
    pub async fn see(&mut self, path: &str, mode: Mode, index: Option<u64>) -> Result<Seen, Failure> {
        let mode = match mode {
            Mode::Consistent => "consistent",
            Mode::Default => "default",
            Mode::Stale => "stale",
        };
        let joint = if path.contains('?') { '&' } else { '?' };
        let blocking = index.map_or(String::new(), |index| format!("&index={index}&wait=2s"));
        let reply = self.send("GET", &format!("/v1/kv/{path}{joint}{mode}{blocking}"), "").await?;
        let number = |name| reply.header(name).and_then(|value| value.parse().ok());
        Ok(Seen {
            index: number("x-consul-index").ok_or_else(|| Failure::Unknown("a reply without an index".to_owned()))?,
            last_contact_ms: number("x-consul-lastcontact").unwrap_or(u64::MAX),
            known_leader: reply.header("x-consul-knownleader") == Some("true"),
            rows: rows(&reply)?,
        })
    }

    /// Reads a key with `?consistent`; `None` when there is no such key.
    pub async fn read(&mut self, key: &str) -> Result<Option<Entry>, Failure> {
        Ok(self.see(key, Mode::Consistent, None).await?.rows.into_values().next())
    }

    /// Sets a key. `Ok(false)` never comes from Consul here.
    pub async fn put(&mut self, key: &str, value: Value) -> Result<bool, Failure> {
        self.change(&format!("/v1/kv/{key}"), &value.to_string()).await
    }

    /// Sets a key to the same number with many zeros before it.
    pub async fn put_large(&mut self, key: &str, value: Value) -> Result<bool, Failure> {
        self.change(&format!("/v1/kv/{key}"), &large(value)).await
    }

    /// Sets a key if it was last written at `modify_index`, or if there is none when that is 0. `Ok(false)` when it was refused.
    pub async fn compare_and_set(&mut self, key: &str, modify_index: u64, value: Value) -> Result<bool, Failure> {
        self.change(&format!("/v1/kv/{key}?cas={modify_index}"), &value.to_string()).await
    }

    /// A PUT that is answered by `true` or `false`.
    pub async fn change(&mut self, path: &str, body: &str) -> Result<bool, Failure> {
        let reply = self.send("PUT", path, body).await?;
        match reply.body.trim_ascii() {
            b"true" => Ok(true),
            b"false" => Ok(false),
            other => Err(Failure::Unknown(format!("the answer is {:?}", String::from_utf8_lossy(other)))),
        }
    }

    /// A GET whose answer is JSON.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let reply = self.send("GET", path, "").await?;
        serde_json::from_slice(&reply.body).map_err(|error| Failure::Unknown(format!("{path}: {error}")))
    }

    /// Sends a request; replies are 200, or 404 with an empty body, which is how Consul says that there is no such key.
    pub async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<Reply, Failure> {
        let body = body.as_bytes().to_vec();
        let reply = self.http.request(self.server, method, path, body, self.patience).await;
        let reply = reply.map_err(|error| match error {
            HttpError::NotSent(why) => Failure::Failed(why),
            HttpError::Unknown(why) => Failure::Unknown(why),
        })?;
        let text = || format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body));
        match reply.status {
            200 => Ok(reply),
            404 if reply.body.is_empty() && method == "GET" => Ok(reply),
            400..=499 => Err(Failure::Failed(text())),
            _ => Err(Failure::Unknown(text())),
        }
    }
}

fn large(value: Value) -> String {
    "0".repeat(LARGE_BYTES) + &value.to_string()
}

fn rows(reply: &Reply) -> Result<BTreeMap<String, Entry>, Failure> {
    if reply.status == 404 {
        return Ok(BTreeMap::new());
    }
    let unreadable = |what: String| Failure::Unknown(format!("the answer is no list of keys: {what}"));
    let rows: Vec<Row> = serde_json::from_slice(&reply.body).map_err(|error| unreadable(error.to_string()))?;
    rows.into_iter()
        .map(|row| {
            let value =
                row.value.as_deref().and_then(parse_value).ok_or_else(|| unreadable(format!("{:?}", row.value)))?;
            Ok((row.key, Entry { value, modify_index: row.modify_index }))
        })
        .collect()
}

/// The number in a value as the API encodes it.
fn parse_value(base64: &str) -> Option<Value> {
    String::from_utf8(STANDARD.decode(base64).ok()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::{run, serve};

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_large_value_is_still_its_number() {
        assert!(large(12).len() > LARGE_BYTES);
        assert_eq!(large(12).parse(), Ok(12u64));
        assert_eq!((parse_value("MTIz"), parse_value("Zm9v")), (Some(123), None));
    }

    #[test]
    fn an_answer_proves_what_it_proves() {
        let answer = |text: &'static str| {
            let mut http = serve(Vec::leak(vec![text]));
            run(async { Api::new(&mut http, 0, PATIENCE).put("k", 1).await })
        };
        assert_eq!(answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"), Ok(true));
        assert_eq!(answer("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfalse\n"), Ok(false));
        assert!(matches!(answer("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"), Err(Failure::Failed(_))));
        assert!(matches!(answer("HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n"), Err(Failure::Failed(_))));
        assert!(matches!(answer("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), Err(Failure::Unknown(_))));
        assert!(matches!(answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntr"), Err(Failure::Unknown(_))));
        assert!(matches!(answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Err(Failure::Unknown(_))));
    }

    #[test]
    fn keys_read() {
        let read = |text: &'static str| {
            let mut http = serve(Vec::leak(vec![text]));
            run(async { Api::new(&mut http, 0, PATIENCE).read("k").await })
        };
        let found = "HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 63\r\n\r\n[{\"Key\":\"k\",\"Value\":\"MTI=\",\"ModifyIndex\":7,\"Flags\":0,\"More\":1}]";
        assert_eq!(read(found), Ok(Some(Entry { value: 12, modify_index: 7 })));
        assert_eq!(read("HTTP/1.1 404 Not Found\r\nX-Consul-Index: 1\r\nContent-Length: 0\r\n\r\n"), Ok(None));
        let other = "HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nInvalid";
        assert!(matches!(read(other), Err(Failure::Failed(_))));
        assert!(matches!(read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), Err(Failure::Unknown(_))));
    }
}
