//! `/v1/connect/ca/*`.

use api::Error;
use api::query::parse_bool;
use api::reply::CaRoots;
use axum::http::StatusCode;
use bytes::Bytes;
use catalog::query::ca;
use catalog::{CaState, Command, Row};
use serde_json::{Value, json as value};

use super::Reply;
use super::read::{JSON, Read, json};
use super::write::Write;
use crate::watch::Answer;

/// (Consul: `consul.CAManager`.)
const NO_CA: &str = "CA is uninitialized and unable to sign certificates yet: provider is nil";

pub(super) async fn roots(read: Read) -> Reply {
    let pem = match read.query.non_empty("pem").map(parse_bool) {
        None => false,
        Some(Some(pem)) => pem,
        Some(None) => return Err(Error::bad_request("The 'pem' query parameter must be a boolean value").into()),
    };
    read.answer(move |view, pretty| match ca::ca(view) {
        None => no_ca(),
        Some(row) if pem => roots_pem(row),
        Some(row) => json(&roots_of(row), pretty),
    })
    .await
}

fn roots_of(row: &Row<CaState>) -> CaRoots<Vec<api::reply::Indexed<&model::ca::CaRoot>>> {
    let active = row.roots.iter().find(|root| root.active);
    CaRoots {
        active_root_id: active.map(|root| root.id.clone()).unwrap_or_default(),
        trust_domain: row.trust_domain.clone(),
        roots: row
            .roots
            .iter()
            .map(|root| api::reply::Indexed::new(root, row.create_index, row.modify_index))
            .collect(),
    }
}

fn roots_pem(row: &CaState) -> Answer {
    let pem: String = row.roots.iter().map(|root| root.root_cert.as_str()).collect();
    Answer { status: StatusCode::OK, content_type: "application/pem-certificate-chain", body: pem.into() }
}

fn no_ca() -> Answer {
    Answer {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        content_type: super::read::TEXT,
        body: Bytes::from_static(NO_CA.as_bytes()),
    }
}

pub(super) async fn configuration(read: Read) -> Reply {
    read.answer(|view, _| match ca::ca(view) {
        None => no_ca(),
        Some(row) if row.configuration.is_empty() => {
            let mut configuration = default_configuration();
            configuration["CreateIndex"] = row.create_index.into();
            configuration["ModifyIndex"] = row.modify_index.into();
            json(&configuration, false)
        }
        Some(row) => Answer { status: StatusCode::OK, content_type: JSON, body: row.configuration.clone() },
    })
    .await
}

/// (Consul: `structs.DefaultCAConfig`.)
fn default_configuration() -> Value {
    value!({
        "Provider": "consul",
        "Config": { "LeafCertTTL": "72h", "IntermediateCertTTL": "8760h", "RootCertTTL": "87600h", "PrivateKeyType": "ec", "PrivateKeyBits": 256 },
        "State": null,
        "ForceWithoutCrossSigning": false
    })
}

/// Setting the configuration with `RotateRoot` makes a new root, cross-signed by the old one; other providers than ours and
/// other keys are refused.
pub(super) async fn configure(mut write: Write) -> Reply {
    let body: Value = write.json().await?;
    let Value::Object(object) = &body else {
        return Err(Error::bad_request("Request decode failed: an object is needed").into());
    };
    let provider = api::json::find(object, "Provider").and_then(Value::as_str).unwrap_or("consul");
    if provider != "consul" {
        return Err(Error::internal(format!(
            "unknown CA provider {provider:?}: only \"consul\" (built in) is supported"
        ))
        .into());
    }
    let core = write.core.clone();
    let current = core.watch.read(|view| ca::ca(view).map(|row| (row.modify_index, row.value.clone()))).0;
    let Some((expected, state)) = current else { return Err(Error::internal(NO_CA).into()) };
    let rotated = crate::ca::rotate(&state).map_err(|error| Error::internal(error.to_string()))?;
    write.done(&Command::SetCa { expected, state: Box::new(rotated) }).await
}
