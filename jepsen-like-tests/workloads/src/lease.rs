//! Sessions, the locks that they hold, and transactions: what the API answers, and what that proves.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{Api, Failure};
use crate::http::Reply;

/// The time to live that is asked for first. Servers have to be told to allow it (`session_ttl_min`).
pub(crate) const TTL_SHORT_MS: u64 = 2_000;

/// The shortest that servers allow by themselves.
pub(crate) const TTL_MS: u64 = 10_000;

/// A row of the KV store, with what locks need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) key: String,
    /// The text; `None` where it was not asked for.
    pub(crate) value: Option<String>,
    pub(crate) modify_index: u64,
    /// How often the key was locked.
    pub(crate) lock_index: u64,
    /// Who holds it.
    pub(crate) session: Option<String>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Txn {
    /// What its operations returned.
    Done(Vec<Row>),
    /// Nothing was changed: these operations failed.
    Refused(Vec<usize>),
}

/// What became of a new session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Created {
    /// This is its id.
    Session(String),
    /// The time to live is too short for the servers.
    TooShort,
    /// For another reason: its node or check is not there, or critical.
    Refused,
}

/// A row as the API spells it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spelled {
    key: String,
    value: Option<String>,
    modify_index: u64,
    lock_index: u64,
    session: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnReply {
    results: Option<Vec<TxnResult>>,
    errors: Option<Vec<TxnError>>,
}

