//! The body of a transaction, and its answer.

use crate::json::{self, BadJson};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use model::{Check, Index, Node, ServiceInstance};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One operation as users write it; the verb is not looked at yet. (Consul: `api.TxnOp`.)
#[derive(Debug, Clone, PartialEq)]
pub enum TxnOpBody {
    /// On a key.
    Kv(TxnKvBody),
    /// On a node, with the index to compare.
    Node(String, Box<Node>, Index),
    /// On an instance, with its node and the index to compare.
    Service(String, String, Box<ServiceInstance>, Index),
    /// On a check, with the index to compare.
    Check(String, Box<Check>, Index),
}

/// An operation on a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TxnKvBody {
    /// What to do.
    pub verb: String,
    /// The key, or prefix.
    pub key: String,
    /// Its value.
    #[serde(deserialize_with = "from_base64")]
    pub value: Bytes,
    /// The client's own number.
    pub flags: u64,
    /// When it was last changed, where that is compared.
    pub index: Index,
    /// Who locks or holds it.
    pub session: String,
}

/// The operations of a body. An object that names none is left out, as in Consul.
///
/// # Errors
/// What is no list of operations: the caller's fault.
pub fn parse(body: &[u8]) -> Result<Vec<TxnOpBody>, BadJson> {
    let ops: Vec<Op> = json::from_slice(body)?;
    ops.into_iter().filter_map(Op::parsed).collect()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Op {
    #[serde(rename = "KV")]
    kv: Option<TxnKvBody>,
    #[serde(rename = "Node")]
    node: Option<RowOp>,
    #[serde(rename = "Service")]
    service: Option<RowOp>,
    #[serde(rename = "Check")]
    check: Option<RowOp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RowOp {
    verb: String,
    /// The node itself; for a service, its node's name.
    node: Value,
    service: Value,
    check: Value,
}

impl Op {
    fn parsed(self) -> Option<Result<TxnOpBody, BadJson>> {
        if let Some(kv) = self.kv {
            return Some(Ok(TxnOpBody::Kv(kv)));
        }
        if let Some(RowOp { verb, node, .. }) = self.node {
            return Some(row(node).map(|(node, index)| TxnOpBody::Node(verb, node, index)));
        }
        if let Some(RowOp { verb, node, service, .. }) = self.service {
            let parts = json::from_value::<String>(node).and_then(|node| Ok((node, row(service)?)));
            return Some(parts.map(|(node, (service, index))| TxnOpBody::Service(verb, node, service, index)));
        }
        let RowOp { verb, check, .. } = self.check?;
        Some(row(check).map(|(check, index)| TxnOpBody::Check(verb, check, index)))
    }
}

/// A noun and its `ModifyIndex`.
fn row<T: DeserializeOwned + Default>(value: Value) -> Result<(Box<T>, Index), BadJson> {
    let index = value.as_object().and_then(|object| json::find(object, "ModifyIndex")).cloned();
    let index = index.map_or(Ok(0), json::from_value)?;
    let noun = if value.is_null() { T::default() } else { json::from_value(value)? };
    Ok((Box::new(noun), index))
}

fn from_base64<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let decoded = STANDARD.decode(text.unwrap_or_default()).map(Bytes::from);
    decoded.map_err(|e| serde::de::Error::custom(format!("failed to decode value: {e}")))
}

/// The answer to a transaction. (Consul: `structs.TxnResponse`.)
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TxnReply<R> {
    /// `null` if it failed.
    pub results: Option<Vec<R>>,
    /// `null` if it did not.
    pub errors: Option<Vec<TxnErrorReply>>,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TxnErrorReply {
    /// Which one, from 0.
    pub op_index: u64,
    /// For the user.
    pub what: String,
}

/// One result: what it is, and the row with its indexes.
#[derive(Debug, Clone, Serialize)]
pub enum TxnResultReply<K, N, S, C> {
    /// A key.
    #[serde(rename = "KV")]
    Kv(K),
    /// A node.
    Node(N),
    /// An instance.
    Service(S),
    /// A check.
    Check(C),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_without_regard_to_case() {
        let body = br#"[
            {"kv": {"verb": "set", "key": "a", "value": "aGk=", "flags": 7}},
            {"KV": {"Verb": "cas", "Key": "a", "Value": null, "Index": 9}},
            {},
            {"Node": {"Verb": "cas", "Node": {"Node": "n1", "Address": "10.0.0.1", "modify_index": 5}}},
            {"Service": {"Verb": "delete", "Node": "n1", "Service": {"ID": "web"}}},
            {"Check": {"Verb": "get", "Check": {"Node": "n1", "CheckID": "c"}}}
        ]"#;
        let ops = parse(body).expect("reads");
        let kv = |body: &TxnOpBody| match body {
            TxnOpBody::Kv(kv) => (kv.verb.clone(), kv.value.clone(), kv.flags, kv.index),
            other => panic!("{other:?}"),
        };
        assert_eq!(kv(&ops[0]), ("set".into(), Bytes::from("hi"), 7, 0));
        assert_eq!(kv(&ops[1]), ("cas".into(), Bytes::new(), 0, 9));
        assert!(matches!(&ops[2], TxnOpBody::Node(verb, node, 5) if verb == "cas" && node.address == "10.0.0.1"));
        assert!(matches!(&ops[3], TxnOpBody::Service(_, node, service, 0) if node == "n1" && service.id == "web"));
        assert!(matches!(&ops[4], TxnOpBody::Check(_, check, 0) if check.check_id == "c"));
        assert_eq!(ops.len(), 5);
    }

    #[test]
    fn what_is_no_transaction_is_refused() {
        for body in ["", "{}", "7", "[7]", r#"[{"KV": {"Value": "%"}}]"#, r#"[{"Node": {"Node": 7}}]"#] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }
}
