//! What members send each other: MessagePack with field names, in an envelope that names its version and who is meant.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use crate::types::NodeId;

#[expect(unreachable_pub, unused_qualifications, clippy::allow_attributes, reason = "generated")]
pub(crate) mod proto {
    tonic::include_proto!("tribune.raft.v1");
}

pub use proto::raft_server::RaftServer;

pub(crate) use self::proto::Envelope;

/// A member reads this version and the one before (there is none yet).
const VERSION: u32 = 1;
/// Largest message that a member takes. An append is at most [`crate::log::READ_BYTES_MAX`], or one batch if that is larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(crate) fn pack<T: Serialize>(to: NodeId, body: &T) -> Result<Envelope, Status> {
    let body = rmp_serde::to_vec_named(body).map_err(|e| Status::internal(e.to_string()))?;
    Ok(Envelope { version: VERSION, to, body: body.into() })
}

/// A piece of a stream, as it is.
pub(crate) fn piece(to: NodeId, body: Bytes) -> Envelope {
    Envelope { version: VERSION, to, body }
}

pub(crate) fn unpack<T: DeserializeOwned>(envelope: &Envelope) -> Result<T, Status> {
    if envelope.version != VERSION {
        return Err(Status::failed_precondition(format!(
            "the message has version {}, this server reads {VERSION}: upgrade the older of the two",
            envelope.version
        )));
    }
    rmp_serde::from_slice(&envelope.body).map_err(|e| Status::invalid_argument(e.to_string()))
}