#[derive(Deserialize)]
struct TxnResult {
    #[serde(rename = "KV")]
    kv: Option<Spelled>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnError {
    op_index: usize,
}

#[derive(Deserialize)]
struct SessionId {
    #[serde(rename = "ID")]
    id: String,
}

impl From<Spelled> for Row {
    fn from(row: Spelled) -> Self {
        let value = row.value.and_then(|text| String::from_utf8(STANDARD.decode(text).ok()?).ok());
        Self { key: row.key, value, modify_index: row.modify_index, lock_index: row.lock_index, session: row.session }
    }
}

/// Makes a session; the body is the API's.
pub(crate) async fn create(api: &mut Api<'_>, body: &Value) -> Result<Created, Failure> {
    match api.send("PUT", "/v1/session/create", &body.to_string()).await {
        Ok(reply) => Ok(Created::Session(parse::<SessionId>(&reply.body)?.id)),
        // Consul refuses with 500 as well; these texts say that nothing was done.
        Err(Failure::Unknown(text)) if text.starts_with("500 Invalid Session TTL") => Ok(Created::TooShort),
        Err(Failure::Unknown(text)) if text.starts_with("500 apply failed: ") => Ok(Created::Refused),
        Err(failure) => Err(failure),
    }
}

/// Whether the session is there, to live for another time to live.
pub(crate) async fn renew(api: &mut Api<'_>, session: &str) -> Result<bool, Failure> {
    match api.send("PUT", &format!("/v1/session/renew/{session}"), "").await {
        Ok(_) => Ok(true),
        Err(Failure::Failed(text)) if text.starts_with("404 Session id") => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Ends a session.
pub(crate) async fn destroy(api: &mut Api<'_>, session: &str) -> Result<bool, Failure> {
    api.change(&format!("/v1/session/destroy/{session}"), "").await
}

/// Whether a session is there, and the index of the answer.
pub(crate) async fn info(api: &mut Api<'_>, session: &str) -> Result<(bool, u64), Failure> {
    let reply = api.send("GET", &format!("/v1/session/info/{session}?consistent"), "").await?;
    let sessions: Vec<Value> = parse(&reply.body)?;
    Ok((!sessions.is_empty(), index(&reply)?))
}

/// A key with its lock, and the index of the answer.
pub(crate) async fn look(api: &mut Api<'_>, key: &str) -> Result<(Option<Row>, u64), Failure> {
    let reply = api.send("GET", &format!("/v1/kv/{key}?consistent"), "").await?;
    let rows: Vec<Spelled> = if reply.status == 404 { Vec::new() } else { parse(&reply.body)? };
    Ok((rows.into_iter().next().map(Row::from), index(&reply)?))
}

/// Asks for a lock. `None` when there is no such session.
pub(crate) async fn acquire(api: &mut Api<'_>, key: &str, session: &str, value: u64) -> Result<Option<bool>, Failure> {
    match api.change(&format!("/v1/kv/{key}?acquire={session}"), &value.to_string()).await {
        Err(Failure::Unknown(text)) if text.starts_with("500 ") && text.contains("invalid session") => Ok(None),
        other => other.map(Some),
    }
}

/// Gives a lock back; false if the session did not hold it.
pub(crate) async fn release(api: &mut Api<'_>, key: &str, session: &str, value: u64) -> Result<bool, Failure> {
    api.change(&format!("/v1/kv/{key}?release={session}"), &value.to_string()).await
}

/// All operations or none.
pub(crate) async fn txn(api: &mut Api<'_>, ops: &[Value]) -> Result<Txn, Failure> {
    let body = Value::Array(ops.to_vec()).to_string();
    match api.send("PUT", "/v1/txn?consistent", &body).await {
        Ok(reply) => {
            let results = parse::<TxnReply>(&reply.body)?.results.unwrap_or_default();
            Ok(Txn::Done(results.into_iter().filter_map(|result| result.kv).map(Row::from).collect()))
        }
        Err(Failure::Failed(text)) if text.starts_with("409 ") => {
            let errors = parse::<TxnReply>(&text.as_bytes()[4..])?.errors.unwrap_or_default();
            Ok(Txn::Refused(errors.into_iter().map(|error| error.op_index).collect()))
        }
        Err(failure) => Err(failure),
    }
}

/// An operation of a transaction on a key; `more` is the rest of its fields.
pub(crate) fn op(verb: &str, key: &str, more: Value) -> Value {
    let mut fields = json!({"Verb": verb, "Key": key});
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    json!({"KV": fields})
}

/// A value as a transaction spells it.
pub(crate) fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

fn index(reply: &Reply) -> Result<u64, Failure> {
    let index = reply.header("x-consul-index").and_then(|value| value.parse().ok());
    index.ok_or_else(|| Failure::Unknown("a reply without an index".to_owned()))
}

fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Unknown(format!("an answer of another form: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::{run, serve};

    fn answer(status: &str, body: &str) -> &'static str {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nX-Consul-Index: 7\r\nContent-Length: {length}\r\n\r\n{body}").leak()
    }

    fn one<T>(status: &str, body: &str, ask: impl AsyncFnOnce(&mut Api<'_>) -> T) -> T {
        let mut http = serve(vec![answer(status, body)].leak());
        run(async { ask(&mut Api::new(&mut http, 0, std::time::Duration::from_secs(5))).await })
    }

    #[test]
    fn refusals_are_not_failures() {
        let created = |status, body| one(status, body, async |api| create(api, &json!({})).await);
        assert_eq!(created("200 OK", r#"{"ID":"a"}"#), Ok(Created::Session("a".to_owned())));
        assert_eq!(created("500 No", "Invalid Session TTL '2000000000', must be"), Ok(Created::TooShort));
        assert_eq!(created("500 No", "apply failed: Missing node registration"), Ok(Created::Refused));
        assert!(matches!(created("500 No", "No cluster leader"), Err(Failure::Unknown(_))));
        let renewed = |status, body| one(status, body, async |api| renew(api, "a").await);
        assert_eq!(renewed("200 OK", "[]"), Ok(true));
        assert_eq!(renewed("404 No", "Session id 'a' not found"), Ok(false));
        assert!(matches!(renewed("500 No", "No cluster leader"), Err(Failure::Unknown(_))));
        let acquired = |status, body| one(status, body, async |api| acquire(api, "k", "a", 1).await);
        assert_eq!((acquired("200 OK", "true"), acquired("200 OK", "false")), (Ok(Some(true)), Ok(Some(false))));
        assert_eq!(acquired("500 No", "apply failed: invalid session \"a\""), Ok(None));
    }

    #[test]
    fn rows_and_transactions_read() {
        let text =
            r#"[{"LockIndex":3,"Key":"k","Flags":0,"Value":"MTI=","Session":"a","CreateIndex":5,"ModifyIndex":6}]"#;
        let held = Row {
            key: "k".to_owned(),
            value: Some("12".to_owned()),
            modify_index: 6,
            lock_index: 3,
            session: Some("a".to_owned()),
        };
        assert_eq!(one("200 OK", text, async |api| look(api, "k").await), Ok((Some(held.clone()), 7)));
        assert_eq!(one("404 Not Found", "", async |api| look(api, "k").await), Ok((None, 7)));
        let kv = json!({"LockIndex": 3, "Key": "k", "Flags": 0, "Value": null, "Session": "a", "ModifyIndex": 6});
        let done = json!({"Results": [{"KV": kv}], "Errors": null}).to_string();
        let ran = |status, body| one(status, body, async |api| txn(api, &[op("get", "k", json!({}))]).await);
        assert_eq!(ran("200 OK", &done), Ok(Txn::Done(vec![Row { value: None, ..held }])));
        let refused = r#"{"Results":null,"Errors":[{"OpIndex":1,"What":"stale"}]}"#;
        assert_eq!(ran("409 Conflict", refused), Ok(Txn::Refused(vec![1])));
        assert!(matches!(ran("500 No", ""), Err(Failure::Unknown(_))));
        let spelled = op("cas", "k", json!({"Index": 4}));
        assert_eq!(spelled, json!({"KV": {"Verb": "cas", "Key": "k", "Index": 4}}));
    }
}
