//! Who is speaking, proven: the CA, SPIFFE certificates, trust bundles and rustls configurations.
//!
//! [`Ca`] signs what [`Csr`] asks for; [`Identity`] holds a leaf and a [`TrustBundle`] under living TLS configurations;
//! [`RpcIdentity`] adds the join certificates of nodes that have no leaf yet; [`Renewer`] says when to do it again.
//! Nothing here does IO but `pem`, and nothing reads a clock but the TLS library's time and the join certificate's.

mod bundle;
mod ca;
mod cert;
mod check;
mod csr;
mod error;
mod join;
mod key;
mod live;
mod name;
mod pem;
mod renew;
mod rpc;
mod serial;
mod tls;

pub use bundle::TrustBundle;
pub use ca::{BACKDATE, Ca, INTERMEDIATE_TTL, LEAF_TTL, ROOT_TTL, SignedLeaf, describe_root};
pub use cert::{CERT_BYTES_MAX, CHAIN_CERTS_MAX};
pub use csr::{CSR_BYTES_MAX, Csr, requested_id};
pub use error::{Error, Refused};
pub use join::{JOIN_TTL, JoinSecret};
pub use key::CaKey;
pub use live::{Identity, LeafInfo, peer, peer_id, peer_id_of_chain, peer_of_chain};
pub use name::{JOIN_TRUST_DOMAIN, JoinName, LeafName, Peer, Role};
pub use pem::{LeafPem, load_bundle, write_private};
pub use renew::{LOOK_AGAIN, RETRY_MAX, RETRY_MIN, ROTATION_SPREAD, Renewer, renew_at, retry_after};
pub use rpc::RpcIdentity;
pub use serial::Serial;
pub use tls::provider;
