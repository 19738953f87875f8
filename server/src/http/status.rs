//! `/v1/status/*`.

use axum::extract::State;
use axum::response::Response;

use super::Shared;
use super::read::{Read, plain_json};

/// The leader's RPC address, or an empty text.
pub(super) async fn leader(State(core): State<Shared>, read: Read) -> Response {
    let address = core.reads.known_leader().map(|leader| leader.address).unwrap_or_default();
    plain_json(&address, read.options.pretty)
}

/// The RPC addresses of all servers that Raft knows.
pub(super) async fn peers(State(core): State<Shared>, read: Read) -> Response {
    let status = core.raft.status();
    let mut addresses: Vec<String> =
        status.voters.into_iter().chain(status.learners).map(|member| member.address).collect();
    addresses.sort();
    plain_json(&addresses, read.options.pretty)
}
