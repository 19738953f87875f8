//! `/v1/txn`. (Consul: `txn_endpoint.go`.)

use api::Error;
use api::query::QueryOptions;
use api::reply::KvPair;
use api::txn::{TxnErrorReply, TxnKvBody, TxnOpBody, TxnReply, TxnResultReply};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use catalog::query::txn as query;
use catalog::{Command, Response as Answered, TxnError, TxnKv, TxnKvVerb, TxnOp, TxnOutcome, TxnResult, TxnVerb};
use model::limits::{TXN_BYTES_MAX, TXN_OPS_MAX};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as UnknownVerb;

use super::catalog::indexed;
use super::read::{plain_json, put_freshness};
use super::write::Write;
use super::{Refusal, Reply};

pub(super) async fn run(mut write: Write) -> Reply {
    let body = write.take_body(TXN_BYTES_MAX).await.map_err(name_the_limit)?;
    let bodies = api::txn::parse(&body)
        .map_err(|error| Error::bad_request(format!("Failed to parse body: {}", error.reason)))?;
    if bodies.len() > TXN_OPS_MAX {
        let text = format!("Transaction contains too many operations ({} > {TXN_OPS_MAX})", bodies.len());
        return Err(Error::new(StatusCode::PAYLOAD_TOO_LARGE, text).into());
    }
    let ops = match operations(bodies, &write.core.config.datacenter) {
        Ok(ops) => ops,
        Err(errors) => return Ok(answer(&TxnOutcome { errors, ..TxnOutcome::default() }, write.pretty())),
    };
    if ops.iter().all(TxnOp::is_read) { read(write, &ops).await } else { change(write, ops).await }
}

/// Not in the log, and as fresh as the client wants.
async fn read(write: Write, ops: &[TxnOp]) -> Reply {
    let (core, pretty) = (write.core.clone(), write.pretty());
    let options = QueryOptions::parse(&write.query)?;
    drop(write);
    let freshness = core.reads.prepare(options.consistency, options.max_stale).await?;
    let (outcome, _) = core.watch.read(|view| query::read(view, ops));
    let mut response = answer(&outcome, pretty);
    put_freshness(response.headers_mut(), core.watch.current().index(), freshness);
    Ok(response)
}

async fn change(write: Write, ops: Vec<TxnOp>) -> Reply {
    let (command, pretty) = (Command::Txn(ops), write.pretty());
    let proposal = write.propose(&command);
    drop(write);
    match proposal.await? {
        Answered::Txn(outcome) => Ok(answer(&outcome, pretty)),
        other @ (Answered::Done
        | Answered::CasFailed
        | Answered::LockFailed
        | Answered::Synced { .. }
        | Answered::Outdated { .. }
        | Answered::Refused(_)) => Err(Error::internal(format!("a transaction was answered with {other:?}")).into()),
    }
}

/// The setting that Consul names is another than for keys.
fn name_the_limit(Refusal(error): Refusal) -> Refusal {
    Refusal(Error { text: error.text.replace("#kv_max_value_size", "#txn_max_req_len"), ..error })
}

/// The operations, or which of them have a verb that is none.
fn operations(bodies: Vec<TxnOpBody>, datacenter: &str) -> Result<Vec<TxnOp>, Vec<TxnError>> {
    let (mut ops, mut errors) = (Vec::with_capacity(bodies.len()), Vec::new());
    for (at, body) in bodies.into_iter().enumerate() {
        match operation(body, datacenter) {
            Ok(op) => ops.push(op),
            Err(what) => errors.push(TxnError { op_index: at as u64, what }),
        }
    }
    if errors.is_empty() { Ok(ops) } else { Err(errors) }
}

fn operation(body: TxnOpBody, datacenter: &str) -> Result<TxnOp, String> {
    Ok(match body {
        TxnOpBody::Kv(TxnKvBody { verb, key, value, flags, index, session }) => {
            let verb: TxnKvVerb = named(&verb).ok_or_else(|| format!("unknown KV verb {verb:?}"))?;
            TxnOp::Kv(TxnKv { verb, key, value, flags, index, session })
        }
        TxnOpBody::Node(verb, mut node, index) => {
            if node.datacenter.is_empty() {
                node.datacenter = datacenter.to_string();
            }
            let verb: TxnVerb = named(&verb).ok_or_else(|| format!("unknown Node verb {verb:?}"))?;
            TxnOp::Node { verb, node, index }
        }
        TxnOpBody::Service(verb, node, mut service, index) => {
            if service.id.is_empty() {
                service.id.clone_from(&service.service);
            }
            let verb: TxnVerb = named(&verb).ok_or_else(|| format!("unknown Service verb {verb:?}"))?;
            TxnOp::Service { verb, node, service, index }
        }
        TxnOpBody::Check(verb, mut check, index) => {
            if check.check_id.is_empty() {
                check.check_id.clone_from(&check.name);
            }
            let verb: TxnVerb = named(&verb).ok_or_else(|| format!("unknown Check verb {verb:?}"))?;
            TxnOp::Check { verb, check, index }
        }
    })
}

/// A verb by its name.
fn named<'t, V: Deserialize<'t>>(text: &'t str) -> Option<V> {
    V::deserialize(IntoDeserializer::<UnknownVerb>::into_deserializer(text)).ok()
}

/// 200 with results, or 409 with errors.
fn answer(outcome: &TxnOutcome, pretty: bool) -> Response {
    let errors =
        outcome.errors.iter().map(|error| TxnErrorReply { op_index: error.op_index, what: error.what.clone() });
    let results = outcome.results.iter().map(|result| match result {
        TxnResult::Kv(row) => TxnResultReply::Kv(KvPair::new(&row.value, row.create_index, row.modify_index)),
        TxnResult::Node(row) => TxnResultReply::Node(indexed(row)),
        TxnResult::Service(row) => TxnResultReply::Service(indexed(row)),
        TxnResult::Check(row) => TxnResultReply::Check(indexed(row)),
    });
    let failed = !outcome.errors.is_empty();
    let reply =
        TxnReply { results: (!failed).then(|| results.collect::<Vec<_>>()), errors: failed.then(|| errors.collect()) };
    let body = plain_json(&reply, pretty);
    if failed { (StatusCode::CONFLICT, body).into_response() } else { body }
}
