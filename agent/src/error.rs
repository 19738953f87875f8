//! Why an agent cannot start, or cannot reach its servers.

use api::transport::ConnectError;
use identity::Refused;

/// Why an agent does not start. Nothing was changed but what the message says.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder's fault, or the disk's.
    #[error(
        "cannot read what this agent has kept: {0}; if it is damaged beyond repair, move the data folder away and register again"
    )]
    Store(#[from] store::StoreError),
    /// The operator's: a node name or datacenter that no certificate can carry.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The operator's: no usable address among those to join.
    #[error(transparent)]
    Address(#[from] api::transport::InvalidAddress),
    /// The folder belongs to another node.
    #[error(
        "this data folder belongs to node {kept:?}, not to {asked:?}: give each node its own -data-dir, or the name it had"
    )]
    OtherNode {
        /// The name that was kept.
        kept: String,
        /// The name that was given now.
        asked: String,
    },
    /// The operator's: a name that is not allowed.
    #[error("{0}")]
    Name(#[from] model::name::InvalidName),
}

/// Why a server did not give what was asked for. Nothing was changed; the agent tries again by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// None is known, or none could be reached.
    #[error("no server can be reached: {0}")]
    NoServer(String),
    /// It is not who it should be, by the certificates that this node trusts.
    #[error("no trust between this node and the server at {address}: {reason}")]
    Stranger {
        /// Which one.
        address: String,
        /// What TLS says.
        reason: String,
    },
    /// One answered with a refusal.
    #[error("the server at {address} refused: {reason}")]
    Refused {
        /// Which one.
        address: String,
        /// Its words.
        reason: String,
    },
    /// One knows another join secret.
    #[error("the server at {address} has another join secret: give this node the same `encrypt` key")]
    WrongSecret {
        /// Which one.
        address: String,
    },
    /// One belongs to another datacenter.
    #[error(
        "the server at {address} is of datacenter {found:?}, this node of {asked:?}: correct -datacenter or -retry-join"
    )]
    OtherDatacenter {
        /// Which one.
        address: String,
        /// Its datacenter.
        found: String,
        /// Ours.
        asked: String,
    },
    /// The cluster is not ready: it has no leader or no CA yet.
    #[error("the server at {address} has no certificate authority yet; it is asked again")]
    NotReady {
        /// Which one.
        address: String,
    },
    /// What it sent cannot be used.
    #[error("the server at {address} sent something that cannot be used: {reason}")]
    Malformed {
        /// Which one.
        address: String,
        /// Why not.
        reason: String,
    },
}

impl ServerError {
    /// What a failed call to a server was: a wrong secret is told from an absent server.
    pub(crate) fn of_call(address: &str, status: &tonic::Status) -> ServerError {
        let address = address.to_string();
        if matches!(Refused::find(status), Some(Refused::JoinSecretsDiffer)) {
            return ServerError::WrongSecret { address };
        }
        let reason = reason(status);
        if is_handshake(status) {
            return ServerError::Stranger { address, reason };
        }
        if api::transport::is_unsent(status) {
            return ServerError::NoServer(reason);
        }
        ServerError::Refused { address, reason }
    }
}

fn is_handshake(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(ConnectError::Handshake { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A status with the cause at its bottom, for people.
pub(crate) fn reason(status: &tonic::Status) -> String {
    let mut text = status.message().to_string();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() { status.code().to_string() } else { text }
}
