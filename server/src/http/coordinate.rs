//! `/v1/coordinate/*`: no coordinates are measured yet, so the lists are empty and a node has none.

use axum::extract::State;
use axum::response::Response;
use serde_json::json as value;

use super::read::{Read, json, not_found, plain_json};
use super::{Reply, Shared};

pub(super) async fn datacenters(State(core): State<Shared>, read: Read) -> Response {
    plain_json(
        &value!([{ "Datacenter": core.config.datacenter, "AreaID": "wan", "Coordinates": [] }]),
        read.options.pretty,
    )
}

pub(super) async fn nodes(read: Read) -> Reply {
    read.answer(|_, pretty| json::<[(); 0]>(&[], pretty)).await
}

pub(super) async fn node(read: Read) -> Reply {
    read.answer(|_, _| not_found("")).await
}
